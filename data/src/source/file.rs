//! Reads the file of a sample and distinguishes bad files from failed storage.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Listing, SourceError};
use crate::ordinary;

/// Reads the file of sample `index` below `root`.
pub(super) fn read_sample(
    root: &Path,
    listing: &Listing,
    index: usize,
    max_bytes: u64,
) -> Result<Vec<u8>, SourceError> {
    let path = root.join(&listing.sample(index)?.key);
    let too_many = || SourceError::TooManyBytes { path: path.clone(), limit: max_bytes };
    let read = || -> io::Result<Option<Vec<u8>>> {
        let file = ordinary::open(&path)?;
        let length = file.metadata()?.len();
        if length > max_bytes {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        // The limit also applies while reading: a file may grow.
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| u64::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes)))
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(match gone(root, &path) {
            Some(folder) => SourceError::Gone { path, root: folder },
            None => SourceError::io(&path, error),
        }),
        read => read.map_err(|error| SourceError::io(&path, error))?.ok_or_else(too_many),
    }
}

/// The folder whose absence or emptiness makes every sample missing: the source folder if it does not exist or is
/// empty, or, for a sample outside it, the nearest existing folder if that is empty. The mount point of a disconnected
/// share is an empty folder.
fn gone(root: &Path, path: &Path) -> Option<PathBuf> {
    // A list given by its file name alone.
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    if !root.exists() || is_empty(root) {
        return Some(root.to_owned());
    }
    let elsewhere =
        path.ancestors().skip(1).find(|folder| folder.exists()).filter(|_| !path.starts_with(root));
    elsewhere.filter(|folder| is_empty(folder)).map(Path::to_owned)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether a file or its path causes the error. Other errors come from a disk, a network, or this process.
pub(super) fn is_fault_of_file(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    // Circular links and sockets have no `ErrorKind` of their own.
    let errno = Errno::from_io_error(error);
    matches!(
        error.kind(),
        NotFound | PermissionDenied | IsADirectory | NotADirectory | InvalidInput | InvalidFilename
    ) || errno.is_some_and(|errno| [Errno::LOOP, Errno::NXIO].contains(&errno))
}
