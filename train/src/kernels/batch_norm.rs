//! Batch normalisation over the rows of `[M, C]` (NHWC: M = batch x height x width), fused with an activation.
//!
//! Sums run in f32 over blocks of rows and in f64 over blocks; the partition depends on the shape only.

use rayon::prelude::*;

use super::activation::{Activation, clamp, pass};
use super::geometry::{ShapeError, expect_eq, expect_positive};
use super::simd;

/// Rows summed in f32 before they are added in f64; also the rows of an element-wise task.
const BLOCK: usize = 64;
/// Most parts the rows are split into.
const MAX_PARTS: usize = 64;

/// Statistics of one batch, per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// Mean; in f64, because a mean far from zero rounded to f32 would shift the normalised values.
    pub mean: Vec<f64>,
    /// Biased variance: what normalises the batch.
    pub variance: Vec<f32>,
    /// `1 / sqrt(variance + eps)`.
    pub inverse_deviation: Vec<f32>,
    /// Rows the statistics were taken over.
    pub rows: usize,
}

/// The gradients of a normalisation.
pub struct BatchNormGradients {
    /// Of the input, `[M, C]`.
    pub input: Vec<f32>,
    /// Of the scale, `[C]`.
    pub scale: Vec<f32>,
    /// Of the shift, `[C]`.
    pub shift: Vec<f32>,
}

/// Training: `activation((x - mean) / sqrt(variance + eps) * scale + shift)` with the statistics of `x` itself.
///
/// # Errors
/// Lengths that do not match, or no rows.
pub fn forward(
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    eps: f32,
    activation: Activation,
) -> Result<(Vec<f32>, BatchStatistics), ShapeError> {
    let rows = check(x, scale, shift)?;
    let statistics = statistics(x, rows, scale.len(), eps);
    let factor: Vec<f32> = scale.iter().zip(&statistics.inverse_deviation).map(|(a, b)| a * b).collect();
    let y = affine(x, &statistics.mean, &factor, shift, activation);
    Ok((y, statistics))
}

/// Inference: the same with given running statistics.
///
/// # Errors
/// Lengths that do not match, or no rows.
pub fn inference(
    x: &[f32],
    (scale, shift): (&[f32], &[f32]),
    (mean, variance): (&[f32], &[f32]),
    eps: f32,
    activation: Activation,
) -> Result<Vec<f32>, ShapeError> {
    check(x, scale, shift)?;
    expect_eq("running mean", scale.len(), mean.len())?;
    expect_eq("running variance", scale.len(), variance.len())?;
    let factor: Vec<f32> = scale.iter().zip(variance).map(|(scale, v)| scale / (v + eps).sqrt()).collect();
    let mean: Vec<f64> = mean.iter().copied().map(f64::from).collect();
    Ok(affine(x, &mean, &factor, shift, activation))
}

/// Gradients of [`forward`], from its input, its output `y` and the output's gradient.
///
/// # Errors
/// Lengths that do not match.
pub fn backward(
    (x, y, dy): (&[f32], &[f32], &[f32]),
    scale: &[f32],
    statistics: &BatchStatistics,
    activation: Activation,
) -> Result<BatchNormGradients, ShapeError> {
    let c = scale.len();
    expect_eq("normalised output", x.len(), y.len())?;
    expect_eq("gradient of the normalised output", x.len(), dy.len())?;
    expect_eq("batch statistics", c, statistics.mean.len())?;
    expect_eq("normalised rows", statistics.rows * c, x.len())?;
    let bounds = activation.bounds();
    let (near, rest) = split(&statistics.mean);
    let inverse = &statistics.inverse_deviation;
    let (shift, mut centred) = sum_rows(
        statistics.rows,
        c,
        #[inline(always)]
        |row, sums, centred| {
            let (x, y, dy) = (&x[row * c..][..c], &y[row * c..][..c], &dy[row * c..][..c]);
            let near = &near[..c];
            for j in 0..c {
                let g = pass(dy[j], y[j], bounds);
                sums[j] += g;
                centred[j] += g * (x[j] - near[j]);
            }
        },
    );
    for ((centred, shift), rest) in centred.iter_mut().zip(&shift).zip(&rest) {
        *centred -= shift * rest;
    }
    // dx = scale * inverse * (g - mean(g) - xhat * mean(g * xhat)), as dx = a*g + offset - slope*(x - near).
    let rows = float(statistics.rows);
    let channel = |j: usize| {
        let inverse = f64::from(inverse[j]);
        let a = f64::from(scale[j]) * inverse;
        let slope = a * centred[j] * inverse * inverse / rows;
        (a, slope, rest[j] * slope - a * shift[j] / rows)
    };
    let a: Vec<f32> = (0..c).map(|j| single(channel(j).0)).collect();
    let slope: Vec<f32> = (0..c).map(|j| single(channel(j).1)).collect();
    let offset: Vec<f32> = (0..c).map(|j| single(channel(j).2)).collect();
    let mut input = vec![0.0; x.len()];
    input.par_chunks_mut(c * BLOCK).enumerate().for_each(|(block, dx)| {
        let at = block * c * BLOCK;
        let (x, y, dy) = (&x[at..][..dx.len()], &y[at..][..dx.len()], &dy[at..][..dx.len()]);
        simd::vectorized(
            #[inline(always)]
            || {
                for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
                    let (x, y, dy) = (&x[i * c..][..c], &y[i * c..][..c], &dy[i * c..][..c]);
                    let (a, slope, offset, near) = (&a[..c], &slope[..c], &offset[..c], &near[..c]);
                    for j in 0..c {
                        let straight = offset[j] - (x[j] - near[j]) * slope[j];
                        dx[j] = a[j] * pass(dy[j], y[j], bounds) + straight;
                    }
                }
            },
        );
    });
    let scale =
        centred.iter().zip(inverse).map(|(&sum, &inverse)| single(sum * f64::from(inverse))).collect();
    Ok(BatchNormGradients { input, scale, shift: shift.iter().map(|&sum| single(sum)).collect() })
}

