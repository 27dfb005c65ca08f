//! Errors of CSV lists.

use std::path::PathBuf;

use super::super::CaptionFault;

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
    /// The first row resembles a header but has unknown columns or the wrong order.
    #[error(
        "the header \"{got}\" is not understood\n\
         hint: the columns are path[,label], in this order, or with a column caption or caption_embedding in any; \
         if this row is an image, put the line path[,label] above it"
    )]
    Header {
        /// Text of the row.
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
        /// Path in the row.
        key: String,
    },
    /// The path also occurs in an earlier line.
    #[error("\"{key}\" is already in line {first}\nhint: is the first column the path?")]
    Duplicate {
        /// The repeated path.
        key: String,
        /// Number of the earlier line.
        first: u64,
    },
    /// The label is a name, but earlier labels are numbers.
    #[error(
        "label \"{label}\" is not a class number, but the labels before it are\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotANumber {
        /// The label.
        label: String,
    },
    /// The label is a number, but earlier labels are names.
    #[error(
        "label \"{label}\" is a number, but the labels before it are names\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotAName {
        /// The label.
        label: String,
    },
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
