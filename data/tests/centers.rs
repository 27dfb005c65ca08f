//! Center crops: the pixels are those of the tools that teachers come from, a crop means the same at every size, and caches
//! keep it. `goldens/make_centers.py` writes `goldens/centers.json` and `goldens/centers/`.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

#[path = "common/goldens.rs"]
mod goldens;

use std::fs;
use std::path::Path;

use lgd_data::ArtifactError;
use lgd_data::cache::{Cache, CacheBuilder, CacheConfig, CachedSample, ImageStamp, Partition};
use lgd_data::image::RgbImage;
use lgd_data::manifest::{ContentHash, Existing, Verify, write_json};
use lgd_data::render::{Resample, render};
use lgd_data::view::{CenterCrop, CropRounding, Policy, ResizeMode, View};
use lgd_testing::cache_config;
use lgd_testing::pixels::{Distance, distance};
use proptest::prelude::*;
use serde::Deserialize;

use goldens::image as golden;

/// One golden; the fields are those that the script writes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    image: String,
    size: u32,
    length: u32,
    resize: ResizeMode,
    offset: CropRounding,
    resample: Resample,
}

#[test]
fn pixels_are_within_one_level_of_the_tools() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("goldens/centers.json")).unwrap();
    assert_eq!(cases.len(), 41, "all cases are there");
    let mut far = Vec::new();
    for Case { name, image, size, length, resize, offset, resample } in cases {
        let view = View::of_center(CenterCrop::of_lengths(size, length, resize, offset));
        let ours = render(&golden(&image), &view, size, resample).unwrap();
        let Distance { max, share, .. } = distance(&ours, &golden(&format!("centers/{name}.png")));
        eprintln!("{name:32} max {max:3} share {share:.4}");
        if max > 1 || share > 0.01 {
            far.push(name);
        }
    }
    assert!(far.is_empty(), "too far from the reference: {far:?}");
}

/// A length in pixels survives its storage as a share in f32, for every teacher that can be.
#[test]
fn every_length_is_exact_at_the_teachers_size() {
    for size in 1_u32..=2_048 {
        for length in size.div_ceil(4)..=size * 2 {
            let crop = CenterCrop::of_lengths(size, length, ResizeMode::Shortest, CropRounding::Floor);
            assert_eq!(crop.length(size), length, "{size} of {length}");
        }
    }
}

fn crop() -> impl Strategy<Value = CenterCrop> {
    let shares = prop_oneof![Just(1.0_f32), Just(0.875), 0.01_f32..=1.0, 1.0_f32..=100.0];
    (shares, prop::sample::select(&ResizeMode::ALL), prop::sample::select(&CropRounding::ALL))
        .prop_map(|(fraction, resize, rounding)| CenterCrop { fraction, resize, rounding })
}

fn gray(width: u32, height: u32) -> RgbImage {
    RgbImage::new(width, height, vec![200; (width * height * 3) as usize]).unwrap()
}

proptest! {
    #[test]
    fn the_length_scales_with_the_output(size in 1_u32..600, length in 1_u32..800, other in 1_u32..600) {
        let crop = CenterCrop::of_lengths(size, length, ResizeMode::Squash, CropRounding::HalfEven);
        let exact = f64::from(other) * f64::from(length) / f64::from(size);
        prop_assert!((f64::from(crop.length(other)) - exact.max(1.0)).abs() <= 0.5 + 1e-4, "{exact}");
    }

    #[test]
    fn only_padding_is_black(
        crop in crop(), width in 1_u32..90, height in 1_u32..90, size in 1_u32..70,
        resample in prop::sample::select(&[Resample::Nearest, Resample::Bilinear, Resample::Bicubic, Resample::Lanczos]),
    ) {
        let shown = render(&gray(width, height), &View::of_center(crop), size, resample).unwrap();
        prop_assert!(shown.pixels().iter().all(|&level| level == 0 || level.abs_diff(200) <= 1));
        let lit: Vec<(u32, u32)> = (0..size)
            .flat_map(|y| (0..size).map(move |x| (x, y)))
            .zip(shown.pixels().chunks_exact(3))
            .filter(|(_, pixel)| pixel[0] > 0)
            .map(|(at, _)| at)
            .collect();
        let extent = |axis: fn(&(u32, u32)) -> u32| {
            let places = lit.iter().map(axis);
            places.clone().max().unwrap() + 1 - places.min().unwrap()
        };
        let (columns, rows) = (extent(|at| at.0), extent(|at| at.1));
        prop_assert_eq!(lit.len(), (columns * rows) as usize, "a full rectangle");
        let length = crop.length(size);
        match crop.resize {
            // Neither side is shorter than the length.
            ResizeMode::Shortest => prop_assert!(columns.min(rows) >= length.min(size)),
            ResizeMode::Squash => prop_assert_eq!([columns, rows], [length.min(size); 2]),
            ResizeMode::Longest => prop_assert_eq!(columns.max(rows), length.min(size)),
        }
    }

    #[test]
    fn a_square_looks_the_same_in_every_mode(crop in crop(), side in 1_u32..60, size in 1_u32..60) {
        let photo = golden("scene-161x113.png");
        let pixels = photo.pixels().chunks_exact(161 * 3).take(side as usize).flat_map(|row| &row[..side as usize * 3]);
        let square = RgbImage::new(side, side, pixels.copied().collect()).unwrap();
        let shown = ResizeMode::ALL.map(|resize| {
            render(&square, &View::of_center(CenterCrop { resize, ..crop }), size, Resample::Bicubic).unwrap()
        });
        prop_assert!(shown[0] == shown[1] && shown[1] == shown[2]);
    }
}

