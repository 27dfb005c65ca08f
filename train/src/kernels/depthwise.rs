//! Depthwise convolution (one filter per channel), NHWC input, `[C, 1, kh, kw]` weights.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::{ShapeError, Sliding, expect_eq};
use super::simd;

/// Output rows per task when the weights' gradient is summed, and most parts it is split into.
const MIN_ROWS: usize = 4;
const MAX_PARTS: usize = 32;

/// `y[b, i, j, c] = Σ x[b, i*s + r*d - p, j*s + q*d - p, c] * w[c, 0, r, q]`, NHWC.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn forward(s: &Sliding, x: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
    expect_eq("depthwise input", s.in_len(), x.len())?;
    expect_eq("depthwise weights", s.channels * s.taps(), weights.len())?;
    let weights = channels_last(s, weights);
    let mut y = vec![0.0; s.out_pixels() * s.channels];
    y.par_chunks_mut(s.out_width * s.channels).enumerate().for_each(|(row, out)| {
        let (image, i) = (row / s.out_height, row % s.out_height);
        let taps = |j: usize, taps: &mut Vec<Tap>| {
            for_taps(s, |r, q, weight| {
                let (Some(y), Some(x)) = (s.source(i, r, s.height), s.source(j, q, s.width)) else { return };
                taps.push(Tap { input: ((image * s.height + y) * s.width + x) * s.channels, weight });
            });
        };
        simd::dispatch(RowTask { input: x, weights: &weights, channels: s.channels, taps, out });
    });
    Ok(y)
}

/// The gradient of the input, NHWC.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_data(s: &Sliding, dy: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
    expect_eq("depthwise output gradient", s.out_pixels() * s.channels, dy.len())?;
    expect_eq("depthwise weights", s.channels * s.taps(), weights.len())?;
    let weights = channels_last(s, weights);
    let mut dx = vec![0.0; s.in_len()];
    dx.par_chunks_mut(s.width * s.channels).enumerate().for_each(|(row, out)| {
        let (image, i) = (row / s.height, row % s.height);
        let taps = |j: usize, taps: &mut Vec<Tap>| {
            for_taps(s, |r, q, weight| {
                let (Some(y), Some(x)) = (s.target(i, r, s.out_height), s.target(j, q, s.out_width)) else {
                    return;
                };
                taps.push(Tap { input: ((image * s.out_height + y) * s.out_width + x) * s.channels, weight });
            });
        };
        simd::dispatch(RowTask { input: dy, weights: &weights, channels: s.channels, taps, out });
    });
    Ok(dx)
}

/// The gradient of the weights, `[C, 1, kh, kw]`; summed in an order that depends on the shape only.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_weight(s: &Sliding, x: &[f32], dy: &[f32]) -> Result<Vec<f32>, ShapeError> {
    expect_eq("depthwise input", s.in_len(), x.len())?;
    expect_eq("depthwise output gradient", s.out_pixels() * s.channels, dy.len())?;
    let rows = s.batch * s.out_height;
    let per = rows.div_ceil(MAX_PARTS).max(MIN_ROWS);
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(per))
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![0.0; s.taps() * s.channels];
            let rows = part * per..rows.min((part + 1) * per);
            simd::dispatch(WeightTask { s, x, dy, rows, sums: &mut sums });
            sums
        })
        .collect();
    let mut dw = vec![0.0; s.channels * s.taps()];
    for part in parts {
        for (tap, sums) in part.chunks_exact(s.channels).enumerate() {
            for (channel, sum) in sums.iter().enumerate() {
                dw[channel * s.taps() + tap] += sum;
            }
        }
    }
    Ok(dw)
}

/// The weights as `[tap][channel]`.
fn channels_last(s: &Sliding, weights: &[f32]) -> Vec<f32> {
    let taps = s.taps();
    (0..taps).flat_map(|tap| weights.iter().skip(tap).step_by(taps).copied()).collect()
}

/// Calls `f(row, column, offset of the tap's weights)` for every tap.
#[inline(always)]
fn for_taps(s: &Sliding, mut f: impl FnMut(usize, usize, usize)) {
    for r in 0..s.kernel.0 {
        for q in 0..s.kernel.1 {
            f(r, q, (r * s.kernel.1 + q) * s.channels);
        }
    }
}

/// Offsets of the `channels` inputs and weights that one tap multiplies.
struct Tap {
    input: usize,
    weight: usize,
}

