//! The error of every on-disk format: what was expected, what was found, and where.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::manifest::ContentHash;

/// Why an artifact (cache, bank, run) cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted: "read", "write"…
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("{} is missing: {what}{}", path.display(), hint_line(hint))]
    Missing {
        /// The absent file.
        path: PathBuf,
        /// What it would have been.
        what: &'static str,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A file is shorter or longer than its manifest says.
    #[error("{}: expected {expected} bytes, got {got}\nhint: the file was truncated or replaced; make it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes in the manifest.
        expected: u64,
        /// Bytes on disk.
        got: u64,
    },
    /// A file's content is not what its manifest says.
    #[error("{}: expected BLAKE3 {expected}, got {got}\nhint: the file was altered after it was written; make it again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash in the manifest.
        expected: ContentHash,
        /// Hash of the bytes on disk.
        got: ContentHash,
    },
    /// A manifest of another format version.
    #[error("{}: format version {got}, but this program reads version {expected}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Version that this program reads.
        expected: u32,
        /// Version found.
        got: u32,
    },
    /// A manifest that is not valid JSON of the expected form.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The manifest.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// Two things that must belong together do not.
    #[error("{}: {what} differs: expected {expected}, got {got}{}", path.display(), hint_line(hint))]
    Mismatch {
        /// Where the second was found.
        path: PathBuf,
        /// What was compared.
        what: String,
        /// The first value.
        expected: String,
        /// The second value.
        got: String,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A Parquet file that cannot be read or written.
    #[error("{}: {reason}{}", path.display(), disk_full_hint(reason))]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The library's words.
        reason: String,
    },
    /// Content that breaks a rule of the format.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The rule and the value that breaks it, with the row where there is one.
        reason: String,
    },
    /// The output folder already holds something.
    #[error("{} already holds {what}{}", path.display(), hint_line(hint))]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What was found in it.
        what: String,
        /// The remedy.
        hint: &'static str,
    },
}

impl ArtifactError {
    /// Wraps an error of the Parquet or Arrow library with the file it concerns.
    pub fn parquet(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Parquet { path: path.to_owned(), reason: error.to_string() }
    }

    /// A broken rule of the format.
    pub fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => DISK_FULL,
        _ => "",
    }
}

fn disk_full_hint(reason: &str) -> &'static str {
    // The Parquet library keeps only the text of the system's error.
    if reason.contains("os error 28") || reason.contains("os error 27") || reason.contains("os error 122") {
        DISK_FULL
    } else {
        ""
    }
}

const DISK_FULL: &str = "\nhint: make room on the disk and run the command again, with --resume where it had begun; nothing half-written was kept";

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}

/// Adds the path and the action to an I/O result.
pub trait IoContext<T> {
    /// Names what was being done to which path.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where `self` is an error.
    fn during(self, action: &'static str, path: &Path) -> Result<T, ArtifactError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, ArtifactError> {
        self.map_err(|source| ArtifactError::Io { path: path.to_owned(), action, source })
    }
}
