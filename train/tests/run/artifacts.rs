//! Caches and banks of the small world. Their values differ from row to row.

use std::path::Path;

use half::f16;
use lgd_data::bank::{
    Bank, BankRecord, BankWriter, CapturedMass, CategoryRecord, Distribution, Storage, UnassignedSlots,
    VsbMode,
};
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, CaptionRecord, FeatureRecord, ImageStamp, Partition,
    SampleRows, ShardWriter, TeacherRecord, TokenEncoding, TokenRecord,
};
use lgd_data::image::{DecodeLimits, decode};
use lgd_data::kdep::{KdepBank, KdepRecord, KdepWriter, TargetScale};
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_data::projection::{MomentSums, Projection};
use lgd_data::render::{Resample, render};
use lgd_data::source::listing_hash;
use lgd_data::view::{Policy, View};
use lgd_testing::{cache_config, teacher_record};
use lgd_train::rng::Stream;

use crate::fixture::{CLASSES, DIM, Images, VIEWS};

/// The unit vector of a class, with a little of all other directions.
fn embedding(stream: &mut Stream, class: usize) -> Vec<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    let mut values: Vec<f32> = (0..DIM).map(|_| (stream.normal() * 0.1) as f32).collect();
    values[class] += 1.0;
    let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter().map(|value| value / norm).collect()
}

fn teacher() -> TeacherRecord {
    let text_encoder = Some(ContentHash::of(b"text encoder"));
    TeacherRecord { resample: Resample::Bilinear, text_encoder, ..teacher_record() }
}

/// `count` numbers that depend only on their position and are exact in f16: row `row` of every optional column.
pub fn values(row: usize, count: usize) -> Vec<f32> {
    let value = |item: usize| u16::try_from((row * 131 + item * 37) % 2048).unwrap();
    (0..count).map(|item| f32::from(value(item)) / 1024.0 - 1.0).collect()
}

fn projection(width: usize, dim: usize) -> Projection {
    let mut sums = MomentSums::new(width);
    sums.add(&(0..50).flat_map(|row| values(row, width)).collect::<Vec<_>>());
    Projection::fit(&sums, dim).unwrap()
}

/// Adds features, tokens of a grid that students of 64 px can predict, and captions as wide as embeddings.
pub fn everything(config: &mut CacheConfig) {
    config.features = Some(FeatureRecord { output: "pooled".to_owned(), dim: 5 });
    config.tokens = Some(TokenRecord {
        output: "tokens".to_owned(),
        rows: 4,
        columns: 4,
        teacher_dim: 6,
        dim: 6,
        encoding: TokenEncoding::F16,
        fit_views: None,
    });
    config.captions = Some(CaptionRecord { dim: DIM, text_encoder: Some(ContentHash::of(b"text encoder")) });
}

/// A cache of `images` in `dir`.
pub fn cache(dir: &Path, images: &Images, seed: u64) -> Cache {
    cache_holding(dir, images, seed, |_| {})
}

/// A cache of `images` in `dir` that holds what `more` adds to its configuration.
pub fn cache_holding(dir: &Path, images: &Images, seed: u64, more: impl FnOnce(&mut CacheConfig)) -> Cache {
    let mut config = config(images, seed);
    more(&mut config);
    let builder = CacheBuilder::open(dir, config.clone(), Existing::Refuse).unwrap();
    if let Some(record) = config.tokens.filter(|record| record.encoding == TokenEncoding::Projected) {
        builder.keep_projection(&projection(record.teacher_dim, record.dim)).unwrap();
    }
    let mut stream = Stream::new(&[seed]);
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for index in builder.sample_range(shard) {
            write_sample(&mut writer, builder.config(), images, index, &mut stream);
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Full).unwrap()
}

fn config(images: &Images, seed: u64) -> CacheConfig {
    CacheConfig {
        teacher: teacher(),
        listing: listing_hash(&images.samples),
        class_names: images.class_names.clone(),
        views: VIEWS,
        policy: Policy::CropFlip,
        seed,
        batch: 4,
        shard_samples: 16,
        ..cache_config(DIM, images.samples.len())
    }
}

