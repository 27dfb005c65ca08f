//! Activations that are fused into other kernels, and the sum of two branches.

use rayon::prelude::*;

use super::geometry::{ShapeError, expect_eq};
use super::simd;

/// Values per task of an element-wise kernel.
const TASK: usize = 16 * 1024;

/// What follows a normalisation or a sum. A NaN stays a NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`; the gradient at 0 is 0, as in PyTorch.
    Relu,
    /// `min(max(x, 0), 6)`; the gradient at 0 and at 6 is 0, as in PyTorch.
    Relu6,
}

impl Activation {
    /// Smallest and largest output; the gradient passes strictly between them.
    pub(super) const fn bounds(self) -> (f32, f32) {
        match self {
            Self::Identity => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }
}

/// `value` clamped to `bounds`; unlike `f32::clamp` it vectorises, and unlike `max` and `min` it keeps a NaN.
#[inline(always)]
pub(super) fn clamp(value: f32, (low, high): (f32, f32)) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

/// `gradient` where the output `y` lies strictly between `bounds`, else 0. The infinite bounds of no activation pass
/// every finite output.
#[inline(always)]
pub(super) fn pass(gradient: f32, y: f32, (low, high): (f32, f32)) -> f32 {
    if y > low && y < high { gradient } else { 0.0 }
}

/// `activation(a + b)`, element by element.
///
/// # Errors
/// Different lengths.
pub fn add(activation: Activation, a: &[f32], b: &[f32]) -> Result<Vec<f32>, ShapeError> {
    expect_eq("second summand", a.len(), b.len())?;
    let bounds = activation.bounds();
    let mut y = vec![0.0; a.len()];
    y.par_chunks_mut(TASK).zip(a.par_chunks(TASK).zip(b.par_chunks(TASK))).for_each(|(y, (a, b))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                    *y = clamp(a + b, bounds);
                }
            },
        );
    });
    Ok(y)
}

/// The gradient of either summand of [`add`], from its output `y` and the output's gradient.
///
/// # Errors
/// Different lengths.
pub fn add_backward(activation: Activation, y: &[f32], dy: &[f32]) -> Result<Vec<f32>, ShapeError> {
    expect_eq("gradient of a sum", y.len(), dy.len())?;
    let bounds = activation.bounds();
    let mut dx = vec![0.0; y.len()];
    dx.par_chunks_mut(TASK).zip(y.par_chunks(TASK).zip(dy.par_chunks(TASK))).for_each(|(dx, (y, dy))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = pass(dy, y, bounds);
                }
            },
        );
    });
    Ok(dx)
}
