//! Depthwise convolutions and their gradients against direct sums in f64.

use lgd_kernels::{Activation, Moments, Operand, ShapeError, Sliding, depthwise};
use proptest::prelude::*;

use crate::common::{
    Lazy, close, close_to_size, for_taps, for_thread_counts, largest, moments, operand_kinds, random,
    sliding, wide,
};

struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    /// Sums of the magnitudes of the terms of `dw`.
    dw_terms: Vec<f64>,
}

fn expected(s: &Sliding, x: &[f64], weights: &[f32], dy: &[f32]) -> Expected {
    let c = s.channels;
    let (weights, dy) = (wide(weights), wide(dy));
    let [y, dx, dw] = [dy.len(), x.len(), weights.len()].map(|len| vec![0.0; len]);
    let mut out = Expected { y, dx, dw_terms: dw.clone(), dw };
    for_taps(s, |output, tap, input| {
        for k in 0..c {
            let w = k * s.taps() + tap;
            out.y[output * c + k] += x[input * c + k] * weights[w];
            out.dx[input * c + k] += dy[output * c + k] * weights[w];
            out.dw[w] += dy[output * c + k] * x[input * c + k];
            out.dw_terms[w] += (dy[output * c + k] * x[input * c + k]).abs();
        }
    });
    out
}

fn check(s: &Sliding, activation: Option<Activation>) {
    let what = format!("{s:?} {activation:?}");
    let x = Lazy::new(1, s.in_len(), s.channels, activation);
    let (weights, dy) = (random(7, s.channels * s.taps()), random(8, s.out_pixels() * s.channels));
    let expected = expected(s, &x.values(), &weights, &dy);
    let (y, got, dx, dw) = for_thread_counts(|| {
        let mut y = vec![f32::NAN; dy.len()];
        let mut moments = Moments::default();
        depthwise::forward(s, x.operand(), &weights, &mut y, Some(&mut moments)).unwrap();
        let mut dx = vec![f32::NAN; s.in_len()];
        depthwise::backward_data(s, &dy, &weights, &mut dx, false).unwrap();
        let mut dw = vec![f32::NAN; weights.len()];
        depthwise::backward_weight(s, x.operand(), &dy, &mut dw, false).unwrap();
        (y, moments, dx, dw)
    });
    close(&format!("{what} y"), &y, &expected.y, 3e-6);
    close(&format!("{what} dx"), &dx, &expected.dx, 3e-6);
    close_to_size(&format!("{what} dw"), &dw, &expected.dw, largest(&expected.dw_terms), 1e-6);

    let (rows, mean, variance) = moments(&wide(&y), s.channels, |_| true);
    assert_eq!(got.rows, rows, "{what}");
    let count = f64::from(u32::try_from(rows).unwrap());
    for c in 0..s.channels {
        assert!((got.mean[c] - mean[c]).abs() < 1e-5, "{what} mean {c}: {} {}", got.mean[c], mean[c]);
        let got = got.centered[c] / count;
        assert!(
            (got - variance[c]).abs() < 1e-5 * (1.0 + variance[c]),
            "{what} variance {c}: {got} {}",
            variance[c]
        );
    }

    let mut plain = vec![f32::NAN; dy.len()];
    depthwise::forward(s, x.operand(), &weights, &mut plain, None).unwrap();
    assert_eq!(plain, y, "{what}: moments change the output");
    let twice = |values: &[f32]| values.iter().map(|&v| 2.0 * f64::from(v)).collect::<Vec<_>>();
    let mut added = dx.clone();
    depthwise::backward_data(s, &dy, &weights, &mut added, true).unwrap();
    close(&format!("{what} dx twice"), &added, &twice(&dx), 1e-6);
    let mut added = dw.clone();
    depthwise::backward_weight(s, x.operand(), &dy, &mut added, true).unwrap();
    close(&format!("{what} dw twice"), &added, &twice(&dw), 1e-6);
}

#[test]
fn the_shapes_of_mobile_networks() {
    for (kernel, padding) in [(3, 1), (5, 2)] {
        for stride in [1, 2] {
            for (height, width) in [(14, 14), (7, 7), (9, 12), (12, 9), (8, 5), (1, 1), (2, 1)] {
                for channels in [24, 5] {
                    check(&sliding((2, height, width, channels), kernel, (stride, padding, 1)), None);
                }
            }
        }
    }
    check(&sliding((3, 29, 31, 40), 3, (2, 1, 1)), Some(Activation::Relu6));
    check(&sliding((1, 40, 23, 33), 5, (1, 2, 1)), Some(Activation::Silu));
}

#[test]
fn every_kind_of_operand() {
    for kind in operand_kinds() {
        check(&sliding((2, 6, 7, 19), 3, (1, 1, 1)), kind);
        check(&sliding((1, 7, 6, 8), 5, (2, 2, 1)), kind);
    }
}

#[test]
fn unusual_windows() {
    for (kernel, window) in [
        (1, (1, 0, 1)),
        (1, (2, 0, 1)),
        (1, (3, 1, 1)),
        (2, (2, 1, 1)),
        (3, (1, 0, 1)),
        (3, (1, 4, 1)),
        (3, (3, 1, 1)),
        (3, (1, 2, 2)),
        (3, (2, 2, 2)),
        (3, (2, 3, 3)),
        (3, (4, 2, 6)),
        (4, (1, 2, 1)),
        (5, (4, 2, 1)),
        (7, (1, 3, 1)),
        (7, (2, 3, 1)),
    ] {
        check(&sliding((2, 13, 15, 9), kernel, window), Some(Activation::HardSwish));
    }
}

#[test]
fn tensorflows_padding() {
    for kernel in [3, 5] {
        for size in [2, 7, 8, 28] {
            for channels in [24, 5] {
                let s = Sliding::same((2, size, size, channels), kernel, 2).unwrap();
                check(&s, Some(Activation::Silu));
            }
        }
    }
}

#[test]
fn rectangular_kernels() {
    let window = lgd_kernels::Window { stride: 1, padding: 1, dilation: 1 };
    for kernel in [(1, 3), (3, 1), (5, 3), (3, 5)] {
        check(&Sliding::new((2, 6, 9, 10), kernel, window).unwrap(), None);
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let s = sliding((1, 4, 4, 2), 3, (1, 1, 1));
    let (x, weights) = ([0.0; 32], [0.0; 18]);
    let mut y = [0.0; 32];
    assert!(depthwise::forward(&s, Operand::plain(&x), &weights, &mut y, None).is_ok());
    let short = Err(ShapeError::Mismatch { what: "depthwise input", expected: 32, got: 31 });
    assert_eq!(depthwise::forward(&s, Operand::plain(&x[1..]), &weights, &mut y, None), short);
    assert!(depthwise::forward(&s, Operand::plain(&x), &weights[1..], &mut y, None).is_err());
    assert!(depthwise::forward(&s, Operand::plain(&x), &weights, &mut y[1..], None).is_err());
    assert!(depthwise::backward_data(&s, &x[1..], &weights, &mut y, false).is_err());
    assert!(depthwise::backward_weight(&s, Operand::plain(&x), &x, &mut [0.0; 17], false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        (batch, height, width, channels) in (1usize..3, 1usize..20, 1usize..20, 1usize..40),
        (kernel, stride, padding, dilation) in (1usize..6, 1usize..4, 0usize..4, 1usize..3),
    ) {
        let window = lgd_kernels::Window { stride, padding, dilation };
        if let Ok(s) = Sliding::new((batch, height, width, channels), (kernel, kernel), window) {
            check(&s, Some(Activation::Relu));
        }
    }
}
