//! Errors of the GPU.

use cudarc::cublas::result::CublasError;
use cudarc::cudnn::result::CudnnError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use lgd_kernels::{Activation, ShapeError};
use thiserror::Error;

use crate::memory::{Element, Slice};

/// Why an operation on the GPU failed. An error in a running kernel is reported by the next call that waits for it.
#[derive(Debug, Clone, Error)]
pub enum CudaError {
    /// Shapes or lengths do not match.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The GPU lacks memory.
    #[error("the GPU is out of memory: a buffer of {} MiB does not fit", bytes.div_ceil(1 << 20))]
    OutOfMemory {
        /// Bytes that were requested.
        bytes: usize,
    },
    /// The driver returned an error.
    #[error("CUDA driver: {0}")]
    Driver(#[from] DriverError),
    /// A library cannot be used, most likely because it was not found.
    #[error(
        "cannot use {library}: {reason}\nhint: add its folder to LD_LIBRARY_PATH; LGD_CUDA_VERBOSE=1 prints which files were not found"
    )]
    Library {
        /// Name and version.
        library: &'static str,
        /// Result of the first call.
        reason: String,
    },
    /// cuDNN returned an error.
    #[error("cuDNN, {what}: {status}")]
    Dnn {
        /// Name of the call.
        what: &'static str,
        /// cuDNN's status.
        status: CudnnError,
    },
    /// cuBLAS returned an error.
    #[error("cuBLAS: {0}")]
    Blas(#[from] CublasError),
    /// No algorithm of cuDNN computes this convolution. `first` is the error of the first candidate that failed.
    #[error("cuDNN has no algorithm for {what}{}", first.as_ref().map_or(String::new(), |first| format!(": {first}")))]
    NoPlan {
        /// The convolution.
        what: String,
        /// Why the first candidate failed; none if cuDNN proposed none that is deterministic and precise enough.
        first: Option<Box<CudaError>>,
    },
    /// Values have an element type that the operation does not accept.
    #[error("{what}: expected {expected:?}, got {got:?}")]
    Element {
        /// Name of the values.
        what: &'static str,
        /// The required element type.
        expected: Element,
        /// The element given.
        got: Element,
    },
    /// A dimension or length that does not fit the integers of a kernel.
    #[error("{value} is too large for a GPU kernel")]
    TooLarge {
        /// The value.
        value: usize,
    },
    /// An operation that has no kernel.
    #[error("not available on the GPU: {what}")]
    Unsupported {
        /// The operation.
        what: String,
    },
}

impl CudaError {
    /// The error of an allocation of `bytes` bytes.
    pub(crate) fn of_allocation(error: DriverError, bytes: usize) -> Self {
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY { Self::OutOfMemory { bytes } } else { error.into() }
    }
}

/// Result type of operations on the GPU; the error is a [`CudaError`].
pub type Result<T, E = CudaError> = std::result::Result<T, E>;

/// `Err` unless two lengths agree.
pub(crate) fn expect_eq(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(ShapeError::Mismatch { what, expected, got }.into()) }
}

/// `Err` unless two elements agree.
pub(crate) fn expect_element(what: &'static str, expected: Element, got: Element) -> Result<()> {
    if expected == got { Ok(()) } else { Err(CudaError::Element { what, expected, got }) }
}

/// Converts a dimension to the integer that kernels take.
pub(crate) fn int(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| CudaError::TooLarge { value })
}

/// Converts a length to the integer that kernels take.
pub(crate) fn long(value: usize) -> Result<i64> {
    i64::try_from(value).map_err(|_| CudaError::TooLarge { value })
}

/// `Err` unless the derivative of `activation` can be computed from its value.
pub(crate) fn expect_derivative_of_value(activation: Activation) -> Result<()> {
    if activation.has_derivative_of_value() {
        return Ok(());
    }
    Err(ShapeError::Derivative { activation }.into())
}

/// Rows of `[M, C]`; fails if 32 bits cannot count them.
pub(crate) fn rows_of(x: Slice<'_>, channels: usize) -> Result<usize> {
    let rows = x.len() / channels.max(1);
    expect_eq("values in whole rows", rows * channels, x.len())?;
    u32::try_from(rows).map_err(|_| CudaError::TooLarge { value: rows })?;
    Ok(rows)
}

/// `Err` unless `other` has the length and element of `x`.
pub(crate) fn expect_like(what: &'static str, x: Slice<'_>, other: Slice<'_>) -> Result<()> {
    expect_eq(what, x.len(), other.len())?;
    expect_element(what, x.element(), other.element())
}

/// `Err` unless `x` holds `len` f32 values.
pub(crate) fn expect_floats(what: &'static str, x: Slice<'_>, len: usize) -> Result<()> {
    expect_element(what, Element::F32, x.element())?;
    expect_eq(what, len, x.len())
}
