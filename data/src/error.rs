//! The error type of all on-disk formats. It states what was expected, what was found, and in which file.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use safetensors::SafeTensorError;

use crate::manifest::ContentHash;
use crate::view::ViewError;

/// Why an artifact (cache, bank, run) cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The operating system returned an error.
    #[error("cannot {action} {}: {source}{}", path.display(), disk_full_hint(source))]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// Attempted action, such as "read" or "write".
        action: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A required file is missing.
    #[error("{} is missing: {what}{}", path.display(), hint_line(hint))]
    Missing {
        /// Path of the missing file.
        path: PathBuf,
        /// What the file should contain.
        what: &'static str,
        /// Suggested fix; may be empty.
        hint: &'static str,
    },
    /// The length of a file differs from its manifest entry.
    #[error("{}: expected {expected} bytes, got {got}\nhint: the file was cut or replaced; copy it again, or make the folder again", path.display())]
    Length {
        /// Path of the file.
        path: PathBuf,
        /// Length in the manifest, in bytes.
        expected: u64,
        /// Length on disk, in bytes.
        got: u64,
    },
    /// The content of a file differs from its manifest entry.
    #[error("{}: expected BLAKE3 hash {expected}, got {got}\nhint: the file was altered after it was written; copy it again, or make the folder again", path.display())]
    Hash {
        /// Path of the file.
        path: PathBuf,
        /// Hash in the manifest.
        expected: ContentHash,
        /// Hash of the file on disk.
        got: ContentHash,
    },
    /// The manifest has another format version.
    #[error("{}: expected format version {expected} or lower, got {got}\nhint: use the version of the program that wrote it", path.display())]
    Version {
        /// Path of the manifest.
        path: PathBuf,
        /// Version that this program reads.
        expected: u32,
        /// Version of the manifest.
        got: u32,
    },
    /// The manifest is not valid JSON of the expected form.
    #[error("{}: unexpected JSON: {source}", path.display())]
    Json {
        /// Path of the manifest.
        path: PathBuf,
        /// Error of the JSON parser or writer.
        source: serde_json::Error,
    },
    /// Two values that must agree differ.
    #[error("{}: {what} differs: expected {expected}, got {got}{}", path.display(), hint_line(hint))]
    Mismatch {
        /// File or folder that holds the second value.
        path: PathBuf,
        /// Name of the compared property.
        what: String,
        /// First value.
        expected: String,
        /// Second value.
        got: String,
        /// Suggested fix; may be empty.
        hint: &'static str,
    },
    /// A Parquet file cannot be read or written.
    #[error("{}: {source}{}", path.display(), disk_full_hint(source.as_ref()))]
    Parquet {
        /// Path of the file.
        path: PathBuf,
        /// Error of the Parquet or Arrow library, or of a width that the format cannot represent.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A safetensors file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// Path of the file.
        path: PathBuf,
        /// Error of the safetensors library.
        source: SafeTensorError,
    },
    /// The view in a cache row cannot be rendered.
    #[error("{}: cache row {row}: {source}", path.display())]
    View {
        /// File of the shard.
        path: PathBuf,
        /// Row number in the cache, from 0.
        row: usize,
        /// Why the view is invalid.
        source: ViewError,
    },
    /// The content of a file breaks a rule of the format.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// The rule and the offending value, with the row if there is one.
        reason: String,
    },
    /// A file changed after it was verified and while it was in use.
    #[error("{} {change} while it was in use\nhint: keep artifacts as they are while a command reads them; restore the file, then resume or start again", path.display())]
    Changed {
        /// Path of the file.
        path: PathBuf,
        /// How it changed.
        change: String,
    },
    /// Another process writes to the output folder.
    #[error("{} is being written by another process\nhint: wait until it has ended, or choose another folder", path.display())]
    Busy {
        /// Path of the folder.
        path: PathBuf,
    },
    /// The output folder already contains something.
    #[error("{} already holds {what}\nhint: {remedy}", path.display())]
    Occupied {
        /// Path of the folder.
        path: PathBuf,
        /// What the folder contains.
        what: String,
        /// Suggested fix.
        remedy: Remedy,
    },
}

