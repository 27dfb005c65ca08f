//! The pipeline: identical bytes for any threads, partitions and interruptions; rejects; failures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lgd_data::cache::{Cache, CacheBuilder, CacheManifest, Encoding, ImageStamp, Partition, StoredFormat};
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::source::{ImageSource, Listing, SourceError};
use lgd_data::view::{CenterCrop, Crop, CropRounding, Policy, ResizeMode};
use lgd_extract::pipeline::ViewPlan;
use lgd_extract::{EncoderOptions, ExtractError, ExtractOptions, Extractor};
use lgd_testing::MemorySource;
use tempfile::TempDir;

use crate::common::{image_teacher, ppm, runtime};

pub const PLAN: ViewPlan = ViewPlan {
    views: 3,
    center: Some(CenterCrop::shortest(0.875)),
    policy: Policy::MocoV2,
    seed: 11,
    stored: None,
};

fn extractor(model: &str, batch: usize, threads: usize) -> Extractor {
    let options = ExtractOptions {
        encoder: EncoderOptions { batch: Some(batch), threads, ..EncoderOptions::default() },
        decode_threads: threads,
        read_threads: threads,
        ..ExtractOptions::default()
    };
    Extractor::open(&image_teacher(model, "").unwrap(), &runtime(), options).unwrap()
}

/// Colored gradients of several sizes. Files selected by `broken` are not images.
pub fn images(count: usize, broken: impl Fn(usize) -> bool) -> MemorySource {
    let image = |i: usize| {
        if broken(i) {
            return b"not an image".to_vec();
        }
        ppm(20 + i % 17, 30 - i % 11, |x, y| {
            [(i * 13 + x * 5) % 251, (i * 7 + y * 9) % 241, (x * y + i) % 239].map(byte)
        })
    };
    MemorySource::new((0..count).map(|i| (format!("{i:04}.ppm"), image(i))))
}

pub fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap()
}

/// Makes a cache of `source` in `dir` that stores its views, in `parts` parts.
fn stored_cache(
    extractor: &mut Extractor,
    source: &dyn ImageSource,
    format: StoredFormat,
    parts: usize,
    dir: &Path,
) -> Cache {
    let plan = ViewPlan { stored: Some(format), ..PLAN };
    for part in (0..parts).rev() {
        let config = extractor.cache_config(source, &plan, 16);
        let builder = CacheBuilder::open(dir, config, Existing::Resume).unwrap();
        extractor.extract(source, &builder, Partition::new(part, parts).unwrap(), &Job::new()).unwrap();
        builder.finalize(&[]).unwrap();
    }
    Cache::open(dir, Verify::Full).unwrap()
}

fn builder(extractor: &Extractor, source: &dyn ImageSource, shard: usize, dir: &Path) -> CacheBuilder {
    CacheBuilder::open(dir, extractor.cache_config(source, &PLAN, shard), Existing::Resume).unwrap()
}

/// Runs each part and finalizes; returns the files' names and contents.
fn files(
    extractor: &mut Extractor,
    source: &dyn ImageSource,
    shard: usize,
    parts: usize,
) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    for part in (0..parts).rev() {
        let builder = builder(extractor, source, shard, dir.path());
        extractor.extract(source, &builder, Partition::new(part, parts).unwrap(), &Job::new()).unwrap();
    }
    finalize(extractor, source, shard, dir.path());
    contents(dir.path())
}

fn finalize(extractor: &Extractor, source: &dyn ImageSource, shard: usize, dir: &Path) -> CacheManifest {
    builder(extractor, source, shard, dir).finalize(&[]).unwrap().unwrap()
}

pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect()
}

pub fn assert_same(got: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, case: &str) {
    let names: Vec<_> =
        got.keys().chain(expected.keys()).filter(|name| got.get(*name) != expected.get(*name)).collect();
    assert!(names.is_empty(), "{case}: {names:?} differ");
}

#[test]
fn threads_and_partitions_do_not_change_a_byte() {
    let source = images(83, |i| i % 10 == 3);
    let reference = files(&mut extractor("conv", 8, 1), &source, 16, 1);
    assert_eq!(reference.len(), 6 + 2);
    for (threads, parts) in [(2, 1), (5, 1), (1, 2), (3, 4), (2, 9)] {
        let other = files(&mut extractor("conv", 8, threads), &source, 16, parts);
        assert_same(&other, &reference, &format!("{threads} threads, {parts} parts"));
    }
}

