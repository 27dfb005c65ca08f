//! Fused operands: values that their consumers normalize while they read.
//!
//! The result of a batch normalization is not written: its consumers apply scale, shift and activation while they load.
//! That saves a write and a read of every activation, and the memory to save it for the backward pass.

use crate::activation::Activation;

/// An NHWC value: `activation(data * scale + shift)` per channel, or `data` itself.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Values in memory.
    pub data: &'a [f32],
    /// Normalization that the consumer applies while it reads.
    pub norm: Option<Affine<'a>>,
}

/// A normalization in its final form: scale and shift per channel, and the activation after it.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Factor, `[C]`.
    pub scale: &'a [f32],
    /// Summand, `[C]`.
    pub shift: &'a [f32],
    /// Activation after the normalization.
    pub activation: Activation,
}

impl<'a> Operand<'a> {
    /// A value without a pending normalization.
    pub fn plain(data: &'a [f32]) -> Self {
        Self { data, norm: None }
    }
}
