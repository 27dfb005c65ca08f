//! A small world: images in memory, a cache and a bank made from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use lgd_data::bank::{
    Bank, BankRecord, BankWriter, CapturedMass, CategoryRecord, Distribution, Storage, UnassignedSlots,
    VsbMode,
};
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Existing, ImageStamp, Partition, StoredFormat,
    TeacherRecord,
};
use lgd_data::image::{DecodeLimits, decode};
use lgd_data::manifest::{ContentHash, Verify, listing_hash};
use lgd_data::render::{Normalization, Resample, render};
use lgd_data::source::{ImageSource, Rejected, Sample, SourceError};
use lgd_data::view::{Policy, View};
use lgd_train::loader::origin::Originals;
use lgd_train::objective::ObjectiveKind;
use lgd_train::rng::Stream;
use lgd_train::run::TrainConfig;
use lgd_train::student::Architecture;
use lgd_train::trainer::{LoopSettings, TrainInputs};
use tempfile::TempDir;

/// Width D.
pub const DIM: usize = 8;
/// Views per image, K.
pub const VIEWS: u16 = 2;
/// Names of the classes and categories.
pub const CLASSES: [&str; 3] = ["red_thing", "green thing", "blue thing"];

type Hook = Arc<dyn Fn(usize) -> Option<Vec<u8>> + Send + Sync>;

/// Images in memory. `hook` is called before every read and may answer instead.
#[derive(Clone)]
pub struct Images {
    pub samples: Vec<Sample>,
    pub names: Option<Vec<String>>,
    pub sizes: Vec<(u32, u32)>,
    pub bytes: Vec<Vec<u8>>,
    pub hook: Option<Hook>,
}

impl Images {
    /// `count` noisy images; image i is of class i mod 3, whose colour it has.
    pub fn new(count: usize, seed: u64) -> Self {
        let mut images = Self { samples: vec![], names: None, sizes: vec![], bytes: vec![], hook: None };
        images.names = Some(CLASSES.iter().map(|name| (*name).to_owned()).collect());
        for index in 0..count {
            let class = index % CLASSES.len();
            let size = (20 + u32::try_from(index % 5).unwrap(), 24);
            images.samples.push(Sample {
                key: format!("{}/{index:04}.ppm", CLASSES[class]),
                label: u32::try_from(class).ok(),
            });
            images.sizes.push(size);
            images.bytes.push(picture(seed, index, class, size));
        }
        images
    }

    pub fn hooked(&self, hook: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..self.clone() }
    }
}

/// A binary PPM file.
pub fn picture(seed: u64, index: usize, class: usize, (width, height): (u32, u32)) -> Vec<u8> {
    let mut stream = Stream::new(&[seed, u64::try_from(index).unwrap()]);
    let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
    for _ in 0..width * height {
        for channel in 0..3 {
            let noise = u8::try_from(stream.next_u64() % 120).unwrap();
            bytes.push(if channel == class { 120 + noise } else { noise });
        }
    }
    bytes
}

impl ImageSource for Images {
    fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn class_names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    fn read(&self, index: usize, _max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let instead = self.hook.as_ref().and_then(|hook| hook(index));
        Ok(instead.unwrap_or_else(|| self.bytes[index].clone()))
    }

    fn rejected(&self) -> &[Rejected] {
        &[]
    }
}

/// Unit vector of a class with a little of everything else.
fn embedding(stream: &mut Stream, class: usize) -> Vec<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    let mut values: Vec<f32> = (0..DIM).map(|_| (stream.normal() * 0.1) as f32).collect();
    values[class] += 1.0;
    let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter().map(|value| value / norm).collect()
}

fn teacher() -> TeacherRecord {
    TeacherRecord {
        name: "test".to_owned(),
        image_model: ContentHash::of(b"image model"),
        size: 32,
        normalization: Normalization::CLIP,
        resample: Resample::Bilinear,
        output: "embedding".to_owned(),
        pooling: "none".to_owned(),
        prefix_tokens: 0,
        text_encoder: Some(ContentHash::of(b"text encoder")),
    }
}

/// A cache of `images` in `dir`.
pub fn cache(dir: &Path, images: &Images, seed: u64) -> Cache {
    cache_storing(dir, images, seed, None)
}

