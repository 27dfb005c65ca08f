//! KDEP banks compared with numpy's SVD (`goldens/make_kdep.py`). They are tied to their cache, written last, and
//! refused if they cannot be right.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{VIEWS, unit_rows};
use half::f16;
use lgd_bank::{BankError, KdepReport, KdepRequest, PowerTemperature, build_kdep};
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, CacheConfig, FeatureRecord, SampleRows};
use lgd_data::job::Job;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::projection::ProjectionError;
use safetensors::{Dtype, SafeTensors};

const OUTPUT: &str = "pooled";
const SHARD: usize = 40;
/// Samples accepted per shard: full shards, an empty one, and a short last one. 174 rows in total.
const ACCEPTED: [usize; 4] = [40, 0, 40, 7];

fn config(width: usize, shard_samples: usize, shards: usize) -> CacheConfig {
    CacheConfig {
        shard_samples,
        features: Some(FeatureRecord { output: OUTPUT.to_owned(), dim: width }),
        ..lgd_testing::cache_config(1, shard_samples * shards)
    }
}

/// Writes a cache with features `values`, `[rows, width]`, and `accepted` samples in each shard.
fn write_cache(dir: &Path, values: &[f32], width: usize, accepted: &[usize]) -> Cache {
    let shard_samples = accepted.iter().copied().max().unwrap().max(SHARD);
    let config = config(width, shard_samples, accepted.len());
    let rows = |features| SampleRows { features, ..common::embeddings(&[1.0; VIEWS]) };
    common::write_cache(dir, config, accepted, values.chunks(VIEWS * width), rows)
}

/// The options that tests vary.
struct Options {
    dim: usize,
    pts: PowerTemperature,
    fit_rows: Option<usize>,
    existing: Existing,
}

impl Options {
    fn new(dim: usize) -> Self {
        Self { dim, pts: PowerTemperature::default(), fit_rows: None, existing: Existing::Refuse }
    }
}

fn build_with(job: &Job, cache: &Cache, out: &Path, options: &Options) -> Result<KdepReport, BankError> {
    let features = cache.features().unwrap().unwrap();
    let request = KdepRequest {
        cache,
        features: &features,
        output: OUTPUT,
        dim: options.dim,
        pts: options.pts,
        fit_rows: options.fit_rows,
        out,
        existing: options.existing,
    };
    build_kdep(&request, job)
}

fn build(cache: &Cache, out: &Path, options: &Options) -> Result<KdepReport, BankError> {
    build_with(&Job::new(), cache, out, options)
}

/// All targets of a bank.
fn targets(bank: &KdepBank) -> Vec<f32> {
    let column = bank.targets().unwrap();
    assert_eq!(column.not_in_place(), &[], "also where a shard has no rows");
    let mut out = vec![f32::NAN; column.rows() * column.width()];
    column.copy_rows(0..column.rows(), &mut out);
    out
}

