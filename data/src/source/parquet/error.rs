//! Errors of Parquet files that hold images.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

use super::super::CaptionFault;

/// An error of the Parquet library, or the one that it wraps.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a Parquet file cannot be listed, or an image not be read from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetSourceError {
    /// The file cannot be read, and so none of its samples.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error, or the library's as an I/O error.
        source: io::Error,
    },
    /// A row without the image.
    #[error(
        "{} is null: the image is not in the file\nhint: where rows only name images, embed those first, or give a .csv list of them",
        path.display()
    )]
    NoBytes {
        /// The file and, below it, the number of the row.
        path: PathBuf,
    },
    /// The file, or a folder of several, cannot be used.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file, or the folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: ParquetProblem,
    },
}

impl ParquetSourceError {
    /// A short stable code for `rejects.jsonl`.
    pub(in crate::source) fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "unreadable",
            Self::NoBytes { .. } => "missing",
            Self::Unusable { .. } => "source",
        }
    }

    /// A file that can no longer be read: the system's error if there is one, else the library's.
    pub(super) fn unreadable(path: &Path, error: ParquetError) -> Self {
        let source = match unwrapped(error).downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        };
        Self::Io { path: path.to_owned(), source }
    }

    /// An error while the file is listed: the system's, or else what `problem` makes of the library's.
    pub(super) fn while_listing(
        path: &Path,
        error: ParquetError,
        problem: fn(Cause) -> ParquetProblem,
    ) -> Self {
        let cause = unwrapped(error);
        let failed = |cause: &io::Error| cause.raw_os_error().is_some();
        if !cause.downcast_ref().is_some_and(failed) {
            return Self::unusable(path, problem(cause));
        }
        Self::unreadable(path, ParquetError::External(cause))
    }

    pub(super) fn unusable(path: &Path, problem: ParquetProblem) -> Self {
        Self::Unusable { path: path.to_owned(), problem }
    }
}

/// The error that the library has wrapped, or else its own.
fn unwrapped(error: ParquetError) -> Cause {
    match error {
        ParquetError::External(error) => error,
        error => error.into(),
    }
}

/// What can be wrong with a Parquet file of images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetProblem {
    /// Not Parquet, or cut.
    #[error("not a whole Parquet file: {0}\nhint: finish its download, or copy it again")]
    Syntax(#[source] Cause),
    /// Damaged pages under a sound footer.
    #[error("damaged: {0}\nhint: copy the file again")]
    Damaged(#[source] Cause),
    /// A compression that this program does not read.
    #[error(
        "column {column} is compressed by {codec}, which is not read\nhint: write it with snappy, zstd or gzip"
    )]
    Codec {
        /// The column.
        column: String,
        /// Its compression.
        codec: String,
    },
    /// No column that could hold images.
    #[error(
        "none of its columns {got} holds images\nhint: images must be a column of bytes, or of structs with a part bytes; if rows are paths or addresses, give a .csv list of the files"
    )]
    NoImages {
        /// Its columns.
        got: String,
    },
    /// Several columns that could hold the images.
    #[error("its columns {got} may all hold the images\nhint: call the one that does image")]
    Ambiguous {
        /// The columns.
        got: String,
    },
    /// A column of images that were not embedded.
    #[error(
        "column {column} is null in every row: the images are not in the file\nhint: embed them when the file is written, or give a .csv list of them"
    )]
    NotEmbedded {
        /// The column.
        column: String,
    },
    /// A column of captions of a type that captions cannot have.
    #[error(
        "column {column} is {got}\nhint: captions are texts, one per row, or a caption_embedding of lists of floats"
    )]
    Captions {
        /// The column.
        column: String,
        /// Its type.
        got: String,
    },
    /// Columns other than the first file's.
    #[error("has {got}, but {first} has {expected}\nhint: give files of one data set")]
    Columns {
        /// The first file's name.
        first: String,
        /// What it has.
        expected: String,
        /// What this one has.
        got: String,
    },
    /// A label that is not a class.
    #[error("row {row}, column {column}: class {got}, expected a whole number below {classes}")]
    Label {
        /// Row of the file, from 0.
        row: usize,
        /// The column of labels.
        column: String,
        /// What it holds.
        got: String,
        /// How many classes there are.
        classes: u32,
    },
    /// An embedding that cannot be used.
    #[error("row {row}: its caption_embedding {source}")]
    CaptionEmbedding {
        /// Row of the file, from 0.
        row: usize,
        /// What is wrong with it.
        source: CaptionFault,
    },
    /// Files of several splits, such as training and test images, in one folder.
    #[error(
        "its files are not of one split: {}\nhint: give a folder with the files of one; links will do",
        files.join(", ")
    )]
    Splits {
        /// One file of each.
        files: Vec<String>,
    },
    /// A folder that holds Parquet files and something else.
    #[error(
        "there are Parquet files, but not only: {other}\nhint: give one of the files, or a folder with nothing else in it"
    )]
    Among {
        /// What else is there.
        other: String,
    },
}
