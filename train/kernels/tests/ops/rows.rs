//! L2 normalization and cross-entropy against their formulas and central differences.

use lgd_kernels::rows::{
    Targets, cross_entropy_backward, cross_entropy_forward, l2_normalize, l2_normalize_backward,
};

use crate::common::{close, for_thread_counts, random, wide};

fn normalized(x: &[f64], columns: usize) -> Vec<f64> {
    let row = |x: &[f64]| {
        let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        x.iter().map(|v| v / norm).collect::<Vec<_>>()
    };
    x.chunks(columns).flat_map(row).collect()
}

/// The gradient of `Σ weights * f(x)` by central differences.
fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-6;
    let at = |i: usize, by: f64| {
        let mut x = x.to_vec();
        x[i] += by;
        f(&x)
    };
    (0..x.len()).map(|i| (at(i, step) - at(i, -step)) / (2.0 * step)).collect()
}

#[test]
fn rows_are_normalized() {
    for (rows, columns) in [(1, 1), (3, 5), (4, 100), (6, 33)] {
        let (x, dy) = (random(1, rows * columns), random(2, rows * columns));
        let (y, dx) = for_thread_counts(|| {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            l2_normalize(&x, columns, &mut y).unwrap();
            l2_normalize_backward(&x, &dy, columns, &mut dx).unwrap();
            (y, dx)
        });
        close("normalized", &y, &normalized(&wide(&x), columns), 1e-6);
        let sum = |x: &[f64]| normalized(x, columns).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum();
        let expected = differences(&wide(&x), sum);
        dx.iter().zip(&expected).for_each(|(a, b)| assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}"));
    }
}

#[test]
fn a_zero_row_stays_zero() {
    let (mut y, mut dx) = ([1.0; 3], [1.0; 3]);
    l2_normalize(&[0.0; 3], 3, &mut y).unwrap();
    l2_normalize_backward(&[0.0; 3], &[1e-13; 3], 3, &mut dx).unwrap();
    assert_eq!(y, [0.0; 3]);
    assert!(dx.iter().all(|v| v.is_finite()));
}

fn entropy(logits: &[f64], targets: &[f64], active: &[bool]) -> f64 {
    let columns = active.len();
    let rows = f64::from(u32::try_from(logits.len() / columns).unwrap());
    let row = |(z, p): (&[f64], &[f64])| {
        let on = || (0..columns).filter(|&k| active[k]);
        let max = on().map(|k| z[k]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = on().map(|k| (z[k] - max).exp()).sum();
        -on().map(|k| p[k] * (z[k] - max - sum.ln())).sum::<f64>()
    };
    logits.chunks(columns).zip(targets.chunks(columns)).map(row).sum::<f64>() / rows
}

/// Indices and probabilities, and the same distributions in dense form.
fn sparse(rows: usize, columns: usize, k: usize) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let probabilities: Vec<f32> = random(3, rows * k).iter().map(|v| v.abs()).collect();
    let mut dense = vec![0.0; rows * columns];
    let indices: Vec<usize> = (0..rows * k).map(|i| (i * 7 + i / k * 3) % columns).collect();
    for (i, &at) in indices.iter().enumerate() {
        dense[i / k * columns + at] += probabilities[i];
    }
    (indices.iter().map(|&i| u32::try_from(i).unwrap()).collect(), probabilities, dense)
}

#[test]
fn dense_and_sparse_cross_entropy_and_their_gradients() {
    for (rows, columns, k) in [(1, 1, 1), (3, 10, 4), (5, 77, 8), (4, 300, 30)] {
        let logits: Vec<f32> = random(1, rows * columns).iter().map(|v| 10.0 * v).collect();
        let (indices, probabilities, dense) = sparse(rows, columns, k);
        for all in [true, false] {
            let active: Vec<bool> = (0..columns).map(|c| all || c % 3 != 1).collect();
            let expected = entropy(&wide(&logits), &wide(&dense), &active);
            let gradient = differences(&wide(&logits), |z| 0.7 * entropy(z, &wide(&dense), &active));
            let named = Targets::Sparse { indices: &indices, probabilities: &probabilities, k };
            for targets in [Targets::Dense(&dense), named] {
                let (loss, dlogits) = for_thread_counts(|| {
                    let (mut softmax, mut dlogits) =
                        (vec![f32::NAN; logits.len()], vec![f32::NAN; logits.len()]);
                    let loss = cross_entropy_forward(&logits, targets, &active, &mut softmax).unwrap();
                    cross_entropy_backward(&softmax, targets, &active, 0.7, &mut dlogits).unwrap();
                    (loss, dlogits)
                });
                assert!(
                    (f64::from(loss) - expected).abs() < 2e-6 * (1.0 + expected.abs()),
                    "{loss} {expected}"
                );
                for (a, b) in dlogits.iter().zip(&gradient) {
                    assert!((f64::from(*a) - b).abs() < 3e-6, "{a} {b}");
                }
            }
        }
    }
}

#[test]
fn impossible_classes_without_probability_cost_nothing() {
    let logits = [0.0, f32::NEG_INFINITY, 1.0];
    let mut softmax = [f32::NAN; 3];
    let loss =
        cross_entropy_forward(&logits, Targets::Dense(&[0.5, 0.0, 0.5]), &[true; 3], &mut softmax).unwrap();
    assert!(loss.is_finite());
    assert_eq!(softmax[1], 0.0);
}

#[test]
fn large_logits_do_not_overflow_and_nan_shows() {
    let mut softmax = [0.0; 2];
    let dense = Targets::Dense(&[1.0, 0.0]);
    let loss = cross_entropy_forward(&[1e4, -1e4], dense, &[true; 2], &mut softmax).unwrap();
    assert_eq!((loss, softmax), (0.0, [1.0, 0.0]));
    assert!(cross_entropy_forward(&[f32::NAN, 0.0], dense, &[true; 2], &mut softmax).unwrap().is_nan());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let run = |logits: usize, targets: Targets<'_>, active: &[bool]| {
        cross_entropy_forward(&vec![0.0; logits], targets, active, &mut vec![0.0; logits]).is_ok()
    };
    assert!(run(4, Targets::Dense(&[0.5; 4]), &[true; 2]));
    assert!(!run(4, Targets::Dense(&[0.5; 3]), &[true; 2]));
    assert!(!run(4, Targets::Dense(&[0.5; 4]), &[false; 2]));
    assert!(!run(5, Targets::Dense(&[0.5; 5]), &[true; 2]));
    assert!(!run(0, Targets::Dense(&[]), &[true; 2]));
    assert!(!run(4, Targets::Dense(&[0.5; 4]), &[]));
    let named = |indices, probabilities, k| Targets::Sparse { indices, probabilities, k };
    assert!(run(4, named(&[0, 1], &[1.0; 2], 1), &[true; 2]));
    assert!(!run(4, named(&[0, 2], &[1.0; 2], 1), &[true; 2]));
    assert!(!run(4, named(&[0], &[1.0; 2], 1), &[true; 2]));
    assert!(!run(4, named(&[], &[], 0), &[true; 2]));
    assert!(l2_normalize(&[0.0; 5], 2, &mut [0.0; 5]).is_err());
    assert!(l2_normalize_backward(&[0.0; 4], &[0.0; 4], 2, &mut [0.0; 3]).is_err());
}
