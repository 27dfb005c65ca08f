//! Encoders: from images or prompts to unit vectors; for images also features and tokens, in the same pass.

mod embeddings;
mod image;
mod output;
mod pixels;
mod ports;
mod text;
mod tokens;
mod views;

pub use embeddings::{EmbeddingFault, Embeddings};
pub use image::ImageEncoder;
pub use pixels::{PixelBuffer, PixelType};
pub use text::{EncodedTexts, TextEncoder};
pub use tokens::{TokenShape, Tokens};
pub use views::{EncodedViews, Features, Outputs, ViewFault};

use crate::device::ExecutionDevice;

/// Default images per batch on the processor, if the model does not fix the batch.
pub const CPU_BATCH: usize = 32;
/// Default images per batch on a GPU, if the model does not fix the batch.
pub const GPU_BATCH: usize = 256;
/// Default prompts per batch, if the model does not fix the batch.
pub const TEXT_BATCH: usize = 64;

/// How an encoder runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncoderOptions {
    /// Device that runs the encoder.
    pub device: ExecutionDevice,
    /// Rows per run; `None` = the model's own if it is fixed, else [`CPU_BATCH`], [`GPU_BATCH`] or [`TEXT_BATCH`].
    pub batch: Option<usize>,
    /// Threads of the processor that compute; 0 = all cores.
    pub threads: usize,
}
