//! Errors of objectives: choices that make no sense, and targets that do not fit.

use thiserror::Error;

/// A choice of objectives that makes no sense, or targets that an objective cannot use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// No objective has this name.
    #[error("unknown objective {name:?}, expected one of {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A choice of objectives that makes no sense.
    #[error("{reason}\nhint: write objectives as lgd,kdep:0.5, with a weight after the colon")]
    Choice {
        /// The reason.
        reason: String,
    },
    /// A batch lacks a target column that the objective reads.
    #[error("the objective needs the target column {column}, which the batch lacks")]
    MissingColumn {
        /// The column.
        column: &'static str,
    },
    /// A part of a batch reaches past the end of its targets.
    #[error("expected {len} rows of targets from row {start}, but the batch has {rows} rows")]
    MissingRows {
        /// First row of the part.
        start: usize,
        /// Rows of the part.
        len: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// The classifier has no class for a label.
    #[error("expected labels below {classes}, the number of classes, got {label}")]
    Label {
        /// The label.
        label: u32,
        /// Classes of the classifier.
        classes: usize,
    },
}