#[test]
fn a_very_narrow_image_is_one_pixel_wide_beside_its_padding() {
    let longest = CenterCrop { resize: ResizeMode::Longest, ..CenterCrop::shortest(1.0) };
    let shown = render(&gray(1, 3_000), &View::of_center(longest), 9, Resample::Bilinear).unwrap();
    let lit: Vec<usize> = (0..9).filter(|x| shown.pixels()[x * 3] > 0).collect();
    assert_eq!(lit, [4]);
}

#[test]
fn crops_in_words() {
    use CropRounding::{Floor, HalfEven};
    use ResizeMode::{Longest, Shortest, Squash};
    for (lengths, resize, offset, words, short) in [
        ((224, 256), Shortest, HalfEven, "shortest side to 256, center 224", "0.875"),
        ((224, 224), Shortest, Floor, "shortest side to 224, center 224", "1, rounding floor"),
        ((224, 224), Squash, Floor, "squash to 224", "1, squash, rounding floor"),
        ((288, 320), Squash, HalfEven, "squash to 320, center 288", "0.9, squash"),
        ((224, 112), Squash, HalfEven, "squash to 112, padded to 224", "2, squash"),
        ((224, 224), Longest, HalfEven, "longest side to 224, padded to a square", "1, longest"),
        ((224, 256), Longest, HalfEven, "longest side to 256, center 224", "0.875, longest"),
        ((224, 112), Shortest, HalfEven, "shortest side to 112, padded to 224", "2"),
    ] {
        let crop = CenterCrop::of_lengths(lengths.0, lengths.1, resize, offset);
        assert_eq!((crop.describe(lengths.0).as_str(), crop.to_string().as_str()), (words, short));
    }
}

const SQUASH: CenterCrop =
    CenterCrop { fraction: 1.0, resize: ResizeMode::Squash, rounding: CropRounding::Floor };

fn config(center: Option<CenterCrop>) -> CacheConfig {
    CacheConfig { center, samples: 3, shard_samples: 3, ..cache_config(2, 3) }
}

fn views(center: CenterCrop, key: &str) -> [View; 2] {
    [View::of_center(center), Policy::CropFlip.draw(7, key, 1, 50, 40)]
}

/// A cache of three samples whose view 0 is `center`.
fn write_cache(dir: &Path, center: CenterCrop) {
    let builder = CacheBuilder::open(dir, config(Some(center)), Existing::Refuse).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0]);
    let mut writer = builder.shard_writer(0).unwrap();
    for sample in 0..3 {
        let key = format!("c/{sample}");
        let record = CachedSample { key: &key, label: None, image: ImageStamp::new(key.as_bytes(), 50, 40) };
        writer.push(&record, &views(center, &key), &[1.0; 2], &[0.5; 4]).unwrap();
    }
    writer.finish().unwrap();
    builder.finalize(&[]).unwrap().unwrap();
}

