//! Kernels over the rows of `[B, K]`: L2 normalization and soft cross-entropy.
//!
//! A row is one task. Its sums have a fixed order; sums over rows are in f64.

use rayon::prelude::*;

use crate::activation::exp;
use crate::elementwise::{float, single};
use crate::geometry::{Result, expect_eq, expect_positive};
use crate::simd;

/// Minimum divisor, as in `torch.nn.functional.normalize`.
const MIN_NORM: f64 = 1e-12;
/// Number of parallel sums over one row.
const LANES: usize = 32;

/// Writes each row of `x`, divided by its L2 norm (at least 1e-12), to `y`.
///
/// # Errors
/// Lengths that do not match, or a part of a row.
pub fn l2_normalize(x: &[f32], columns: usize, y: &mut [f32]) -> Result<()> {
    check_rows("rows to normalize", x.len(), columns)?;
    expect_eq("normalized rows", x.len(), y.len())?;
    y.par_chunks_exact_mut(columns).zip(x.par_chunks_exact(columns)).for_each(|(y, x)| {
        simd::vectorized(
            #[inline(always)]
            || {
                let scale = 1.0 / dot(x, x).sqrt().max(MIN_NORM);
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = single(f64::from(x) * scale);
                }
            },
        );
    });
    Ok(())
}

/// The gradient of [`l2_normalize`]: `(dy - y (y . dy)) / |x|`, without the projection if the norm was clipped.
///
/// # Errors
/// Lengths that do not match, or a part of a row.
pub fn l2_normalize_backward(x: &[f32], dy: &[f32], columns: usize, dx: &mut [f32]) -> Result<()> {
    check_rows("normalized rows", x.len(), columns)?;
    expect_eq("gradient of normalized rows", x.len(), dy.len())?;
    expect_eq("gradient of rows", x.len(), dx.len())?;
    let inputs = x.par_chunks_exact(columns).zip(dy.par_chunks_exact(columns));
    dx.par_chunks_exact_mut(columns).zip(inputs).for_each(|(dx, (x, dy))| {
        simd::vectorized(
            #[inline(always)]
            || {
                let norm = dot(x, x).sqrt();
                let scale = 1.0 / norm.max(MIN_NORM);
                let along = if norm < MIN_NORM { 0.0 } else { dot(x, dy) * scale * scale };
                for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = single((f64::from(dy) - f64::from(x) * along) * scale);
                }
            },
        );
    });
    Ok(())
}

/// Distributions over the columns of `[B, K]`. Their probabilities need not sum to one.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// One probability per column, `[B, K]`.
    Dense(&'a [f32]),
    /// A few columns per row; the others have probability 0. A column that occurs twice counts twice.
    Sparse {
        /// Columns, `[B, k]`.
        indices: &'a [u32],
        /// Their probabilities, `[B, k]`.
        probabilities: &'a [f32],
        /// Number of columns per row.
        k: usize,
    },
}

/// The target of one row.
#[derive(Clone, Copy)]
enum Target<'a> {
    Dense(&'a [f32]),
    Sparse(&'a [u32], &'a [f32]),
}

impl<'a> Targets<'a> {
    fn check(&self, rows: usize, columns: usize) -> Result<()> {
        match *self {
            Self::Dense(p) => expect_eq("target distributions", rows * columns, p.len()),
            Self::Sparse { indices, probabilities, k } => {
                expect_positive("columns named by a target", k)?;
                expect_eq("target columns", rows * k, indices.len())?;
                expect_eq("target probabilities", rows * k, probabilities.len())?;
                let last = indices.iter().max().map_or(0, |&index| to_usize(index));
                expect_eq("largest target column", last.min(columns - 1), last)
            }
        }
    }

    fn row(&self, row: usize, columns: usize) -> Target<'a> {
        match *self {
            Self::Dense(p) => Target::Dense(&p[row * columns..][..columns]),
            Self::Sparse { indices, probabilities, k } => {
                Target::Sparse(&indices[row * k..][..k], &probabilities[row * k..][..k])
            }
        }
    }
}