/// One tensor of the golden file, converted to f64.
fn golden(name: &str) -> (Vec<usize>, Vec<f64>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/kdep.safetensors");
    let bytes = fs::read(path).unwrap();
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

/// Converts a count in the golden file.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
fn count(value: f64) -> usize {
    value as usize
}

#[expect(clippy::cast_possible_truncation, reason = "the file's own f16 values and short decimals")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Half a unit in the last place of f16 (2^-11 of the value, 2^-25 below its normal range), plus the f32 error of the
/// root.
fn rounding(value: f64) -> f64 {
    (value.abs() * 2f64.powi(-11)).max(2f64.powi(-25)) + 2e-6 * value.abs()
}

#[track_caller]
fn check(name: &str) {
    let (shape, features) = golden(&format!("{name}.features"));
    let (_, options) = golden(&format!("{name}.options"));
    let (_, low) = golden(&format!("{name}.low"));
    let (_, high) = golden(&format!("{name}.high"));
    let (_, explained) = golden(&format!("{name}.explained"));
    let features: Vec<f32> = features.into_iter().map(narrow).collect();
    let [dim, temperature, power, fit_rows] = options[..] else { panic!("four options") };
    let fit_rows = Some(count(fit_rows)).filter(|&rows| rows > 0);

    let root = tempfile::tempdir().unwrap();
    let cache = write_cache(&root.path().join("cache"), &features, shape[1], &ACCEPTED);
    let pts = PowerTemperature::new(narrow(temperature), narrow(power)).unwrap();
    let options = Options { pts, fit_rows, ..Options::new(count(dim)) };
    let out = root.path().join("kdep");
    let report = build(&cache, &out, &options).unwrap();

    let bank = KdepBank::open(&out, Verify::Full).unwrap();
    bank.require_cache(&cache).unwrap();
    let got = targets(&bank);
    assert_eq!(got.len(), low.len());
    for (at, ((&got, &low), &high)) in got.iter().zip(&low).zip(&high).enumerate() {
        let got = f64::from(got);
        let inside = got >= low - rounding(low) && got <= high + rounding(high);
        assert!(inside, "{name}, value {at}: {got} is not within {low} and {high}");
    }
    // With a sample, the explained variance is measured on the projected values, which are f32.
    let near = if fit_rows.is_some() { 1e-6 } else { 1e-9 };
    assert!(
        (report.explained_variance - explained[0]).abs() < near,
        "{} {explained:?}",
        report.explained_variance
    );

    let squares = got.iter().map(|&value| f64::from(value) * f64::from(value));
    let rms = (squares.sum::<f64>() / f64::from(u32::try_from(got.len()).unwrap())).sqrt();
    assert!((report.scale.rms - rms).abs() < 1e-4 * rms, "{} {rms}", report.scale.rms);
    let largest = f64::from(got.iter().fold(0.0, |a: f32, b| a.max(b.abs())));
    assert!(
        (report.scale.largest - largest).abs() <= rounding(largest),
        "{} {largest}",
        report.scale.largest
    );
    assert!(report.scale.weakest_dim_rms <= rms && rms <= report.scale.strongest_dim_rms);
}

#[test]
fn targets_are_numpys() {
    check("paper");
    check("square-root");
    check("no-root");
}

#[test]
fn as_many_dimensions_as_the_features_have_are_allowed() {
    check("every-dimension");
}

#[test]
fn the_projection_may_be_fitted_on_rows_spread_over_the_cache() {
    check("sample");
}

#[test]
fn a_part_of_the_rows_has_views_of_every_index() {
    // View 0 varies along two axes, view 1 along two other axes.
    let pairs = unit_rows(174, 2, 3);
    let values: Vec<f32> = pairs
        .chunks(2)
        .enumerate()
        .flat_map(|(row, pair)| match row % VIEWS {
            0 => [pair[0], pair[1], 0.0, 0.0],
            _ => [0.0, 0.0, pair[0], pair[1]],
        })
        .collect();
    let root = tempfile::tempdir().unwrap();
    let cache = write_cache(&root.path().join("cache"), &values, 4, &ACCEPTED);
    // A tenth of the rows, and numbers that are not multiples of the views per image.
    for rows in [17, 87, 5] {
        let options = Options { fit_rows: Some(rows), existing: Existing::Overwrite, ..Options::new(4) };
        let report = build(&cache, &root.path().join("kdep"), &options).unwrap();
        assert_eq!((report.fitted_rows, report.rank), (rows, 4));
    }
}

#[test]
fn the_manifest_says_what_the_bank_was_made_from() {
    let root = tempfile::tempdir().unwrap();
    let cache = write_cache(&root.path().join("cache"), &unit_rows(174, 16, 1), 16, &ACCEPTED);
    let out = root.path().join("kdep");
    assert!(!KdepBank::is_kdep(&out));
    let options = Options { fit_rows: Some(1000), ..Options::new(6) };
    let report = build(&cache, &out, &options).unwrap();
    assert!(KdepBank::is_kdep(&out));

    let bank = KdepBank::open(&out, Verify::Full).unwrap();
    let (manifest, record) = (bank.manifest(), &bank.manifest().record);
    assert_eq!((manifest.rows, record.fitted_rows, report.fitted_rows), (174, 174, 174));
    assert_eq!((record.features, record.dim, bank.dim(), record.rank), (16, 6, 6, 6));
    assert_eq!((record.output.as_str(), record.cache), (OUTPUT, cache.hash()));
    assert_eq!((record.pts_temperature, record.pts_power), (0.1, 3.0));
    let (kept, told) = (record.scale, report.scale);
    // Numbers in JSON are parsed to within a unit in the last place.
    for (got, expected) in [
        (record.explained_variance, report.explained_variance),
        (record.explained_variance, bank.projection().explained()),
        (kept.rms, told.rms),
        (kept.largest, told.largest),
        (kept.strongest_dim_rms, told.strongest_dim_rms),
        (kept.weakest_dim_rms, told.weakest_dim_rms),
    ] {
        assert!((got - expected).abs() <= 1e-15 * expected, "{got} {expected}");
    }
    assert_eq!((bank.projection().width(), bank.projection().dim()), (16, 6));
    assert_eq!(manifest.targets.len(), ACCEPTED.len());
    assert_eq!(bank.targets().unwrap().shard_rows(), ACCEPTED.map(|samples| samples * VIEWS));
}

#[test]
fn features_of_few_axes_are_used_and_said_to_be() {
    // Rows with three independent dimensions, repeated to fill eight.
    let narrow = unit_rows(174, 3, 5);
    let values: Vec<f32> = narrow.chunks(3).flat_map(|row| row.iter().copied().cycle().take(8)).collect();
    let root = tempfile::tempdir().unwrap();
    let cache = write_cache(&root.path().join("cache"), &values, 8, &ACCEPTED);
    let report = build(&cache, &root.path().join("kdep"), &Options::new(6)).unwrap();
    assert_eq!((report.rank, report.dim), (3, 6));
    assert!((report.explained_variance - 1.0).abs() < 1e-12);
    let bank = KdepBank::open(&root.path().join("kdep"), Verify::Full).unwrap();
    // The remaining dimensions hold f32 rounding errors, which the root amplifies.
    assert!(targets(&bank).chunks(6).flat_map(|row| &row[3..]).all(|value| value.abs() < 0.05));
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let root = tempfile::tempdir().unwrap();
    // The last chunk of sums, the last block of rows and the last shard are all incomplete.
    let accepted = [900, 300, 0, 411];
    let rows = accepted.iter().sum::<usize>() * VIEWS;
    let cache = write_cache(&root.path().join("cache"), &unit_rows(rows, 100, 2), 100, &accepted);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = root.path().join(format!("kdep-{threads}"));
        pool.install(|| build(&cache, &out, &Options::new(17)).unwrap());
        files(&out)
    };
    let one = run(1);
    assert_eq!(one.len(), 6);
    for threads in [2, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_bank_is_refused_for_another_cache_and_its_folder_for_another_bank() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("kdep");
    let cache = write_cache(&root.path().join("cache"), &unit_rows(174, 16, 1), 16, &ACCEPTED);
    build(&cache, &out, &Options::new(4)).unwrap();
    let again = build(&cache, &out, &Options::new(5));
    assert!(matches!(again, Err(BankError::Artifact(ArtifactError::Occupied { .. }))), "{again:?}");
    assert_eq!(KdepBank::open(&out, Verify::Full).unwrap().dim(), 4);
    build(&cache, &out, &Options { existing: Existing::Overwrite, ..Options::new(5) }).unwrap();
    let bank = KdepBank::open(&out, Verify::Full).unwrap();
    assert_eq!(bank.dim(), 5);

    let other = write_cache(&root.path().join("other"), &unit_rows(174, 16, 2), 16, &ACCEPTED);
    let message = bank.require_cache(&other).unwrap_err().to_string();
    assert!(
        message.contains(&cache.hash().to_string()) && message.contains(&other.hash().to_string()),
        "{message}"
    );

    // Not even --overwrite replaces an artifact of another kind.
    let options = Options { existing: Existing::Overwrite, ..Options::new(4) };
    let message = build(&cache, cache.dir(), &options).unwrap_err().to_string();
    assert!(message.contains("holds a cache, which a KDEP bank cannot replace"), "{message}");
    assert!(matches!(Bank::open(&out, Verify::Length), Err(ArtifactError::Missing { .. })));
}

#[test]
fn a_damaged_bank_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("kdep");
    let cache = write_cache(&root.path().join("cache"), &unit_rows(174, 16, 1), 16, &ACCEPTED);
    build(&cache, &out, &Options::new(4)).unwrap();
    for name in ["kdep.json", "kdep.safetensors", "targets-00002.parquet"] {
        let path = out.join(name);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        for damaged in [&damaged[..], &whole[..whole.len() / 2]] {
            fs::write(&path, damaged).unwrap();
            assert!(KdepBank::open(&out, Verify::Full).is_err(), "{name}");
        }
        fs::write(&path, whole).unwrap();
        KdepBank::open(&out, Verify::Full).unwrap();
    }
}

