//! Encoders: images or prompts in, unit vectors out; of images also features and tokens, in the same pass.

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

/// Images per batch where neither the user nor the model says, on the processor.
pub const CPU_BATCH: usize = 32;
/// Images per batch where neither the user nor the model says, on a GPU.
pub const GPU_BATCH: usize = 256;
/// Prompts per batch where neither the user nor the model says.
pub const TEXT_BATCH: usize = 64;

/// How an encoder runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncoderOptions {
    /// Where.
    pub device: ExecutionDevice,
    /// Rows per run; `None` = the model's own where it is fixed, else [`CPU_BATCH`], [`GPU_BATCH`] or [`TEXT_BATCH`].
    pub batch: Option<usize>,
    /// Threads of the processor that compute; 0 = all cores.
    pub threads: usize,
}
