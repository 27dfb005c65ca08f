//! Opens files that other people wrote: ordinary files only.
//!
//! Opening a FIFO waits for a writer, and reading a device may never end or have effects of its own. Both can stand under
//! the name of an image or a model.
//!
//! A program may list files that are elsewhere, such as in an object store, by stand-ins: files with the right names and
//! lengths in a folder of its own. [`set_stand_ins`] then opens the real files in their place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::OFlags;

/// Opens the file that a stand-in stands for; `None` if the path is no stand-in.
pub type OpenStandIn = Box<dyn Fn(&Path) -> Option<io::Result<File>> + Send + Sync>;

/// The folder of stand-ins, and what opens them.
static STAND_INS: OnceLock<(PathBuf, OpenStandIn)> = OnceLock::new();

/// Lets `open` open the files below `dir`. Only the first call of a process counts.
pub fn set_stand_ins(dir: PathBuf, open: OpenStandIn) {
    // A second call has no effect, by definition.
    let _ = STAND_INS.set((dir, open));
}

/// Whether a file would be opened by [`set_stand_ins`]. Such a file is opened anew for each use: an open file that is
/// deleted in the meantime still takes space.
pub(crate) fn is_stand_in(path: &Path) -> bool {
    STAND_INS.get().is_some_and(|(dir, _)| path.starts_with(dir))
}

/// Opens an ordinary file for reading. Follows links.
///
/// # Errors
/// The system's error; [`io::ErrorKind::InvalidInput`] for a FIFO, a device or a socket, and
/// [`io::ErrorKind::IsADirectory`] for a folder.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(opened) = STAND_INS.get().filter(|_| is_stand_in(path)).and_then(|(_, open)| open(path)) {
        return opened;
    }
    require(&path.metadata()?)?;
    // What was an ordinary file a moment ago may be a FIFO by now, which is then opened without waiting.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    require(&file.metadata()?)?;
    Ok(file)
}

/// Reads an ordinary file of at most `most` bytes.
///
/// # Errors
/// Those of [`open`]; [`io::ErrorKind::FileTooLarge`] for a larger file, which is not read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_large =
        || io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes, the limit"));
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // The limit also applies while reading, because a file may grow.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) { Ok(bytes) } else { Err(too_large()) }
}

/// Reads an ordinary file of at most `most` bytes that is UTF-8.
///
/// # Errors
/// Those of [`read`]; [`io::ErrorKind::InvalidData`] for a file that is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

fn require(metadata: &std::fs::Metadata) -> io::Result<()> {
    match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => Ok(()),
        (_, true) => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an ordinary file, but a FIFO, a device or a socket",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RWXU).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
        assert_eq!(read_text(&path("link"), 5).unwrap(), "12345");
        assert_eq!(read(&path("file"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for name in ["device", "fifo", "socket"] {
            assert_eq!(open(&path(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        std::fs::write(path("file"), b"\xff").unwrap();
        assert_eq!(read_text(&path("file"), 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