#[test]
fn a_failed_fit_leaves_the_old_bank_in_place() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("kdep");
    let values = unit_rows(174, 16, 1);
    let cache = write_cache(&root.path().join("cache"), &values, 16, &ACCEPTED);
    build(&cache, &out, &Options::new(4)).unwrap();
    let old = files(&out);
    let overwrite = |dim| Options { existing: Existing::Overwrite, ..Options::new(dim) };
    for dim in [0, 17] {
        match build(&cache, &out, &overwrite(dim)) {
            Err(BankError::Projection(ProjectionError::Dim { dim: got, width: 16 })) => assert_eq!(got, dim),
            other => panic!("{other:?}"),
        }
    }
    let mut bad = values.clone();
    bad[100 * 16 + 3] = f32::INFINITY;
    let bad = write_cache(&root.path().join("bad"), &bad, 16, &ACCEPTED);
    let refused = build(&bad, &out, &overwrite(4));
    assert!(matches!(refused, Err(BankError::FeatureNotFinite { row: 100 })), "{refused:?}");
    let same = write_cache(&root.path().join("same"), &values[..16].repeat(174), 16, &ACCEPTED);
    let refused = build(&same, &out, &overwrite(4));
    let expected = matches!(refused, Err(BankError::Projection(ProjectionError::NoVariance { rows: 174 })));
    assert!(expected, "{refused:?}");
    let none = write_cache(&root.path().join("none"), &[], 16, &[0]);
    assert!(matches!(build(&none, &out, &overwrite(4)), Err(BankError::NoRows)));
    let job = Job::new();
    job.interrupt();
    let stopped = build_with(&job, &cache, &out, &overwrite(4));
    assert!(matches!(stopped, Err(BankError::Interrupted)), "{stopped:?}");
    assert!(files(&out) == old);
}

