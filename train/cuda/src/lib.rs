//! Training kernels on an NVIDIA GPU: the counterpart of `lgd-kernels`, on device memory.
//!
//! ```no_run
//! # #[cfg(feature = "cuda")]
//! # fn example() -> lgd_cuda::Result<()> {
//! use lgd_cuda::{Activation, Buffer, Element, Gpu, Tuning, elementwise};
//!
//! let mut gpu = Gpu::first(Tuning::default())?;
//! let x = Buffer::from_host(gpu.stream(), &[-1.0_f32, 2.0])?;
//! let mut y = gpu.alloc(Element::F32, 2)?;
//! elementwise::activate(&mut gpu, Activation::Relu, x.as_slice(), &mut y.as_mut())?;
//! assert_eq!(y.as_slice().to_host::<f32>(gpu.stream())?, [0.0, 2.0]);
//! # Ok(())
//! # }
//! ```
//!
//! Activations are NHWC in bf16 (or f16, f32). Weights are OHWI in f32, with a copy in the activations' element type.
//! Statistics, gradients of parameters and the optimizer's state are f32. Arithmetic is f32; products run on tensor
//! cores. An operation that exists in both crates has the same name in both.
//!
//! ```text
//! memory       buffers, views, elements        gpu      one device: stream, kernels, libraries, scratch memory
//! launch       own kernels (`kernels/*.cu`)    host     page-locked memory and copies that overlap computation
//! dnn, conv    cuDNN plans, convolutions       linear   cuBLAS, dense layers
//! batch_norm, elementwise, mask, pool, depthwise, rows, optimizer: operations with own kernels
//! operand, norm   values that are normalized while they are read
//! ```
//!
//! All work is issued to one stream, which the caller provides: with Candle's own stream, Candle and this crate need no
//! synchronization. The crate's own kernels use no atomic additions, so the same input gives the same bits; for
//! convolutions only algorithms that cuDNN declares deterministic are used.
//!
//! The environment variable `LGD_CUDA_FRESH_MEMORY=1` is a debug switch: no memory is reused.
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
pub mod mask;
mod memory;
mod norm;
mod operand;
pub mod optimizer;
pub mod pool;
pub mod rows;
mod stem;
pub mod timing;

pub use conv::Tuning;
pub use error::{CudaError, Result};
pub use gpu::{FRESH_MEMORY, Gpu};
pub use mask::Mask;
pub use memory::{Buffer, Element, Slice, SliceMut};
pub use norm::{Norm, SAVED};
pub use operand::Operand;

pub use lgd_kernels::{Activation, GradientTarget, ShapeError, Sliding, Window};
