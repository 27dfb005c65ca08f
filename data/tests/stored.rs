//! Stored views: rendered pixels are read back, however the shards were made, and damage is detected row by row.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::Path;

use lgd_data::ArtifactError;
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Encoding, ImageStamp, Partition, Reject, SampleRows,
    StoredFormat,
};
use lgd_data::image::{DecodeLimits, RgbImage, decode};
use lgd_data::manifest::{Existing, Verify, write_json};
use lgd_data::render::{RenderError, Resample, render};
use lgd_data::view::{Policy, View};
use lgd_testing::cache_config;

const DIM: usize = 4;
const SAMPLES: usize = 90;
const VIEWS: u16 = 2;
const SIZE: u32 = 24;

const RAW: StoredFormat = StoredFormat { size: SIZE, encoding: Encoding::Raw };
const JPEG: StoredFormat = StoredFormat { size: SIZE, encoding: Encoding::Jpeg { quality: 90 } };

fn config(stored_views: Option<StoredFormat>) -> CacheConfig {
    CacheConfig { stored_views, ..cache_config(DIM, SAMPLES) }
}

/// A photo, shifted by the sample number.
fn image(sample: usize) -> RgbImage {
    let photo = decode(include_bytes!("goldens/photo-500x375.jpg"), &DecodeLimits::default()).unwrap();
    let mut pixels = photo.pixels()[..120 * 500 * 3].to_vec();
    pixels.rotate_left(sample * 3 * 7);
    RgbImage::new(500, 120, pixels).unwrap()
}

fn views(sample: usize) -> [View; 2] {
    [View::center(), Policy::MocoV2.draw(7, &format!("c/{sample}"), 1, 500, 120)]
}

fn rendered(sample: usize) -> Vec<RgbImage> {
    let image = image(sample);
    views(sample).iter().map(|view| render(&image, view, SIZE, Resample::Bicubic).unwrap()).collect()
}

fn write_shard(builder: &CacheBuilder, shard: usize) {
    let format = builder.config().stored_views.unwrap();
    let mut writer = builder.shard_writer(shard).unwrap();
    for sample in builder.sample_range(shard) {
        let key = format!("c/{sample}");
        let stamp = ImageStamp::new(key.as_bytes(), 500, 120);
        let cached = CachedSample { key: &key, label: None, image: stamp };
        let stored: Vec<Vec<u8>> =
            rendered(sample).into_iter().map(|view| format.encode(view).unwrap()).collect();
        let embeddings = [0.5; DIM * VIEWS as usize];
        let error = writer.push(&cached, &views(sample), &[1.0; 2], &embeddings).unwrap_err();
        assert!(error.to_string().contains("2 stored views, got 0"), "{error}");
        let views = views(sample);
        let rows = SampleRows {
            views: &views,
            norms: &[1.0; 2],
            embeddings: &embeddings,
            stored: &stored,
            ..SampleRows::default()
        };
        writer.push_rows(&cached, &rows).unwrap();
    }
    writer.finish().unwrap();
}

fn write_cache(dir: &Path, format: StoredFormat, parts: usize) -> Cache {
    for index in (0..parts).rev() {
        let builder = CacheBuilder::open(dir, config(Some(format)), Existing::Resume).unwrap();
        for shard in builder.missing_shards(Partition::new(index, parts).unwrap()).unwrap() {
            write_shard(&builder, shard);
        }
        builder.finalize(&[]).unwrap();
    }
    Cache::open(dir, Verify::Full).unwrap()
}

const BYTES: usize = (SIZE * SIZE * 3) as usize;

