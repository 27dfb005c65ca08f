//! The hash that identifies artifacts, listings and models.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ArtifactError, IoContext};
use crate::mapped::MappedFile;
use crate::ordinary;

/// A BLAKE3 hash of 32 bytes, written as lower-case hexadecimal in text and JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Returns the hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the hash of a file's content. It reads the file through a memory map on all threads.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        // A map of a FIFO or a device would wait for its end.
        Self::of_open_file(&ordinary::open(path).during("open", path)?, path)
    }

    /// Returns the hash of all that `reader` reads. Unlike [`ContentHash::of_file`], it starts no threads.
    ///
    /// # Errors
    /// The reader's error.
    pub fn of_reader(reader: impl Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(reader)?;
        Ok(hasher.finalize().into())
    }

    /// Like [`ContentHash::of_file`], of a file that is open. `path` is used for errors.
    pub(crate) fn of_open_file(file: &File, path: &Path) -> Result<Self, ArtifactError> {
        let mapped = MappedFile::of(file, path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(mapped.bytes());
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Returns the 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self::from)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
