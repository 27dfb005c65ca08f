//! A cache with stored views, so that no images are needed, and a bank made from it.

use std::path::Path;

use lgd_bank::{
    BankRequest, Categories, NameForm, PromptEncoder, TargetOptions, Templates, TextEncoderRule, build_bank,
};
use lgd_data::bank::Bank;
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Encoding, ImageStamp, Partition, SampleRows, StoredFormat,
};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_data::view::View;
use lgd_testing::cache_config;
use lgd_train::rng::Stream;

/// Width D of the embeddings.
pub const DIM: usize = 8;
/// Side of the stored views, px.
pub const SIDE: u32 = 32;
/// Names of the bank.
pub const NAMES: [&str; 3] = ["red thing", "green thing", "blue thing"];

const SAMPLES: usize = 16;

/// `count` normally distributed random numbers.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(&[seed]);
    (0..count).map(|_| stream.normal() as f32).collect()
}

/// A random unit vector.
fn unit(seed: u64) -> Vec<f32> {
    let vector = noise(seed, DIM);
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / norm).collect()
}

/// Makes a cache in `dir`: 16 samples with two views each, pixels and embeddings of noise.
pub fn cache(dir: &Path) -> Cache {
    let stored_views = Some(StoredFormat { size: SIDE, encoding: Encoding::Raw });
    let config = CacheConfig { stored_views, ..cache_config(DIM, SAMPLES) };
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for sample in builder.sample_range(shard) {
            let seed = u64::try_from(sample).unwrap();
            let key = format!("{sample:04}.png");
            let image = ImageStamp::new(key.as_bytes(), 40, 50);
            let pixels = |view| noise_pixels(2 * seed + view);
            let rows = SampleRows {
                views: &[View::center(), View::center()],
                norms: &[1.0, 1.0],
                embeddings: &[unit(2 * seed), unit(2 * seed + 1)].concat(),
                stored: &[pixels(0), pixels(1)],
                ..SampleRows::default()
            };
            writer.push_rows(&CachedSample { key: &key, label: None, image }, &rows).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Full).unwrap()
}

fn noise_pixels(seed: u64) -> Vec<u8> {
    let mut stream = Stream::new(&[seed]);
    (0..SIDE * SIDE * 3).map(|_| u8::try_from(stream.below(256)).unwrap()).collect()
}

/// Returns random embeddings that depend only on the prompt's bytes.
struct RandomEncoder;

impl PromptEncoder for RandomEncoder {
    fn hash(&self) -> ContentHash {
        ContentHash::of(b"random encoder")
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, lgd_bank::EncodeFailure> {
        Ok(prompts.iter().flat_map(|prompt| unit(Stream::named(0, prompt).state())).collect())
    }
}

/// Makes a bank of [`NAMES`] in `dir`.
pub fn bank(dir: &Path, cache: &Cache) -> Bank {
    let prompts = tempfile::tempdir().unwrap();
    let request = BankRequest {
        cache,
        categories: &Categories::from_names(NAMES, NameForm::Normalized).unwrap(),
        templates: &Templates::default(),
        prompt_cache: prompts.path(),
        out: dir,
        existing: Existing::Refuse,
        text_encoder: TextEncoderRule::Any,
        center: None,
        targets: TargetOptions::default(),
    };
    build_bank(&request, &mut RandomEncoder, &Job::new()).unwrap();
    Bank::open(dir, Verify::Full).unwrap()
}

/// A binary PPM file in a single color.
pub fn solid_image(color: [u8; 3], (width, height): (usize, usize)) -> Vec<u8> {
    let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
    bytes.extend(color.repeat(width * height));
    bytes
}
