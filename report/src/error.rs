//! Why a report cannot be written.

use lgd_data::ArtifactError;
use thiserror::Error;

/// Why a report cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A run, cache or bank is missing, damaged or cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A plot could not be drawn.
    #[error("the plot {plot:?} could not be drawn: {reason}")]
    Plot {
        /// Title of the plot.
        plot: String,
        /// Error of the drawing library.
        reason: String,
    },
}
