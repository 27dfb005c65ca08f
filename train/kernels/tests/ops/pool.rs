//! Pools against direct definitions.

use lgd_kernels::pool::{global_average, global_average_backward, max_pool, max_pool_backward};
use lgd_kernels::{Activation, Operand, Sliding, Window};
use proptest::prelude::*;

use crate::common::{Lazy, close, for_taps, for_thread_counts, operand_kinds, random, sliding};

fn check_max(s: &Sliding, kind: Option<Activation>) {
    let what = format!("{s:?} {kind:?}");
    let c = s.channels;
    let x = Lazy::new(1, s.in_len(), c, kind);
    let mut values = vec![0.0; s.in_len()];
    lgd_kernels::elementwise::materialize(x.operand(), c, &mut values).unwrap();
    let mut expected = vec![f32::NEG_INFINITY; s.out_pixels() * c];
    // With dilation, a window may be entirely in the padding.
    let mut winners = vec![(0, None); expected.len()];
    for_taps(s, |out, tap, input| {
        for k in 0..c {
            if values[input * c + k] > expected[out * c + k] {
                expected[out * c + k] = values[input * c + k];
                winners[out * c + k] = (tap, Some(input * c + k));
            }
        }
    });
    let dy = random(9, expected.len());
    let (y, argmax, dx) = for_thread_counts(|| {
        let (mut y, mut argmax) = (vec![f32::NAN; expected.len()], vec![255; expected.len()]);
        max_pool(s, x.operand(), &mut y, &mut argmax).unwrap();
        let mut dx = vec![f32::NAN; s.in_len()];
        max_pool_backward(s, &dy, &argmax, &mut dx, false).unwrap();
        (y, argmax, dx)
    });
    assert_eq!(y, expected, "{what}");
    let taps: Vec<usize> = argmax.iter().map(|&tap| usize::from(tap)).collect();
    assert_eq!(taps, winners.iter().map(|winner| winner.0).collect::<Vec<_>>(), "{what}");
    let mut sums = vec![0.0; s.in_len()];
    for ((_, at), &dy) in winners.iter().zip(&dy) {
        if let Some(at) = at {
            sums[*at] += f64::from(dy);
        }
    }
    close(&what, &dx, &sums, 1e-6);
    let mut added = dx.clone();
    max_pool_backward(s, &dy, &argmax, &mut added, true).unwrap();
    close(&what, &added, &sums.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-6);
}

#[test]
fn overlapping_windows_of_every_operand() {
    for kind in operand_kinds() {
        check_max(&sliding((2, 9, 12, 5), 3, (2, 1, 1)), kind);
        check_max(&sliding((1, 12, 9, 20), 3, (2, 1, 1)), kind);
    }
    for (height, width) in [(1, 1), (2, 3), (7, 8), (16, 15)] {
        check_max(&sliding((2, height, width, 3), 3, (2, 1, 1)), None);
    }
    check_max(&sliding((1, 8, 8, 64), 2, (2, 0, 1)), None);
}

#[test]
fn the_first_of_equals_wins_and_so_does_a_nan() {
    let s = sliding((1, 2, 2, 1), 2, (1, 0, 1));
    let run = |x: [f32; 4]| {
        let (mut y, mut argmax) = ([0.0], [0]);
        max_pool(&s, Operand::plain(&x), &mut y, &mut argmax).unwrap();
        (y[0], argmax[0])
    };
    assert_eq!(run([1.0, 3.0, 3.0, 2.0]), (3.0, 1));
    let (y, winner) = run([1.0, 3.0, f32::NAN, 5.0]);
    assert!(y.is_nan());
    assert_eq!(winner, 2);
    assert_eq!(run([f32::NEG_INFINITY; 4]), (f32::NEG_INFINITY, 0));
}

#[test]
fn averages_and_their_gradients() {
    for (batch, pixels, c) in [(1, 1, 1), (3, 49, 17), (2, 196, 24), (2, 7, 1280), (1, 5000, 3)] {
        for kind in operand_kinds() {
            let x = Lazy::new(1, batch * pixels * c, c, kind);
            let mut sums = vec![0.0; batch * c];
            let share = 1.0 / f64::from(u32::try_from(pixels).unwrap());
            x.values().iter().enumerate().for_each(|(i, v)| sums[i / (pixels * c) * c + i % c] += v * share);
            let y = for_thread_counts(|| {
                let mut y = vec![f32::NAN; batch * c];
                global_average(x.operand(), pixels, c, &mut y).unwrap();
                y
            });
            close("average", &y, &sums, 1e-6);
        }
        let dy = random(5, batch * c);
        let mut dx = vec![f32::NAN; batch * pixels * c];
        global_average_backward(&dy, pixels, c, &mut dx, false).unwrap();
        let share = 1.0 / f64::from(u32::try_from(pixels).unwrap());
        let expected = |factor: f64| -> Vec<f64> {
            (0..dx.len()).map(|i| factor * share * f64::from(dy[i / (pixels * c) * c + i % c])).collect()
        };
        let (once, twice) = (expected(1.0), expected(2.0));
        close("gradient", &dx, &once, 1e-6);
        global_average_backward(&dy, pixels, c, &mut dx, true).unwrap();
        close("gradient twice", &dx, &twice, 1e-6);
    }
}

#[test]
fn pools_that_do_not_fit_are_errors() {
    let s = sliding((1, 4, 4, 2), 3, (2, 1, 1));
    let x = [0.0; 32];
    let run =
        |y: usize, argmax: usize| max_pool(&s, Operand::plain(&x), &mut vec![0.0; y], &mut vec![0; argmax]);
    assert!(run(8, 8).is_ok());
    assert!(run(7, 8).is_err() && run(8, 7).is_err());
    let empty = sliding((1, 4, 4, 2), 3, (2, 2, 1));
    let len = empty.out_pixels() * 2;
    assert!(max_pool(&empty, Operand::plain(&x), &mut vec![0.0; len], &mut vec![0; len]).is_err());
    let many = sliding((1, 20, 20, 1), 17, (1, 0, 1));
    assert!(max_pool(&many, Operand::plain(&[0.0; 400]), &mut [0.0; 16], &mut [0; 16]).is_err());
    assert!(global_average(Operand::plain(&x), 0, 2, &mut [0.0; 2]).is_err());
    assert!(global_average(Operand::plain(&x), 16, 2, &mut [0.0; 4]).is_err());
    assert!(global_average_backward(&[0.0; 2], 16, 2, &mut [0.0; 31], false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        (batch, height, width, channels) in (1usize..3, 1usize..20, 1usize..20, 1usize..40),
        (kernel, stride, padding, dilation) in (1usize..6, 1usize..4, 0usize..3, 1usize..3),
    ) {
        let window = Window { stride, padding: padding.min(kernel / 2), dilation };
        if let Ok(s) = Sliding::new((batch, height, width, channels), (kernel, kernel), window) {
            check_max(&s, Some(Activation::HardSwish));
        }
    }
}