#[test]
fn raw_views_come_back_bit_for_bit_and_jpeg_views_nearly() {
    for format in [RAW, JPEG] {
        let dir = tempfile::tempdir().unwrap();
        let cache = write_cache(dir.path(), format, 1);
        cache.verify_stored_views().unwrap();
        let stored = cache.stored_views().unwrap().unwrap();
        assert_eq!((stored.rows(), stored.format()), (SAMPLES * 2, format));
        let mut out = vec![0; BYTES];
        for sample in (0..SAMPLES).rev() {
            for (view, expected) in rendered(sample).iter().enumerate() {
                out.fill(0);
                stored.read_into(sample * 2 + view, &mut out).unwrap();
                let errors =
                    out.iter().zip(expected.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
                let mean = errors.sum::<f64>() / BYTES as f64;
                // A mean squared error of 65 is 30 dB.
                assert!(if format == RAW { mean == 0.0 } else { mean < 65.0 }, "{format}: {mean}");
            }
        }
        let (_, bytes) = cache.manifest().bytes();
        let raw = (SAMPLES * 2 * BYTES) as u64;
        assert!(bytes > raw / 20 && bytes < raw + raw / 10, "{format}: {bytes} of {raw} bytes");
        let short = stored.read_into(0, &mut out[1..]).unwrap_err();
        assert!(short.to_string().contains("1728"), "{short}");
    }
}

#[test]
fn parts_make_the_same_bytes_and_a_resumed_cache_must_store_the_same() {
    for format in [RAW, JPEG] {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_cache(whole.path(), format, 1);
        write_cache(parts.path(), format, 3);
        let mut names = 0;
        for entry in fs::read_dir(whole.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let bytes = |dir: &Path| fs::read(dir.join(&name)).unwrap();
            assert!(bytes(whole.path()) == bytes(parts.path()), "{}", name.display());
            names += 1;
        }
        assert_eq!(names, 3 + 3 + 2);
        for (other, part) in [(None, "null"), (Some(StoredFormat { size: 25, ..format }), "25")] {
            let error = CacheBuilder::open(whole.path(), config(other), Existing::Resume).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("stored_views") && text.contains(part), "{text}");
        }
        CacheBuilder::open(whole.path(), config(None), Existing::Overwrite).unwrap();
        let left: Vec<_> =
            fs::read_dir(whole.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["extract.json"]);
    }
}

#[test]
fn a_cache_that_was_begun_without_stored_views_does_not_resume_with_them() {
    let dir = tempfile::tempdir().unwrap();
    CacheBuilder::open(dir.path(), config(None), Existing::Refuse).unwrap();
    let error = CacheBuilder::open(dir.path(), config(Some(RAW)), Existing::Resume).unwrap_err();
    assert!(matches!(&error, ArtifactError::Mismatch { what, .. } if what == "stored_views"), "{error}");
}

#[test]
fn a_shard_whose_stored_views_were_cut_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), config(Some(RAW)), Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        write_shard(&builder, shard);
    }
    fs::write(dir.path().join("pixels-00001.parquet"), b"cut").unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1]);
    fs::remove_file(dir.path().join("pixels-00002.parquet")).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1, 2]);
}

#[test]
fn a_flipped_byte_is_found_by_verification_and_never_becomes_pixels() {
    for format in [RAW, JPEG] {
        let dir = tempfile::tempdir().unwrap();
        let cache = write_cache(dir.path(), format, 1);
        let intact = cache.stored_views().unwrap().unwrap();
        let mut expected = vec![0; BYTES * intact.rows()];
        for (row, out) in expected.chunks_exact_mut(BYTES).enumerate() {
            intact.read_into(row, out).unwrap();
        }
        let path = dir.path().join("pixels-00001.parquet");
        let whole = fs::read(&path).unwrap();
        let mut refused = 0;
        for at in (0..whole.len()).step_by(whole.len() / 150).chain(whole.len() - 60..whole.len()) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            let cache = Cache::open(dir.path(), Verify::Full).unwrap();
            assert!(matches!(cache.verify_stored_views(), Err(ArtifactError::Hash { .. })), "{at}");
            let Ok(stored) = cache.stored_views() else {
                refused += 1;
                continue;
            };
            let stored = stored.unwrap();
            let mut out = vec![0; BYTES];
            for (row, expected) in expected.chunks_exact(BYTES).enumerate() {
                match stored.read_into(row, &mut out) {
                    Ok(()) => {
                        assert!(out == expected, "{format}: byte {at}: row {row} is not what was written")
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().contains("pixels-00001.parquet"), "{error}");
                    }
                }
            }
        }
        assert!(refused > 150, "{format}: {refused}");
        fs::write(&path, &whole[1..]).unwrap();
        // Opening the cache succeeds, because it does not need the stored views.
        let cache = Cache::open(dir.path(), Verify::Full).unwrap();
        assert!(matches!(cache.stored_views(), Err(ArtifactError::Length { .. })));
        fs::remove_file(&path).unwrap();
        let error = cache.stored_views().unwrap_err().to_string();
        for part in [
            "pixels-00001.parquet is missing: the cache's stored views",
            "hint: only training without the images needs them",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(matches!(cache.verify_stored_views(), Err(ArtifactError::Missing { .. })));
    }
}

