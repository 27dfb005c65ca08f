//! Opening a GPU, and its errors.

use candle_core::Device;
use candle_core::cuda::CudaError as CandleError;
use cudarc::driver::sys::CUresult;
use lgd_cuda::CudaError;

use crate::error::{Result, TrainError};

/// The device's name in errors.
const CUDA: &str = "cuda";

impl From<CudaError> for TrainError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Shape(error) => error.into(),
            CudaError::OutOfMemory { bytes } => Self::OutOfMemory { device: CUDA.to_owned(), bytes },
            // The first candidate that failed lacked memory for its workspace.
            CudaError::NoPlan { first: Some(first), .. }
                if matches!(*first, CudaError::OutOfMemory { .. }) =>
            {
                (*first).into()
            }
            error => Self::Device { device: CUDA.to_owned(), reason: error.to_string() },
        }
    }
}

/// Opens GPU number `ordinal` with its own stream. (Candle's plain `Device::new_cuda` has one stream per thread, which
/// would not order work issued from two threads.)
///
/// # Errors
/// No such GPU, or no driver, cuBLAS or cuRAND; the message has a hint.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    Device::new_cuda_with_stream(ordinal).map_err(|error| {
        // Leaves out the backtrace that Candle may add.
        let text = cause(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let missing = |library| CudaError::Library { library, reason: text.clone() }.to_string();
        let reason = match cause(&error) {
            Some(CandleError::Cublas(_)) => missing("cuBLAS 13 or 12"),
            Some(CandleError::Curand(_)) => missing("cuRAND"),
            _ => format!("{text}\nhint: `nvidia-smi` shows whether the driver works, and lists the GPUs"),
        };
        TrainError::Device { device: format!("{CUDA}:{ordinal}"), reason }
    })
}

/// Whether Candle could not allocate memory on the GPU.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    matches!(cause(error), Some(CandleError::Cuda(driver)) if driver.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY)
}

/// CUDA's error inside one of Candle's.
fn cause(error: &candle_core::Error) -> Option<&CandleError> {
    match error {
        candle_core::Error::Cuda(error) => error.downcast_ref(),
        candle_core::Error::WithBacktrace { inner, .. }
        | candle_core::Error::Context { inner, .. }
        | candle_core::Error::WithPath { inner, .. } => cause(inner),
        _ => None,
    }
}