fn columns(dir: &Path) -> Vec<String> {
    let file = fs::File::open(dir.join("views-00000.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    reader.schema().fields().iter().map(|field| field.name().clone()).collect()
}

#[test]
fn a_cache_returns_the_crop_that_was_written() {
    for resize in ResizeMode::ALL {
        for rounding in CropRounding::ALL {
            let center = CenterCrop { fraction: 0.9, resize, rounding };
            let dir = tempfile::tempdir().unwrap();
            write_cache(dir.path(), center);
            let cache = Cache::open(dir.path(), Verify::Full).unwrap();
            let default = center == CenterCrop::shortest(0.9);
            assert_eq!(cache.manifest().format_version, if default { 1 } else { 2 });
            assert_eq!(columns(dir.path()).contains(&"center_resize".to_owned()), !default);
            assert_eq!(cache.manifest().config.center, Some(center));
            let table = cache.views().unwrap();
            for sample in 0..3 {
                let expected = views(center, &table.keys[sample]);
                assert_eq!([*table.view(sample, 0), *table.view(sample, 1)], expected);
            }
        }
    }
}

/// Caches made before there were modes have this text, and the same crop makes it today.
#[test]
fn torchvisions_crop_is_recorded_as_before() {
    let json = |center| serde_json::to_string(&config(center)).unwrap();
    let around = |keys: &str| format!(r#""views":2,{keys},"policy":"moco-v2","seed":7"#);
    let whole = json(Some(CenterCrop::default()));
    assert!(whole.contains(&around(r#""center_fraction":0.875"#)), "{whole}");
    assert!(json(None).contains(&around(r#""center_fraction":null"#)));
    let keys = r#""center_fraction":1.0,"center_resize":"squash","center_rounding":"floor""#;
    assert!(json(Some(SQUASH)).contains(&around(keys)));
    for center in [None, Some(CenterCrop::default()), Some(SQUASH), Some(CenterCrop::shortest(0.1 + 0.2))] {
        assert_eq!(serde_json::from_str::<CacheConfig>(&json(center)).unwrap(), config(center));
    }
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), CenterCrop::default());
    let expected = "key view label width height content center_fraction crop_x crop_y crop_w crop_h flip brightness \
                    contrast saturation hue jitter_order grey blur_sigma norm embedding";
    assert_eq!(columns(dir.path()).join(" "), expected);
}

#[test]
fn a_cache_of_another_crop_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), SQUASH);
    for (center, what) in [
        (Some(CenterCrop { resize: ResizeMode::Longest, ..SQUASH }), "center_resize"),
        (Some(CenterCrop { rounding: CropRounding::HalfEven, ..SQUASH }), "center_rounding"),
        (Some(CenterCrop::shortest(1.0)), "center_resize"),
        (Some(CenterCrop { fraction: 0.5, ..SQUASH }), "center_fraction"),
    ] {
        match CacheBuilder::open(dir.path(), config(center), Existing::Resume) {
            Err(ArtifactError::Mismatch { what: named, .. }) => assert_eq!(named, what),
            other => unreachable!("{other:?}"),
        }
    }
    CacheBuilder::open(dir.path(), config(Some(SQUASH)), Existing::Resume).unwrap();
}

#[test]
fn views_with_another_geometry_than_the_caches_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, of_cache) in
        [("torchvision", Some(CenterCrop::default())), ("none", None), ("squash", Some(SQUASH))]
    {
        let builder = CacheBuilder::open(&dir.path().join(name), config(of_cache), Existing::Refuse).unwrap();
        let mut writer = builder.shard_writer(0).unwrap();
        let record = CachedSample { key: "a", label: None, image: ImageStamp::new(b"a", 50, 40) };
        let longest = CenterCrop { resize: ResizeMode::Longest, ..SQUASH };
        let error = writer.push(&record, &views(longest, "a"), &[1.0; 2], &[0.5; 4]).unwrap_err();
        assert!(error.to_string().contains("got 1, longest, rounding floor"), "{error}");
    }
}

/// Replaces one text column of a cache's only shard.
fn with_column(dir: &Path, name: &str, values: [Option<&str>; 6]) {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let path = dir.join("views-00000.parquet");
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let mut arrays = batch.columns().to_vec();
    let at = batch.schema().index_of(name).unwrap();
    arrays[at] = std::sync::Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let batch = RecordBatch::try_new(batch.schema(), arrays).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    fs::write(&path, &bytes).unwrap();
    reseal(dir, |manifest| {
        let file = &mut manifest["shards"][0]["file"];
        file["bytes"] = bytes.len().into();
        file["blake3"] = ContentHash::of(&bytes).to_string().into();
    });
}

/// Changes the manifest of a cache and seals it again.
fn reseal(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("cache.json");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut manifest);
    manifest.as_object_mut().unwrap().remove("blake3");
    write_json(&path, &manifest).unwrap();
}

#[test]
fn a_damaged_mode_is_an_error() {
    let good = |name| [Some(name), None, Some(name), None, Some(name), None];
    for (column, values, reason) in [
        ("center_resize", good("stretch"), "center_resize is not shortest"),
        ("center_resize", [None; 6], "center_resize is not shortest"),
        ("center_rounding", good("Floor"), "center_rounding is not half-even, floor or floor-length"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_cache(dir.path(), SQUASH);
        with_column(dir.path(), column, values);
        let error = Cache::open(dir.path(), Verify::Full).unwrap().views().unwrap_err().to_string();
        assert!(error.contains("cache row 0") && error.contains(reason), "{error}");
    }
    for (key, value, reason) in [
        ("center_resize", "stretch".into(), "unknown variant `stretch`"),
        ("center_rounding", 3.into(), "invalid type: integer `3`"),
        ("center_fraction", serde_json::Value::Null, "need a center_fraction"),
        ("center_fraction", 0.001.into(), "the manifest has a center crop out of range"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_cache(dir.path(), SQUASH);
        reseal(dir.path(), |manifest| manifest["config"][key] = value);
        let error = Cache::open(dir.path(), Verify::Full).unwrap_err().to_string();
        assert!(error.contains("cache.json") && error.contains(reason), "{error}");
    }
}