/// Running statistics after one batch: `(1 - momentum) * running + momentum * batch`, the variance unbiased as in PyTorch.
pub fn update_running(statistics: &BatchStatistics, momentum: f32, mean: &mut [f32], variance: &mut [f32]) {
    let rows = float(statistics.rows);
    let unbiased = single(rows / (rows - 1.0).max(1.0));
    for (running, batch) in mean.iter_mut().zip(&statistics.mean) {
        *running = (1.0 - momentum) * *running + momentum * single(*batch);
    }
    for (running, batch) in variance.iter_mut().zip(&statistics.variance) {
        *running = (1.0 - momentum) * *running + momentum * batch * unbiased;
    }
}

fn check(x: &[f32], scale: &[f32], shift: &[f32]) -> Result<usize, ShapeError> {
    expect_positive("channels", scale.len())?;
    expect_eq("shift", scale.len(), shift.len())?;
    let rows = x.len() / scale.len();
    expect_positive("rows to normalise", rows)?;
    expect_eq("values to normalise", rows * scale.len(), x.len())?;
    Ok(rows)
}

/// Means and variances, shifted by the first row so that a large mean does not cost the variance its digits.
fn statistics(x: &[f32], rows: usize, c: usize, eps: f32) -> BatchStatistics {
    let origin = &x[..c];
    let (sums, squares) = sum_rows(
        rows,
        c,
        #[inline(always)]
        |row, sums, squares| {
            let x = &x[row * c..][..c];
            for j in 0..c {
                let d = x[j] - origin[j];
                sums[j] += d;
                squares[j] += d * d;
            }
        },
    );
    let mut out = BatchStatistics {
        mean: Vec::with_capacity(c),
        variance: Vec::with_capacity(c),
        inverse_deviation: Vec::with_capacity(c),
        rows,
    };
    for j in 0..c {
        let mean = sums[j] / float(rows);
        let variance = (squares[j] / float(rows) - mean * mean).max(0.0);
        out.mean.push(mean + f64::from(origin[j]));
        out.variance.push(single(variance));
        out.inverse_deviation.push(single(1.0 / (variance + f64::from(eps)).sqrt()));
    }
    out
}

/// `activation((x - mean) * factor + shift)`.
fn affine(x: &[f32], mean: &[f64], factor: &[f32], shift: &[f32], activation: Activation) -> Vec<f32> {
    let c = factor.len();
    let bounds = activation.bounds();
    let (near, rest) = split(mean);
    let offset: Vec<f32> =
        (0..c).map(|j| single(f64::from(shift[j]) - rest[j] * f64::from(factor[j]))).collect();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(c * BLOCK).zip(x.par_chunks(c * BLOCK)).for_each(|(y, x)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    let (near, factor, offset) = (&near[..c], &factor[..c], &offset[..c]);
                    for j in 0..c {
                        y[j] = clamp((x[j] - near[j]) * factor[j] + offset[j], bounds);
                    }
                }
            },
        );
    });
    y
}

/// Means rounded to f32, and what the rounding took away.
fn split(mean: &[f64]) -> (Vec<f32>, Vec<f64>) {
    let near: Vec<f32> = mean.iter().copied().map(single).collect();
    let rest = mean.iter().zip(&near).map(|(mean, near)| mean - f64::from(*near)).collect();
    (near, rest)
}

/// Two sums per channel over all rows; `add(row, first, second)` adds one row to f32 block sums.
fn sum_rows(
    rows: usize,
    c: usize,
    add: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f64>, Vec<f64>) {
    let blocks = rows.div_ceil(BLOCK);
    let per = blocks.div_ceil(MAX_PARTS);
    let parts: Vec<(Vec<f64>, Vec<f64>)> = (0..blocks.div_ceil(per))
        .into_par_iter()
        .map(|part| {
            let mut sums = (vec![0.0; c], vec![0.0; c]);
            let mut block_sums = (vec![0.0; c], vec![0.0; c]);
            for block in part * per..blocks.min((part + 1) * per) {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        let (first, second) = (&mut block_sums.0[..c], &mut block_sums.1[..c]);
                        first.fill(0.0);
                        second.fill(0.0);
                        for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
                            add(row, first, second);
                        }
                        add_f64(&mut sums.0, first);
                        add_f64(&mut sums.1, second);
                    },
                );
            }
            sums
        })
        .collect();
    let mut total = (vec![0.0; c], vec![0.0; c]);
    for (first, second) in parts {
        total.0.iter_mut().zip(first).for_each(|(total, part)| *total += part);
        total.1.iter_mut().zip(second).for_each(|(total, part)| *total += part);
    }
    total
}

#[inline(always)]
fn add_f64(sums: &mut [f64], block: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(block) {
        *sum += f64::from(*value);
    }
}

#[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
fn float(rows: usize) -> f64 {
    rows as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
