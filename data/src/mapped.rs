//! Read-only memory maps: the one place of this crate that needs `unsafe`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{ArtefactError, IoContext};

/// A whole file as a byte slice backed by the page cache.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps `path` read-only.
    ///
    /// The length of every artefact file is checked against its manifest before it is mapped. A file that is
    /// shortened *while* it is mapped ends the process with `SIGBUS`; artefact files are never changed in place.
    ///
    /// # Errors
    /// [`ArtefactError::Io`] where the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, ArtefactError> {
        let file = File::open(path).during("open", path)?;
        #[expect(unsafe_code, reason = "a map is unsound only if the file changes under it; artefacts are immutable")]
        // SAFETY: the map is read-only and private to this process; shards are replaced by rename, never rewritten,
        // so the mapped inode keeps its bytes for as long as the map lives.
        let map = unsafe { Mmap::map(&file) }.during("map", path)?;
        Ok(Self(map))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
