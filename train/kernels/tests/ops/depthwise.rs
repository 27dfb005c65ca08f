//! Depthwise convolutions and their gradients against direct sums in f64.

use lgd_kernels::batch_norm::{self, Gradient, Line, Normalization, Sums, Upstream};
use lgd_kernels::depthwise::{self, Gradients};
use lgd_kernels::{Activation, Moments, Operand, ShapeError, Sliding};
use proptest::prelude::*;

use crate::common::{
    Lazy, close, for_taps, for_thread_counts, moments, operand_kinds, random, sliding, wide,
};

struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

fn expected(s: &Sliding, x: &[f64], weights: &[f32], dy: &[f32]) -> Expected {
    let c = s.channels;
    let (weights, dy) = (wide(weights), wide(dy));
    let mut out = Expected { y: vec![0.0; dy.len()], dx: vec![0.0; x.len()], dw: vec![0.0; weights.len()] };
    for_taps(s, |output, tap, input| {
        for k in 0..c {
            let w = k * s.taps() + tap;
            out.y[output * c + k] += x[input * c + k] * weights[w];
            out.dx[input * c + k] += dy[output * c + k] * weights[w];
            out.dw[w] += dy[output * c + k] * x[input * c + k];
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
    close(&format!("{what} dw"), &dw, &expected.dw, 3e-6);

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
fn rectangular_kernels() {
    let window = lgd_kernels::Window { stride: 1, padding: 1, dilation: 1 };
    for kernel in [(1, 3), (3, 1), (5, 3), (3, 5)] {
        check(&Sliding::new((2, 6, 9, 10), kernel, window).unwrap(), None);
    }
}

/// The sweep that takes normalizations with it, against one kernel after the other.
fn check_fused(s: &Sliding, activation: Activation) {
    let what = format!("{s:?} {activation:?}");
    let c = s.channels;
    let (gamma, beta) = (random(11, c), random(12, c));
    let normalization = |x: &[f32]| {
        Normalization::training(&Moments::of(x, c).unwrap(), &gamma, &beta, 1e-5, activation).unwrap()
    };
    let (x, z, dy) = (random(1, s.in_len()), random(2, s.out_pixels() * c), random(3, s.out_pixels() * c));
    let (before, behind) = (normalization(&x), normalization(&z));
    let line = Line::training(&behind, &gamma, &batch_norm::sums(&behind, &z, &dy).unwrap()).unwrap();
    let operand = Operand { data: &x, norm: Some(before.affine()) };
    let weights = random(7, c * s.taps());

    let mut through = dy.clone();
    batch_norm::apply(&line, &z, Upstream::InPlace(&mut through)).unwrap();
    let (mut dx, mut dw) = (random(20, s.in_len()), random(21, weights.len()));
    depthwise::backward_data(s, &through, &weights, &mut dx, true).unwrap();
    depthwise::backward_weight(s, operand, &through, &mut dw, true).unwrap();
    let sums = batch_norm::sums(&before, &x, &dx).unwrap();

    let (fused_dx, fused_dw, fused_sums) = for_thread_counts(|| {
        let (mut dx, mut dw, mut sums) = (random(20, s.in_len()), random(21, weights.len()), Sums::default());
        let out = Gradients { dx: (&mut dx, true), dw: (&mut dw, true), sums: Some((&before, &mut sums)) };
        let dy = Gradient { dy: &dy, through: Some((&z, &line)) };
        depthwise::backward(s, operand, &weights, dy, out).unwrap();
        (dx, dw, sums)
    });
    assert!(fused_dx == dx, "{what}: dx");
    close(&format!("{what} dw"), &fused_dw, &wide(&dw), 1e-6);
    let narrow = |sums: &[f64]| sums.iter().map(|&v| v.to_string().parse().unwrap()).collect::<Vec<f32>>();
    close(&format!("{what} sums"), &narrow(&fused_sums.plain), &sums.plain, 1e-5);
    close(&format!("{what} centered sums"), &narrow(&fused_sums.centered), &sums.centered, 1e-5);
}

#[test]
fn one_sweep_is_all_gradients() {
    for activation in Activation::ALL {
        check_fused(&sliding((2, 9, 8, 19), 3, (1, 1, 1)), activation);
    }
    for (kernel, window) in
        [(3, (2, 1, 1)), (5, (1, 2, 1)), (5, (2, 2, 1)), (1, (2, 0, 1)), (3, (3, 0, 2)), (2, (1, 3, 1))]
    {
        check_fused(&sliding((3, 13, 10, 24), kernel, window), Activation::Relu6);
        check_fused(&sliding((1, 70, 9, 5), kernel, window), Activation::Silu);
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
