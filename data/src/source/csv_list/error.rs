//! Errors of CSV lists.

use std::path::PathBuf;

use super::super::CaptionFault;

/// A row of a CSV list that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}: {problem}", path.display())]
pub struct ListError {
    /// The list.
    pub path: PathBuf,
    /// Line of the file, from 1.
    pub line: u64,
    /// What is wrong with the row.
    #[source]
    pub problem: RowProblem,
}

/// What can be wrong with a row of a CSV list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// Not CSV.
    #[error("not valid CSV: {0}")]
    Syntax(#[source] csv::Error),
    /// A number of columns other than the first row's.
    #[error(
        "{got} columns, expected {expected}\nhint: every row is path or every row is path,label; other columns need a header"
    )]
    Columns {
        /// Columns of the first row, or the most allowed.
        expected: usize,
        /// Columns of this row.
        got: usize,
    },
    /// A number of columns other than the header's.
    #[error("{got} columns, the header has {expected}\nhint: put a text with commas in double quotes")]
    Cells {
        /// Columns of the header.
        expected: usize,
        /// Columns of this row.
        got: usize,
    },
    /// A first row that looks like a header, but not one of these columns.
    #[error(
        "the header \"{got}\" is not understood\n\
         hint: the columns are path[,label], in this order, or with a column caption or caption_embedding in any; \
         if this row is an image, put the line path[,label] above it"
    )]
    Header {
        /// The row.
        got: String,
    },
    /// The path is empty.
    #[error("the path is empty")]
    EmptyPath,
    /// The label is empty.
    #[error(
        "\"{key}\" has no label, but other rows have one\nhint: label every row, or leave out the column"
    )]
    EmptyLabel {
        /// The row's path.
        key: String,
    },
    /// A path that an earlier line has too.
    #[error("\"{key}\" is already in line {first}\nhint: is the first column the path?")]
    Duplicate {
        /// The path.
        key: String,
        /// The earlier line.
        first: u64,
    },
    /// Numbers and names are mixed.
    #[error(
        "label \"{label}\" is not a class number, but the labels before it are\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotANumber {
        /// The label found.
        label: String,
    },
    /// Names and numbers are mixed.
    #[error(
        "label \"{label}\" is a number, but the labels before it are names\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotAName {
        /// The label found.
        label: String,
    },
    /// A label is not UTF-8.
    #[error("the label is not UTF-8")]
    LabelEncoding,
    /// The caption is empty.
    #[error("\"{key}\" has no caption\nhint: caption every row, or leave it out of the list")]
    EmptyCaption {
        /// The row's path.
        key: String,
    },
    /// A caption is not UTF-8.
    #[error("the caption of \"{key}\" is not UTF-8")]
    CaptionEncoding {
        /// The row's path.
        key: String,
    },
    /// A caption's embedding that cannot be used.
    #[error("the caption_embedding of \"{key}\" {source}")]
    CaptionEmbedding {
        /// The row's path.
        key: String,
        /// What is wrong with it.
        source: CaptionFault,
    },
}
