//! Differentiable operations on Candle tensors: shape checks, and the bridge to [`crate::kernels`].
//!
//! A student is built of these alone: Candle's own relu, clamp, max-pool, softmax and convolution have wrong, missing or partial
//! gradients. Each operation is a custom op with its own backward; a gradient is computed only for inputs that want one.
//! Activations are NHWC, weights OIHW.

mod add;
mod batch_norm;
mod conv;
mod host;
mod linear;
mod pool;
mod rows;
mod sgd;

pub use add::add;
pub use batch_norm::{batch_norm_inference, batch_norm_train, update_running};
pub use conv::{conv2d, depthwise_conv2d};
pub use linear::{linear, similarity};
pub use pool::{global_average_pool, max_pool2d};
pub use rows::{l2_normalize, soft_cross_entropy};
pub use sgd::{accumulate, descend};

pub use crate::kernels::activation::Activation;
pub use crate::kernels::geometry::Window;

/// The values of a contiguous f32 CPU tensor.
///
/// # Errors
/// Anything but contiguous f32 on the CPU.
pub fn to_host(tensor: &candle_core::Tensor) -> candle_core::Result<Vec<f32>> {
    Ok(host::host(tensor)?.to_vec())
}
