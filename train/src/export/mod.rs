//! A finished student as files for other tools: one ONNX file, or weights under another framework's names.

mod layout;
mod onnx;

use thiserror::Error;

pub use self::layout::{FOLDER_FILES, Layout, LayoutFile, LayoutFiles, WeightsFormat, named, run_to_layout};
pub use self::onnx::{
    Dimension, OnnxFormat, OnnxInput, OnnxModel, OnnxOptions, Port, Precision, names_of, run_to_onnx, to_onnx,
};
use crate::error::{FailureKind, TrainError};
use crate::run::RunError;
use crate::student::Architecture;

/// Why a student cannot be exported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The run, its student or the bank cannot be used.
    #[error(transparent)]
    Run(Box<RunError>),
    /// Scores were requested, but the student has no embedding.
    #[error("a score for every name needs a run whose student ends in an embedding")]
    NoEmbedding,
    /// The framework has no such network, or one that computes something else.
    #[error("the layout {layout} does not have {architecture}: {reason}; it has {}", .known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NoLayout {
        /// The layout.
        layout: Layout,
        /// The student's backbone.
        architecture: Architecture,
        /// The reason.
        reason: &'static str,
        /// The backbones that it has.
        known: Vec<Architecture>,
    },
    /// The framework does not read files of this format.
    #[error("{layout} does not read {format} files")]
    NoFormat {
        /// The layout.
        layout: Layout,
        /// The format.
        format: WeightsFormat,
    },
    /// The graph has a part that ONNX cannot represent.
    #[error("{what} cannot be exported")]
    Unexportable {
        /// The part.
        what: String,
    },
}

impl ExportError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Run(error) => error.kind(),
            Self::NoEmbedding | Self::NoLayout { .. } | Self::NoFormat { .. } => FailureKind::Usage,
            Self::Unexportable { .. } => FailureKind::Other,
        }
    }
}

impl From<RunError> for ExportError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<TrainError> for ExportError {
    fn from(error: TrainError) -> Self {
        RunError::from(error).into()
    }
}

impl From<candle_core::Error> for ExportError {
    fn from(error: candle_core::Error) -> Self {
        TrainError::from(error).into()
    }
}
