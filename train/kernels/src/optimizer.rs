//! Optimizer steps over flat slices: parameters `p`, gradients `g`, and the moments under PyTorch's names.

use rayon::prelude::*;

use crate::elementwise::{TASK, single};
use crate::geometry::{Result, expect_eq};
use crate::simd;

/// Number of parallel sums over one slice.
const LANES: usize = 8;

/// Stochastic gradient descent with momentum, as in PyTorch (without dampening).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay factor of the momentum buffer.
    pub momentum: f32,
    /// L2 penalty: this factor times the parameter is added to its gradient.
    pub weight_decay: f32,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
}

/// `v = momentum v + (g + weight_decay p)`; `p -= lr v`, or `p -= lr (g + weight_decay p + momentum v)` with Nesterov; `v` is the
/// momentum buffer.
///
/// # Errors
/// Different lengths.
pub fn sgd(step: &SgdStep, p: &mut [f32], g: &[f32], momentum_buffer: &mut [f32]) -> Result<()> {
    expect_eq("gradient", p.len(), g.len())?;
    expect_eq("momentum", p.len(), momentum_buffer.len())?;
    let SgdStep { lr, momentum, weight_decay, nesterov } = *step;
    let state = momentum_buffer.par_chunks_mut(TASK).zip(g.par_chunks(TASK));
    p.par_chunks_mut(TASK).zip(state).for_each(|(p, (v, g))| {
        simd::vectorized(
            #[inline(always)]
            || {
                let values = p.iter_mut().zip(v).zip(g);
                if nesterov {
                    for ((p, v), g) in values {
                        let g = g + weight_decay * *p;
                        *v = momentum * *v + g;
                        *p -= lr * (g + momentum * *v);
                    }
                } else {
                    for ((p, v), g) in values {
                        *v = momentum * *v + (g + weight_decay * *p);
                        *p -= lr * *v;
                    }
                }
            },
        );
    });
    Ok(())
}

/// LARS (You, Gitman and Ginsburg 2017): momentum over a gradient that is scaled by the layer's trust ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LarsStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay factor of the momentum buffer.
    pub momentum: f32,
    /// L2 penalty: this factor times the parameter is added to its gradient.
    pub weight_decay: f32,
    /// The layer's trust ratio, from the norms of its parameters and gradient.
    pub trust: f32,
}

/// `v = momentum v + trust (g + weight_decay p)`; `p -= lr v`; `v` is the momentum buffer.
///
/// # Errors
/// Different lengths.
pub fn lars(step: &LarsStep, p: &mut [f32], g: &[f32], momentum_buffer: &mut [f32]) -> Result<()> {
    expect_eq("gradient", p.len(), g.len())?;
    expect_eq("momentum", p.len(), momentum_buffer.len())?;
    let LarsStep { lr, momentum, weight_decay, trust } = *step;
    let state = momentum_buffer.par_chunks_mut(TASK).zip(g.par_chunks(TASK));
    p.par_chunks_mut(TASK).zip(state).for_each(|(p, (v, g))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
                    *v = momentum * *v + trust * (g + weight_decay * *p);
                    *p -= lr * *v;
                }
            },
        );
    });
    Ok(())
}

/// AdamW (Loshchilov and Hutter 2019) as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay factors of `exp_avg` and of `exp_avg_sq`.
    pub betas: (f32, f32),
    /// Added to the root of `exp_avg_sq`.
    pub eps: f32,
    /// Decoupled weight decay: `lr * weight_decay` times the parameter is subtracted from it.
    pub weight_decay: f32,
    /// `1 - beta^t` for each beta; `t` is the number of this step, counted from 1.
    pub correction: (f64, f64),
}

impl AdamWStep {
    /// The bias corrections of step `t`, counted from 1.
    pub fn correction(betas: (f32, f32), t: u64) -> (f64, f64) {
        let t = i32::try_from(t).unwrap_or(i32::MAX);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(t);
        (correction(betas.0), correction(betas.1))
    }
}

/// `p *= 1 - lr weight_decay`; `m = beta1 m + (1 - beta1) g`; `v = beta2 v + (1 - beta2) g²`;
/// `p -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps)`; `m` is `exp_avg`, `v` is `exp_avg_sq`.
///
/// # Errors
/// Different lengths.
pub fn adamw(
    step: &AdamWStep,
    p: &mut [f32],
    g: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
) -> Result<()> {
    expect_eq("gradient", p.len(), g.len())?;
    expect_eq("exp_avg", p.len(), exp_avg.len())?;
    expect_eq("exp_avg_sq", p.len(), exp_avg_sq.len())?;
    let (beta1, beta2) = step.betas;
    let keep = single(1.0 - f64::from(step.lr) * f64::from(step.weight_decay));
    let size = single(f64::from(step.lr) / step.correction.0);
    let root = single(1.0 / step.correction.1.sqrt());
    let eps = step.eps;
    let state = exp_avg.par_chunks_mut(TASK).zip(exp_avg_sq.par_chunks_mut(TASK)).zip(g.par_chunks(TASK));
    p.par_chunks_mut(TASK).zip(state).for_each(|(p, ((exp_avg, exp_avg_sq), g))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (((p, m), v), g) in p.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(g) {
                    *m += (1.0 - beta1) * (g - *m);
                    *v = beta2 * *v + (1.0 - beta2) * (g * g);
                    *p = *p * keep - size * (*m / (v.sqrt() * root + eps));
                }
            },
        );
    });
    Ok(())
}

/// Exponential moving average: `average += (1 - decay) (p - average)`.
///
/// # Errors
/// Different lengths.
pub fn ema(decay: f32, p: &[f32], average: &mut [f32]) -> Result<()> {
    expect_eq("average", p.len(), average.len())?;
    let share = 1.0 - decay;
    average.par_chunks_mut(TASK).zip(p.par_chunks(TASK)).for_each(|(average, p)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (average, p) in average.iter_mut().zip(p) {
                    *average += share * (p - *average);
                }
            },
        );
    });
    Ok(())
}

/// `g *= factor`.
pub fn scale(g: &mut [f32], factor: f32) {
    g.par_chunks_mut(TASK).for_each(|g| {
        simd::vectorized(
            #[inline(always)]
            || {
                for g in &mut *g {
                    *g *= factor;
                }
            },
        );
    });
}

/// `Σ g²`, in f64; the partition depends only on the length.
pub fn sum_of_squares(g: &[f32]) -> f64 {
    let block = |g: &[f32]| {
        simd::vectorized(
            #[inline(always)]
            || {
                let mut sums = [0.0; LANES];
                let (groups, rest) = g.as_chunks::<LANES>();
                for group in groups {
                    for lane in 0..LANES {
                        sums[lane] += f64::from(group[lane]) * f64::from(group[lane]);
                    }
                }
                for (sum, &value) in sums.iter_mut().zip(rest) {
                    *sum += f64::from(value) * f64::from(value);
                }
                sums.iter().sum::<f64>()
            },
        )
    };
    let parts: Vec<f64> = g.par_chunks(TASK).map(block).collect();
    parts.iter().sum()
}
