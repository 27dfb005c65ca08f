//! Optimizer passes against their formulas, step after step.

use lgd_kernels::optimizer::{AdamWStep, LarsStep, SgdStep, adamw, ema, lars, scale, sgd, sum_of_squares};

use crate::common::{close, for_thread_counts, random, wide};

const LEN: usize = 40_003;

#[test]
fn sgd_is_pytorchs() {
    for nesterov in [false, true] {
        let step = SgdStep { lr: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov };
        let (mut p, mut v) = (random(1, LEN), vec![0.0; LEN]);
        let (mut p64, mut v64) = (wide(&p), vec![0.0; LEN]);
        for t in 0..3 {
            let g = random(2 + t, LEN);
            sgd(&step, &mut p, &g, &mut v).unwrap();
            for i in 0..LEN {
                let g = f64::from(g[i]) + 0.01 * p64[i];
                v64[i] = 0.9 * v64[i] + g;
                p64[i] -= 0.1 * if nesterov { g + 0.9 * v64[i] } else { v64[i] };
            }
        }
        close("parameters", &p, &p64, 1e-6);
        close("velocity", &v, &v64, 1e-6);
    }
}

#[test]
fn lars_scales_the_gradient_by_the_trust_ratio() {
    let step = LarsStep { lr: 0.5, momentum: 0.9, weight_decay: 0.01, trust: 0.02 };
    let (mut p, mut v, g) = (random(1, LEN), random(2, LEN), random(3, LEN));
    let v64: Vec<f64> =
        (0..LEN).map(|i| 0.9 * f64::from(v[i]) + 0.02 * (f64::from(g[i]) + 0.01 * f64::from(p[i]))).collect();
    let p64: Vec<f64> = (0..LEN).map(|i| f64::from(p[i]) - 0.5 * v64[i]).collect();
    lars(&step, &mut p, &g, &mut v).unwrap();
    close("velocity", &v, &v64, 1e-6);
    close("parameters", &p, &p64, 1e-6);
}

#[test]
fn adamw_is_pytorchs() {
    let betas = (0.9, 0.999);
    let (mut p, mut m, mut v) = (random(1, LEN), vec![0.0; LEN], vec![0.0; LEN]);
    let (mut p64, mut m64, mut v64) = (wide(&p), vec![0.0; LEN], vec![0.0; LEN]);
    for t in 1..=4u8 {
        let g = random(10 + u64::from(t), LEN);
        let correction = AdamWStep::correction(betas, u64::from(t));
        let step = AdamWStep { lr: 0.01, betas, eps: 1e-8, weight_decay: 0.1, correction };
        adamw(&step, &mut p, &g, &mut m, &mut v).unwrap();
        for i in 0..LEN {
            let g = f64::from(g[i]);
            p64[i] *= 1.0 - 0.01 * 0.1;
            m64[i] = 0.9 * m64[i] + 0.1 * g;
            v64[i] = 0.999 * v64[i] + 0.001 * g * g;
            let (c1, c2) = (1.0 - 0.9f64.powi(i32::from(t)), 1.0 - 0.999f64.powi(i32::from(t)));
            p64[i] -= 0.01 / c1 * m64[i] / (v64[i].sqrt() / c2.sqrt() + 1e-8);
        }
    }
    close("parameters", &p, &p64, 3e-6);
}

#[test]
fn averages_follow_and_gradients_scale() {
    let (p, before) = (random(1, LEN), random(2, LEN));
    let mut average = before.clone();
    ema(0.99, &p, &mut average).unwrap();
    let expected: Vec<f64> = (0..LEN).map(|i| 0.99 * f64::from(before[i]) + 0.01 * f64::from(p[i])).collect();
    close("average", &average, &expected, 1e-6);
    let mut g = p.clone();
    scale(&mut g, 0.25);
    close("scaled", &g, &wide(&p).iter().map(|v| 0.25 * v).collect::<Vec<_>>(), 0.0);
}

#[test]
fn sums_of_squares_are_exact_to_many_digits() {
    for len in [0, 1, 31, 33, LEN] {
        let g = random(1, len);
        let expected: f64 = wide(&g).iter().map(|v| v * v).sum();
        let got = for_thread_counts(|| sum_of_squares(&g));
        assert!((got - expected).abs() <= 1e-12 * expected, "{got} {expected}");
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let step = SgdStep { lr: 0.1, momentum: 0.9, weight_decay: 0.0, nesterov: false };
    assert!(sgd(&step, &mut [0.0; 3], &[0.0; 2], &mut [0.0; 3]).is_err());
    assert!(sgd(&step, &mut [0.0; 3], &[0.0; 3], &mut [0.0; 2]).is_err());
    assert!(ema(0.9, &[0.0; 3], &mut [0.0; 2]).is_err());
    let step =
        AdamWStep { lr: 0.1, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.0, correction: (0.1, 0.1) };
    assert!(adamw(&step, &mut [0.0; 3], &[0.0; 3], &mut [0.0; 3], &mut [0.0; 2]).is_err());
}
