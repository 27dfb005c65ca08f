//! The two element-wise passes of SGD with momentum.

use rayon::prelude::*;

use super::simd;

/// Values per task.
const TASK: usize = 16 * 1024;

/// `velocity = momentum * velocity + gradient + weight_decay * parameter`.
pub fn accumulate(
    velocity: &mut [f32],
    gradient: &[f32],
    parameter: &[f32],
    momentum: f32,
    weight_decay: f32,
) {
    let inputs = gradient.par_chunks(TASK).zip(parameter.par_chunks(TASK));
    velocity.par_chunks_mut(TASK).zip(inputs).for_each(|(velocity, (gradient, parameter))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((v, g), p) in velocity.iter_mut().zip(gradient).zip(parameter) {
                    *v = momentum * *v + (g + weight_decay * p);
                }
            },
        );
    });
}

/// `parameter -= lr * velocity`.
pub fn descend(parameter: &mut [f32], velocity: &[f32], lr: f32) {
    parameter.par_chunks_mut(TASK).zip(velocity.par_chunks(TASK)).for_each(|(parameter, velocity)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (p, v) in parameter.iter_mut().zip(velocity) {
                    *p -= lr * v;
                }
            },
        );
    });
}