#[test]
fn rows_are_sample_major_and_hold_the_stored_views() {
    let source = images(10, |_| false);
    let mut extractor = extractor("conv", 4, 2);
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(&extractor, &source, 8, dir.path());
    let job = Job::new();
    let summary = extractor.extract(&source, &builder, Partition::WHOLE, &job).unwrap();
    assert_eq!((summary.samples, summary.views, summary.rejected, summary.shards), (10, 30, 0, 2));
    assert_eq!((job.total(), job.done(), job.rejected()), (10, 10, 0));
    builder.finalize(&[]).unwrap().unwrap();

    let cache = Cache::open(dir.path(), Verify::Full).unwrap();
    assert_eq!((cache.rows(), cache.dim(), cache.views_per_sample()), (30, 24, 3));
    let views = cache.views().unwrap();
    for sample in 0..10 {
        let key = format!("{sample:04}.ppm");
        assert_eq!(views.keys[sample], key);
        let ImageStamp { width, height, .. } = views.images[sample];
        assert_eq!(views.view(sample, 0).crop, Crop::Center(CenterCrop::shortest(0.875)));
        assert_eq!(*views.view(sample, 2), Policy::MocoV2.draw(11, &key, 2, width, height));
    }
}

#[test]
fn view_0_is_the_crop_of_the_plan_for_the_teacher_and_in_stored_pixels() {
    use lgd_data::image::{DecodeLimits, decode};
    use lgd_data::render::render;
    let source = images(5, |_| false);
    let squash =
        CenterCrop { resize: ResizeMode::Squash, rounding: CropRounding::Floor, ..CenterCrop::shortest(1.0) };
    let stored = StoredFormat { size: 12, encoding: Encoding::Raw };
    let embedded = |center: CenterCrop| {
        let mut extractor = extractor("conv", 5, 1);
        let dir = tempfile::tempdir().unwrap();
        let plan = ViewPlan { views: 1, center: Some(center), stored: Some(stored), ..PLAN };
        let config = extractor.cache_config(&source, &plan, 5);
        let builder = CacheBuilder::open(dir.path(), config, Existing::Refuse).unwrap();
        extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
        builder.finalize(&[]).unwrap().unwrap();
        let cache = Cache::open(dir.path(), Verify::Full).unwrap();
        let (views, pixels) = (cache.views().unwrap(), cache.stored_views().unwrap().unwrap());
        let mut out = vec![0; stored.pixel_bytes().unwrap()];
        for sample in 0..5 {
            assert_eq!(views.view(sample, 0).crop, Crop::Center(center));
            let image = decode(&source.bytes[sample], &DecodeLimits::default()).unwrap();
            let resample = extractor.encoder().resample();
            let expected = render(&image, views.view(sample, 0), stored.size, resample).unwrap();
            pixels.read_into(views.row(sample, 0), &mut out).unwrap();
            assert_eq!(out, expected.pixels());
        }
        let mut embeddings = vec![0.0; 5 * cache.dim()];
        cache.embeddings().copy_rows(0..5, &mut embeddings);
        embeddings
    };
    assert_ne!(embedded(squash), embedded(CenterCrop::shortest(1.0)), "the teacher sees another view");
}