/// What to do if an output folder already contains something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Resume what is there, overwrite it, or choose another folder.
    Resume,
    /// Overwrite what is there, or choose another folder.
    Overwrite,
    /// Neither is possible; the text says what is.
    Other(&'static str),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resume => "resume it, overwrite it, or choose another folder",
            Self::Overwrite => "overwrite it, or choose another folder",
            Self::Other(text) => text,
        })
    }
}

impl ArtifactError {
    /// Makes a [`Self::Json`] error.
    pub fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), source }
    }

    /// Makes a [`Self::Parquet`] error for the file at `path`.
    pub fn parquet(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Parquet { path: path.to_owned(), source: source.into() }
    }

    /// Makes a [`Self::Tensors`] error.
    pub(crate) fn tensors(path: &Path, source: SafeTensorError) -> Self {
        Self::Tensors { path: path.to_owned(), source }
    }

    /// Makes an [`Self::Invalid`] error.
    pub fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

/// The hint for a full disk, an exceeded quota or a file size limit, if `error` or one of its causes is such an error.
/// Otherwise an empty string.
fn disk_full_hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| FULL.contains(&error.kind())) {
            return "\nhint: make room on the disk, then resume or start again; no half-written file was kept";
        }
        // `source` of an I/O error skips the error that the I/O error wraps.
        let wrapped = io.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    ""
}

/// Errors that the system returns when there is no space for more bytes.
const FULL: [io::ErrorKind; 3] =
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}

/// Adds the path and the action to an I/O result.
pub trait IoContext<T> {
    /// Adds `action` and `path` to the error.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if `self` is an error.
    fn during(self, action: &'static str, path: &Path) -> Result<T, ArtifactError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, ArtifactError> {
        self.map_err(|source| ArtifactError::Io { path: path.to_owned(), action, source })
    }
}

/// Adds the path to a result of the Parquet or Arrow library.
pub(crate) trait ParquetContext<T> {
    /// Adds the path of the Parquet file to the error.
    ///
    /// # Errors
    /// [`ArtifactError::Parquet`] if `self` is an error.
    fn in_parquet(self, path: &Path) -> Result<T, ArtifactError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> ParquetContext<T> for Result<T, E> {
    fn in_parquet(self, path: &Path) -> Result<T, ArtifactError> {
        self.map_err(|error| ArtifactError::parquet(path, error))
    }
}

#[cfg(test)]
mod tests {
    use parquet::errors::ParquetError;

    use super::*;

    #[test]
    fn a_full_disk_is_found_behind_any_wrapper_and_nothing_else_is_taken_for_one() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let path = Path::new("a.parquet");
        let behind_parquet = ArtifactError::parquet(path, ParquetError::from(full()));
        let behind_io = ArtifactError::parquet(path, ParquetError::from(io::Error::other(full())));
        let plain = Err::<(), _>(full()).during("write", path).unwrap_err();
        for error in [behind_parquet, behind_io, plain] {
            let text = error.to_string();
            assert!(text.contains("a.parquet") && text.contains("\nhint: make room on the disk"), "{text}");
        }
        let said = ParquetError::General("os error 28".to_owned());
        for error in [said, ParquetError::from(io::Error::from(io::ErrorKind::UnexpectedEof))] {
            assert!(!ArtifactError::parquet(path, error).to_string().contains("hint:"));
        }
    }

    #[test]
    fn the_cause_of_a_parquet_error_is_kept() {
        let error =
            ArtifactError::parquet(Path::new("a"), ParquetError::from(io::Error::from_raw_os_error(5)));
        let library = error.source().unwrap().downcast_ref::<ParquetError>().unwrap();
        let cause = library.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.raw_os_error(), Some(5));
    }
}
