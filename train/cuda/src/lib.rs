//! Training kernels on an NVIDIA GPU: the counterpart of `lgd-kernels`, on device memory.
//!
//! Activations are NHWC in bf16 (or f16, f32); weights are OHWI, kept in f32 with a copy in the activations' element; statistics,
//! gradients of parameters and the optimizer's vectors are f32. Arithmetic is f32 throughout, products run on tensor cores.
//!
//! ```text
//! memory       buffers, views, elements        gpu      one device: stream, kernels, libraries, scratch memory
//! launch       own kernels (`kernels/*.cu`)    host     page-locked memory and copies beside the computation
//! dnn, conv    cuDNN plans, convolutions       linear   cuBLAS, dense layers
//! batch_norm, elementwise, pool, depthwise, rows, optimizer: operations by own kernels
//! ```
//!
//! Everything is issued to one stream, the one that is handed in: with Candle's own stream the two need no synchronization. Own
//! kernels use no atomic additions, so that the same input gives the same bits; convolutions take only algorithms that cuDNN
//! declares deterministic.
//!
//! Without the feature `cuda` the crate is empty.
#![cfg(feature = "cuda")]

pub mod batch_norm;
pub mod conv;
pub mod depthwise;
mod dnn;
pub mod elementwise;
mod error;
mod gpu;
pub mod host;
mod launch;
pub mod linear;
mod memory;
pub mod optimizer;
pub mod pool;
pub mod rows;
mod stem;
pub mod timing;

pub use conv::Tuning;
pub use error::CudaError;
pub use gpu::Gpu;
pub use memory::{Buffer, Element, Slice, SliceMut};

pub use lgd_kernels::{Activation, ShapeError, Sliding, Window};
