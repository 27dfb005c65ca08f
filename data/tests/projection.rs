//! Compares principal axes with numpy's SVD (`goldens/make_projection.py`), and checks properties that hold for any
//! rows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::path::Path;

use half::f16;
use lgd_data::ArtifactError;
use lgd_data::projection::{MomentSums, Projection, ProjectionError};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// Shape and values of one tensor in the golden file.
fn golden(name: &str) -> (Vec<usize>, Vec<f64>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/projection.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values = match tensor.dtype() {
        Dtype::F16 => {
            tensor.data().as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect()
        }
        Dtype::F64 => tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        other => panic!("{other:?}"),
    };
    (tensor.shape().to_vec(), values)
}

#[expect(clippy::cast_possible_truncation, reason = "the file's own f16 values")]
fn rows_of(name: &str) -> (Vec<f32>, usize) {
    let (shape, values) = golden(name);
    (values.into_iter().map(|value| value as f32).collect(), shape[1])
}

fn sums(rows: &[f32], width: usize) -> MomentSums {
    let mut sums = MomentSums::new(width);
    sums.add(rows);
    sums
}

fn apply(projection: &Projection, rows: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows.len() / projection.width() * projection.dim()];
    projection.apply(rows, &mut out);
    out
}

#[track_caller]
fn assert_close(got: impl IntoIterator<Item = impl Into<f64>>, expected: &[f64], tolerance: f64) {
    let got: Vec<f64> = got.into_iter().map(Into::into).collect();
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance, "{at}: {got} {expected}");
    }
}

/// Checks a case and returns its projection.
fn check(name: &str) -> Projection {
    let (rows, width) = rows_of(&format!("{name}.x"));
    let (_, variances) = golden(&format!("{name}.variances"));
    let (shape, components) = golden(&format!("{name}.components"));
    let (_, total) = golden(&format!("{name}.total"));
    let (_, mean) = golden(&format!("{name}.mean"));
    let (_, projected) = golden(&format!("{name}.y"));
    let (rank, dim) = (shape[0], variances.len());

    let projection = Projection::fit(&sums(&rows, width), dim).unwrap();
    assert_eq!((projection.dim(), projection.width(), projection.rank()), (dim, width, rank));
    let largest = f64::from(rows.iter().fold(0.0, |a: f32, b| a.max(b.abs())));
    assert_close(projection.mean().to_vec(), &mean, largest * 1e-7);
    assert_close(projection.components()[..rank * width].to_vec(), &components, 1e-6);
    assert_close(projection.variances().to_vec(), &variances, total[0] * 1e-12 + largest * largest * 1e-13);
    let explained = variances.iter().sum::<f64>() / total[0];
    assert!((projection.explained() - explained).abs() < 1e-10, "{} {explained}", projection.explained());
    let got = apply(&projection, &rows);
    let kept = got.chunks(dim).flat_map(|row| row[..rank].to_vec());
    // f32 rounds the mean, the axes and the sums of `width` products.
    assert_close(kept, &projected, largest * 1e-6 * 4.0);
    for row in got.chunks(dim) {
        assert!(row[rank..].iter().all(|value| f64::from(value.abs()) < largest * 1e-5), "{row:?}");
    }
    projection
}

#[test]
fn axes_and_projected_rows_are_those_of_numpys_svd() {
    check("narrower");
    check("panels");
    check("far-from-zero");
    let square = check("square");
    assert!((square.explained() - 1.0).abs() < 1e-12);
}

#[test]
fn axes_past_the_rank_hold_nothing_and_are_counted() {
    assert_eq!(check("low-rank").rank(), 6);
    assert_eq!(check("few-rows").rank(), 8);
}

/// Pseudorandom rows of a few common factors and noise, with f16 values.
fn random_rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
    };
    let mixing: Vec<f32> = (0..5 * width).map(|_| noise()).collect();
    let mut rows = Vec::with_capacity(count * width);
    for _ in 0..count {
        let factors: Vec<f32> = (0..5).map(|_| 3.0 * noise()).collect();
        for column in 0..width {
            let common: f32 =
                factors.iter().zip(mixing[column..].iter().step_by(width)).map(|(f, m)| f * m).sum();
            rows.push(f16::from_f32(common + 0.3 * noise() + 1.0).to_f32());
        }
    }
    rows
}

/// Checks that the axes are orthonormal, have the right signs, and are in descending order of variance.
fn assert_axes(projection: &Projection) {
    let width = projection.width();
    let axes: Vec<&[f32]> = projection.components().chunks(width).collect();
    for (i, a) in axes.iter().enumerate() {
        for (j, b) in axes.iter().enumerate() {
            let product: f64 = a.iter().zip(*b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let expected = if i == j { 1.0 } else { 0.0 };
            assert!((product - expected).abs() < 1e-6, "axes {i} and {j}: {product}");
        }
        let largest = a.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a });
        assert!(largest > 0.0, "axis {i}");
    }
    assert!(projection.variances().is_sorted_by(|a, b| a >= b));
}