#[test]
fn a_view_of_another_size_and_impossible_formats_are_refused() {
    let view = RgbImage::new(8, 8, vec![0; 192]).unwrap();
    assert!(matches!(RAW.encode(view), Err(RenderError::Length { got: 192, .. })));
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), JPEG, 1);
    let manifest = fs::read_to_string(dir.path().join("cache.json")).unwrap();
    assert!(
        manifest.contains("\"encoding\": \"jpeg\"") && manifest.contains("\"quality\": 90"),
        "{manifest}"
    );
    let huge = StoredFormat { size: 5_000, encoding: Encoding::Raw };
    assert_eq!(huge.fixed_bytes(), None);
    let builder = CacheBuilder::open(&dir.path().join("huge"), config(Some(huge)), Existing::Refuse).unwrap();
    assert!(builder.shard_writer(0).is_err());
}

#[test]
fn rows_larger_than_a_page_and_more_than_a_batch_are_placed_right() {
    // 700 x 700 x 3 bytes: each row is larger than a page. There are more rows than the writer buffers.
    let format = StoredFormat { size: 700, encoding: Encoding::Raw };
    let dir = tempfile::tempdir().unwrap();
    let wide = CacheConfig { samples: 4, ..config(Some(format)) };
    let builder = CacheBuilder::open(dir.path(), wide, Existing::Refuse).unwrap();
    let mut writer = builder.shard_writer(0).unwrap();
    let row = |row: usize| vec![u8::try_from(row * 31).unwrap(); 700 * 700 * 3];
    for sample in 0..4 {
        let key = format!("c/{sample}");
        let cached = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 500, 120) };
        let stored = [row(sample * 2), row(sample * 2 + 1)];
        let rows = SampleRows {
            views: &views(sample),
            norms: &[1.0; 2],
            embeddings: &[0.5; 8],
            stored: &stored,
            ..SampleRows::default()
        };
        writer.push_rows(&cached, &rows).unwrap();
    }
    writer.finish().unwrap();
    builder.finalize(&[]).unwrap().unwrap();
    let stored = Cache::open(dir.path(), Verify::Full).unwrap().stored_views().unwrap().unwrap();
    let mut out = vec![0; 700 * 700 * 3];
    for at in [7, 0, 3] {
        stored.read_into(at, &mut out).unwrap();
        assert!(out == row(at), "row {at}");
    }
}

#[test]
fn a_shard_of_rejects_alone_is_read_with_the_others() {
    for format in [RAW, JPEG] {
        let dir = tempfile::tempdir().unwrap();
        let builder = CacheBuilder::open(dir.path(), config(Some(format)), Existing::Refuse).unwrap();
        write_shard(&builder, 0);
        let mut writer = builder.shard_writer(1).unwrap();
        for sample in builder.sample_range(1) {
            let (reason, detail) = ("corrupt".to_owned(), "test".to_owned());
            writer.reject(Reject { key: format!("c/{sample}"), reason, detail });
        }
        writer.finish().unwrap();
        write_shard(&builder, 2);
        builder.finalize(&[]).unwrap().unwrap();
        let cache = Cache::open(dir.path(), Verify::Full).unwrap();
        cache.verify_stored_views().unwrap();
        assert_eq!(cache.embeddings().not_in_place(), &[]);
        let stored = cache.stored_views().unwrap().unwrap();
        assert_eq!(stored.rows(), 2 * 50);
        let mut out = vec![0; BYTES];
        for (position, sample) in (0..40).chain(80..90).enumerate() {
            for (view, expected) in rendered(sample).iter().enumerate() {
                stored.read_into(position * 2 + view, &mut out).unwrap();
                assert!(format == JPEG || out == expected.pixels(), "sample {sample}, view {view}");
            }
        }
    }
}

