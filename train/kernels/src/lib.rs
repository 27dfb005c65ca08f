//! Training kernels on the CPU: pure functions on f32 slices; activations NHWC, convolution weights OHWI.
//!
//! ```
//! use lgd_kernels::linear::{self, Linear};
//! use lgd_kernels::{Operand, Workspace};
//!
//! let layer = Linear::new(1, 3, 2)?;
//! let (x, weights, bias) = ([1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0], [10.0, 20.0]);
//! let mut y = [0.0; 2];
//! linear::forward(&layer, Operand::plain(&x), &weights, Some(&bias), &mut y, &mut Workspace::new())?;
//! assert_eq!(y, [11.0, 25.0]);
//! # Ok::<(), lgd_kernels::ShapeError>(())
//! ```
//!
//! Kernels run in parallel through rayon. Every result has the same bits for any number of threads: either each output
//! is one sum in a fixed order, or a reduction is split into parts that depend only on the shape and are added in
//! order. Results may differ between instruction sets. Outputs go into slices that the caller reuses from step to step;
//! kernels pack operands into a [`Workspace`].

pub mod activation;
pub mod batch_norm;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod geometry;
mod gradient;
pub mod linear;
pub mod mask;
pub mod moments;
pub mod operand;
pub mod optimizer;
pub mod pool;
pub mod rows;
pub mod simd;
mod workspace;

pub use activation::Activation;
pub use geometry::{Result, ShapeError, Sliding, Window};
pub use gradient::GradientTarget;
pub use moments::Moments;
pub use operand::{Affine, Operand};
pub use workspace::Workspace;
