//! The error of every on-disk format: what was expected, what was found, and where.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;

use crate::manifest::ContentHash;
use crate::view::ViewError;

/// Why an artifact (cache, bank, run) cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), disk_full_hint(source))]
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
    #[error("{}: {source}", path.display())]
    Json {
        /// The manifest.
        path: PathBuf,
        /// The parser's or the writer's error.
        source: serde_json::Error,
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
    #[error("{}: {source}{}", path.display(), disk_full_hint(source.as_ref()))]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The error of the Parquet or Arrow library, or of a width that it cannot hold.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A safetensors file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// The library's error.
        source: SafeTensorError,
    },
    /// A row of a cache whose view cannot be rendered.
    #[error("{}: cache row {row}: {source}", path.display())]
    View {
        /// The shard.
        path: PathBuf,
        /// Row of the cache, from 0.
        row: usize,
        /// What is wrong with the view.
        source: ViewError,
    },
    /// Content that breaks a rule of the format.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The rule and the value that breaks it, with the row if there is one.
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
    /// An error of a JSON file.
    pub fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), source }
    }

    /// An error of the Parquet or Arrow library, with the file that it concerns.
    pub fn parquet(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Parquet { path: path.to_owned(), source: source.into() }
    }

    /// An error of a safetensors file.
    pub(crate) fn tensors(path: &Path, source: SafeTensorError) -> Self {
        Self::Tensors { path: path.to_owned(), source }
    }

    /// A broken rule of the format.
    pub fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

/// The remedy for a full disk, a quota or a limit of file size, if that is what `error` or one of its causes is; else nothing.
fn disk_full_hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| FULL.contains(&error.kind())) {
            return "\nhint: make room on the disk and run the command again, with --resume where it had begun; nothing half-written \
                    was kept";
        }
        // `source` of an I/O error skips the error that it wraps.
        let wrapped = io.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    ""
}

/// What the system says when there is no room for more bytes.
const FULL: [io::ErrorKind; 3] =
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}

/// Adds the path and the action to an I/O result.
pub trait IoContext<T> {
    /// Names what was being done to which path.
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
    /// Names the Parquet file.
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