/// Number of files below `dir` that this process has open.
#[cfg(target_os = "linux")]
fn open_below(dir: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let files = links.filter_map(|link| fs::read_link(link.path()).ok());
    files.filter(|file| file.starts_with(dir)).count()
}

#[test]
#[cfg(target_os = "linux")]
fn an_opened_cache_holds_no_file_open_until_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let cache = write_cache(&root, RAW, 1);
    let stored = cache.stored_views().unwrap().unwrap();
    assert_eq!(open_below(&root), 0, "1,252 shards would be more than a process may have open");
    let mut out = vec![0; BYTES];
    for row in [0, 1, 2 * SAMPLES - 1] {
        stored.read_into(row, &mut out).unwrap();
    }
    assert_eq!(open_below(&root), 2);
}

/// Swaps the contents of two files.
fn swap(a: &Path, b: &Path) {
    let (of_a, of_b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    fs::write(a, of_b).unwrap();
    fs::write(b, of_a).unwrap();
}

#[test]
fn rows_of_another_shard_cache_or_position_are_refused() {
    for format in [RAW, JPEG] {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_cache(dir.path(), format, 1);
        let builder = CacheBuilder::open(
            other.path(),
            CacheConfig { seed: 8, ..config(Some(format)) },
            Existing::Refuse,
        )
        .unwrap();
        builder
            .missing_shards(Partition::WHOLE)
            .unwrap()
            .into_iter()
            .for_each(|shard| write_shard(&builder, shard));
        assert_eq!(builder.finalize(&[]).unwrap().unwrap().format_version, 3);
        let [first, second] = [0, 1].map(|shard| dir.path().join(format!("pixels-{shard:05}.parquet")));
        for (a, b) in [(&first, &second), (&first, &other.path().join("pixels-00000.parquet"))] {
            swap(a, b);
            if fs::metadata(a).unwrap().len() == fs::metadata(b).unwrap().len() {
                let stored = Cache::open(dir.path(), Verify::Full).unwrap().stored_views().unwrap().unwrap();
                let error = stored.read_into(0, &mut vec![0; BYTES]).unwrap_err().to_string();
                assert!(error.contains("not those that were written for this row of this cache"), "{error}");
            } else {
                let error = Cache::open(dir.path(), Verify::Full).unwrap().stored_views().unwrap_err();
                assert!(matches!(error, ArtifactError::Length { .. }), "{error}");
            }
            swap(a, b);
        }
        let stored = Cache::open(dir.path(), Verify::Full).unwrap().stored_views().unwrap().unwrap();
        stored.read_into(0, &mut vec![0; BYTES]).unwrap();
    }
}

#[test]
fn older_caches_are_finished_and_read_and_hashed_before_use() {
    let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = serde_json::json!({ "format_version": 1, "config": config(Some(RAW)) });
    write_json(&dir.path().join("extract.json"), &plan).unwrap();
    let cache = write_cache(dir.path(), RAW, 2);
    assert_eq!((cache.manifest().format_version, cache.manifest().config.row_key), (1, None));
    let views = cache.stored_views().unwrap().unwrap();
    let newer = write_cache(new.path(), RAW, 1).stored_views().unwrap().unwrap();
    let (mut a, mut b) = (vec![0; BYTES], vec![1; BYTES]);
    for row in 0..views.rows() {
        views.read_into(row, &mut a).unwrap();
        newer.read_into(row, &mut b).unwrap();
        assert!(a == b, "row {row}");
    }
    swap(&dir.path().join("pixels-00000.parquet"), &dir.path().join("pixels-00001.parquet"));
    let error = Cache::open(dir.path(), Verify::Length).unwrap().stored_views().unwrap_err();
    assert!(matches!(error, ArtifactError::Hash { .. } | ArtifactError::Length { .. }), "{error}");
}
