//! The stream of batches, and images that have changed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lgd_data::cache::{Cache, Encoding, StoredFormat};
use lgd_data::image::DecodeLimits;
use lgd_data::manifest::Verify;
use lgd_data::render::{Normalization, Resample};
use lgd_train::error::FailureKind;
use lgd_train::loader::LoaderError;
use lgd_train::loader::batches::{Batch, StreamPlan, TrainingImages};
use lgd_train::loader::order::epoch_order;
use lgd_train::loader::origin::{StoredUse, ViewOrigin};
use lgd_train::loader::pixels::InputFormat;
use lgd_train::loader::targets::TargetSource;
use lgd_train::objective::{Inputs, TargetColumns};

use crate::fixture::{Images, VIEWS, World, originals, picture};

const FORMAT: InputFormat =
    InputFormat { size: 16, resample: Resample::Bilinear, normalization: Normalization::CLIP };

fn open<'a>(world: &World, images: &'a Images) -> Result<TrainingImages<'a>, LoaderError> {
    let originals = Some(originals(images));
    TrainingImages::open(&world.cache, originals, FORMAT, StoredUse::Fitting, DecodeLimits::default())
}

fn batches(
    world: &World,
    images: &Images,
    plan: StreamPlan,
    threads: usize,
) -> Result<Vec<Batch>, LoaderError> {
    open(world, images)?.stream(plan, threads, |stream| {
        let mut all = Vec::new();
        while let Some(batch) = stream.next_batch()? {
            all.push(batch);
        }
        Ok(all)
    })
}

const PLAN: StreamPlan = StreamPlan { batch: 4, epochs: 3, seed: 9, done: 0 };

#[test]
fn batches_come_with_the_targets_of_their_rows() {
    let world = World::new(18);
    let inputs = Inputs::open(&world.cache, None, None, &"seed".parse().unwrap()).unwrap();
    let wanted = TargetColumns { embedding: true, rows: true, ..Default::default() };
    let source = TargetSource::open(inputs, wanted, None).unwrap();
    let images = open(&world, &world.images).unwrap().with_targets(&source);
    let checked = images.stream(PLAN, 2, |stream| {
        let mut checked = 0;
        while let Some(batch) = stream.next_batch()? {
            let expected = source.embeddings(&batch.rows)?.to_vec2::<f32>().unwrap();
            assert_eq!(batch.targets.embedding.unwrap().to_vec2::<f32>().unwrap(), expected);
            let rows: Vec<u32> = batch.rows.iter().map(|&row| u32::try_from(row).unwrap()).collect();
            assert_eq!(batch.targets.rows.unwrap(), rows);
            checked += 1;
        }
        Ok::<_, LoaderError>(checked)
    });
    assert_eq!(checked.unwrap(), 12);
    let bare = batches(&world, &world.images, PLAN, 1).unwrap();
    assert!(bare[0].targets.embedding.is_none() && bare[0].targets.rows.is_none());
}

#[test]
fn batches_are_the_same_whatever_the_threads() {
    let world = World::new(18);
    // Some images are slow, so that others overtake them.
    let slow = world.images.hooked(|index| {
        std::thread::sleep(Duration::from_millis(if index % 4 == 0 { 3 } else { 0 }));
        None
    });
    let one = batches(&world, &world.images, PLAN, 1).unwrap();
    for threads in [2, 5] {
        let many = batches(&world, &slow, PLAN, threads).unwrap();
        assert_eq!(one.len(), many.len());
        for (a, b) in one.iter().zip(&many) {
            assert_eq!((a.epoch, a.ends_epoch, &a.rows), (b.epoch, b.ends_epoch, &b.rows));
            assert!(a.images[..] == b.images[..], "pixels differ with {threads} threads");
        }
    }
}

#[test]
fn epochs_follow_their_permutation_and_take_their_view() {
    let world = World::new(18);
    let all = batches(&world, &world.images, PLAN, 2).unwrap();
    // 18 samples make 4 batches of 4; 2 samples are dropped.
    assert_eq!(all.len(), 12);
    for epoch in 0..3u32 {
        let of_epoch = all.iter().filter(|batch| batch.epoch == epoch);
        let rows: Vec<usize> = of_epoch.flat_map(|batch| batch.rows.clone()).collect();
        let view = usize::from(epoch == 1);
        let expected: Vec<usize> = epoch_order(18, 9, epoch)
            .into_iter()
            .take(16)
            .map(|sample| sample * usize::from(VIEWS) + view)
            .collect();
        assert_eq!(rows, expected, "epoch {epoch}");
    }
    let ends: Vec<bool> = all.iter().map(|batch| batch.ends_epoch).collect();
    assert_eq!(ends, [false, false, false, true].repeat(3));
}

