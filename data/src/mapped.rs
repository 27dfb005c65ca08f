//! Read-only memory maps. Besides the handler in [`crate::lost_pages`], the only place in this crate that needs `unsafe`.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{ArtifactError, IoContext};
use crate::lost_pages::MappedRange;

/// A whole file as a byte slice backed by the page cache.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// Declared first, so that it is dropped before the memory is unmapped.
    _range: MappedRange,
    map: Mmap,
}

impl MappedFile {
    /// Maps an open file read-only. `path` is used for errors.
    ///
    /// The length of every artifact file is checked against its manifest before the file is mapped. If a file is
    /// truncated *while* it is mapped, `SIGBUS` ends the process, see [`crate::lost_pages`].
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if the file cannot be mapped.
    pub(crate) fn of(file: &File, path: &Path) -> Result<Self, ArtifactError> {
        #[expect(
            unsafe_code,
            reason = "a map is unsound only if the file changes under it; artifacts are immutable"
        )]
        // SAFETY: the map is read-only and private to this process. Shards are replaced by rename, never rewritten, so
        // the mapped inode keeps its bytes for as long as the map lives. A file that another program writes to is found
        // before results are stored.
        let map = unsafe { Mmap::map(file) }.during("map", path)?;
        Ok(Self { _range: MappedRange::new(&map, path), map })
    }

    /// Returns the memory of a byte range to the system. Reading the range again fetches it from the page cache.
    ///
    /// It is meant for passes that read each byte once; otherwise a pass over a large file leaves all of it resident.
    /// The system may ignore the advice, which is not an error.
    pub(crate) fn release(&self, range: Range<usize>) {
        // A page fault also maps the pages around it, so the end of the previous range has been mapped again by now.
        const FAULT_AROUND: usize = 128 << 10;
        let (start, end) = (range.start.saturating_sub(FAULT_AROUND), range.end);
        let (start, end) = (start.min(self.map.len()), end.min(self.map.len()));
        #[expect(
            unsafe_code,
            reason = "the call is unchecked because it may lose writes to a private map; there are none"
        )]
        // SAFETY: the map is read-only and file-backed, so reading a dropped page again returns the same bytes.
        let _ = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end.saturating_sub(start))
        };
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
