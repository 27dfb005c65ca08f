//! Operations that objectives use beside Candle's own: similarities to a bank, distributions over slots, and soft cross-entropy.
//!
//! On the CPU they are custom ops on [`lgd_kernels`], with their own backward; on other devices they are composed of Candle
//! operations whose gradients are right (matrix product, log-softmax, sums). A gradient is computed only for inputs that want one.

mod cross_entropy;
mod host;
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
