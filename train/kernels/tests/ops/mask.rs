//! Masked images.

use lgd_kernels::Moments;
use lgd_kernels::mask::{Mask, apply, fill, hidden_sums};

use crate::common::{for_thread_counts, moments, random, wide};

/// Whether the pixel of a row of `[M, C]` is visible.
fn visible(mask: &Mask<'_>, (_, height, width, _): (usize, usize, usize, usize), row: usize) -> bool {
    let (image, y, x) = (row / (height * width), row / width % height, row % width);
    let cell = (image * mask.rows + y * mask.rows / height) * mask.columns + x * mask.columns / width;
    mask.visible[cell]
}

fn random_mask(seed: u64, len: usize) -> Vec<bool> {
    random(seed, len).iter().map(|&v| v > 0.2).collect()
}

#[test]
fn hidden_cells_become_zero() {
    for (dims, rows, columns) in [((2, 8, 6, 3), 4, 2), ((1, 7, 7, 20), 7, 7), ((3, 4, 4, 1), 1, 1)] {
        let cells = random_mask(3, dims.0 * rows * columns);
        let mask = Mask { visible: &cells, rows, columns };
        let before = random(1, dims.0 * dims.1 * dims.2 * dims.3);
        let mut after = before.clone();
        apply(&mask, dims, &mut after).unwrap();
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let expected = if visible(&mask, dims, i / dims.3) { *before } else { 0.0 };
            assert_eq!(*after, expected, "{i}");
        }
    }
}

#[test]
fn hidden_cells_become_the_token_and_its_gradient_is_their_sum() {
    for (dims, rows, columns) in [((2, 8, 6, 3), 4, 2), ((1, 7, 7, 20), 7, 7), ((40, 4, 4, 1), 2, 2)] {
        let cells = random_mask(3, dims.0 * rows * columns);
        let mask = Mask { visible: &cells, rows, columns };
        let (before, token) = (random(1, dims.0 * dims.1 * dims.2 * dims.3), random(2, dims.3));
        let mut after = before.clone();
        fill(&mask, dims, &token, &mut after).unwrap();
        let mut expected = vec![0.0; dims.3];
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let shown = visible(&mask, dims, i / dims.3);
            assert_eq!(*after, if shown { *before } else { token[i % dims.3] }, "{i}");
            expected[i % dims.3] += if shown { 0.0 } else { f64::from(*before) };
        }
        let sums = for_thread_counts(|| hidden_sums(&mask, dims, &before).unwrap());
        sums.iter().zip(&expected).for_each(|(got, want)| assert!((got - want).abs() < 1e-4, "{got} {want}"));
    }
    let all = Mask { visible: &[true; 4], rows: 2, columns: 2 };
    assert_eq!(hidden_sums(&all, (1, 4, 4, 2), &random(1, 32)).unwrap(), [0.0, 0.0]);
    assert!(fill(&all, (1, 4, 4, 2), &[1.0], &mut random(1, 32)).is_err(), "a token of other channels");
}

#[test]
fn shares_are_cells_over_visible_ones() {
    let visible = [true, true, true, true, false, true, false, false];
    let mask = |visible| Mask { visible, rows: 2, columns: 2 };
    assert_eq!(mask(&visible).shares().unwrap(), [1.0, 4.0]);
    assert!(mask(&visible[..7]).shares().is_err(), "a part of an image");
    assert_eq!(mask(&[false; 4]).shares().unwrap(), [0.0], "nothing to see");
    assert!(Mask { visible: &[], rows: 0, columns: 0 }.shares().is_err(), "no cells");
}

#[test]
fn moments_count_visible_pixels_only() {
    for (dims, rows, columns) in [((2, 8, 6, 3), 4, 2), ((5, 28, 14, 20), 7, 7), ((70, 2, 2, 5), 2, 1)] {
        let cells = random_mask(4, dims.0 * rows * columns);
        let mask = Mask { visible: &cells, rows, columns };
        let x: Vec<f32> = random(1, dims.0 * dims.1 * dims.2 * dims.3).iter().map(|v| v + 5.0).collect();
        let got = for_thread_counts(|| Moments::masked(&x, &mask, dims).unwrap());
        let (count, mean, variance) = moments(&wide(&x), dims.3, |row| visible(&mask, dims, row));
        assert_eq!(got.rows, count);
        let count = f64::from(u32::try_from(count).unwrap());
        for j in 0..dims.3 {
            assert!((got.mean[j] - mean[j]).abs() < 1e-5);
            assert!((got.centered[j] / count - variance[j]).abs() < 1e-5);
        }
    }
}

#[test]
fn everything_visible_is_the_plain_moments() {
    let (dims, x) = ((2, 16, 16, 4), random(1, 2 * 16 * 16 * 4));
    let mask = Mask { visible: &[true; 8], rows: 2, columns: 2 };
    let (masked, plain) = (Moments::masked(&x, &mask, dims).unwrap(), Moments::of(&x, 4).unwrap());
    assert_eq!(masked.rows, plain.rows);
    masked.mean.iter().zip(&plain.mean).for_each(|(a, b)| assert!((a - b).abs() < 1e-7));
}

#[test]
fn grids_that_do_not_fit_are_errors() {
    let mut x = [0.0; 32];
    let mut run =
        |cells: &[bool], rows, columns, dims| apply(&Mask { visible: cells, rows, columns }, dims, &mut x);
    assert!(run(&[true; 4], 2, 2, (1, 4, 4, 2)).is_ok());
    assert!(run(&[true; 3], 2, 2, (1, 4, 4, 2)).is_err());
    assert!(run(&[true; 6], 3, 2, (1, 4, 4, 2)).is_err());
    assert!(run(&[true; 4], 2, 2, (1, 4, 4, 3)).is_err());
    assert!(run(&[], 0, 2, (1, 4, 4, 2)).is_err());
    let hidden = Mask { visible: &[false; 4], rows: 2, columns: 2 };
    assert!(Moments::masked(&x, &hidden, (1, 4, 4, 2)).is_err());
}
