//! A small world: images in memory, a cache and a bank made from them.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, CacheConfig, StoredFormat};
use lgd_data::manifest::{AtomicFile, Existing};
use lgd_data::source::{ImageSource, Listing, Sample, SourceError};
use lgd_train::loader::origin::Originals;
use lgd_train::objective::ObjectiveKind;
use lgd_train::rng::Stream;
use lgd_train::run::TrainConfig;
use lgd_train::student::Architecture;
use lgd_train::trainer::{LoopSettings, TrainInputs, Watch};
use tempfile::TempDir;

use crate::artifacts::{bank, cache_holding};

/// Width D.
pub const DIM: usize = 8;
/// Views per image, K.
pub const VIEWS: u16 = 2;
/// Names of the classes and categories.
pub const CLASSES: [&str; 3] = ["red_thing", "green thing", "blue thing"];

type Hook = Arc<dyn Fn(usize) -> Option<Vec<u8>> + Send + Sync>;

/// Images in memory, which dereference to their listing. `hook` is called before every read and may return other bytes.
#[derive(Clone)]
pub struct Images {
    pub listing: Listing,
    pub sizes: Vec<(u32, u32)>,
    pub bytes: Vec<Vec<u8>>,
    pub hook: Option<Hook>,
}

impl Images {
    /// `count` noisy images. Image i has class i mod 3 and the color of that class.
    pub fn new(count: usize, seed: u64) -> Self {
        let listing = Listing::default();
        let mut images = Self { listing, sizes: vec![], bytes: vec![], hook: None };
        images.class_names = Some(CLASSES.iter().map(|name| (*name).to_owned()).collect());
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

/// Encodes a binary PPM file.
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
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, _max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let instead = self.hook.as_ref().and_then(|hook| hook(index));
        Ok(instead.unwrap_or_else(|| self.bytes[index].clone()))
    }
}

impl Deref for Images {
    type Target = Listing;

    fn deref(&self) -> &Listing {
        &self.listing
    }
}

impl DerefMut for Images {
    fn deref_mut(&mut self) -> &mut Listing {
        &mut self.listing
    }
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
        Self::holding(count, |_| {})
    }

    /// The same world with a cache that stores its views.
    pub fn storing(count: usize, stored_views: Option<StoredFormat>) -> Self {
        Self::holding(count, |config| config.stored_views = stored_views)
    }

    /// The same world with a cache that holds what `more` adds to its configuration.
    pub fn holding(count: usize, more: impl FnOnce(&mut CacheConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(count, 1);
        let cache = cache_holding(&dir.path().join("cache"), &images, 1, more);
        let bank = bank(&dir.path().join("bank"), &cache);
        Self { dir, images, cache, bank }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Training inputs that read from `images`, with the inputs that the objectives of `config` need.
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
            watch: Watch::default(),
        }
    }
}

/// The images as the originals of a cache.
pub fn originals(images: &Images) -> Originals<'_> {
    Originals { source: images, path: Path::new("images") }
}

/// A tiny configuration: 16 px, batches of 8.
pub fn config(epochs: u32) -> TrainConfig {
    let mut config = TrainConfig::new(Architecture::MobileNetV2, 16, epochs, 8, 3);
    config.base_lr = 0.05;
    config
}

/// The same configuration for other objectives.
pub fn config_for(objective: &str, epochs: u32) -> TrainConfig {
    TrainConfig { objective: objective.parse().unwrap(), ..config(epochs) }
}

/// H-GKD at its smallest size. At the learning rate of the others, a decoder this small diverges.
pub fn masked(epochs: u32) -> TrainConfig {
    TrainConfig { size: 64, base_lr: 0.005, ..config_for("hgkd", epochs) }
}

/// Settings for a folder that may hold an unfinished run. Checkpoints are kept, for tests to look at.
pub fn resuming() -> LoopSettings {
    LoopSettings {
        existing: Existing::Resume,
        threads: 2,
        log_steps: 2,
        keep_checkpoints: true,
        ..LoopSettings::default()
    }
}

/// Leaves a file as a process leaves it that is killed while writing.
pub fn leave_unfinished(path: &Path) {
    std::mem::forget(AtomicFile::create(path).unwrap());
}
