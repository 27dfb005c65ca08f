//! Errors of the numerical half of training, and the kinds of all errors of this crate.
//!
//! Each other part has its own error next to its code: [`StudentError`], [`ObjectiveError`] and
//! [`InputError`](crate::objective::InputError), [`LoaderError`](crate::loader::LoaderError), [`RunError`](crate::run::RunError),
//! [`EvalError`](crate::eval::EvalError), [`ExportError`](crate::export::ExportError).

use lgd_data::ArtifactError;
use lgd_kernels::ShapeError;
use thiserror::Error;

use crate::objective::ObjectiveError;
use crate::student::StudentError;

/// Result of students, operations, objectives and optimizers. The default error is [`TrainError`].
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// An error of students, operations, objectives or optimizers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A tensor operation failed: wrong shape, type or device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Shapes do not match.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A student cannot be built, or lacks an output.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// An objective was given targets that it cannot use.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// A tensor does not have the expected shape.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Dimensions {
        /// The tensor.
        what: String,
        /// The expected shape.
        expected: Vec<usize>,
        /// The actual shape.
        got: Vec<usize>,
    },
    /// Gradients are to be clipped, but their norm is NaN or infinite. On the CPU, the parameters are unchanged. A GPU
    /// skips the step and reports the error some steps later.
    #[error("the gradient norm of step {step} is {norm}, expected a finite number to clip")]
    GradientNorm {
        /// Step over all epochs, from 0.
        step: u64,
        /// The norm.
        norm: f64,
    },
    /// A saved state lacks an entry.
    #[error("the saved state lacks the entry {name}\nhint: another configuration or version wrote it")]
    MissingState {
        /// The entry.
        name: String,
    },
    /// A teacher's embedding equals the mean that the bank of names subtracts.
    #[error(
        "a teacher embedding equals the mean that the bank of names subtracts, so the difference has no direction"
    )]
    EqualsMean,
    /// A setting is out of range.
    #[error("{name} is {value}, expected {range}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range that is allowed, in words.
        range: &'static str,
    },
    /// This build or this machine does not have the device.
    #[error("cannot use device {device}: {reason}")]
    Device {
        /// The requested device.
        device: String,
        /// The reason.
        reason: String,
    },
    /// A device lacks memory for a buffer.
    #[error("{device} is out of memory: a buffer of {} MiB does not fit", bytes.div_ceil(1 << 20))]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes of the buffer.
        bytes: usize,
    },
    /// A result was requested before any forward pass, or twice.
    #[error("no forward pass has run for this call")]
    NothingRan,
    /// A pass was stopped on request. The parameters and running statistics are those before it.
    #[error("the pass was stopped")]
    Stopped,
    /// A masked graph ran without a mask.
    #[error("a masked graph ran without a mask")]
    NoMask,
    /// Rendering or normalizing pixels failed.
    #[error(transparent)]
    Pixels(#[from] lgd_data::render::RenderError),
    /// The bytes are not a valid safetensors file.
    #[error("not a valid safetensors file: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
}

impl TrainError {
    /// The error for a setting that is out of range.
    pub(crate) fn setting(name: &'static str, value: impl Into<f64>, range: &'static str) -> Self {
        Self::Setting { name, value: value.into(), range }
    }

    /// Whether the device lacks memory, so that smaller batches may help.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            #[cfg(feature = "cuda")]
            Self::Tensor(error) => crate::engine::is_out_of_memory(error),
            _ => false,
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Stopped => FailureKind::Interrupted,
            Self::GradientNorm { .. }
            | Self::Student(StudentError::MaskedSize { .. } | StudentError::TokenGrid { .. }) => {
                FailureKind::Usage
            }
            _ => FailureKind::Other,
        }
    }
}

/// A setting of a run is out of range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting} is {value}, expected {rule}")]
pub struct SettingError {
    /// The setting, as in `config.toml`.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// The values that are allowed.
    pub rule: &'static str,
}

impl SettingError {
    /// `Err` with the first of `checks` that fails. A check is a setting, its value, whether the value is valid, and
    /// the rule.
    pub(crate) fn first(
        checks: impl IntoIterator<Item = (&'static str, String, bool, &'static str)>,
    ) -> Result<(), Self> {
        match checks.into_iter().find(|(_, _, valid, _)| !valid) {
            Some((setting, value, _, rule)) => Err(Self { setting, value, rule }),
            None => Ok(()),
        }
    }
}

/// The kind of a failure; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The caller asked for something impossible.
    Usage,
    /// An artifact or the images are damaged, or do not belong together.
    Artifact,
    /// Stopped on request, resumable.
    Interrupted,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// The kind of an artifact's error. A folder that is in the way is a usage error, not a damaged artifact.
    pub fn of_artifact(error: &ArtifactError) -> Self {
        match error {
            ArtifactError::Occupied { .. } | ArtifactError::Busy { .. } => Self::Usage,
            _ => Self::Artifact,
        }
    }
}

/// `Err(Dimensions)` unless `tensor` has the shape `expected`.
pub(crate) fn expect_dims(
    what: &str,
    tensor: &candle_core::Tensor,
    expected: &[usize],
) -> Result<(), TrainError> {
    if tensor.dims() == expected {
        return Ok(());
    }
    let (expected, got) = (expected.to_vec(), tensor.dims().to_vec());
    Err(TrainError::Dimensions { what: what.to_owned(), expected, got })
}