/// A cache of `images` in `dir` that stores its views.
pub fn cache_storing(dir: &Path, images: &Images, seed: u64, stored_views: Option<StoredFormat>) -> Cache {
    let config = CacheConfig {
        teacher: teacher(),
        dim: DIM,
        listing: listing_hash(&images.samples),
        samples: images.samples.len(),
        class_names: images.names.clone(),
        views: VIEWS,
        center_fraction: Some(0.875),
        policy: Policy::CropFlip,
        seed,
        batch: 4,
        shard_samples: 16,
        device: "cpu".to_owned(),
        stored_views,
        features: None,
        tokens: None,
        captions: None,
    };
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    let mut stream = Stream::new(&[seed]);
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for index in builder.sample_range(shard) {
            let (sample, (width, height)) = (&images.samples[index], images.sizes[index]);
            let views = [View::center(), Policy::CropFlip.draw(seed, &sample.key, 1, width, height)];
            let rows: Vec<f32> =
                views.iter().flat_map(|_| embedding(&mut stream, index % CLASSES.len())).collect();
            let cached = CachedSample {
                key: &sample.key,
                label: sample.label,
                image: ImageStamp::new(&images.bytes[index], width, height),
            };
            let stored: Vec<Vec<u8>> = stored_views.map_or(Vec::new(), |format| {
                let image = decode(&images.bytes[index], &DecodeLimits::default()).unwrap();
                let shown = |view| render(&image, view, format.size, Resample::Bilinear).unwrap();
                views.iter().map(|view| format.encode(shown(view)).unwrap()).collect()
            });
            writer.push_stored(&cached, &views, &[1.0; VIEWS as usize], &rows, &stored).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Full).unwrap()
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
        count: 10,
    };
    let mass = CapturedMass { mean: 1.0, min: 1.0 };
    let record = BankRecord {
        cache: cache.hash(),
        text_encoder: ContentHash::of(b"text encoder"),
        dim: DIM,
        categories: CLASSES.iter().map(category).collect(),
        templates: vec!["{}".to_owned()],
        teacher_temperature: 0.1,
        vsb: VsbMode::Mean,
        unassigned_slots: UnassignedSlots::Masked,
        unassigned: vec![],
        storage: Storage::Dense,
        text_mass: mass,
        visual_mass: mass,
    };
    writer.finish(record, &tsb, &tsb, cache.manifest().shards.len(), cache.rows()).unwrap();
    Bank::open(dir, Verify::Full).unwrap()
}

/// Images, cache and bank in a temporary folder.
pub struct World {
    pub dir: TempDir,
    pub images: Images,
    pub cache: Cache,
    pub bank: Bank,
}

impl World {
    /// A world of `count` images.
    pub fn new(count: usize) -> Self {
        Self::storing(count, None)
    }

    /// The same world with a cache that stores its views.
    pub fn storing(count: usize, stored_views: Option<StoredFormat>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(count, 1);
        let cache = cache_storing(&dir.path().join("cache"), &images, 1, stored_views);
        let bank = bank(&dir.path().join("bank"), &cache);
        Self { dir, images, cache, bank }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Training inputs that read from `images`, with what the objectives of `config` need.
    pub fn inputs_for<'a>(&'a self, config: &TrainConfig, images: &'a Images) -> TrainInputs<'a> {
        let bank = config.objective.contain(ObjectiveKind::Lgd).then_some(&self.bank);
        TrainInputs { bank, ..self.inputs(images) }
    }

    /// Training inputs that read from `images`, with the bank.
    pub fn inputs<'a>(&'a self, images: &'a Images) -> TrainInputs<'a> {
        TrainInputs {
            cache: &self.cache,
            bank: Some(&self.bank),
            kdep: None,
            originals: Some(originals(images)),
        }
    }
}

/// The images as what a cache was extracted from.
pub fn originals(images: &Images) -> Originals<'_> {
    Originals { source: images, path: Path::new("images") }
}

/// A tiny configuration: 16 px, batches of 8.
pub fn config(epochs: u32) -> TrainConfig {
    let mut config = TrainConfig::new(Architecture::MobileNetV2, 16, epochs, 8, 3);
    config.base_lr = 0.05;
    config
}

/// The same for other objectives.
pub fn config_for(objective: &str, epochs: u32) -> TrainConfig {
    TrainConfig { objective: objective.parse().unwrap(), ..config(epochs) }
}

/// Settings for a folder that may hold an unfinished run.
pub fn resuming() -> LoopSettings {
    LoopSettings { existing: Existing::Resume, threads: 2, log_steps: 2, ..LoopSettings::default() }
}
