//! Normalization and its gradients against the formulas in f64.

use lgd_kernels::batch_norm::{Normalization, backward, update_running};
use lgd_kernels::{Activation, GradientTarget, Moments, ShapeError};

use crate::common::{apply, close, for_thread_counts, moments, random, slope, wide};

const EPS: f32 = 1e-5;

/// The expected value, and the expected gradients of input, gamma and beta.
struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    dgamma: Vec<f64>,
    dbeta: Vec<f64>,
}

fn expected(x: &[f32], dy: &[f32], gamma: &[f32], beta: &[f32], activation: Activation) -> Expected {
    let c = gamma.len();
    let (x, dy) = (wide(x), wide(dy));
    let (_, mean, variance) = moments(&x, c, |_| true);
    let rows = f64::from(u32::try_from(x.len() / c).unwrap());
    let mut out = Expected { y: vec![], dx: vec![0.0; x.len()], dgamma: vec![0.0; c], dbeta: vec![0.0; c] };
    let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    let hat: Vec<f64> = x.iter().enumerate().map(|(i, x)| (x - mean[i % c]) * inverse[i % c]).collect();
    let mut g = vec![0.0; x.len()];
    for i in 0..x.len() {
        let z = hat[i] * f64::from(gamma[i % c]) + f64::from(beta[i % c]);
        out.y.push(apply(activation, z));
        g[i] = dy[i] * slope(activation, z);
        out.dgamma[i % c] += g[i] * hat[i];
        out.dbeta[i % c] += g[i];
    }
    for i in 0..x.len() {
        let j = i % c;
        let through = (out.dbeta[j] + hat[i] * out.dgamma[j]) / rows;
        out.dx[i] = f64::from(gamma[j]) * inverse[j] * (g[i] - through);
    }
    out
}

fn check(rows: usize, c: usize, activation: Activation, offset: f32) {
    let seed = u64::try_from(rows * 1000 + c).unwrap();
    let x: Vec<f32> = random(seed, rows * c).iter().map(|v| v * 2.0 + offset).collect();
    let (dy, gamma, beta) = (random(seed + 1, rows * c), random(seed + 2, c), random(seed + 3, c));
    let gamma: Vec<f32> = gamma.iter().map(|v| 2.0 * v + 0.1).collect();
    let what = format!("{activation:?} {rows}x{c}");
    let expected = expected(&x, &dy, &gamma, &beta, activation);
    let norm = Normalization::training(&Moments::of(&x, c).unwrap(), &gamma, &beta, EPS, activation).unwrap();
    let (dx, dgamma, dbeta) = for_thread_counts(|| {
        let (mut dx, mut dgamma, mut dbeta) = (vec![f32::NAN; x.len()], vec![f32::NAN; c], vec![f32::NAN; c]);
        let target = GradientTarget::Into { dy: &dy[..], dx: &mut dx[..], accumulate: false };
        backward(&norm, &gamma, &x, target, &mut dgamma, &mut dbeta, false).unwrap();
        (dx, dgamma, dbeta)
    });
    close(&format!("{what} dx"), &dx, &expected.dx, 2e-5);
    close(&format!("{what} dgamma"), &dgamma, &expected.dgamma, 2e-5);
    close(&format!("{what} dbeta"), &dbeta, &expected.dbeta, 2e-5);

    let mut in_place = dy.clone();
    let (mut twice_gamma, mut twice_beta) = (dgamma.clone(), dbeta.clone());
    backward(
        &norm,
        &gamma,
        &x,
        GradientTarget::InPlace(&mut in_place),
        &mut twice_gamma,
        &mut twice_beta,
        true,
    )
    .unwrap();
    assert_eq!(in_place, dx, "{what} in place");
    close(
        &format!("{what} dgamma twice"),
        &twice_gamma,
        &wide(&dgamma).iter().map(|v| 2.0 * v).collect::<Vec<_>>(),
        1e-6,
    );
    let mut added = dx.clone();
    let target = GradientTarget::Into { dy: &dy[..], dx: &mut added[..], accumulate: true };
    backward(&norm, &gamma, &x, target, &mut twice_gamma, &mut twice_beta, false).unwrap();
    close(&format!("{what} dx twice"), &added, &wide(&dx).iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-6);
}

