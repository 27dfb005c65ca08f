//! Atomic files: written next to their final name, flushed and renamed, then their folder is flushed. A file is either
//! missing or complete.
//!
//! The bytes are hashed on their way to the disk. A manifest therefore lists what was written, and not what another
//! process has put under the name since.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ContentHash, FileEntry};
use crate::error::{ArtifactError, IoContext};

/// A random number that identifies this process among all processes that write to a folder. A process id is not enough:
/// every container on a shared folder runs as process 1.
static PROCESS: LazyLock<u64> = LazyLock::new(draw);

/// Returns a random number that differs for every call in every process.
fn draw() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Whether a file name is that of an unfinished [`AtomicFile`]: `.NAME.0123456789abcdef-0.tmp`.
pub(super) fn is_unfinished(name: &str) -> bool {
    let unique = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")?.rsplit_once('.'));
    unique.and_then(|(_, unique)| unique.split_once('-')).is_some_and(|(process, count)| {
        process.len() == 16
            && process.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !count.is_empty()
            && count.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// A file that appears under its name only when [`AtomicFile::commit`] succeeds.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<HashedFile>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

/// A file that hashes what is written to it.
#[derive(Debug)]
struct HashedFile {
    file: File,
    hasher: blake3::Hasher,
}

impl HashedFile {
    /// The manifest entry of the bytes written so far.
    fn entry(&self, path: &Path) -> FileEntry {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        FileEntry { name, bytes: self.hasher.count(), blake3: ContentHash::from(self.hasher.finalize()) }
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl AtomicFile {
    /// Creates the temporary file that will become `path`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if the temporary file cannot be created.
    pub fn create(path: &Path) -> Result<Self, ArtifactError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Several processes may write the same name. Each needs its own file until the rename.
        let (process, count) = (*PROCESS, COUNTER.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_file_name(format!(".{name}.{process:016x}-{count}.tmp"));
        // `create_new` neither empties a file nor follows a link that somebody has put under this name.
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.during("create", &temporary)?;
        let hashed = HashedFile { file, hasher: blake3::Hasher::new() };
        let writer = BufWriter::with_capacity(1 << 20, hashed);
        Ok(Self { writer, temporary, path: path.to_owned(), committed: false })
    }

    /// Final path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the file to disk, renames it, and flushes the folder. Returns the manifest entry of the written bytes.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]; the file then does not exist, as if it had never been started.
    pub fn commit(mut self) -> Result<FileEntry, ArtifactError> {
        self.write_out()?;
        fs::rename(&self.temporary, &self.path).during("rename", &self.path)?;
        self.committed = true;
        self.flush_folder()?;
        Ok(self.writer.get_ref().entry(&self.path))
    }

    /// Like [`AtomicFile::commit`], but the file stays open, and more can be written to its end.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]; the file then does not exist.
    pub fn commit_growing(mut self) -> Result<GrowingFile, ArtifactError> {
        self.write_out()?;
        let HashedFile { file, hasher } = self.writer.get_ref();
        let file = file.try_clone().during("open", &self.path)?;
        let grown =
            GrowingFile { written: HashedFile { file, hasher: hasher.clone() }, path: self.path.clone() };
        self.commit()?;
        Ok(grown)
    }

    /// Like [`AtomicFile::commit`], but keeps an existing file of that name: the first of several writers wins.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if the file can be neither linked nor copied to its final name.
    pub fn commit_new(mut self) -> Result<(), ArtifactError> {
        self.write_out()?;
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => self.flush_folder(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // exFAT and some network shares do not support hard links. Any other error makes the copy fail too.
            Err(_) => self.copy_new(),
        }
    }

    /// [`AtomicFile::commit_new`] without a hard link. The first writer wins here too, but the name exists before its
    /// content is complete. A reader may see an incomplete file, and a crash may leave one. The seal or the content
    /// hash detects both.
    fn copy_new(&self) -> Result<(), ArtifactError> {
        let mut copy = match OpenOptions::new().write(true).create_new(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened.during("create", &self.path)?,
        };
        let written = File::open(&self.temporary)
            .and_then(|mut whole| io::copy(&mut whole, &mut copy))
            .and_then(|_| copy.sync_all());
        if written.is_err() {
            // The error is returned below. An incomplete file must not keep the name.
            let _ = fs::remove_file(&self.path);
        }
        written.during("write", &self.path)?;
        self.flush_folder()
    }

    fn write_out(&mut self) -> Result<(), ArtifactError> {
        self.writer.flush().during("write", &self.path)?;
        self.writer.get_ref().file.sync_all().during("flush", &self.path)
    }

    fn flush_folder(&self) -> Result<(), ArtifactError> {
        match self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            Some(dir) => File::open(dir).and_then(|dir| dir.sync_all()).during("flush", dir),
            None => Ok(()),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // This error cannot be reported. Readers ignore a leftover temporary file.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file under its final name that is written to its end, such as a log.
#[derive(Debug)]
pub struct GrowingFile {
    written: HashedFile,
    path: PathBuf,
}

impl GrowingFile {
    /// Flushes the file to disk. Returns the manifest entry of the bytes written so far.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn sync(&self) -> Result<FileEntry, ArtifactError> {
        self.written.file.sync_all().during("flush", &self.path)?;
        Ok(self.written.entry(&self.path))
    }
}

impl Write for GrowingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.written.flush()
    }
}

/// Replaces the file at `path` atomically by one with content `bytes`. Returns its manifest entry.
///
/// # Errors
/// [`ArtifactError::Io`]; an old file is then unchanged.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<FileEntry, ArtifactError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).during("write", path)?;
    file.commit()
}

/// Writes `bytes` to `path` unless a file exists there: the first of several writers wins.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).during("write", path)?;
    file.commit_new()
}

#[cfg(test)]
mod tests {
    use super::super::Verify;
    use super::*;

    type Commit = fn(AtomicFile) -> Result<(), ArtifactError>;

    #[test]
    fn an_abandoned_file_leaves_nothing_and_a_committed_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let entry = write_atomic(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            entry,
            FileEntry { name: "a.bin".to_owned(), bytes: 5, blake3: ContentHash::of(b"whole") }
        );
    }

    #[test]
    fn the_entry_is_that_of_the_bytes_written_and_links_are_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("other"));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"mine").unwrap();
        file.flush().unwrap();
        // Another process writes under the temporary name.
        fs::write(&file.temporary, "theirs").unwrap();
        let entry = file.commit().unwrap();
        assert_eq!((entry.bytes, entry.blake3), (4, ContentHash::of(b"mine")));
        assert!(matches!(entry.verify(dir.path(), Verify::Full), Err(ArtifactError::Length { .. })));
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn of_several_writers_the_first_one_wins_with_links_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let written = |path: &Path, bytes: &[u8]| {
            let mut file = AtomicFile::create(path).unwrap();
            file.write_all(bytes).unwrap();
            file.write_out().unwrap();
            file
        };
        let ways: [(&str, Commit); 2] =
            [("linked", AtomicFile::commit_new), ("copied", |file| file.copy_new())];
        for (name, commit) in ways {
            let path = dir.path().join(name);
            let (first, second) = (written(&path, b"first"), written(&path, b"second"));
            commit(first).unwrap();
            commit(second).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"first", "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary is left");
    }

    #[test]
    fn temporary_names_do_not_rest_on_the_number_of_the_process() {
        assert_ne!(draw(), draw(), "it is drawn, not derived from what two processes may share");
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [0, 1].map(|_| AtomicFile::create(&dir.path().join("views-00000.parquet")).unwrap());
        let names = [&a, &b].map(|file| file.temporary.file_name().unwrap().to_str().unwrap().to_owned());
        assert_ne!(names[0], names[1]);
        for name in names {
            let unique = name.strip_prefix(".views-00000.parquet.").unwrap().strip_suffix(".tmp").unwrap();
            let (process, _) = unique.split_once('-').unwrap();
            assert!(process.len() == 16 && u64::from_str_radix(process, 16) == Ok(*PROCESS), "{name}");
        }
    }
}
