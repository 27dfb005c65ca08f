//! Values and gradients of the activations, and the exponential.

use lgd_kernels::{Activation, activation::exp};

use crate::common::{apply, slope};

#[test]
fn exponential_is_accurate_over_the_normal_range() {
    let mut worst = 0.0f64;
    let mut x = -87.3f32;
    while x < 88.7 {
        let expected = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        x += 1.37e-4;
    }
    assert!(worst < 3e-7, "{worst:e}");
}

#[test]
fn exponential_keeps_the_special_values() {
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(1e30), f32::INFINITY);
    assert_eq!(exp(-1e30), 0.0);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    for activation in Activation::ALL {
        for i in -20_000i16..20_000 {
            let x = f32::from(i) * 0.001 + 0.0003;
            let (value, expected) = (activation.apply(x), apply(activation, f64::from(x)));
            assert!((f64::from(value) - expected).abs() < 2e-6, "{activation:?}({x}): {value}, {expected}");
            let (gradient, expected) = (activation.gradient(x, 2.0), 2.0 * slope(activation, f64::from(x)));
            assert!(
                (f64::from(gradient) - expected).abs() < 4e-6,
                "{activation:?}'({x}): {gradient}, {expected}"
            );
        }
    }
}

#[test]
fn gradients_at_the_kinks_are_pytorchs() {
    let at = |activation: Activation, x: f32| activation.gradient(x, 1.0);
    assert_eq!((at(Activation::Relu, 0.0), at(Activation::Relu, -0.0)), (0.0, 0.0));
    assert_eq!((at(Activation::Relu6, 0.0), at(Activation::Relu6, 6.0)), (0.0, 0.0));
    assert_eq!((at(Activation::HardSwish, -3.0), at(Activation::HardSwish, 3.0)), (0.0, 1.0));
    assert_eq!((at(Activation::HardSigmoid, -3.0), at(Activation::HardSigmoid, 3.0)), (0.0, 0.0));
}

#[test]
fn nan_stays_nan_and_large_arguments_stay_finite() {
    for activation in Activation::ALL {
        assert!(activation.apply(f32::NAN).is_nan(), "{activation:?}");
        for x in [-1e4, 1e4f32] {
            assert!(activation.apply(x).is_finite(), "{activation:?}({x})");
            assert!(activation.gradient(x, 1.0).is_finite(), "{activation:?}'({x})");
        }
    }
    // An infinite gradient does not pass where the activation is flat.
    assert_eq!(Activation::Relu.gradient(-1.0, f32::INFINITY), 0.0);
}