#[test]
fn gradients_are_those_of_the_formula() {
    for activation in Activation::ALL {
        check(123, 5, activation, 0.3);
    }
    for (rows, c) in [(40, 1), (20, 16), (1000, 3), (65, 24), (9, 700), (4099, 8)] {
        check(rows, c, Activation::Relu6, -0.2);
        check(rows, c, Activation::HardSwish, 0.0);
    }
}

#[test]
fn values_far_from_zero_keep_their_gradients() {
    check(500, 9, Activation::Identity, 300.0);
}

#[test]
fn consumers_see_the_normalized_value() {
    let (rows, c) = (77, 6);
    let (x, gamma, beta) = (random(1, rows * c), random(2, c), random(3, c));
    for activation in Activation::ALL {
        let expected = expected(&x, &x, &gamma, &beta, activation);
        let norm =
            Normalization::training(&Moments::of(&x, c).unwrap(), &gamma, &beta, EPS, activation).unwrap();
        let mut y = vec![0.0; x.len()];
        let operand = lgd_kernels::Operand { data: &x, norm: Some(norm.affine()) };
        lgd_kernels::elementwise::materialize(operand, c, &mut y).unwrap();
        close("normalized", &y, &expected.y, 2e-6);
    }
}

#[test]
fn running_statistics_follow_with_the_unbiased_variance() {
    let (rows, c) = (50, 3);
    let x = random(1, rows * c);
    let (_, mean, variance) = moments(&wide(&x), c, |_| true);
    let (mut running_mean, mut running_variance) = (vec![0.5; c], vec![1.0; c]);
    update_running(&Moments::of(&x, c).unwrap(), 0.1, &mut running_mean, &mut running_variance).unwrap();
    let expected: Vec<f64> = mean.iter().map(|m| 0.9 * 0.5 + 0.1 * m).collect();
    close("running mean", &running_mean, &expected, 1e-6);
    let expected: Vec<f64> = variance.iter().map(|v| 0.9 + 0.1 * v * 50.0 / 49.0).collect();
    close("running variance", &running_variance, &expected, 1e-6);
}

#[test]
fn moments_of_values_far_from_zero_keep_their_digits() {
    let (rows, c) = (5000, 7);
    let x: Vec<f32> = random(1, rows * c).iter().map(|v| v * 0.01 + 100.0).collect();
    let (_, mean, variance) = moments(&wide(&x), c, |_| true);
    let got = for_thread_counts(|| Moments::of(&x, c).unwrap());
    for j in 0..c {
        assert!((got.mean[j] - mean[j]).abs() < 1e-5, "{} {}", got.mean[j], mean[j]);
        let got = got.centered[j] / 5000.0;
        assert!((got - variance[j]).abs() < 1e-3 * variance[j], "{got} {}", variance[j]);
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let moments = Moments::of(&[1.0, 2.0, 3.0, 4.0], 2).unwrap();
    let norm = Normalization::training(&moments, &[1.0; 2], &[0.0; 2], EPS, Activation::Relu).unwrap();
    let run = |x: &[f32], dy: &mut [f32], gradients: usize| {
        let (mut dgamma, mut dbeta) = (vec![0.0; gradients], vec![0.0; gradients]);
        backward(&norm, &[1.0; 2], x, GradientTarget::InPlace(dy), &mut dgamma, &mut dbeta, false)
    };
    assert!(run(&[0.0; 4], &mut [0.0; 4], 2).is_ok());
    assert!(run(&[0.0; 4], &mut [0.0; 3], 2).is_err());
    assert!(run(&[0.0; 3], &mut [0.0; 3], 2).is_err());
    assert!(run(&[0.0; 4], &mut [0.0; 4], 3).is_err());
    assert_eq!(Moments::of(&[], 2), Err(ShapeError::Zero { what: "rows" }));
    assert_eq!(Moments::of(&[1.0], 0), Err(ShapeError::Zero { what: "channels" }));
    assert!(Normalization::training(&moments, &[1.0; 3], &[0.0; 3], EPS, Activation::Relu).is_err());
    assert!(Normalization::training(&Moments::default(), &[], &[], EPS, Activation::Relu).is_err());
}
