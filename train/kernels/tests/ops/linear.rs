//! Dense layers and their gradients against direct sums in f64.

use lgd_kernels::linear::{Linear, Output, backward_data, backward_weight, forward};
use lgd_kernels::{Activation, Operand, Workspace};

use crate::common::{Lazy, apply, close, for_thread_counts, operand_kinds, random, wide};

fn check((batch, inputs, outputs): (usize, usize, usize), kind: Option<Activation>, activation: Activation) {
    let what = format!("{batch}x{inputs}x{outputs} {kind:?} {activation:?}");
    let l = Linear::new(batch, inputs, outputs).unwrap();
    let x = Lazy::new(1, batch * inputs, inputs, kind);
    let (weights, bias, dy) = (random(4, outputs * inputs), random(5, outputs), random(6, batch * outputs));
    let (values, w, g) = (x.values(), wide(&weights), wide(&dy));
    let mut sums = vec![0.0; dy.len()];
    let (mut dx, mut dw, mut db) = (vec![0.0; values.len()], vec![0.0; w.len()], vec![0.0; outputs]);
    for b in 0..batch {
        for o in 0..outputs {
            let g = g[b * outputs + o];
            db[o] += g;
            for i in 0..inputs {
                sums[b * outputs + o] += values[b * inputs + i] * w[o * inputs + i];
                dx[b * inputs + i] += g * w[o * inputs + i];
                dw[o * inputs + i] += g * values[b * inputs + i];
            }
            sums[b * outputs + o] += f64::from(bias[o]);
        }
    }
    let got = for_thread_counts(|| {
        let mut workspace = Workspace::new();
        let (mut y, mut sum, mut only) =
            (vec![f32::NAN; dy.len()], vec![f32::NAN; dy.len()], vec![f32::NAN; dy.len()]);
        let output = Output { activation, y: &mut y, sum: Some(&mut sum) };
        forward(&l, x.operand(), &weights, Some(&bias), output, &mut workspace).unwrap();
        let output = Output { activation, y: &mut only, sum: None };
        forward(&l, x.operand(), &weights, Some(&bias), output, &mut workspace).unwrap();
        assert_eq!(only, y, "{what}: keeping the sums changes the output");
        let (mut dx, mut dw, mut db) =
            (vec![f32::NAN; batch * inputs], vec![f32::NAN; w.len()], vec![f32::NAN; outputs]);
        backward_data(&l, &dy, &weights, &mut dx, false, &mut workspace).unwrap();
        backward_weight(&l, x.operand(), &dy, &mut dw, Some(&mut db), false, &mut workspace).unwrap();
        vec![y, sum, dx, dw, db]
    });
    let y: Vec<f64> = sums.iter().map(|&sum| apply(activation, sum)).collect();
    for (name, got, expected) in [
        ("y", &got[0], &y),
        ("sum", &got[1], &sums),
        ("dx", &got[2], &dx),
        ("dw", &got[3], &dw),
        ("db", &got[4], &db),
    ] {
        close(&format!("{what} {name}"), got, expected, 4e-6);
    }
    let mut workspace = Workspace::new();
    let (mut dx, mut dw, mut db) = (got[2].clone(), got[3].clone(), got[4].clone());
    backward_data(&l, &dy, &weights, &mut dx, true, &mut workspace).unwrap();
    backward_weight(&l, x.operand(), &dy, &mut dw, Some(&mut db), true, &mut workspace).unwrap();
    for (name, twice, once) in [("dx", &dx, &got[2]), ("dw", &dw, &got[3]), ("db", &db, &got[4])] {
        close(
            &format!("{what} {name} twice"),
            twice,
            &wide(once).iter().map(|v| 2.0 * v).collect::<Vec<_>>(),
            2e-6,
        );
    }
}

#[test]
fn odd_sizes() {
    for shape in [
        (1, 1, 1),
        (2, 3, 5),
        (7, 33, 17),
        (16, 130, 67),
        (33, 64, 96),
        (5, 300, 1),
        (1, 257, 100),
        (40, 1, 9),
    ] {
        check(shape, None, Activation::Identity);
    }
}

#[test]
fn every_operand_and_activation() {
    for kind in operand_kinds() {
        check((9, 40, 21), kind, Activation::Identity);
    }
    for activation in Activation::ALL {
        check((9, 40, 21), None, activation);
    }
}

#[test]
fn the_sizes_of_heads() {
    check((16, 512, 200), None, Activation::Identity);
    check((64, 200, 130), None, Activation::Identity);
}

#[test]
fn similarities_need_no_bias() {
    let l = Linear::new(2, 2, 2).unwrap();
    let mut y = [0.0; 4];
    let output = Output { activation: Activation::Identity, y: &mut y, sum: None };
    let (x, bank) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.5, 0.5]);
    forward(&l, Operand::plain(&x), &bank, None, output, &mut Workspace::new()).unwrap();
    assert_eq!(y, [1.0, 1.5, 3.0, 3.5]);
}

#[test]
fn wrong_lengths_are_errors() {
    assert!(Linear::new(0, 1, 1).is_err() && Linear::new(1, 0, 1).is_err() && Linear::new(1, 1, 0).is_err());
    let l = Linear::new(2, 3, 4).unwrap();
    let mut workspace = Workspace::new();
    let mut run = |x: usize, w: usize, b: usize, y: usize, sum: usize| {
        let (x, w, b) = (vec![0.0; x], vec![0.0; w], vec![0.0; b]);
        let (mut y, mut sum) = (vec![0.0; y], vec![0.0; sum]);
        let output = Output { activation: Activation::Relu, y: &mut y, sum: Some(&mut sum) };
        forward(&l, Operand::plain(&x), &w, Some(&b), output, &mut workspace).is_ok()
    };
    assert!(run(6, 12, 4, 8, 8));
    assert!(!run(5, 12, 4, 8, 8) && !run(6, 11, 4, 8, 8) && !run(6, 12, 3, 8, 8));
    assert!(!run(6, 12, 4, 7, 8) && !run(6, 12, 4, 8, 7));
    assert!(backward_data(&l, &[0.0; 8], &[0.0; 12], &mut [0.0; 5], false, &mut Workspace::new()).is_err());
}
