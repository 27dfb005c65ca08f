//! Why images cannot be predicted, or results cannot be written.

use std::io;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use thiserror::Error;

use crate::error::{FailureKind, TrainError};
use crate::inference::{InferenceError, OutputKind};
use crate::run::RunError;

/// Why images cannot be predicted, or results cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PredictError {
    /// The model cannot be run on the images.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// A bank or an output file cannot be used.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The bank does not fit the run.
    #[error(transparent)]
    Run(Box<RunError>),
    /// A matrix product failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model does not have an output.
    #[error("{}: it has no output {kind}; it has {outputs}", path.display())]
    NoOutput {
        /// The run folder, or the file.
        path: PathBuf,
        /// The output.
        kind: OutputKind,
        /// Its outputs, in words.
        outputs: String,
    },
    /// The student ends in an embedding, and no bank gives names.
    #[error("{}: the student ends in an embedding, and names come from a bank", path.display())]
    NoBank {
        /// The run folder, or the file.
        path: PathBuf,
    },
    /// A bank was given, but the student has no embedding to compare it with.
    #[error("{}: a bank is given, and the student has no embedding; it has {outputs}", path.display())]
    UnusedBank {
        /// The run folder, or the file.
        path: PathBuf,
        /// Its outputs, in words.
        outputs: String,
    },
    /// The student has neither names nor classes.
    #[error("{}: it tells no names apart; it has {outputs}", path.display())]
    NoNames {
        /// The run folder, or the file.
        path: PathBuf,
        /// Its outputs, in words.
        outputs: String,
    },
    /// The number of names differs from the width of the output.
    #[error("{}: expected {expected} names for the output {kind}, got {got}", path.display())]
    NameCount {
        /// The file.
        path: PathBuf,
        /// The output.
        kind: OutputKind,
        /// Width of the output.
        expected: usize,
        /// Number of names.
        got: usize,
    },
    /// The bank's embeddings have another width than the student's.
    #[error("{}: expected embeddings of {expected} values, as the student's, got {got}", bank.display())]
    BankWidth {
        /// The bank.
        bank: PathBuf,
        /// Width of the student's embedding.
        expected: usize,
        /// Width of the bank's.
        got: usize,
    },
    /// An image has a line break in its path, which a list of one path per line cannot hold.
    #[error("{key:?} has a line break in its name, which the list of keys cannot hold")]
    KeyLine {
        /// The key.
        key: String,
    },
    /// Results cannot be written.
    #[error("cannot write {to}: {source}")]
    Write {
        /// The file, or "standard output".
        to: String,
        /// The error.
        source: io::Error,
    },
}

impl From<RunError> for PredictError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl PredictError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Inference(error) => error.kind(),
            Self::Run(error) => error.kind(),
            Self::Artifact(error) => FailureKind::of_artifact(error),
            Self::Train(error) => error.kind(),
            Self::BankWidth { .. } | Self::Write { .. } | Self::NameCount { .. } => FailureKind::Artifact,
            _ => FailureKind::Usage,
        }
    }
}