fn write_sample(
    writer: &mut ShardWriter,
    config: &CacheConfig,
    images: &Images,
    index: usize,
    stream: &mut Stream,
) {
    let (sample, (width, height)) = (&images.samples[index], images.sizes[index]);
    let center = View::of_center(config.center.unwrap_or_default());
    let views = [center, Policy::CropFlip.draw(config.seed, &sample.key, 1, width, height)];
    let embeddings: Vec<f32> = views.iter().flat_map(|_| embedding(stream, index % CLASSES.len())).collect();
    let cached = CachedSample {
        key: &sample.key,
        label: sample.label,
        image: ImageStamp::new(&images.bytes[index], width, height),
    };
    let stored: Vec<Vec<u8>> = config.stored_views.map_or(Vec::new(), |format| {
        let image = decode(&images.bytes[index], &DecodeLimits::default()).unwrap();
        let shown = |view| render(&image, view, format.size, Resample::Bilinear).unwrap();
        views.iter().map(|view| format.encode(shown(view)).unwrap()).collect()
    });
    let per_view = |count: usize| [values(2 * index, count), values(2 * index + 1, count)].concat();
    let rows = SampleRows {
        views: &views,
        norms: &[1.0; VIEWS as usize],
        embeddings: &embeddings,
        stored: &stored,
        features: &per_view(config.features.as_ref().map_or(0, |record| record.dim)),
        tokens: &per_view(config.tokens.as_ref().map_or(0, TokenRecord::width)),
        caption: &values(index, config.captions.as_ref().map_or(0, |record| record.dim)),
    };
    writer.push_rows(&cached, &rows).unwrap();
}

/// A KDEP bank of width `dim` for a cache with features, in `dir`.
pub fn kdep_bank(dir: &Path, cache: &Cache, dim: usize) -> KdepBank {
    let features = cache.manifest().config.features.as_ref().unwrap();
    let writer = KdepWriter::create(dir, dim, Existing::Refuse).unwrap();
    let mut first = 0;
    for (shard, entry) in cache.manifest().shards.iter().enumerate() {
        let mut targets = writer.shard(shard).unwrap();
        let rows = (first..first + entry.rows).flat_map(|row| values(row, dim));
        targets.push(&rows.map(f16::from_f32).collect::<Vec<_>>()).unwrap();
        targets.finish().unwrap();
        first += entry.rows;
    }
    let record = KdepRecord {
        cache: cache.hash(),
        output: features.output.clone(),
        features: dim,
        dim,
        pts_temperature: 0.1,
        pts_power: 3.0,
        fitted_rows: first,
        explained_variance: 1.0,
        rank: dim,
        scale: TargetScale { rms: 1.0, largest: 1.0, strongest_dim_rms: 1.0, weakest_dim_rms: 1.0 },
    };
    writer.finish(record, &projection(dim, dim), cache.manifest().shards.len(), first).unwrap();
    KdepBank::open(dir, Verify::Full).unwrap()
}

fn softmax(logits: &[f32]) -> Vec<f16> {
    let peak = logits.iter().copied().fold(f32::MIN, f32::max);
    let mass: f32 = logits.iter().map(|logit| (logit - peak).exp()).sum();
    logits.iter().map(|logit| f16::from_f32((logit - peak).exp() / mass)).collect()
}

/// A bank of the three categories in `dir`; the prototypes are unit vectors.
pub fn bank(dir: &Path, cache: &Cache) -> Bank {
    let tsb: Vec<f32> =
        (0..CLASSES.len()).flat_map(|class| (0..DIM).map(move |d| f32::from(d == class))).collect();
    let writer = BankWriter::create(dir, CLASSES.len(), Storage::Dense, Existing::Refuse).unwrap();
    let mut row = 0;
    for (shard, entry) in cache.manifest().shards.iter().enumerate() {
        let mut targets = writer.shard(shard).unwrap();
        for _ in 0..entry.rows {
            let mut t = vec![0.0; DIM];
            cache.embeddings().copy_row(row, &mut t);
            let logits: Vec<f32> = t[..CLASSES.len()].iter().map(|value| value / 0.1).collect();
            let pseudo = i32::try_from(row / usize::from(VIEWS) % CLASSES.len()).unwrap();
            let visual: Vec<f32> = std::iter::once(10.0).chain(logits.iter().copied()).collect();
            let (text, visual) = (softmax(&logits), softmax(&visual));
            targets.push(&[pseudo], Distribution::Dense(&text), Distribution::Dense(&visual)).unwrap();
            row += 1;
        }
        targets.finish().unwrap();
    }
    let category = |name: &&str| CategoryRecord {
        name: name.replace('_', " "),
        synonyms: vec![],
        prompts: vec![],
        keys: vec![],
        number: None,
        count: 10,
    };
    let mass = CapturedMass { mean: 1.0, min: 1.0 };
    let record = BankRecord {
        cache: cache.hash(),
        text_encoder: ContentHash::of(b"text encoder"),
        cache_text_encoder: None,
        bridge: None,
        dim: DIM,
        categories: CLASSES.iter().map(category).collect(),
        templates: vec!["{}".to_owned()],
        center: None,
        teacher_temperature: 0.1,
        vsb: VsbMode::Mean,
        unassigned_slots: UnassignedSlots::Masked,
        unassigned: vec![],
        storage: Storage::Dense,
        text_mass: mass,
        visual_mass: mass,
    };
    writer.finish(record, (&tsb, &tsb), None, cache.manifest().shards.len(), cache.rows()).unwrap();
    Bank::open(dir, Verify::Full).unwrap()
}
