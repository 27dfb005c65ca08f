//! Operations that objectives use besides Candle's: similarities to a bank, distributions over categories, and soft
//! cross-entropy.
//!
//! On the CPU they are custom ops on [`lgd_kernels`], with their own backward. On other devices they are composed of
//! Candle's operations. A gradient is computed only for inputs that require one.
//!
//! Not every operation of Candle has a correct gradient. Between a student's outputs and a loss, only these are used,
//! and theirs are correct: `+`, `-`, `*` and `/` of tensors and with numbers, `affine`, `sqr`, `sqrt`, `exp`, `log`,
//! `sum`, `sum_keepdim`, `sum_all`, `mean_keepdim`, `mean_all`, `broadcast_add`, `broadcast_sub`, `matmul`, `gather`,
//! `cat`, `t`, `contiguous`, and `candle_nn::ops::log_softmax`, in which the wrong gradient of a maximum cancels. The
//! tests compare every objective's gradient with PyTorch's.

mod cross_entropy;
pub(crate) mod host;
mod similarity;
mod softmax;

pub(crate) use cross_entropy::LEFT_OUT;
pub use cross_entropy::{soft_cross_entropy, soft_cross_entropy_top_k};
pub use similarity::similarity;
pub use softmax::{reweighted, softmax};

/// Copies the values of an f32 tensor from any device.
///
/// # Errors
/// If the tensor has another type, or the device cannot be read.
pub fn to_host(tensor: &candle_core::Tensor) -> candle_core::Result<Vec<f32>> {
    match tensor.device() {
        candle_core::Device::Cpu => Ok(host::host(&tensor.contiguous()?)?.to_vec()),
        _ => tensor.flatten_all()?.to_vec1(),
    }
}
