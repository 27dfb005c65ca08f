//! The stream of batches, and images that are no longer what they were.

use std::path::Path;
use std::time::Duration;

use lgd_data::image::DecodeLimits;
use lgd_data::render::{Normalization, Resample};
use lgd_train::loader::batches::{Batch, StreamPlan, TrainingImages};
use lgd_train::loader::order::epoch_order;
use lgd_train::loader::pixels::InputFormat;
use lgd_train::run::{FailureKind, RunError};

use crate::fixture::{Images, VIEWS, World, picture};

const FORMAT: InputFormat =
    InputFormat { size: 16, resample: Resample::Bilinear, normalization: Normalization::CLIP };

fn open<'a>(world: &World, images: &'a Images) -> Result<TrainingImages<'a>, RunError> {
    TrainingImages::open(&world.cache, images, Path::new("images"), FORMAT, DecodeLimits::default())
}

fn batches(world: &World, images: &Images, plan: StreamPlan, threads: usize) -> Result<Vec<Batch>, RunError> {
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
fn batches_are_the_same_whatever_the_threads() {
    let world = World::new(18);
    // Some images dawdle, so that others overtake them.
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
            assert!(a.images == b.images, "pixels differ with {threads} threads");
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
        assert!(a.images == b.images);
    }
}

#[test]
fn fewer_samples_than_a_batch_are_refused() {
    let world = World::new(3);
    let error = batches(&world, &world.images, PLAN, 1).unwrap_err();
    assert!(matches!(error, RunError::TooFewSamples { samples: 3, batch: 4 }), "{error}");
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
    assert!(shifted.iter().zip(&plain).all(|(a, b)| a.images == b.images));

    images.samples[5].key = "moved.ppm".to_owned();
    let error = open(&world, &images).err().unwrap();
    let key = world.images.samples[4].key.clone();
    assert!(
        matches!(&error, RunError::MissingSample { key: named, missing: 1, .. } if *named == key),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&key) && text.contains("images images") && text.contains("cache"), "{text}");
    assert_eq!(error.kind(), FailureKind::Artefact);
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
        matches!(&error, RunError::ImageChanged { key: named, expected, .. } if named == key && (expected.width, expected.height) == size)
    );
    assert!(error.to_string().contains("changed since extraction"), "{error}");

    let broken = world.images.hooked(|index| (index == 2).then(|| b"no image".to_vec()));
    let error = batches(&world, &broken, PLAN, 2).unwrap_err();
    assert!(matches!(&error, RunError::Image { key: named, .. } if named == key), "{error}");
    assert_eq!(error.kind(), FailureKind::Artefact);
}
