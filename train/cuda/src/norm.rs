//! A batch normalization in its final form.

use lgd_kernels::Activation;

use crate::error::{Result, expect_element, expect_eq};
use crate::memory::{Element, Slice};

/// f32 values per channel that a normalization saves for its backward pass: mean, 1 / sqrt(variance + eps), scale, shift, and the three
/// factors of the input's gradient, `[C]` each.
pub const SAVED: usize = 7;

/// A normalization with the activation after it.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[SAVED][C]`.
    pub saved: Slice<'a>,
    /// Activation after the normalization.
    pub activation: Activation,
}

impl<'a> Norm<'a> {
    /// The saved values, checked against the channels.
    pub(crate) fn check(&self, channels: usize) -> Result<Slice<'a>> {
        expect_element("saved statistics", Element::F32, self.saved.element())?;
        expect_eq("saved statistics", SAVED * channels, self.saved.len())?;
        Ok(self.saved)
    }
}
