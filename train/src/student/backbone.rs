//! What every backbone offers.

use candle_core::Tensor;

use super::layers::Mode;
use crate::error::TrainError;

/// A convolutional network without its classifier.
pub(super) trait Backbone: Send + Sync {
    /// NHWC feature maps at ascending strides; the last, after its activation, is what gets pooled. Never empty.
    fn features(&self, images: &Tensor, mode: Mode) -> Result<Vec<Tensor>, TrainError>;
}
