//! Operations that objectives use beside Candle's own: similarities to a bank, distributions over slots, and soft cross-entropy.
//!
//! On the CPU they are custom ops on [`lgd_kernels`], with their own backward; on other devices they are composed of Candle's. A gradient
//! is computed only for inputs that want one.
//!
//! Not every operation of Candle has a right gradient. Those between a student's outputs and a loss are these, and theirs are: `+`, `-`, `*`
//! and `/` of tensors and with numbers, `affine`, `sqr`, `sqrt`, `exp`, `log`, `sum`, `sum_keepdim`, `sum_all`, `mean_keepdim`, `mean_all`,
//! `broadcast_add`, `broadcast_sub`, `matmul`, `gather`, `cat`, `t`, `contiguous`, and `candle_nn::ops::log_softmax`, in which the wrong gradient of
//! a maximum cancels. The tests compare every objective's gradient with PyTorch's.

mod cross_entropy;
pub(crate) mod host;
mod similarity;
mod softmax;

pub use cross_entropy::{soft_cross_entropy, soft_cross_entropy_top_k};
pub use similarity::similarity;
pub use softmax::{reweighted, softmax};

/// The values of a tensor of f32, from whatever device.
///
/// # Errors
/// Another type, or a device that cannot be read.
pub fn to_host(tensor: &candle_core::Tensor) -> candle_core::Result<Vec<f32>> {
    match tensor.device() {
        candle_core::Device::Cpu => Ok(host::host(&tensor.contiguous()?)?.to_vec()),
        _ => tensor.flatten_all()?.to_vec1(),
    }
}
