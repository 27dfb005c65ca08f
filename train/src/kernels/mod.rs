//! Numerical kernels on the CPU: pure functions on f32 slices, NHWC activations, OIHW weights.
//!
//! Parallel through rayon. Every result is the same bits whatever the number of threads: either each output is one sum in a
//! fixed order, or a reduction is split into parts that depend on the shape only and are added in order. Results may
//! differ between instruction sets.
//!
//! ```text
//! geometry            checked shapes
//! simd, tile          instruction sets, inner loops
//! pack, gather        operand order, implicit GEMM
//! conv, conv_weight   dense convolution          depthwise   one filter per channel
//! batch_norm          with fused activation      activation  add + activation
//! pool                max, global average        linear      dense layers, similarities
//! rows                L2 normalisation, soft cross-entropy
//! sgd                 the optimiser's passes
//! ```

pub mod activation;
pub mod batch_norm;
pub mod conv;
pub mod conv_weight;
pub mod depthwise;
mod gather;
pub mod geometry;
pub mod linear;
mod pack;
pub mod pool;
pub mod rows;
pub mod sgd;
mod simd;
mod tile;