/// `-(1/B) Σ_b Σ_k p[b,k] log_softmax(z)[b,k]` over the active columns. `softmax` receives `softmax(z)` for the
/// gradient, 0 in the other columns.
///
/// The log-softmax is in f32 and subtracts the row's maximum.
///
/// # Errors
/// Lengths that do not match, no active column, or a target column that does not exist.
pub fn cross_entropy_forward(
    logits: &[f32],
    targets: Targets<'_>,
    active: &[bool],
    softmax: &mut [f32],
) -> Result<f32> {
    let columns = active.len();
    expect_positive("active columns", active.iter().filter(|&&on| on).count())?;
    let rows = check_rows("logits", logits.len(), columns)?;
    expect_eq("softmax", logits.len(), softmax.len())?;
    targets.check(rows, columns)?;
    let row = |(row, (softmax, logits)): (usize, (&mut [f32], &[f32]))| {
        let log_sum = log_softmax(logits, active, softmax);
        // Skips columns of probability 0: if their softmax is 0, the term 0 * -inf would be a NaN.
        let term = |k: usize, p: f32| {
            let counts = active[k] && p != 0.0;
            if counts { f64::from(p) * f64::from(logits[k] - log_sum.0 - log_sum.1) } else { 0.0 }
        };
        match targets.row(row, columns) {
            Target::Dense(p) => p.iter().enumerate().map(|(k, &p)| term(k, p)).sum::<f64>(),
            Target::Sparse(k, p) => k.iter().zip(p).map(|(&k, &p)| term(to_usize(k), p)).sum::<f64>(),
        }
    };
    let rows_in = softmax.par_chunks_exact_mut(columns).zip(logits.par_chunks_exact(columns));
    let terms: Vec<f64> = rows_in.enumerate().map(row).collect();
    Ok(single(-terms.iter().sum::<f64>() / float(rows)))
}

/// The gradient of the logits: `dloss / B * (softmax * Σ_k p - p)` over the active columns, 0 elsewhere.
///
/// # Errors
/// Lengths that do not match, or a target column that does not exist.
pub fn cross_entropy_backward(
    softmax: &[f32],
    targets: Targets<'_>,
    active: &[bool],
    dloss: f32,
    dlogits: &mut [f32],
) -> Result<()> {
    let columns = active.len();
    let rows = check_rows("softmax", softmax.len(), columns)?;
    expect_eq("gradient of logits", softmax.len(), dlogits.len())?;
    targets.check(rows, columns)?;
    let share = f64::from(dloss) / float(rows);
    let row = |(row, (dlogits, softmax)): (usize, (&mut [f32], &[f32]))| match targets.row(row, columns) {
        Target::Dense(p) => {
            let on = active.iter().zip(p).filter(|(on, _)| **on);
            let mass: f64 = on.map(|(_, &p)| f64::from(p)).sum();
            for (((out, &q), &on), &p) in dlogits.iter_mut().zip(softmax).zip(active).zip(p) {
                *out = if on { single(share * (f64::from(q) * mass - f64::from(p))) } else { 0.0 };
            }
        }
        Target::Sparse(k, p) => {
            let on = || k.iter().map(|&k| to_usize(k)).zip(p).filter(|(k, _)| active[*k]);
            let mass: f64 = on().map(|(_, &p)| f64::from(p)).sum();
            for (out, &q) in dlogits.iter_mut().zip(softmax) {
                *out = single(share * (f64::from(q) * mass));
            }
            for (k, &p) in on() {
                dlogits[k] = single(f64::from(dlogits[k]) - share * f64::from(p));
            }
        }
    };
    let rows_in = dlogits.par_chunks_exact_mut(columns).zip(softmax.par_chunks_exact(columns));
    rows_in.enumerate().for_each(row);
    Ok(())
}

/// Writes the softmax over the active columns; returns the maximum and the logarithm of the sum of `exp(z - maximum)`.
fn log_softmax(logits: &[f32], active: &[bool], softmax: &mut [f32]) -> (f32, f32) {
    simd::vectorized(
        #[inline(always)]
        || {
            let mut largest = [f32::NEG_INFINITY; LANES];
            for (logits, active) in logits.chunks(LANES).zip(active.chunks(LANES)) {
                for ((max, &z), &on) in largest.iter_mut().zip(logits).zip(active) {
                    let z = if on { z } else { f32::NEG_INFINITY };
                    *max = if z > *max { z } else { *max };
                }
            }
            let max = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            for ((out, &z), &on) in softmax.iter_mut().zip(logits).zip(active) {
                *out = if on { exp(z - max) } else { 0.0 };
            }
            let mut sums = [0.0; LANES];
            for group in softmax.chunks(LANES) {
                for (sum, value) in sums.iter_mut().zip(group) {
                    *sum += value;
                }
            }
            let sum: f32 = sums.iter().sum();
            let share = 1.0 / sum;
            for out in softmax {
                *out *= share;
            }
            (max, sum.ln())
        },
    )
}

/// `a . b` in f64.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum()
}

/// Rows of `len` values, at least one.
fn check_rows(what: &'static str, len: usize, columns: usize) -> Result<usize> {
    expect_positive("columns", columns)?;
    expect_positive(what, len / columns)?;
    expect_eq(what, len / columns * columns, len)?;
    Ok(len / columns)
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