#[test]
fn a_target_that_f16_cannot_hold_ends_the_build_with_its_row() {
    let root = tempfile::tempdir().unwrap();
    let mut values = unit_rows(174, 16, 1);
    values[130 * 16 + 7] = 30_000.0;
    let cache = write_cache(&root.path().join("cache"), &values, 16, &ACCEPTED);
    let pts = PowerTemperature::new(0.01, 1.0).unwrap();
    let out = root.path().join("kdep");
    match build(&cache, &out, &Options { pts, ..Options::new(2) }) {
        // The value is the feature minus the mean, divided by the temperature.
        Err(BankError::TargetOverflow { row: 130, value }) => {
            assert!((2.9e6..3.0e6).contains(&value), "{value}")
        }
        other => panic!("{other:?}"),
    }
    assert!(!KdepBank::is_kdep(&out));
    assert!(files(&out).keys().all(|name| !name.to_string_lossy().ends_with(".tmp")));
    build(&cache, &out, &Options::new(2)).unwrap();
}

#[test]
fn power_temperature_scaling_is_odd_and_its_options_have_bounds() {
    let mut values = [0.8, -0.8, 0.1, 0.0, -0.0125];
    PowerTemperature::new(0.1, 3.0).unwrap().apply(&mut values);
    for (value, expected) in values.into_iter().zip([2.0f32, -2.0, 1.0, 0.0, -0.5]) {
        assert!((value - expected).abs() <= 1e-5 * expected.abs(), "{value} {expected}");
    }
    for (temperature, power) in [
        (0.0, 3.0),
        (-0.1, 3.0),
        (f32::NAN, 3.0),
        (f32::INFINITY, 3.0),
        (0.1, 0.5),
        (0.1, f32::NAN),
        (0.1, 101.0),
    ] {
        let refused = PowerTemperature::new(temperature, power);
        assert!(matches!(refused, Err(BankError::Option { .. })), "{temperature} {power}");
    }
}
