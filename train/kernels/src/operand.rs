//! An activation as its consumer reads it: plain, or still to be normalized.
//!
//! A batch normalization is never written out: its consumers apply scale, shift and activation while they load. That saves a
//! write and a read of every activation, and the memory to keep it for the backward pass.

use crate::activation::Activation;

/// An NHWC value: `activation(data * scale + shift)` per channel, or `data` itself.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// What lies in memory.
    pub data: &'a [f32],
    /// What is still to be applied.
    pub norm: Option<Affine<'a>>,
}

/// A normalization in its final form, per channel, with the activation behind it.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Factor, `[C]`.
    pub scale: &'a [f32],
    /// Summand, `[C]`.
    pub shift: &'a [f32],
    /// What follows.
    pub activation: Activation,
}

impl<'a> Operand<'a> {
    /// A value that needs nothing.
    pub fn plain(data: &'a [f32]) -> Self {
        Self { data, norm: None }
    }
}