#[test]
fn embeddings_are_those_of_the_encoder_on_the_stored_views() {
    use lgd_data::image::{DecodeLimits, decode};
    use lgd_data::render::render;
    let source = images(7, |i| i == 2);
    let mut extractor = extractor("conv", 4, 2);
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(&extractor, &source, 7, dir.path());
    extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    builder.finalize(&[]).unwrap().unwrap();
    let cache = Cache::open(dir.path(), Verify::Full).unwrap();
    let views = cache.views().unwrap();

    let options = EncoderOptions { batch: Some(4), ..EncoderOptions::default() };
    let mut encoder = image_teacher("conv", "").unwrap().image_encoder(&runtime(), &options).unwrap();
    let mut row = vec![0.0; cache.dim()];
    for (position, sample) in [0, 1, 3, 4, 5, 6].into_iter().enumerate() {
        assert_eq!(views.keys[position], source.samples()[sample].key);
        let image = decode(&source.read(sample, u64::MAX).unwrap(), &DecodeLimits::default()).unwrap();
        for view in 0..3 {
            let shown =
                render(&image, views.view(position, view), encoder.size(), encoder.resample()).unwrap();
            let mut pixels = encoder.new_batch();
            pixels.normalize(0, &shown, encoder.normalization(), encoder.layout(), &mut Vec::new()).unwrap();
            let embeddings = encoder.encode(&pixels, 1).unwrap();
            cache.embeddings().copy_row(views.row(position, view), &mut row);
            let rounded: Vec<f32> =
                embeddings.row(0).iter().map(|&value| half::f16::from_f32(value).to_f32()).collect();
            assert_eq!(row, rounded, "sample {sample}, view {view}");
        }
    }
}

#[test]
fn bad_samples_are_rejected_once_and_the_run_goes_on() {
    for (model, reason) in [("nan", "nan-embedding"), ("zero", "zero-embedding")] {
        // Every fifth image is dark; every seventh file is not an image.
        let image = |i: usize| match i {
            _ if i % 7 == 6 => b"junk".to_vec(),
            _ if i % 5 == 4 => ppm(9, 9, |_, _| [3, 2, 1]),
            _ => ppm(9, 9, |x, y| [200, 210, byte(200 + x + y)]),
        };
        let source = MemorySource::new((0..40).map(|i| (format!("{i:02}"), image(i))));
        let mut extractor = extractor(model, 8, 2);
        let dir = tempfile::tempdir().unwrap();
        let builder = builder(&extractor, &source, 16, dir.path());
        let job = Job::new();
        let summary = extractor.extract(&source, &builder, Partition::WHOLE, &job).unwrap();
        let bad: Vec<usize> = (0..40).filter(|i| i % 7 == 6 || i % 5 == 4).collect();
        assert_eq!((summary.rejected, summary.samples), (bad.len() as u64, 40 - bad.len() as u64));
        assert_eq!((job.done(), job.rejected()), (40, bad.len() as u64));

        let manifest = builder.finalize(&[]).unwrap().unwrap();
        assert_eq!((manifest.rejected, manifest.rows), (bad.len(), 3 * (40 - bad.len())));
        let lines = std::fs::read_to_string(dir.path().join("rejects.jsonl")).unwrap();
        for (line, i) in lines.lines().zip(bad) {
            assert!(line.contains(&format!("\"{i:02}\"")), "{line}");
            assert_eq!(line.contains(reason), i % 7 != 6, "{line}");
        }
    }
}

#[test]
fn a_source_of_nothing_but_rejects_makes_an_empty_cache() {
    let source = images(5, |_| true);
    let mut extractor = extractor("conv", 4, 2);
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(&extractor, &source, 4, dir.path());
    let summary = extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    assert_eq!((summary.samples, summary.rejected, summary.shards), (0, 5, 2));
    assert_eq!(builder.finalize(&[]).unwrap().unwrap().rows, 0);
}

/// Interrupts the job after a given number of reads.
pub struct Interrupting {
    inner: MemorySource,
    job: Arc<Job>,
    after: usize,
    reads: AtomicUsize,
}

impl Interrupting {
    pub fn new(inner: MemorySource, job: &Arc<Job>, after: usize) -> Self {
        Self { inner, job: Arc::clone(job), after, reads: AtomicUsize::new(0) }
    }
}

impl ImageSource for Interrupting {
    fn listing(&self) -> &Listing {
        self.inner.listing()
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.after {
            self.job.interrupt();
        }
        self.inner.read(index, max_bytes)
    }
}

/// Fails from a given sample on, like a network share that has disconnected.
pub struct Failing {
    pub inner: MemorySource,
    pub from: usize,
}

impl ImageSource for Failing {
    fn listing(&self) -> &Listing {
        self.inner.listing()
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        if index >= self.from {
            let path = self.samples()[index].key.clone().into();
            return Err(SourceError::Io { path, source: std::io::ErrorKind::StaleNetworkFileHandle.into() });
        }
        self.inner.read(index, max_bytes)
    }
}