#[test]
fn a_stream_that_starts_later_is_the_tail_of_the_whole() {
    let world = World::new(18);
    let whole = batches(&world, &world.images, PLAN, 2).unwrap();
    let tail = batches(&world, &world.images, StreamPlan { done: 5, ..PLAN }, 2).unwrap();
    assert_eq!(tail.len(), 7);
    for (a, b) in whole[5..].iter().zip(&tail) {
        assert_eq!((a.epoch, a.ends_epoch, &a.rows), (b.epoch, b.ends_epoch, &b.rows));
        assert!(a.images[..] == b.images[..]);
    }
}

#[test]
fn fewer_samples_than_a_batch_are_refused() {
    let world = World::new(3);
    let error = batches(&world, &world.images, PLAN, 1).unwrap_err();
    assert!(matches!(error, LoaderError::TooFewSamples { samples: 3, batch: 4 }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    assert!(error.to_string().contains("\nhint: "));
}

#[test]
fn a_key_that_the_source_lacks_is_named_and_additions_do_not_matter() {
    let world = World::new(18);
    let mut images = world.images.clone();
    images.samples.insert(0, lgd_data::source::Sample { key: "a/new.ppm".to_owned(), label: Some(0) });
    images.bytes.insert(0, picture(7, 0, 0, (9, 9)));
    let (shifted, plain) =
        (batches(&world, &images, PLAN, 2).unwrap(), batches(&world, &world.images, PLAN, 2).unwrap());
    assert!(shifted.iter().zip(&plain).all(|(a, b)| a.images[..] == b.images[..]));

    images.samples[5].key = "moved.ppm".to_owned();
    let error = open(&world, &images).err().unwrap();
    let key = world.images.samples[4].key.clone();
    assert!(
        matches!(&error, LoaderError::MissingSample { key: named, missing: 1, .. } if *named == key),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&key) && text.contains("images images") && text.contains("cache"), "{text}");
    assert_eq!(error.kind(), FailureKind::Artifact);
}

#[test]
fn an_image_of_another_size_and_one_that_broke_end_the_run() {
    let world = World::new(18);
    let size = world.images.sizes[2];
    let other = picture(1, 2, 2, (size.0 + 1, size.1));
    let resized = world.images.hooked(move |index| (index == 2).then(|| other.clone()));
    let error = batches(&world, &resized, PLAN, 2).unwrap_err();
    let key = &world.images.samples[2].key;
    assert!(
        matches!(&error, LoaderError::ImageChanged { key: named, expected, .. } if named == key && (expected.width, expected.height) == size)
    );
    assert!(error.to_string().contains("changed since extraction"), "{error}");

    let broken = world.images.hooked(|index| (index == 2).then(|| b"no image".to_vec()));
    let error = batches(&world, &broken, PLAN, 2).unwrap_err();
    assert!(matches!(&error, LoaderError::Image { key: named, .. } if named == key), "{error}");
    assert_eq!(error.kind(), FailureKind::Artifact);
}

const RAW: StoredFormat = StoredFormat { size: 16, encoding: Encoding::Raw };

/// Batches of a world whose cache stores views, without its images.
fn stored_batches(world: &World, stored_use: StoredUse, threads: usize) -> Result<Vec<Batch>, LoaderError> {
    let opened = TrainingImages::open(&world.cache, None, FORMAT, stored_use, DecodeLimits::default())?;
    assert!(matches!(opened.origin(), ViewOrigin::Stored(_)));
    opened.stream(PLAN, threads, |stream| {
        let mut all = Vec::new();
        while let Some(batch) = stream.next_batch()? {
            all.push(batch);
        }
        Ok(all)
    })
}

#[test]
fn raw_stored_views_make_the_batches_that_the_images_make() {
    let (plain, stored) = (World::new(18), World::storing(18, Some(RAW)));
    let rendered = batches(&plain, &plain.images, PLAN, 2).unwrap();
    for threads in [1, 3] {
        let read = stored_batches(&stored, StoredUse::Fitting, threads).unwrap();
        assert_eq!(rendered.len(), read.len());
        for (a, b) in rendered.iter().zip(&read) {
            assert_eq!((a.epoch, a.ends_epoch, &a.rows), (b.epoch, b.ends_epoch, &b.rows));
            assert!(a.images[..] == b.images[..]);
        }
    }
    // If images are given and the stored views ignored, the images are read.
    let read = AtomicUsize::new(0);
    let counting = plain.images.hooked(move |_| {
        read.fetch_add(1, Ordering::Relaxed);
        Some(b"no image".to_vec())
    });
    let from = Some(originals(&counting));
    let ignoring =
        TrainingImages::open(&stored.cache, from, FORMAT, StoredUse::Ignored, DecodeLimits::default());
    let ignoring = ignoring.unwrap();
    assert_eq!(ignoring.origin(), ViewOrigin::Rendered { unused: Some(RAW) });
    let error = ignoring.stream(PLAN, 1, |stream| stream.next_batch().map(|_| ())).unwrap_err();
    assert!(matches!(error, LoaderError::Image { .. }), "{error}");
    assert!(batches(&stored, &counting, PLAN, 1).is_ok(), "no image is opened where views are stored");
}

#[test]
fn jpeg_stored_views_make_nearly_the_batches_that_the_images_make() {
    let format = StoredFormat { encoding: Encoding::Jpeg { quality: 90 }, ..RAW };
    let (plain, stored) = (World::new(18), World::storing(18, Some(format)));
    let rendered = batches(&plain, &plain.images, PLAN, 2).unwrap();
    let read = stored_batches(&stored, StoredUse::Fitting, 2).unwrap();
    for (a, b) in rendered.iter().zip(&read) {
        let error: f64 = a.images.iter().zip(&b.images[..]).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let mean = error / f64::from(u32::try_from(a.images.len()).unwrap());
        assert!(
            mean > 0.0 && mean < 12.0,
            "noise is the worst case for JPEG, but {mean} levels are too many"
        );
    }
}

#[test]
fn stored_views_of_another_size_need_the_images_and_say_so() {
    let world = World::storing(18, Some(StoredFormat { size: 24, ..RAW }));
    let error = stored_batches(&world, StoredUse::Fitting, 1).unwrap_err();
    assert!(matches!(error, LoaderError::NeedsImages { size: 16, .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    let text = error.to_string();
    assert!(text.contains("raw, 24 px") && text.contains("16 px"), "{text}");
    let rendered = batches(&world, &world.images, PLAN, 2).unwrap();
    let plain = batches(&World::new(18), &world.images, PLAN, 2).unwrap();
    assert!(rendered.iter().zip(&plain).all(|(a, b)| a.images[..] == b.images[..]));
    let error =
        TrainingImages::open(&World::new(3).cache, None, FORMAT, StoredUse::Fitting, DecodeLimits::default());
    assert!(error.err().unwrap().to_string().contains("stores no views"));
}

#[test]
fn a_damaged_stored_view_ends_the_run_with_its_row() {
    let mut world = World::storing(18, Some(RAW));
    let path = world.path("cache/pixels-00000.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let expected = stored_batches(&world, StoredUse::Fitting, 1).unwrap();
    // The first 32 rows are in this file. The pixels of one of them are changed.
    let needle = &expected[0].images[..64];
    let sample_in_first_shard = expected[0].rows[0] < 32;
    assert!(sample_in_first_shard);
    let at = bytes.windows(64).position(|window| window == needle).unwrap();
    bytes[at + 40] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = stored_batches(&world, StoredUse::Fitting, 2).unwrap_err().to_string();
    assert!(error.contains("pixels-00000.parquet was written to while it was in use"), "{error}");
    world.cache = Cache::open(&world.path("cache"), Verify::Full).unwrap();
    let error = stored_batches(&world, StoredUse::Fitting, 2).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("row {}", expected[0].rows[0])) && text.contains("pixels-00000"),
        "{text}"
    );
    assert_eq!(error.kind(), FailureKind::Artifact);
}

#[test]
fn the_memory_of_batches_is_recycled() {
    let world = World::new(18);
    let plan = StreamPlan { epochs: 20, ..PLAN };
    let (steps, addresses) = open(&world, &world.images)
        .unwrap()
        .stream(plan, 2, |stream| {
            let (mut steps, mut addresses) = (0, BTreeSet::new());
            while let Some(batch) = stream.next_batch()? {
                steps += 1;
                addresses.insert(batch.images.as_ptr());
            }
            Ok::<_, LoaderError>((steps, addresses))
        })
        .unwrap();
    assert_eq!(steps, 80);
    // Two batches that the workers may fill ahead, and the one that the step holds.
    assert!(addresses.len() <= 3, "{} blocks for 80 batches", addresses.len());
}
