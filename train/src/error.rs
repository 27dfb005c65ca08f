//! What can go wrong in the numerical half of training.

use thiserror::Error;

use lgd_data::cache::StudentSizes;
use lgd_kernels::ShapeError;

/// What students, operations, objectives and optimizers return; the error is a [`TrainError`].
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// An error of students, operations, objectives or optimizers.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A tensor operation failed: wrong shape, type or device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Shapes do not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A tensor has other dimensions than its use demands.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Dimensions {
        /// What the tensor is.
        what: String,
        /// The shape that fits.
        expected: Vec<usize>,
        /// The shape given.
        got: Vec<usize>,
    },
    /// An objective was given no values for a column it asked for.
    #[error("the objective needs the target column {column}, which the batch lacks")]
    MissingColumn {
        /// The column.
        column: &'static str,
    },
    /// An objective asked for an output that the student does not have.
    #[error("the objective needs the student's output {output}, which this student does not have")]
    MissingOutput {
        /// The output.
        output: &'static str,
    },
    /// A part of a batch reaches past the end of its targets.
    #[error("the batch has {rows} rows of targets, a part of it takes {len} from row {start} on")]
    MissingRows {
        /// First row of the part.
        start: usize,
        /// Rows of the part.
        len: usize,
        /// Rows there are.
        rows: usize,
    },
    /// A name that stands for no objective.
    #[error("unknown objective {name:?}\nhint: objectives are {known}; `lgd objectives` says more")]
    UnknownObjective {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A choice of objectives that makes no sense.
    #[error("{reason}\nhint: objectives are given as lgd,kdep:0.5, a weight after the colon")]
    Objectives {
        /// Why not.
        reason: String,
    },
    /// Gradients are to be clipped, and their norm is NaN or infinite. On the CPU no parameter was touched by them; a GPU leaves the step
    /// out, which is noticed some steps later.
    #[error(
        "the norm of the gradients of step {step} is {norm}, which cannot be clipped\nhint: start anew with a lower learning rate, a longer warm-up or a smaller --clip-norm"
    )]
    GradientNorm {
        /// Step over all epochs, from 0.
        step: u64,
        /// The norm.
        norm: f64,
    },
    /// A label that the classifier has no class for.
    #[error("a label is {label}, but there are {classes} classes")]
    Label {
        /// The label.
        label: u32,
        /// Classes of the classifier.
        classes: usize,
    },
    /// A saved state lacks an entry.
    #[error("the saved state has no entry {name}\nhint: it was written by another configuration or version")]
    MissingState {
        /// The entry.
        name: String,
    },
    /// A setting is out of range.
    #[error("{name} is {value}, must be {range}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range that is allowed, in words.
        range: &'static str,
    },
    /// A name that stands for no architecture.
    #[error(
        "unknown student {name:?}\nhint: students are resnet18, resnet34, resnet50, mobilenet_v2, mobilenet_v3_large and efficientnet_b0"
    )]
    UnknownArchitecture {
        /// The name given.
        name: String,
    },
    /// A device that this build or this machine does not have.
    #[error("the device {device} cannot be used: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A device lacks memory for a buffer.
    #[error("{device} is out of memory: {} MiB more were asked for", bytes.div_ceil(1 << 20))]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes of the buffer.
        bytes: usize,
    },
    /// Something that cannot stand in an exported file.
    #[error("{what} cannot be exported")]
    Unexportable {
        /// What it is.
        what: String,
    },
    /// A result was asked for before anything ran, or twice.
    #[error("no forward pass has run that this belongs to")]
    NothingRan,
    /// A masked graph ran without a mask.
    #[error("the graph is masked, but no mask was set")]
    NoMask,
    /// Images that cells of a mask do not fill, or of a single cell.
    #[error(
        "students that see masked images need sides that are multiples of 32, and two cells of 32 x 32 at least, got {height} x {width}\nhint: the smallest square is 64 x 64"
    )]
    MaskedSize {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
    /// A token grid that a decoder does not reach by doubling the coarsest map.
    #[error(
        "a decoder for images of {height} x {width} cannot make {rows} x {columns} tokens\nhint: grids that fit are {fitting}; {}",
        StudentSizes { rows: *rows, columns: *columns }
    )]
    TokenGrid {
        /// Rows of tokens.
        rows: usize,
        /// Columns of tokens.
        columns: usize,
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// The grids that fit.
        fitting: String,
    },
    /// Pixels do not fit.
    #[error(transparent)]
    Pixels(#[from] lgd_data::render::RenderError),
    /// Bytes that are not a safetensors file.
    #[error("not a valid safetensors file: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
}

impl TrainError {
    /// Whether the device lacks memory, so that smaller batches may help.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            #[cfg(feature = "cuda")]
            Self::Tensor(error) => crate::engine::is_out_of_memory(error),
            _ => false,
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