#[test]
fn a_storage_that_fails_ends_the_run_and_rejects_nothing() {
    let broken = |i: usize| i % 9 == 5;
    let source = images(90, broken);
    let reference = files(&mut extractor("conv", 8, 2), &source, 12, 1);
    for (from, complete) in [(0, 0), (31, 2), (89, 7)] {
        let dir = tempfile::tempdir().unwrap();
        let failing = Failing { inner: images(90, broken), from };
        let mut extractor = extractor("conv", 8, 2);
        let first = builder(&extractor, &failing, 12, dir.path());
        let error = extractor.extract(&failing, &first, Partition::WHOLE, &Job::new()).unwrap_err();
        assert!(matches!(error, ExtractError::Storage { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{from:04}.ppm")), "{error}");
        let missing = first.missing_shards(Partition::WHOLE).unwrap();
        assert_eq!(missing, (complete..8).collect::<Vec<_>>(), "failed at {from}");
        assert!(first.finalize(&[]).unwrap().is_none());
        extractor.extract(&source, &first, Partition::WHOLE, &Job::new()).unwrap();
        drop(first);
        finalize(&extractor, &source, 12, dir.path());
        assert_same(&contents(dir.path()), &reference, &format!("failed at {from}"));
    }
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let broken = |i: usize| i % 9 == 5;
    let source = images(90, broken);
    let reference = files(&mut extractor("conv", 8, 2), &source, 12, 1);
    for after in [0, 1, 40, 70] {
        let dir = tempfile::tempdir().unwrap();
        let job = Arc::new(Job::new());
        let cut = Interrupting::new(images(90, broken), &job, after);
        let mut extractor = extractor("conv", 8, 2);
        let first = builder(&extractor, &cut, 12, dir.path());
        let error = extractor.extract(&cut, &first, Partition::WHOLE, &job).unwrap_err();
        assert!(error.is_interrupted(), "{error}");
        assert!(first.finalize(&[]).unwrap().is_none());
        assert!(!contents(dir.path()).keys().any(|name| name.ends_with(".tmp")));

        let missing = first.missing_shards(Partition::WHOLE).unwrap().len();
        let summary = extractor.extract(&source, &first, Partition::WHOLE, &Job::new()).unwrap();
        assert_eq!(summary.shards, missing);
        drop(first);
        finalize(&extractor, &source, 12, dir.path());
        assert_same(&contents(dir.path()), &reference, &format!("interrupted after {after}"));
    }
}

#[test]
fn a_finished_cache_has_nothing_to_do() {
    let source = images(9, |_| false);
    let mut extractor = extractor("conv", 4, 1);
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(&extractor, &source, 4, dir.path());
    extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    let again = extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    assert_eq!((again.samples, again.shards), (0, 0));
}

#[test]
fn a_cache_begun_otherwise_is_refused() {
    let source = images(9, |_| false);
    let dir = tempfile::tempdir().unwrap();
    let begun = extractor("conv", 4, 1);
    let builder = builder(&begun, &source, 4, dir.path());
    for (mut other, samples, what) in [
        (extractor("conv", 8, 1), 9, "batch"),
        (extractor("linear", 4, 1), 9, "image model"),
        (extractor("conv", 4, 1), 8, "listing"),
    ] {
        let source = images(samples, |_| false);
        let error = other.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap_err();
        assert!(
            matches!(&error, ExtractError::CacheMismatch { what: found, .. } if *found == what),
            "{error}"
        );
    }
}

#[test]
fn a_folder_that_vanishes_ends_the_run_with_its_name() {
    let source = images(40, |_| false);
    let mut extractor = extractor("conv", 4, 2);
    let dir: TempDir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let builder = builder(&extractor, &source, 4, &path);
    std::fs::remove_dir_all(&path).unwrap();
    let error = extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap_err();
    assert!(matches!(error, ExtractError::Artifact(_)) && error.to_string().contains("cache"), "{error}");
}

#[test]
fn shards_are_aligned_to_whole_batches() {
    let extractor = extractor("conv", 8, 1);
    assert_eq!(extractor.aligned_shard_samples(1000, 3), 1000);
    assert_eq!(extractor.aligned_shard_samples(1001, 3), 1008);
    assert_eq!(extractor.aligned_shard_samples(1001, 4), 1002);
    assert_eq!(extractor.aligned_shard_samples(0, 16), 1);
}

#[test]
fn stored_views_are_what_rendering_gives_and_change_nothing_else() {
    use lgd_data::image::{DecodeLimits, decode};
    use lgd_data::render::render;
    let source = images(41, |i| i % 10 == 3);
    let plain = files(&mut extractor("conv", 8, 2), &source, 16, 1);
    let teacher = extractor("conv", 8, 2).encoder().size();
    for size in [teacher, 20, 48] {
        let format = StoredFormat { size, encoding: Encoding::Raw };
        let mut extractor = extractor("conv", 8, 2);
        let dir = tempfile::tempdir().unwrap();
        let cache = stored_cache(&mut extractor, &source, format, 1, dir.path());
        cache.verify_stored_views().unwrap();
        for (name, bytes) in plain.iter().filter(|(name, _)| name.starts_with("views-")) {
            assert!(std::fs::read(dir.path().join(name)).unwrap() == *bytes, "{name} at {size} px");
        }
        let (views, stored) = (cache.views().unwrap(), cache.stored_views().unwrap().unwrap());
        let mut out = vec![0; format.pixel_bytes().unwrap()];
        for (position, sample) in (0..41).filter(|i| i % 10 != 3).enumerate() {
            let image = decode(&source.read(sample, u64::MAX).unwrap(), &DecodeLimits::default()).unwrap();
            for view in 0..3 {
                let expected =
                    render(&image, views.view(position, view), size, extractor.encoder().resample()).unwrap();
                stored.read_into(views.row(position, view), &mut out).unwrap();
                assert!(out == expected.pixels(), "sample {sample}, view {view}, {size} px");
            }
        }
    }
}

#[test]
fn threads_and_partitions_do_not_change_a_byte_of_stored_views() {
    let source = images(83, |i| i % 10 == 3);
    for encoding in [Encoding::Raw, Encoding::Jpeg { quality: 90 }] {
        let format = StoredFormat { size: 24, encoding };
        let whole = tempfile::tempdir().unwrap();
        stored_cache(&mut extractor("conv", 8, 1), &source, format, 1, whole.path());
        let reference = contents(whole.path());
        assert_eq!(reference.len(), 2 * 6 + 2);
        for (threads, parts) in [(2, 1), (3, 4)] {
            let dir = tempfile::tempdir().unwrap();
            stored_cache(&mut extractor("conv", 8, threads), &source, format, parts, dir.path());
            assert_same(
                &contents(dir.path()),
                &reference,
                &format!("{format}: {threads} threads, {parts} parts"),
            );
        }
    }
}

#[test]
fn the_bytes_of_stored_views_are_told_before() {
    let source = images(40, |_| false);
    let extractor = extractor("conv", 8, 1);
    for encoding in [Encoding::Raw, Encoding::Jpeg { quality: 90 }] {
        let format = StoredFormat { size: 24, encoding };
        let config = extractor.cache_config(&source, &ViewPlan { stored: Some(format), ..PLAN }, 16);
        let told = extractor.estimate_stored(&source, &config, Partition::WHOLE).unwrap();
        assert_eq!((told.views, told.exact), (120, encoding == Encoding::Raw));
        let dir = tempfile::tempdir().unwrap();
        let cache = stored_cache(&mut self::extractor("conv", 8, 1), &source, format, 1, dir.path());
        let (_, bytes) = cache.manifest().bytes();
        // The file also has checksums, lengths and a footer.
        assert!(bytes.abs_diff(told.bytes()) < told.bytes() / 5 + 6_000, "{told:?}, {bytes} bytes");
        // Shards of 16, 16 and 8 samples.
        let part = extractor.estimate_stored(&source, &config, Partition::new(2, 3).unwrap()).unwrap();
        assert_eq!(part.views, 24);
    }
    let config = extractor.cache_config(&source, &PLAN, 16);
    assert_eq!(extractor.estimate_stored(&source, &config, Partition::WHOLE), None);
}
