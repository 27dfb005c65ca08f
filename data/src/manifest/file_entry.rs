//! Manifest entries of files, and verification of the files.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ContentHash, VerifiedFile};
use crate::error::{ArtifactError, IoContext};

/// One file of an artifact, as its manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// File name in the artifact's folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the content.
    pub blake3: ContentHash,
}

impl FileEntry {
    /// Makes the entry of a file that was just written to `dir`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if the file cannot be read.
    pub fn describe(dir: &Path, name: &str) -> Result<Self, ArtifactError> {
        let path = dir.join(name);
        let bytes = fs::metadata(&path).during("read", &path)?.len();
        Ok(Self { name: name.to_owned(), bytes, blake3: ContentHash::of_file(&path)? })
    }

    /// Verifies that the file in `dir` matches this entry.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Length`] or [`ArtifactError::Hash`].
    pub fn verify(&self, dir: &Path, depth: Verify) -> Result<(), ArtifactError> {
        VerifiedFile::verify(self, dir, depth).map(drop)
    }
}

/// How thoroughly files are checked against their manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Presence and length.
    Length,
    /// Presence, length and BLAKE3 hash: one pass over all bytes at memory or disk speed.
    Full,
}

#[cfg(test)]
mod tests {
    use super::super::write_atomic;
    use super::*;

    #[test]
    fn verification_tells_missing_shortened_and_altered_files_apart() {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join("a"), b"0123456789").unwrap();
        let entry = FileEntry::describe(dir.path(), "a").unwrap();
        entry.verify(dir.path(), Verify::Full).unwrap();

        fs::write(dir.path().join("a"), b"0123456780").unwrap();
        entry.verify(dir.path(), Verify::Length).unwrap();
        assert!(matches!(entry.verify(dir.path(), Verify::Full), Err(ArtifactError::Hash { .. })));
        fs::write(dir.path().join("a"), b"012345678").unwrap();
        assert!(matches!(
            entry.verify(dir.path(), Verify::Length),
            Err(ArtifactError::Length { expected: 10, got: 9, .. })
        ));
        fs::remove_file(dir.path().join("a")).unwrap();
        assert!(matches!(entry.verify(dir.path(), Verify::Length), Err(ArtifactError::Missing { .. })));
    }
}