/// One row of outputs, each the sum over its taps.
struct RowTask<'a, T> {
    input: &'a [f32],
    weights: &'a [f32],
    channels: usize,
    taps: T,
    out: &'a mut [f32],
}

impl<T: Fn(usize, &mut Vec<Tap>)> WithSimd for RowTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut taps = Vec::new();
        for (j, out) in self.out.chunks_exact_mut(self.channels).enumerate() {
            taps.clear();
            (self.taps)(j, &mut taps);
            let (wide, rest) = S::as_mut_simd_f32s(out);
            let (blocks, vectors) = wide.as_chunks_mut::<4>();
            let mut at = 0;
            for block in blocks {
                *block = sum_taps::<S, 4>(simd, self.input, self.weights, &taps, at);
                at += 4 * S::F32_LANES;
            }
            for vector in vectors {
                [*vector] = sum_taps::<S, 1>(simd, self.input, self.weights, &taps, at);
                at += S::F32_LANES;
            }
            for value in rest {
                *value = taps.iter().map(|t| self.input[t.input + at] * self.weights[t.weight + at]).sum();
                at += 1;
            }
        }
    }
}

/// `V` vectors of channels from `at` on, summed over the taps.
#[inline(always)]
fn sum_taps<S: Simd, const V: usize>(
    simd: S,
    input: &[f32],
    weights: &[f32],
    taps: &[Tap],
    at: usize,
) -> [S::f32s; V] {
    let mut sums = [simd.splat_f32s(0.0); V];
    let len = V * S::F32_LANES;
    for tap in taps {
        let input = S::as_simd_f32s(&input[tap.input + at..][..len]).0;
        let weights = S::as_simd_f32s(&weights[tap.weight + at..][..len]).0;
        for v in 0..V {
            sums[v] = simd.mul_add_e_f32s(input[v], weights[v], sums[v]);
        }
    }
    sums
}

/// Sums of input times gradient over some output rows, `[tap][channel]`.
struct WeightTask<'a> {
    s: &'a Sliding,
    x: &'a [f32],
    dy: &'a [f32],
    rows: std::ops::Range<usize>,
    sums: &'a mut [f32],
}

impl WithSimd for WeightTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { s, x, dy, rows, sums } = self;
        let c = s.channels;
        for row in rows {
            let (image, i) = (row / s.out_height, row % s.out_height);
            let dy = &dy[row * s.out_width * c..][..s.out_width * c];
            for r in 0..s.kernel.0 {
                let Some(y) = s.source(i, r, s.height) else { continue };
                let x = &x[(image * s.height + y) * s.width * c..][..s.width * c];
                let sums = &mut sums[r * s.kernel.1 * c..][..s.kernel.1 * c];
                for (q, sums) in sums.chunks_exact_mut(c).enumerate() {
                    weight_row(simd, s, q, x, dy, sums);
                }
            }
        }
    }
}

/// Adds one output row's products for the taps of column `q`.
#[inline(always)]
fn weight_row<S: Simd>(simd: S, s: &Sliding, q: usize, x: &[f32], dy: &[f32], sums: &mut [f32]) {
    let c = s.channels;
    let pairs = || (0..s.out_width).filter_map(move |j| s.source(j, q, s.width).map(|at| (at * c, j * c)));
    let (wide, rest) = S::as_mut_simd_f32s(sums);
    let (blocks, vectors) = wide.as_chunks_mut::<2>();
    let mut at = 0;
    for block in blocks {
        for (x_at, dy_at) in pairs() {
            let x = S::as_simd_f32s(&x[x_at + at..][..2 * S::F32_LANES]).0;
            let dy = S::as_simd_f32s(&dy[dy_at + at..][..2 * S::F32_LANES]).0;
            block[0] = simd.mul_add_e_f32s(x[0], dy[0], block[0]);
            block[1] = simd.mul_add_e_f32s(x[1], dy[1], block[1]);
        }
        at += 2 * S::F32_LANES;
    }
    for vector in vectors {
        for (x_at, dy_at) in pairs() {
            let x = S::as_simd_f32s(&x[x_at + at..][..S::F32_LANES]).0;
            let dy = S::as_simd_f32s(&dy[dy_at + at..][..S::F32_LANES]).0;
            *vector = simd.mul_add_e_f32s(x[0], dy[0], *vector);
        }
        at += S::F32_LANES;
    }
    for value in rest {
        for (x_at, dy_at) in pairs() {
            *value += x[x_at + at] * dy[dy_at + at];
        }
        at += 1;
    }
}
