//! Errors of Parquet files that hold images.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

use super::super::{CaptionFault, FieldKind, LabelFault};
use super::pages::Excess;

/// An error of the Parquet library, or the error that it wraps.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a Parquet file cannot be listed, or an image cannot be read from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetSourceError {
    /// The file cannot be read, so none of its samples can.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The system's error, or the library's error converted to an I/O error.
        source: io::Error,
    },
    /// A row has no image.
    #[error(
        "{} is null: the image is not in the file\nhint: embed the images in the file, or give a .csv list of their paths",
        path.display()
    )]
    NoBytes {
        /// Path of the file, followed by the row number.
        path: PathBuf,
    },
    /// A file, or a folder of files, is not usable.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// Path of the file or folder.
        path: PathBuf,
        /// Why it is not usable.
        #[source]
        problem: ParquetProblem,
    },
}

impl ParquetSourceError {
    /// Short, stable code for `rejects.jsonl`.
    pub(in crate::source) fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "unreadable",
            Self::NoBytes { .. } => "missing",
            Self::Unusable { .. } => "source",
        }
    }

    /// Makes the error for a file that can no longer be read: from the system's error if there is one, otherwise from
    /// the library's.
    pub(super) fn unreadable(path: &Path, error: ParquetError) -> Self {
        let source = match unwrapped(error).downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        };
        Self::Io { path: path.to_owned(), source }
    }

    /// Makes the error for a file that cannot be listed: from the system's error, otherwise from `problem` applied to
    /// the library's error.
    pub(super) fn while_listing(
        path: &Path,
        error: ParquetError,
        problem: fn(Cause) -> ParquetProblem,
    ) -> Self {
        let cause = unwrapped(error);
        if let Some(Excess(what)) = cause.downcast_ref() {
            return Self::unusable(path, ParquetProblem::Excess(what.clone()));
        }
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

/// The error that the library's error wraps, or the library's error if it wraps none.
fn unwrapped(error: ParquetError) -> Cause {
    match error {
        ParquetError::External(error) => error,
        error => error.into(),
    }
}

impl ParquetProblem {
    /// The field whose name resolves the problem, if one does.
    pub(in crate::source) fn field(&self) -> Option<FieldKind> {
        match self {
            Self::Ambiguous { kind, .. } | Self::NotText { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// Why a Parquet file of images is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetProblem {
    /// The file is not Parquet, or it is truncated.
    #[error("not a complete Parquet file: {0}\nhint: finish the download, or copy the file again")]
    Syntax(#[source] Cause),
    /// The footer is valid, but pages are damaged.
    #[error("damaged: {0}\nhint: copy the file again")]
    Damaged(#[source] Cause),
    /// The file decodes to more than is read of any file.
    #[error(
        "{0}: this is more than is read\nhint: if the file is what it should be, write it again as several files, with pages of a few MB"
    )]
    Excess(String),
    /// This program does not read the compression of a column.
    #[error(
        "column {column} is compressed with {codec}, which is not supported\nhint: write the file with snappy, zstd or gzip"
    )]
    Codec {
        /// Name of the column.
        column: String,
        /// Name of the compression.
        codec: String,
    },
    /// No column can hold images.
    #[error(
        "none of the columns {got} holds images\nhint: store images as bytes, or as structs with a field bytes; if rows are paths, give a .csv list of them"
    )]
    NoImages {
        /// Names of the columns.
        got: String,
    },
    /// Several columns can hold the images, or the labels.
    #[error("the columns {got} may all hold the {kind}s\nhint: name one of them as the column of {kind}s")]
    Ambiguous {
        /// Names of the candidate columns.
        got: String,
        /// What they can hold.
        kind: FieldKind,
    },
    /// A column that was asked for does not exist.
    #[error("there is no column {name} among {got}")]
    NoColumn {
        /// The requested name.
        name: String,
        /// Names of the columns.
        got: String,
    },
    /// A column that was asked for cannot hold what it was asked for.
    #[error("column {column} is {got}, expected {expected}")]
    Type {
        /// Name of the column.
        column: String,
        /// Type of the column.
        got: String,
        /// Types that can hold it.
        expected: &'static str,
    },
    /// The images of a column were not embedded.
    #[error(
        "column {column} is null in every row: the images are not in the file\nhint: embed the images when you write the file, or give a .csv list of their paths"
    )]
    NotEmbedded {
        /// Name of the column.
        column: String,
    },
    /// A caption column has a type that captions cannot have.
    #[error(
        "expected captions in column {column}, got {got}\nhint: store captions as texts, one per row, or as lists of floats in a column caption_embedding"
    )]
    Captions {
        /// Name of the column.
        column: String,
        /// Type of the column.
        got: String,
    },
    /// The columns differ from those of the first file.
    #[error("expected {expected} as in {first}, got {got}\nhint: give files with the same columns")]
    Columns {
        /// Name of the first file.
        first: String,
        /// Columns of the first file.
        expected: String,
        /// Columns of this file.
        got: String,
    },
    /// A label is not usable.
    #[error("row {row}, column {column}: {fault}")]
    Label {
        /// Row number in the file, from 0.
        row: usize,
        /// Name of the label column.
        column: String,
        /// Why the label is not usable.
        fault: LabelFault,
    },
    /// A label is not one of the named classes.
    #[error("row {row}, column {column}: class {got}, expected a whole number below {classes}")]
    Class {
        /// Row number in the file, from 0.
        row: usize,
        /// Name of the label column.
        column: String,
        /// The invalid value.
        got: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A label or caption is bytes that are not a text.
    #[error(
        "row {row}, column {column}: expected UTF-8 text, got other bytes\nhint: store the column as strings, or name another column of {kind}s"
    )]
    NotText {
        /// Row number in the file, from 0.
        row: usize,
        /// Name of the column.
        column: String,
        /// What the column should hold.
        kind: FieldKind,
    },
    /// The row is of another split of a data set than an earlier row.
    #[error(
        "row {row}: column {column} is {got:?}, but {first:?} in an earlier row: these are splits of a data set\nhint: write the rows of one split to a file of their own, or remove the column to take all of them"
    )]
    SplitColumn {
        /// Row number in the file, from 0.
        row: usize,
        /// Name of the column.
        column: String,
        /// Value of an earlier row.
        first: String,
        /// Value of this row.
        got: String,
    },
    /// The embedding of a caption is not usable.
    #[error("row {row}: its caption_embedding {source}")]
    CaptionEmbedding {
        /// Row number in the file, from 0.
        row: usize,
        /// Why the embedding is not usable.
        source: CaptionFault,
    },
    /// A folder holds files of several splits, such as training and test images.
    #[error(
        "holds files of several splits: {}\nhint: give the files of one split, as a file, a brace range or a folder of links",
        files.join(", ")
    )]
    Splits {
        /// One file of each split.
        files: Vec<String>,
    },
    /// A folder holds Parquet files and other contents.
    #[error(
        "holds Parquet files and {other}\nhint: give one of the files, or a folder with Parquet files only"
    )]
    Among {
        /// Description of the other contents.
        other: String,
    },
}
