//! Errors of CSV lists.

use std::path::PathBuf;

use super::super::{CaptionFault, FieldKind, LabelFault};
use crate::quotes::QuoteFault;

/// An unusable row of a CSV list.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}: {problem}", path.display())]
pub struct ListError {
    /// Path of the list.
    pub path: PathBuf,
    /// Line number in the file, from 1.
    pub line: u64,
    /// Why the row is not usable.
    #[source]
    pub problem: RowProblem,
}

impl RowProblem {
    /// The field whose name resolves the problem, if one does.
    pub(in crate::source) fn field(&self) -> Option<FieldKind> {
        match self {
            Self::Header { .. } | Self::NoImages { .. } => Some(FieldKind::Image),
            Self::Other { .. } => Some(FieldKind::Label),
            Self::Ambiguous { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// Why a row of a CSV list is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The row is not valid CSV.
    #[error("not valid CSV: {0}")]
    Syntax(#[source] csv::Error),
    /// The number of columns differs from that of the first row.
    #[error(
        "expected {expected} columns, got {got}\nhint: write path or path,label in every row; other columns need a header"
    )]
    Columns {
        /// Number of columns in the first row, or the maximum.
        expected: usize,
        /// Number of columns in this row.
        got: usize,
    },
    /// The number of columns differs from that of the header.
    #[error(
        "expected {expected} columns as in the header, got {got}\nhint: put a text with commas in double quotes"
    )]
    Cells {
        /// Number of columns in the header.
        expected: usize,
        /// Number of columns in this row.
        got: usize,
    },
    /// The first row resembles a header but names no column of images.
    #[error(
        "the header \"{got}\" names no column of images\n\
         hint: call the columns path[,label], or name the column of images; if this row is an image, put the line \
         path[,label] above it"
    )]
    Header {
        /// Text of the row.
        got: String,
    },
    /// A row is the header again, as in lists that were joined.
    #[error("the header is repeated\nhint: remove the line")]
    HeaderAgain,
    /// The header has no column of images.
    #[error("none of the columns \"{got}\" holds images\nhint: call the column of images path, or name it")]
    NoImages {
        /// Text of the header.
        got: String,
    },
    /// A header of two columns has an unknown one beside the images.
    #[error(
        "the header \"{got}\" does not say what column {other} holds\n\
         hint: if it holds the labels, name it as their column; otherwise remove it"
    )]
    Other {
        /// Text of the header.
        got: String,
        /// Name of the unknown column.
        other: String,
    },
    /// Several columns may hold the images, the labels or the captions.
    #[error("the columns {got} may all hold the {kind}s\nhint: name one of them as the column of {kind}s")]
    Ambiguous {
        /// Names of the columns.
        got: String,
        /// What they may hold.
        kind: FieldKind,
    },
    /// A column that was asked for does not exist.
    #[error("there is no column {name} among \"{got}\"\nhint: the first row of a list names its columns")]
    NoColumn {
        /// The requested name.
        name: String,
        /// Text of the first row.
        got: String,
    },
    /// The rows hold addresses of images on the web or in a bucket.
    #[error(
        "\"{got}\" gives images by address, not by path\n\
         hint: download the images, for example with img2dataset, and list their paths"
    )]
    Address {
        /// The address, or the text of the header.
        got: String,
    },
    /// The path has the drive letter or share of a Windows system.
    #[error("\"{got}\" is a Windows path\nhint: write paths relative to the folder of the list")]
    WindowsPath {
        /// Path in the row.
        got: String,
    },
    /// The list is UTF-16.
    #[error("the list is UTF-16\nhint: save it as UTF-8")]
    Utf16,
    /// A text file does not begin with the name of an image.
    #[error(
        "expected a list of images, got the line \"{got}\"\n\
         hint: write rows path[,label], or a header with a column path above them"
    )]
    NotImages {
        /// Start of the first line.
        got: String,
    },
    /// A double quote does not enclose one cell.
    #[error("{0}\nhint: close the quote, or double it if it is part of the text, in a cell in quotes")]
    Quote(#[source] QuoteFault),
    /// A quoted cell goes on over the end of its line, and paths, labels and headers do not, or what follows is a row.
    #[error(
        "a cell in double quotes goes on in the next line, so it may contain further rows\n\
         hint: close the quote in its line; only texts that are no paths, labels or headers may have several lines"
    )]
    OpenQuote,
    /// A line is not a JSON object.
    #[error("not a JSON object: {0}\nhint: write one object per line in a .jsonl list")]
    Json(#[source] serde_json::Error),
    /// The row is of another split of a data set than an earlier row.
    #[error(
        "column {column} is {got:?}, but {first:?} in an earlier row: these are splits of a data set\n\
         hint: list the rows of one split, or remove the column to take all of them"
    )]
    Splits {
        /// Name of the column.
        column: String,
        /// Value of an earlier row.
        first: String,
        /// Value of this row.
        got: String,
    },
    /// The path is empty.
    #[error("the path is empty")]
    EmptyPath,
    /// The path also occurs in an earlier line.
    #[error(
        "\"{key}\" is also in line {first}\nhint: list every image once; if this is not a path, name the columns in a header"
    )]
    Duplicate {
        /// The repeated path.
        key: String,
        /// Number of the earlier line.
        first: u64,
    },
    /// The label is not usable.
    #[error(transparent)]
    Label(LabelFault),
    /// The label is not UTF-8.
    #[error("the label is not UTF-8")]
    LabelEncoding,
    /// The caption is empty.
    #[error("\"{key}\" has no caption\nhint: give every row a caption, or remove the rows without one")]
    EmptyCaption {
        /// Path in the row.
        key: String,
    },
    /// The caption is not UTF-8.
    #[error("the caption of \"{key}\" is not UTF-8")]
    CaptionEncoding {
        /// Path in the row.
        key: String,
    },
    /// The embedding of the caption is not usable.
    #[error("the caption_embedding of \"{key}\" {source}")]
    CaptionEmbedding {
        /// Path in the row.
        key: String,
        /// Why the embedding is not usable.
        source: CaptionFault,
    },
}
