//! Why a model cannot be run on images.

use std::error::Error;
use std::path::PathBuf;

use lgd_data::source::SourceError;
use thiserror::Error;

use crate::error::FailureKind;

/// The error of a model that fails.
pub type ModelFailure = Box<dyn Error + Send + Sync>;

/// Why a model cannot be run on images.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The caller asked to stop.
    #[error("interrupted; nothing is saved")]
    Interrupted,
    /// An image cannot be read because the storage failed, not because the image is bad.
    #[error(
        "{source}\nhint: not the file but the storage seems to have failed: see to it, then run the command again"
    )]
    Storage {
        /// The first image that could not be read, and why.
        source: Box<SourceError>,
    },
    /// The model failed.
    #[error("{}: the model failed: {source}", path.display())]
    Model {
        /// The run folder, or the file.
        path: PathBuf,
        /// The failure.
        source: ModelFailure,
    },
}

impl InferenceError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Interrupted => FailureKind::Interrupted,
            Self::Storage { .. } => FailureKind::Artifact,
            Self::Model { .. } => FailureKind::Other,
        }
    }
}
