//! Errors of fitting a bridge.

use std::path::PathBuf;

use lgd_data::ArtifactError;
use safetensors::SafeTensorError;

use super::MIN_CATEGORIES;
use crate::error::BankError;

/// Reasons why a bridge cannot be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlignError {
    /// A file of an artifact, or the head, could not be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The prototypes could not be computed, embeddings are bad, or the job was interrupted.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// There are too few categories.
    #[error(
        "a bridge needs at least {MIN_CATEGORIES} categories with an image or a row, got {got}\nhint: use more names, such as a classifier's own list; with more of them, a bridge serves new names better"
    )]
    FewCategories {
        /// Number of categories.
        got: usize,
    },
    /// The head is not a safetensors file.
    #[error("{}: expected a safetensors file: {source}\nhint: save the weight of the last layer, [classes, width], as a safetensors file", path.display())]
    HeadFile {
        /// The file.
        path: PathBuf,
        /// Error of the safetensors library.
        source: SafeTensorError,
    },
    /// No tensor, or more than one, can be the head.
    #[error("{}: {}; its matrices: {}", path.display(), fault(wanted.as_deref(), *rows), list(matrices))]
    HeadChoice {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        wanted: Option<String>,
        /// Number of names.
        rows: usize,
        /// All matrices with their shapes.
        matrices: Vec<String>,
    },
    /// The tensor is no matrix of floats.
    #[error(
        "{}: {tensor}: expected a matrix of floats, [classes, width], got {got}",
        path.display()
    )]
    HeadType {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Type and shape found.
        got: String,
    },
    /// A row of the head is zero or not finite.
    #[error("{}: {tensor}: row {row} has norm {norm}, expected a finite one above 0\nhint: leave out the row and its name", path.display())]
    HeadNorm {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The row, from 0.
        row: usize,
        /// Its norm.
        norm: f64,
    },
    /// Names and rows of the head differ in number.
    #[error("{}: {rows} rows, but {names} names\nhint: give one name per row, in the order of the rows{}", path.display(),
        if *rows == names + 1 { "; one row more is often a background class: add its name" } else { "" })]
    HeadRows {
        /// The file.
        path: PathBuf,
        /// Rows of the head.
        rows: usize,
        /// Number of names.
        names: usize,
    },
    /// A row equals the mean that is subtracted from it.
    #[error(
        "{what} of {category:?} equals the mean over the categories, so that subtracting the mean leaves nothing\nhint: give names that differ, and images or rows that differ"
    )]
    EqualsMean {
        /// The text prototype or the image target.
        what: &'static str,
        /// The category.
        category: String,
    },
    /// The eigendecomposition did not converge.
    #[error(
        "the eigendecomposition of the {width} x {width} products did not converge\nhint: give a larger ridge penalty, or check the embeddings for values that are not finite"
    )]
    NotConverged {
        /// Number of columns.
        width: usize,
    },
}

fn fault(name: Option<&str>, rows: usize) -> String {
    match name {
        Some(name) => format!("there is no {name:?}"),
        None => format!("expected one matrix with a row for each of the {rows} names, found none or several"),
    }
}

fn list(matrices: &[String]) -> String {
    if matrices.is_empty() { "none".to_owned() } else { matrices.join(", ") }
}
