//! Verified files that a command keeps reading: each must stay as it was verified.
//!
//! A file is verified once, when it is opened, and then read for hours, often through a memory map. [`VerifiedFile`]
//! records what the file was: device, inode, length and time of modification. A command that keeps reading compares them
//! before it stores results. A file that was replaced, shortened or written to is then an error that names it.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{ContentHash, FileEntry, Verify};
use crate::error::{ArtifactError, IoContext};
use crate::ordinary;

/// What tells a file from another, or from the same one after a change, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// How a file became `now`; `None` if it is the same.
    fn change(&self, now: &Self) -> Option<String> {
        if (self.device, self.inode) != (now.device, now.inode) {
            return Some("was replaced by another file".to_owned());
        }
        if self.bytes != now.bytes {
            return Some(format!("had {} bytes and now has {}", self.bytes, now.bytes));
        }
        (self.modified != now.modified).then(|| "was written to".to_owned())
    }
}

/// A file of an artifact as it was when it was verified.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedFile {
    path: PathBuf,
    entry: FileEntry,
    depth: Verify,
    identity: Identity,
}

impl VerifiedFile {
    /// Verifies that the file in `dir` matches `entry`.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Length`], [`ArtifactError::Hash`] or [`ArtifactError::Io`].
    pub(crate) fn verify(entry: &FileEntry, dir: &Path, depth: Verify) -> Result<Self, ArtifactError> {
        let path = dir.join(&entry.name);
        let file = match ordinary::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = "the folder is incomplete; copy it again, or make it again";
                return Err(ArtifactError::Missing { path, what: "a file listed in the manifest", hint });
            }
            Err(error) => return Err(error).during("read", &path),
        };
        let identity = Identity::of(&file.metadata().during("read", &path)?);
        if identity.bytes != entry.bytes {
            return Err(ArtifactError::Length { path, expected: entry.bytes, got: identity.bytes });
        }
        if depth == Verify::Full {
            require_hash(&file, &path, entry.blake3)?;
        }
        Ok(Self { path, entry: entry.clone(), depth, identity })
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`] if it is no longer what was verified; [`ArtifactError::Io`].
    pub(crate) fn open(&self) -> Result<File, ArtifactError> {
        let file = ordinary::open(&self.path).during("open", &self.path)?;
        self.compare(&Identity::of(&file.metadata().during("read", &self.path)?))?;
        Ok(file)
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// Those of [`VerifiedFile::open`].
    pub(crate) fn read(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes).during("read", &self.path)?;
        Ok(bytes)
    }

    fn compare(&self, now: &Identity) -> Result<(), ArtifactError> {
        match self.identity.change(now) {
            Some(change) => Err(ArtifactError::Changed { path: self.path.clone(), change }),
            None => Ok(()),
        }
    }

    /// Fails if the file is no longer what was verified. [`Verify::Full`] also hashes it again if it was hashed.
    fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        let changed =
            |change: &str| ArtifactError::Changed { path: self.path.clone(), change: change.to_owned() };
        match fs::metadata(&self.path) {
            Ok(metadata) => self.compare(&Identity::of(&metadata))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(changed("was deleted")),
            Err(error) => return Err(error).during("read", &self.path),
        }
        if (depth, self.depth) != (Verify::Full, Verify::Full) {
            return Ok(());
        }
        let file = self.open()?;
        require_hash(&file, &self.path, self.entry.blake3).map_err(|error| match error {
            ArtifactError::Hash { .. } => {
                changed("has other content, though its length and time are the same")
            }
            error => error,
        })
    }
}

fn require_hash(file: &File, path: &Path, expected: ContentHash) -> Result<(), ArtifactError> {
    let got = ContentHash::of_open_file(file, path)?;
    if got == expected { Ok(()) } else { Err(ArtifactError::Hash { path: path.to_owned(), expected, got }) }
}

/// The files of an artifact that were verified since it was opened.
#[derive(Debug, Default)]
pub(crate) struct FilesInUse(Mutex<BTreeMap<String, VerifiedFile>>);

impl FilesInUse {
    /// Verifies that the file in `dir` matches `entry`, and watches it from now on.
    ///
    /// # Errors
    /// Those of [`VerifiedFile::verify`]; [`ArtifactError::Changed`] if the file was verified before and has changed.
    pub(crate) fn verify(
        &self,
        entry: &FileEntry,
        dir: &Path,
        depth: Verify,
    ) -> Result<VerifiedFile, ArtifactError> {
        let file = VerifiedFile::verify(entry, dir, depth)?;
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = files.get(&entry.name) {
            earlier.compare(&file.identity)?;
        }
        if depth == Verify::Full || !files.contains_key(&entry.name) {
            files.insert(entry.name.clone(), file.clone());
        }
        Ok(file)
    }

    /// Fails if one of the files is no longer what was verified. [`Verify::Full`] also hashes those again that were hashed.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`]; [`ArtifactError::Io`] if a file cannot be read.
    pub(crate) fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.values().try_for_each(|file| file.require_unchanged(depth))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, OpenOptions};

    use super::super::write_atomic;
    use super::*;

    #[test]
    fn every_way_to_change_a_file_in_use_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let fresh = || {
            let entry = write_atomic(&path, b"0123456789").unwrap();
            let files = FilesInUse::default();
            let file = files.verify(&entry, dir.path(), Verify::Full).unwrap();
            files.require_unchanged(Verify::Full).unwrap();
            (files, file)
        };
        let rewrite = |bytes: &[u8]| {
            OpenOptions::new().write(true).open(&path).and_then(|mut file| {
                io::Write::write_all(&mut file, bytes)?;
                file.set_times(FileTimes::new().set_modified(std::time::UNIX_EPOCH))
            })
        };
        let cut = || OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(4));
        let changes: [(&dyn Fn(), &str); 4] = [
            (&|| drop(write_atomic(&path, b"0123456789").unwrap()), "replaced"),
            (&|| cut().unwrap(), "had 10 bytes and now has 4"),
            (&|| rewrite(b"9876543210").unwrap(), "written to"),
            (&|| fs::remove_file(&path).unwrap(), "deleted"),
        ];
        for (change, expected) in changes {
            let (files, file) = fresh();
            change();
            let error = files.require_unchanged(Verify::Length).unwrap_err();
            assert!(
                matches!(&error, ArtifactError::Changed { change, .. } if change.contains(expected)),
                "{error}"
            );
            assert!(file.open().is_err(), "{expected}");
        }
    }

    #[test]
    fn content_that_changed_behind_an_old_time_is_found_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let entry = write_atomic(&path, b"0123456789").unwrap();
        let files = FilesInUse::default();
        files.verify(&entry, dir.path(), Verify::Full).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"9").unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
        files.require_unchanged(Verify::Length).unwrap();
        let error = files.require_unchanged(Verify::Full).unwrap_err().to_string();
        assert!(error.contains("has other content") && error.contains("hint:"), "{error}");
    }
}
