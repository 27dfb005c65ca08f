//! Kernels over the rows of `[B, K]`: L2 normalisation and soft cross-entropy.
//!
//! Rows are few and short beside a convolution, so these loops are plain and sequential; sums run in f64.

use super::geometry::{ShapeError, expect_eq, expect_positive};

/// Norms below this are taken as this, as in `torch.nn.functional.normalize`.
const MIN_NORM: f64 = 1e-12;

/// Each row divided by its L2 norm (at least 1e-12).
///
/// # Errors
/// A length that is no multiple of `columns`.
pub fn normalize_forward(x: &[f32], columns: usize) -> Result<Vec<f32>, ShapeError> {
    expect_positive("columns", columns)?;
    expect_eq("rows to normalise", x.len() / columns * columns, x.len())?;
    let scaled = |row: &[f32]| {
        let scale = 1.0 / norm(row).max(MIN_NORM);
        row.iter().map(|&v| single(f64::from(v) * scale)).collect::<Vec<_>>()
    };
    Ok(x.chunks_exact(columns).flat_map(scaled).collect())
}

/// The gradient of [`normalize_forward`]: `(dy - y (y . dy)) / |x|`, without the projection where the norm was clipped.
///
/// # Errors
/// Lengths that do not match.
pub fn normalize_backward(x: &[f32], dy: &[f32], columns: usize) -> Result<Vec<f32>, ShapeError> {
    expect_positive("columns", columns)?;
    expect_eq("gradient of normalised rows", x.len(), dy.len())?;
    let row = |(x, dy): (&[f32], &[f32])| {
        let norm = norm(x);
        let scale = 1.0 / norm.max(MIN_NORM);
        let dot: f64 = x.iter().zip(dy).map(|(&x, &dy)| f64::from(x) * f64::from(dy)).sum();
        let along = if norm < MIN_NORM { 0.0 } else { dot * scale * scale };
        let gradient = |(&x, &dy): (&f32, &f32)| single((f64::from(dy) - f64::from(x) * along) * scale);
        x.iter().zip(dy).map(gradient).collect::<Vec<_>>()
    };
    Ok(x.chunks_exact(columns).zip(dy.chunks_exact(columns)).flat_map(row).collect())
}

/// `-(1/B) Σ_b Σ_k p[b,k] log_softmax(z)[b,k]` over the active columns, and `softmax(z)` for the gradient (0 elsewhere).
///
/// Log-softmax in f32 with the row's maximum taken out. The targets `p` need not sum to one.
///
/// # Errors
/// Lengths that do not match, or no active column.
pub fn cross_entropy_forward(
    logits: &[f32],
    targets: &[f32],
    active: &[bool],
) -> Result<(f32, Vec<f32>), ShapeError> {
    let columns = active.len();
    expect_positive("active columns", active.iter().filter(|&&on| on).count())?;
    expect_positive("rows of logits", logits.len() / columns)?;
    expect_eq("logits", logits.len() / columns * columns, logits.len())?;
    expect_eq("target distributions", logits.len(), targets.len())?;
    let mut softmax = vec![0.0; logits.len()];
    let mut loss = 0.0;
    let rows = logits.chunks_exact(columns).zip(targets.chunks_exact(columns));
    for ((logits, targets), softmax) in rows.zip(softmax.chunks_exact_mut(columns)) {
        let on = || active.iter().enumerate().filter(|(_, on)| **on).map(|(k, _)| k);
        let max = on().map(|k| logits[k]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for k in on() {
            softmax[k] = (logits[k] - max).exp();
            sum += softmax[k];
        }
        let log_sum = sum.ln();
        for k in on() {
            softmax[k] /= sum;
            loss -= f64::from(targets[k]) * f64::from(logits[k] - max - log_sum);
        }
    }
    Ok((single(loss / rows_f64(logits.len() / columns)), softmax))
}

/// The gradient of the logits: `dloss / B * (softmax * Σ_k p - p)` over the active columns, 0 elsewhere.
///
/// # Errors
/// Lengths that do not match.
pub fn cross_entropy_backward(
    softmax: &[f32],
    targets: &[f32],
    active: &[bool],
    dloss: f32,
) -> Result<Vec<f32>, ShapeError> {
    let columns = active.len();
    expect_positive("columns", columns)?;
    expect_eq("target distributions", softmax.len(), targets.len())?;
    let share = f64::from(dloss) / rows_f64(softmax.len() / columns);
    let row = |(softmax, targets): (&[f32], &[f32])| {
        let on = || active.iter().zip(targets).filter(|(on, _)| **on);
        let mass: f64 = on().map(|(_, &p)| f64::from(p)).sum();
        let gradient = |((&on, &p), &q): ((&bool, &f32), &f32)| {
            if on { single(share * (f64::from(q) * mass - f64::from(p))) } else { 0.0 }
        };
        active.iter().zip(targets).zip(softmax).map(gradient).collect::<Vec<_>>()
    };
    Ok(softmax.chunks_exact(columns).zip(targets.chunks_exact(columns)).flat_map(row).collect())
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

#[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^53 rows")]
fn rows_f64(rows: usize) -> f64 {
    rows as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
