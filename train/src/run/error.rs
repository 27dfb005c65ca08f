//! Why a run cannot start or continue.

use std::io;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use thiserror::Error;

use crate::error::{FailureKind, SettingError, TrainError};
use crate::initial::WeightsFault;
use crate::loader::LoaderError;
use crate::objective::InputError;
use crate::student::Architecture;

/// Why a run cannot start, continue or be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A cache, bank, run or checkpoint is missing, damaged or belongs to something else.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The numerical part failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An input of an objective is missing, unused or does not fit.
    #[error(transparent)]
    Input(InputError),
    /// Batches cannot be loaded.
    #[error(transparent)]
    Loader(LoaderError),
    /// The loss is NaN or infinite. On the CPU, the parameters are unchanged. On a GPU, the error is reported some
    /// steps later.
    #[error("the loss of step {step} (of epoch {}) is {loss} ({parts})", epoch + 1)]
    NonFinite {
        /// Epoch, from 0.
        epoch: u32,
        /// Step over all epochs, from 0.
        step: usize,
        /// The loss.
        loss: f32,
        /// Its parts by name.
        parts: String,
    },
    /// A parameter became NaN or infinite.
    #[error("{name} is no longer finite after step {step}")]
    Diverged {
        /// Steps done.
        step: usize,
        /// The first such parameter or buffer.
        name: String,
    },
    /// Initial weights cannot be used.
    #[error("initial weights {}: {source}", path.display())]
    InitialWeights {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<InitialWeightsError>,
    },
    /// The output folder already holds a run or other files.
    #[error("{} already holds {what}", dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
        /// What it holds.
        what: &'static str,
    },
    /// The run in the folder was begun with another input or setting.
    #[error("{}: {what} differs: expected {expected}, got {got}", path.display())]
    Differs {
        /// The run's manifest.
        path: PathBuf,
        /// The input or setting.
        what: String,
        /// Its value in the run.
        expected: String,
        /// Its value now.
        got: String,
    },
    /// None of the checkpoints that the run lists exists.
    #[error("{}: neither this checkpoint nor an earlier one exists", path.display())]
    NoCheckpoint {
        /// The latest one.
        path: PathBuf,
    },
    /// The latest checkpoint is damaged.
    #[error("{}: damaged checkpoint: {reason}", path.display())]
    DamagedCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The damage.
        reason: String,
        /// The checkpoint before it, from which the run can continue if this one is deleted.
        earlier: Option<PathBuf>,
    },
    /// The run is not finished.
    #[error("{} is missing: the finished student", path.display())]
    Unfinished {
        /// The file of the student's weights.
        path: PathBuf,
    },
    /// The run has no best weights.
    #[error("{}: the run kept no best weights, because nothing was held out", dir.display())]
    NoBest {
        /// The run.
        dir: PathBuf,
    },
    /// A bank subtracts another mean from embeddings than the run.
    #[error("{}: the centering of embeddings differs: expected {expected}, got {got}", bank.display())]
    Centering {
        /// The bank.
        bank: PathBuf,
        /// The run's centering.
        expected: String,
        /// The bank's.
        got: String,
    },
    /// No figure can be computed on the held-out samples.
    #[error("{}: nothing can be measured on the held-out samples: {reason}", cache.display())]
    NothingToMeasure {
        /// Their cache.
        cache: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The caller asked to stop.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// Steps done.
        step: usize,
        /// The run.
        dir: PathBuf,
    },
}

/// Why a file of initial weights cannot be used.
#[derive(Debug, Error)]
pub enum InitialWeightsError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Its tensors cannot be loaded.
    #[error(transparent)]
    Load(#[from] TrainError),
    /// The file holds no tensors that can be read.
    #[error(transparent)]
    Weights(#[from] WeightsFault),
    /// It holds another network.
    #[error("the weights are not those of {architecture}{}: {difference}\nhint: {}", after(notes), remedy(*other))]
    Foreign {
        /// The student.
        architecture: Architecture,
        /// How the file's backbone differs.
        difference: String,
        /// The architecture that the file fits, if there is one.
        other: Option<Architecture>,
        /// How the names were changed, if they were.
        notes: String,
    },
    /// A value is NaN or infinite.
    #[error("{name} holds values that are not finite\nhint: give weights from before the training diverged")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// A variance is negative.
    #[error(
        "{name} holds negative variances\nhint: the file is damaged or was not saved by a training; give other weights"
    )]
    NegativeVariance {
        /// The tensor.
        name: String,
    },
}

fn after(notes: &str) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({notes})") }
}

fn remedy(other: Option<Architecture>) -> String {
    match other {
        Some(other) => format!("they fit {other}: train that student, or give other weights"),
        None => "give the whole state dictionary of this architecture, with torchvision's or timm's names"
            .to_owned(),
    }
}

impl RunError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Artifact(error) => FailureKind::of_artifact(error),
            Self::Train(error) => error.kind(),
            Self::Input(error) => error.kind(),
            Self::Loader(error) => error.kind(),
            Self::Setting(_)
            | Self::NonFinite { .. }
            | Self::Diverged { .. }
            | Self::Occupied { .. }
            | Self::NoBest { .. }
            | Self::NothingToMeasure { .. } => FailureKind::Usage,
            Self::InitialWeights { .. }
            | Self::Differs { .. }
            | Self::NoCheckpoint { .. }
            | Self::DamagedCheckpoint { .. }
            | Self::Unfinished { .. }
            | Self::Centering { .. } => FailureKind::Artifact,
            Self::Interrupted { .. } => FailureKind::Interrupted,
        }
    }
}

/// Artifact errors and numerical errors keep their own variants, wherever they occur.
impl From<InputError> for RunError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Artifact(error) => Self::Artifact(*error),
            InputError::Train(error) => Self::Train(error),
            error => Self::Input(error),
        }
    }
}

/// Artifact errors and numerical errors keep their own variants, wherever they occur.
impl From<LoaderError> for RunError {
    fn from(error: LoaderError) -> Self {
        match error {
            LoaderError::Artifact(error) => Self::Artifact(*error),
            LoaderError::Train(error) => Self::Train(error),
            LoaderError::Input(error) => error.into(),
            error => Self::Loader(error),
        }
    }
}

impl From<candle_core::Error> for RunError {
    fn from(error: candle_core::Error) -> Self {
        Self::Train(error.into())
    }
}
