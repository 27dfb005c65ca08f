//! Dense layers over `[B, I]`: 1x1 convolutions over a batch of single pixels, with bias and activation.

use super::activation::{Activation, clamp};
use super::conv::{self, Conv};
use super::conv_weight;
use super::geometry::{ShapeError, Sliding, Window, expect_eq};

/// A product of `[batch, inputs]` with the transpose of `[outputs, inputs]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    conv: Conv,
}

impl Linear {
    /// # Errors
    /// A zero dimension.
    pub fn new(batch: usize, inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        let window = Window { stride: 1, padding: 0, dilation: 1 };
        let sliding = Sliding::new((batch, 1, 1, inputs), (1, 1), window)?;
        Ok(Self { conv: Conv::new(sliding, outputs)? })
    }

    /// `x . weights^T`, `[batch, outputs]`.
    ///
    /// # Errors
    /// Lengths that do not match.
    pub fn forward(&self, x: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
        conv::forward(&self.conv, x, weights)
    }

    /// The gradient of the input, `[batch, inputs]`.
    ///
    /// # Errors
    /// Lengths that do not match.
    pub fn backward_data(&self, dy: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
        conv::backward_data(&self.conv, dy, weights)
    }

    /// The gradient of the weights, `[outputs, inputs]`.
    ///
    /// # Errors
    /// Lengths that do not match.
    pub fn backward_weight(&self, x: &[f32], dy: &[f32]) -> Result<Vec<f32>, ShapeError> {
        conv_weight::backward_weight(&self.conv, x, dy)
    }
}

/// `y = activation(y + bias)`, row by row.
///
/// # Errors
/// A length that does not match.
pub fn add_bias(y: &mut [f32], bias: &[f32], activation: Activation) -> Result<(), ShapeError> {
    expect_eq("bias", y.len() / bias.len().max(1) * bias.len(), y.len())?;
    let bounds = activation.bounds();
    for row in y.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value = clamp(*value + bias, bounds);
        }
    }
    Ok(())
}

/// The gradient of the bias: the sum of the rows.
pub fn bias_gradient(dy: &[f32], outputs: usize) -> Vec<f32> {
    let mut sums = vec![0.0; outputs];
    for row in dy.chunks_exact(outputs) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    sums
}
