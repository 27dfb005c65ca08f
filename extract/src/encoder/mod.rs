//! Encoders that map images or prompts to unit vectors, and images also to features and tokens in the same pass;
//! students in ONNX files.

mod companions;
mod embeddings;
mod image;
mod image_output;
mod image_probe;
mod image_resolved;
mod output;
mod pixels;
mod ports;
mod student;
mod text;
mod tokens;
mod views;

pub use embeddings::{EmbeddingFault, Embeddings};
pub use image::ImageEncoder;
pub use pixels::{PixelBuffer, PixelType};
pub use student::OnnxStudent;
pub use text::{EncodedTexts, TextEncoder};
pub use tokens::{TokenShape, Tokens};
pub use views::{EncodedViews, Features, Outputs, ViewFault};

use crate::device::ExecutionDevice;

/// Default number of images per batch on the CPU, if the model does not fix it.
pub const CPU_BATCH: usize = 32;
/// Default number of images per batch on a GPU, if the model does not fix it.
pub const GPU_BATCH: usize = 256;
/// Default number of prompts per batch, if the model does not fix it.
pub const TEXT_BATCH: usize = 64;

/// Device, batch size and threads of an encoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncoderOptions {
    /// Device that runs the encoder.
    pub device: ExecutionDevice,
    /// Rows per run. `None` means the model's own number if it is fixed, else [`CPU_BATCH`], [`GPU_BATCH`] or
    /// [`TEXT_BATCH`].
    pub batch: Option<usize>,
    /// CPU threads for inference; 0 means all cores.
    pub threads: usize,
}