/// Values of 9 bits below 8. Their products and the sums of these are exact in f64 but not in f32.
fn exact_rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
    random_rows(count, width, seed).iter().map(|value| (value * 64.0).round() / 64.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_may_be_added_in_any_cuts_and_in_any_order(
        cuts in prop::collection::vec(0usize..=400, 0..8),
        width in 1usize..90,
        backwards: bool,
        seed in 0u64..1000,
    ) {
        let rows = exact_rows(400, width, seed);
        let whole = sums(&rows, width);
        prop_assert_eq!(whole.count(), 400);
        let mut cuts = cuts;
        cuts.extend([0, 400]);
        cuts.sort_unstable();
        let mut parts: Vec<&[f32]> =
            cuts.windows(2).map(|cut| &rows[cut[0] * width..cut[1] * width]).collect();
        if backwards {
            parts.reverse();
        }
        let mut added = MomentSums::new(width);
        parts.iter().for_each(|part| added.add(part));
        prop_assert_eq!(&added, &whole);
    }

    #[test]
    fn axes_are_orthonormal_and_all_of_them_lose_nothing(
        count in 2usize..120,
        width in 1usize..60,
        seed in 0u64..1000,
    ) {
        let rows = random_rows(count, width, seed);
        let projection = Projection::fit(&sums(&rows, width), width).unwrap();
        assert_axes(&projection);
        prop_assert!(projection.rank() <= width.min(count - 1));
        prop_assert!((projection.explained() - 1.0).abs() < 1e-10);
        let projected = apply(&projection, &rows);
        for (row, coordinates) in rows.chunks(width).zip(projected.chunks(width)) {
            for (column, (&value, &mean)) in row.iter().zip(projection.mean()).enumerate() {
                let axes = projection.components().chunks(width);
                let back: f32 = axes.zip(coordinates).map(|(axis, c)| axis[column] * c).sum();
                prop_assert!((back + mean - value).abs() < 1e-4, "{back} {mean} {value}");
            }
        }
    }

    #[test]
    fn the_variances_are_those_of_the_projected_rows(dim in 1usize..12, seed in 0u64..1000) {
        let rows = random_rows(500, 12, seed);
        let projection = Projection::fit(&sums(&rows, 12), dim).unwrap();
        let projected = apply(&projection, &rows);
        for (axis, &variance) in projection.variances().iter().enumerate() {
            let squares = projected.iter().skip(axis).step_by(dim).map(|&y| f64::from(y) * f64::from(y));
            let got = squares.sum::<f64>() / 500.0;
            prop_assert!((got - variance).abs() < 1e-5 * projection.variances()[0], "{axis}: {got} {variance}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Several panels and blocks; the last ones are not full.
    let width = 300;
    let rows = random_rows(2600, width, 3);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let sums = sums(&rows, width);
            let projection = Projection::fit(&sums, 40).unwrap();
            let projected = apply(&projection, &rows);
            (sums, projection, projected)
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn rows_without_axes_are_refused() {
    let fit = |rows: &[f32], dim| Projection::fit(&sums(rows, 3), dim);
    let rows = [1.0, 2.0, 3.0, 2.0, 2.0, 1.0];
    assert!(fit(&rows, 3).is_ok());
    for dim in [0, 4] {
        match fit(&rows, dim) {
            Err(ProjectionError::Dim { dim: got, width: 3 }) => assert_eq!(got, dim),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(fit(&[], 1), Err(ProjectionError::NoRows)));
    for bad in [f32::NAN, f32::INFINITY] {
        let rows = [1.0, bad, 3.0, 2.0, 2.0, 1.0];
        assert!(matches!(fit(&rows, 1), Err(ProjectionError::NotFinite { rows: 2 })));
    }
    let same = [0.1, 1000.0, -0.3].repeat(5000);
    assert!(matches!(fit(&same, 1), Err(ProjectionError::NoVariance { rows: 5000 })));
}

#[test]
fn a_saved_projection_is_read_back_and_a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("axes.safetensors");
    let projection = Projection::fit(&sums(&random_rows(50, 9, 1), 9), 4).unwrap();
    projection.save(&path).unwrap();
    assert_eq!(Projection::load(&path).unwrap(), projection);

    for (from, to) in [("components", "componentz"), ("[4,9]", "[9,4]"), ("variances", "variancez")] {
        let whole = std::fs::read(&path).unwrap();
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut other = whole.clone();
        other[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, other).unwrap();
        let refused = Projection::load(&path);
        match refused {
            Err(ArtifactError::Tensors { source: SafeTensorError::TensorNotFound(name), .. }) => {
                assert_eq!(name, from);
            }
            Err(ArtifactError::Invalid { reason, .. }) => {
                assert_eq!((from, &*reason), ("[4,9]", "mean: expected F32 [4], got F32 [9]"));
            }
            other => panic!("{from}: {other:?}"),
        }
        std::fs::write(&path, whole).unwrap();
    }
    let missing = Projection::load(&dir.path().join("absent"));
    assert!(matches!(missing, Err(ArtifactError::Io { .. })));
}
