//! Errors of CSV lists.

use std::path::PathBuf;

use super::super::{CaptionFault, LabelFault};

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

/// Why a row of a CSV list is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The row is not valid CSV.
    #[error("not valid CSV: {0}")]
    Syntax(#[source] csv::Error),
    /// The number of columns differs from that of the first row.
    #[error(
        "{got} columns, expected {expected}\nhint: every row is path or every row is path,label; other columns need a header"
    )]
    Columns {
        /// Number of columns in the first row, or the maximum.
        expected: usize,
        /// Number of columns in this row.
        got: usize,
    },
    /// The number of columns differs from that of the header.
    #[error("{got} columns, the header has {expected}\nhint: put a text with commas in double quotes")]
    Cells {
        /// Number of columns in the header.
        expected: usize,
        /// Number of columns in this row.
        got: usize,
    },
    /// The first row resembles a header but names no column of images.
    #[error(
        "the header \"{got}\" is not understood\n\
         hint: call the columns path[,label], or name the column of images with --image-field; if this row is an image, \
         put the line path[,label] above it"
    )]
    Header {
        /// Text of the row.
        got: String,
    },
    /// A row is the header again, as in lists that were joined.
    #[error("this is the header again\nhint: remove the line")]
    HeaderAgain,
    /// The header has no column of images.
    #[error("none of the columns \"{got}\" holds images\nhint: call it path, or name it with --image-field")]
    NoImages {
        /// Text of the header.
        got: String,
    },
    /// A header of two columns has an unknown one beside the images.
    #[error(
        "the column {other} of the header \"{got}\" is not understood\n\
         hint: if it holds the labels, add --label-field '{other}'; otherwise remove it"
    )]
    Other {
        /// Text of the header.
        got: String,
        /// Name of the unknown column.
        other: String,
    },
    /// Several columns may hold the images, the labels or the captions.
    #[error("the columns {got} may all hold the {what}\nhint: choose one with {flag}")]
    Ambiguous {
        /// Names of the columns.
        got: String,
        /// What they may hold.
        what: &'static str,
        /// The flag that chooses.
        flag: &'static str,
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
        "\"{got}\" names images by address, which are not fetched\n\
         hint: download them first, for example with img2dataset, and list their paths"
    )]
    Address {
        /// The address, or the text of the header.
        got: String,
    },
    /// The path has the drive letter or share of a Windows system.
    #[error("\"{got}\" is a path of Windows\nhint: give paths relative to the folder of the list")]
    WindowsPath {
        /// Path in the row.
        got: String,
    },
    /// The list is UTF-16.
    #[error("the list is UTF-16\nhint: save it as UTF-8")]
    Utf16,
    /// A text file does not begin with the name of an image.
    #[error(
        "\"{got}\" is not an image of a list\n\
         hint: expected rows path[,label], or a header with a column path above them"
    )]
    NotImages {
        /// Start of the first line.
        got: String,
    },
    /// A cell contains rows of the list.
    #[error(
        "a cell contains the rows that follow\nhint: close its double quote, or double it if it is part of the text"
    )]
    OpenQuote,
    /// A line is not a JSON object.
    #[error("not a JSON object: {0}\nhint: a .jsonl list has one object per line")]
    Json(#[source] serde_json::Error),
    /// The row is of another split of a data set than the rows before it.
    #[error(
        "the column {column} says {got}, and {first} before: these are several splits of a data set\n\
         hint: give a list with the rows of one of them"
    )]
    Splits {
        /// Name of the column.
        column: String,
        /// The split of earlier rows.
        first: &'static str,
        /// The split of this row.
        got: &'static str,
    },
    /// The path is empty.
    #[error("the path is empty")]
    EmptyPath,
    /// The path also occurs in an earlier line.
    #[error("\"{key}\" is already in line {first}\nhint: is the first column the path?")]
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
    #[error("\"{key}\" has no caption\nhint: caption every row, or leave it out of the list")]
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
