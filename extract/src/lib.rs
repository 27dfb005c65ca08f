//! Teachers through ONNX Runtime and the extraction pipeline.
//!
//! - [`runtime`], [`device`]: the ONNX Runtime library and where models run;
//! - [`teacher`]: a folder with an image model, a text model, a tokenizer and how to feed them;
//! - [`encoder`]: images or prompts in, unit vectors out;
//! - [`pipeline`]: reading, decoding, rendering, inference and writing, overlapped in bounded queues.

pub mod device;
pub mod encoder;
pub mod error;
pub mod pipeline;
pub mod runtime;
mod session;
pub mod teacher;

pub use device::ExecutionDevice;
pub use encoder::{EncoderOptions, ImageEncoder, TextEncoder};
pub use error::ExtractError;
pub use pipeline::{ExtractOptions, ExtractSummary, Extractor};
pub use runtime::Runtime;
pub use teacher::Teacher;
