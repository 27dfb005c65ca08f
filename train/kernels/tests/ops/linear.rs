//! Dense layers and their gradients against direct sums in f64.

use lgd_kernels::linear::{Linear, backward_data, backward_weight, forward};
use lgd_kernels::{Activation, Operand, Workspace};

use crate::common::{Lazy, close, for_thread_counts, operand_kinds, random, wide};

fn check((batch, inputs, outputs): (usize, usize, usize), kind: Option<Activation>) {
    let what = format!("{batch}x{inputs}x{outputs} {kind:?}");
    let l = Linear::new(batch, inputs, outputs).unwrap();
    let x = Lazy::new(1, batch * inputs, inputs, kind);
    let (weights, bias, dy) = (random(4, outputs * inputs), random(5, outputs), random(6, batch * outputs));
    let (values, w, g) = (x.values(), wide(&weights), wide(&dy));
    let mut y = vec![0.0; dy.len()];
    let (mut dx, mut dw, mut db) = (vec![0.0; values.len()], vec![0.0; w.len()], vec![0.0; outputs]);
    for b in 0..batch {
        for o in 0..outputs {
            let g = g[b * outputs + o];
            db[o] += g;
            for i in 0..inputs {
                y[b * outputs + o] += values[b * inputs + i] * w[o * inputs + i];
                dx[b * inputs + i] += g * w[o * inputs + i];
                dw[o * inputs + i] += g * values[b * inputs + i];
            }
            y[b * outputs + o] += f64::from(bias[o]);
        }
    }
    let got = for_thread_counts(|| {
        let mut workspace = Workspace::new();
        let mut y = vec![f32::NAN; dy.len()];
        forward(&l, x.operand(), &weights, Some(&bias), &mut y, &mut workspace).unwrap();
        let (mut dx, mut dw, mut db) =
            (vec![f32::NAN; batch * inputs], vec![f32::NAN; w.len()], vec![f32::NAN; outputs]);
        backward_data(&l, &dy, &weights, &mut dx, false, &mut workspace).unwrap();
        backward_weight(&l, x.operand(), &dy, &mut dw, Some(&mut db), false, &mut workspace).unwrap();
        vec![y, dx, dw, db]
    });
    for (name, got, expected) in
        [("y", &got[0], &y), ("dx", &got[1], &dx), ("dw", &got[2], &dw), ("db", &got[3], &db)]
    {
        close(&format!("{what} {name}"), got, expected, 4e-6);
    }
    let mut workspace = Workspace::new();
    let (mut dx, mut dw, mut db) = (got[1].clone(), got[2].clone(), got[3].clone());
    backward_data(&l, &dy, &weights, &mut dx, true, &mut workspace).unwrap();
    backward_weight(&l, x.operand(), &dy, &mut dw, Some(&mut db), true, &mut workspace).unwrap();
    for (name, twice, once) in [("dx", &dx, &got[1]), ("dw", &dw, &got[2]), ("db", &db, &got[3])] {
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
        check(shape, None);
    }
}

#[test]
fn every_operand() {
    for kind in operand_kinds() {
        check((9, 40, 21), kind);
    }
}

#[test]
fn the_sizes_of_heads() {
    check((16, 512, 200), None);
    check((64, 200, 130), None);
}

#[test]
fn similarities_need_no_bias() {
    let l = Linear::new(2, 2, 2).unwrap();
    let mut y = [0.0; 4];
    let (x, bank) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.5, 0.5]);
    forward(&l, Operand::plain(&x), &bank, None, &mut y, &mut Workspace::new()).unwrap();
    assert_eq!(y, [1.0, 1.5, 3.0, 3.5]);
}

#[test]
fn wrong_lengths_are_errors() {
    assert!(Linear::new(0, 1, 1).is_err() && Linear::new(1, 0, 1).is_err() && Linear::new(1, 1, 0).is_err());
    let l = Linear::new(2, 3, 4).unwrap();
    let mut workspace = Workspace::new();
    let mut run = |x: usize, w: usize, b: usize, y: usize| {
        let (x, w, b, mut y) = (vec![0.0; x], vec![0.0; w], vec![0.0; b], vec![0.0; y]);
        forward(&l, Operand::plain(&x), &w, Some(&b), &mut y, &mut workspace).is_ok()
    };
    assert!(run(6, 12, 4, 8));
    assert!(!run(5, 12, 4, 8) && !run(6, 11, 4, 8) && !run(6, 12, 3, 8) && !run(6, 12, 4, 7));
    assert!(backward_data(&l, &[0.0; 8], &[0.0; 12], &mut [0.0; 5], false, &mut Workspace::new()).is_err());
}
