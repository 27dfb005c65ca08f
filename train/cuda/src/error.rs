//! What can go wrong on a device.

use cudarc::cublas::result::CublasError;
use cudarc::cudnn::result::CudnnError;
use cudarc::driver::DriverError;
use lgd_kernels::ShapeError;
use thiserror::Error;

use crate::memory::Element;

/// Why an operation on the GPU failed. Errors of kernels already running surface at the next call that waits for them.
#[derive(Debug, Error)]
pub enum CudaError {
    /// Shapes or lengths do not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The driver refused.
    #[error("CUDA driver: {0}")]
    Driver(#[from] DriverError),
    /// cuDNN refused.
    #[error(
        "cuDNN, {what}: {status}\nhint: cuDNN 9 must be on LD_LIBRARY_PATH; LGD_CUDA_VERBOSE=1 says what was looked for"
    )]
    Dnn {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        status: CudnnError,
    },
    /// cuBLAS refused.
    #[error(
        "cuBLAS: {0}\nhint: cuBLAS 13 or 12 must be on LD_LIBRARY_PATH; LGD_CUDA_VERBOSE=1 says what was looked for"
    )]
    Blas(#[from] CublasError),
    /// No algorithm of cuDNN does this.
    #[error("cuDNN has no algorithm for {what}")]
    NoPlan {
        /// The convolution.
        what: String,
    },
    /// Values of an element that the operation does not take.
    #[error("{what}: expected {expected:?}, got {got:?}")]
    Element {
        /// What was compared.
        what: &'static str,
        /// The element that fits.
        expected: Element,
        /// The element given.
        got: Element,
    },
    /// A dimension beyond what kernels count with.
    #[error("{value} is too large for a GPU kernel")]
    TooLarge {
        /// The value.
        value: usize,
    },
    /// An operation that has no kernel.
    #[error("not available on the GPU: {what}")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

/// `Err` unless two lengths agree.
pub(crate) fn expect_eq(what: &'static str, expected: usize, got: usize) -> Result<(), CudaError> {
    if expected == got { Ok(()) } else { Err(ShapeError::Mismatch { what, expected, got }.into()) }
}

/// `Err` unless two elements agree.
pub(crate) fn expect_element(what: &'static str, expected: Element, got: Element) -> Result<(), CudaError> {
    if expected == got { Ok(()) } else { Err(CudaError::Element { what, expected, got }) }
}

/// A dimension as kernels take it.
pub(crate) fn int(value: usize) -> Result<i32, CudaError> {
    i32::try_from(value).map_err(|_| CudaError::TooLarge { value })
}

/// A length as kernels take it.
pub(crate) fn long(value: usize) -> Result<i64, CudaError> {
    i64::try_from(value).map_err(|_| CudaError::TooLarge { value })
}
