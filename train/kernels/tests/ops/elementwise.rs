//! Element-wise kernels against their formulas.

use lgd_kernels::elementwise::{
    activate, activate_backward, add, add_backward, add_into, materialize, scale, scale_backward,
};
use lgd_kernels::{Activation, Operand, ShapeError};

use crate::common::{Lazy, apply, close, for_thread_counts, operand_kinds, random, slope, wide};

#[test]
fn operands_are_written_out() {
    for kind in operand_kinds() {
        for (rows, c) in [(1, 1), (3, 7), (5000, 13), (40, 1000)] {
            let x = Lazy::new(1, rows * c, c, kind);
            let mut y = vec![f32::NAN; rows * c];
            materialize(x.operand(), c, &mut y).unwrap();
            close("written out", &y, &x.values(), 1e-6);
        }
    }
}

#[test]
fn sums_of_all_kinds_of_operands() {
    let (rows, c) = (3000, 11);
    for a_kind in operand_kinds() {
        for b_kind in operand_kinds() {
            let (a, b) = (Lazy::new(1, rows * c, c, a_kind), Lazy::new(5, rows * c, c, b_kind));
            for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
                let mut y = vec![f32::NAN; rows * c];
                add(a.operand(), b.operand(), c, activation, &mut y).unwrap();
                let sums = a
                    .values()
                    .iter()
                    .zip(b.values())
                    .map(|(a, b)| apply(activation, a + b))
                    .collect::<Vec<_>>();
                close("sum", &y, &sums, 1e-6);
            }
        }
    }
}

#[test]
fn the_gradient_of_a_sum_passes_where_its_value_lets_it() {
    let y = [-0.0, 0.0, 3.0, 6.0, f32::NAN];
    let run = |activation| {
        let mut dy = [1.0; 5];
        add_backward(activation, &y, &mut dy).unwrap();
        dy
    };
    assert_eq!(run(Activation::Identity), [1.0; 5]);
    assert_eq!(run(Activation::Relu), [0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(run(Activation::Relu6), [0.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn activations_and_their_gradients() {
    let x: Vec<f32> = random(1, 40_001).iter().map(|v| 8.0 * v).collect();
    for activation in Activation::ALL {
        let mut y = vec![f32::NAN; x.len()];
        activate(activation, &x, &mut y).unwrap();
        close("value", &y, &wide(&x).iter().map(|&x| apply(activation, x)).collect::<Vec<_>>(), 1e-6);
        let mut dy = random(2, x.len());
        let expected: Vec<f64> =
            wide(&x).iter().zip(&dy).map(|(&x, &dy)| slope(activation, x) * f64::from(dy)).collect();
        activate_backward(activation, &x, &mut dy).unwrap();
        close("gradient", &dy, &expected, 2e-6);
    }
}

#[test]
fn terms_are_added_in_place() {
    let mut sum = random(1, 20_001);
    let term = random(2, 20_001);
    let expected: Vec<f64> = sum.iter().zip(&term).map(|(a, b)| f64::from(a + b)).collect();
    add_into(&term, &mut sum).unwrap();
    close("sum", &sum, &expected, 0.0);
}

#[test]
fn gates_and_their_gradients() {
    for (batch, pixels, c) in [(1, 1, 1), (3, 49, 17), (2, 196, 24), (2, 5, 960)] {
        for kind in operand_kinds() {
            let x = Lazy::new(1, batch * pixels * c, c, kind);
            let (gate, dy) = (random(6, batch * c), random(7, batch * pixels * c));
            let of = |i: usize| i / (pixels * c) * c + i % c;
            let values = x.values();
            let mut y = vec![f32::NAN; values.len()];
            scale(x.operand(), &gate, pixels, c, &mut y).unwrap();
            let expected: Vec<f64> =
                values.iter().enumerate().map(|(i, x)| x * f64::from(gate[of(i)])).collect();
            close("gated", &y, &expected, 1e-6);
            let (dx, dgate) = for_thread_counts(|| {
                let (mut dx, mut dgate) = (dy.clone(), vec![f32::NAN; gate.len()]);
                scale_backward(x.operand(), &gate, pixels, c, &mut dx, &mut dgate).unwrap();
                (dx, dgate)
            });
            let expected: Vec<f64> =
                dy.iter().enumerate().map(|(i, dy)| f64::from(dy * gate[of(i)])).collect();
            close("dx", &dx, &expected, 1e-7);
            let mut sums = vec![0.0; gate.len()];
            values.iter().zip(&dy).enumerate().for_each(|(i, (x, dy))| sums[of(i)] += x * f64::from(*dy));
            close("dgate", &dgate, &sums, 2e-6);
        }
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let x = [0.0; 12];
    let mut y = [0.0; 12];
    assert!(materialize(Operand::plain(&x), 3, &mut y).is_ok());
    assert!(materialize(Operand::plain(&x), 5, &mut y).is_err());
    assert!(materialize(Operand::plain(&x), 3, &mut y[1..]).is_err());
    assert_eq!(materialize(Operand::plain(&x), 0, &mut y), Err(ShapeError::Zero { what: "channels" }));
    let short = lgd_kernels::Affine { scale: &[1.0; 2], shift: &[0.0; 3], activation: Activation::Relu };
    assert!(materialize(Operand { data: &x, norm: Some(short) }, 3, &mut y).is_err());
    assert!(add(Operand::plain(&x), Operand::plain(&x[1..]), 1, Activation::Relu, &mut y).is_err());
    assert!(scale(Operand::plain(&x), &[1.0; 3], 4, 3, &mut y).is_ok());
    assert!(scale(Operand::plain(&x), &[1.0; 3], 3, 3, &mut y).is_err());
    assert!(scale(Operand::plain(&x), &[1.0; 3], 0, 3, &mut y).is_err());
    assert!(add_into(&x[1..], &mut y).is_err());
    assert!(activate(Activation::Relu, &x[1..], &mut y).is_err());
    assert!(activate_backward(Activation::Relu, &x[1..], &mut y).is_err());
}
