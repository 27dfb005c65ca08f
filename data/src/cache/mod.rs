//! The cache: replayable views of every image and the teacher's embedding of each view.
//!
//! ```text
//! cache/cache.json             manifest; written last: a cache with a manifest is complete
//! cache/views-00000.parquet    one row per (sample, view), sample-major, in listing order
//! cache/pixels-00000.parquet   the same rows' rendered pixels, if the cache stores its views (see `stored`)
//! cache/tokens-00000.parquet   the same rows' patch tokens, if the cache holds them (see `tokens`)
//! cache/tokens.safetensors     the projection of the tokens, if they are projected; names the configuration's hash
//! cache/captions-00000.parquet the text embedding of each sample, if the cache holds them (see `captions`)
//! cache/rejects.jsonl          every sample that could not be used, once, with the reason
//! while extraction runs:
//! cache/extract.json           the resolved configuration, which a resumed or parallel run must match
//! cache/views-00000.json       the finished shard's entry and rejects; absent = the shard is still to do
//! ```
//!
//! Row law: row = (position of the sample among the accepted samples) x K + view. If a view of a sample is bad, all
//! views of the sample are rejected, so rows have no gaps. Shard `s` always covers the same range of listing positions,
//! starting at `s x shard_samples`, whichever process writes it.

mod builder;
mod cached_views;
mod captions;
mod center;
mod condition;
mod optional;
mod reader;
mod sample;
mod shard;
mod stored;
mod tokens;
mod views;

use std::path::Path;

use arrow_array::builder::Float16Builder;
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use crate::error::ArtifactError;
use crate::manifest::{ContentHash, FileEntry};
use crate::render::{Normalization, Resample};
use crate::source::{FieldNames, LeftAside};
use crate::strided::StridedViews;
use crate::view::{CenterCrop, Policy};

pub use builder::CacheBuilder;
pub use cached_views::CachedViews;
pub use condition::CacheSurvey;
pub use optional::{CaptionRecord, FeatureRecord, ProjectionEntry, TokenEncoding, TokenRecord};
pub use reader::Cache;
pub use sample::{CachedSample, SampleRows};
pub use shard::{GROUP_ROWS, ShardWriter};
pub use stored::{Encoding, StoredFormat, StoredViews};
pub use tokens::{TokenColumn, standardize};

/// Size in bytes at which a row group of tokens or stored views ends. The writer keeps one in memory.
pub const GROUP_BYTES: usize = 64 << 20;

/// Newest cache format version that this program writes and reads. See [`CacheConfig::format_version`].
pub const CACHE_VERSION: u32 = 3;

const MANIFEST: &str = "cache.json";
const REJECTS: &str = "rejects.jsonl";

const TOKEN_PROJECTION: &str = "tokens.safetensors";

/// Kinds of shard files. Only the first kind is in every cache.
const SHARD_KINDS: [&str; 4] = ["views", "pixels", "tokens", "captions"];

fn shard_file(shard: usize) -> String {
    format!("views-{shard:05}.parquet")
}

fn pixel_file(shard: usize) -> String {
    format!("pixels-{shard:05}.parquet")
}

fn token_file(shard: usize) -> String {
    format!("tokens-{shard:05}.parquet")
}

fn caption_file(shard: usize) -> String {
    format!("captions-{shard:05}.parquet")
}

fn shard_record(shard: usize) -> String {
    format!("views-{shard:05}.json")
}

/// The teacher of a cache: every property that its pixels and embeddings depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherRecord {
    /// Teacher name in `teacher.toml`.
    pub name: String,
    /// BLAKE3 hash of the image model file.
    pub image_model: ContentHash,
    /// Side of the square input, in pixels.
    pub size: u32,
    /// Per-channel mean and standard deviation of the input.
    pub normalization: Normalization,
    /// Resampling filter of the input.
    pub resample: Resample,
    /// Name of the cached model output.
    pub output: String,
    /// How the output is reduced to one vector: "none", "cls", "mean" or "gap".
    pub pooling: String,
    /// Number of leading tokens that are not patches.
    pub prefix_tokens: u32,
    /// Hash of the text encoder that belongs to the image encoder. Banks made with another text encoder are refused.
    pub text_encoder: Option<ContentHash>,
    /// The teacher's own center crop: by its files, else the default. Evaluations show it if view 0 of the training cache
    /// is not the center view. Older caches do not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center: Option<CenterCrop>,
}

/// Every setting that determines the bytes of a cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Teacher whose embeddings are cached.
    pub teacher: TeacherRecord,
    /// Embedding width D.
    pub dim: usize,
    /// Hash of the listing's keys and labels, and of its captions if the cache stores captions.
    pub listing: ContentHash,
    /// Number of samples in the listing.
    pub samples: usize,
    /// Class names, indexed by label, if the source has them.
    pub class_names: Option<Vec<String>>,
    /// Fields that the source was opened with, so that training opens it alike.
    #[serde(default, skip_serializing_if = "FieldNames::is_empty")]
    pub fields: FieldNames,
    /// Views per image, K.
    pub views: u16,
    /// The crop of view 0 if it is the center view. `None` if view 0 is drawn like the others.
    #[serde(flatten, with = "center")]
    pub center: Option<CenterCrop>,
    /// Policy that the random views are drawn with.
    pub policy: Policy,
    /// Seed that the random views are drawn with.
    pub seed: u64,
    /// Images per encoder batch. It is recorded because kernels may round differently at another batch size.
    pub batch: usize,
    /// Samples per shard.
    pub shard_samples: usize,
    /// Kind of device that ran the encoder: "cpu", "cuda" or "tensorrt". It is recorded because kernels round
    /// differently.
    pub device: String,
    /// Size and encoding of the stored views, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_views: Option<StoredFormat>,
    /// Key of the row checks of stored views: the hash of all other settings, which [`CacheBuilder`] sets. Caches of format
    /// versions 1 and 2 have none; their checks cover a row's bytes alone, so a row of another cache or shard passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_key: Option<ContentHash>,
    /// The teacher's pooled features, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureRecord>,
    /// The teacher's patch tokens, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenRecord>,
    /// Text embeddings of the samples' captions, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionRecord>,
}

impl CacheConfig {
    /// Hash of the configuration, which every shard record contains.
    pub fn hash(&self) -> ContentHash {
        // A configuration consists of numbers and strings, which always serialize. The fallback hashes an empty string.
        ContentHash::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Format version of a cache with this configuration. It is 3 if the row checks of stored views have a key, which
    /// programs that read versions 1 and 2 would ignore. It is 2 if view 0 has another resize or offset than torchvision's.
    pub fn format_version(&self) -> u32 {
        match self.row_key {
            Some(_) => 3,
            None if self.other_center().is_some() => 2,
            None => 1,
        }
    }

    /// The configuration with the key of its row checks, if it stores views.
    fn with_row_key(mut self) -> Self {
        self.row_key = None;
        self.row_key = self.stored_views.map(|_| self.hash());
        self
    }

    /// The crop of view 0 if its resize or offset is not torchvision's.
    fn other_center(&self) -> Option<CenterCrop> {
        self.center.filter(|crop| !crop.is_torchvisions())
    }

    /// The columns of views that not every cache has.
    fn optional_views(&self) -> views::Optional {
        views::Optional { center: self.other_center().is_some(), lighting: self.policy.lights() }
    }

    /// Describes the first invalid number.
    fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.dim, "an embedding width of 0"),
            (usize::from(self.views), "0 views per image"),
            (self.shard_samples, "0 samples per shard"),
            (self.batch, "a batch of 0"),
            (self.features.as_ref().map_or(1, |features| features.dim), "features of width 0"),
            (self.captions.as_ref().map_or(1, |captions| captions.dim), "captions of width 0"),
        ];
        let zero = positive.into_iter().find(|(value, _)| *value == 0).map(|(_, fault)| fault);
        let center = self.center.is_some_and(|crop| crop.validate().is_err());
        zero.or(center.then_some("a center crop out of range"))
            .or_else(|| self.stored_views.and_then(|format| format.fault()))
            .or_else(|| self.tokens.as_ref().and_then(TokenRecord::fault))
    }

    /// Whether the tokens are projected.
    fn projects(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.encoding == TokenEncoding::Projected)
    }

    /// Number of views in the strided sample that the token projection is fitted to. `None` without a projection.
    pub fn fitted_views(&self) -> Option<usize> {
        let fit_views = self.tokens.as_ref().and_then(|tokens| tokens.fit_views);
        fit_views.map(|count| StridedViews::new(count, self.samples, self.views.into()).count())
    }

    /// Number of shards that the listing is divided into.
    pub fn shards(&self) -> usize {
        self.samples.div_ceil(self.shard_samples)
    }
}

/// One complete shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Parquet file of views and embeddings.
    pub file: FileEntry,
    /// Number of accepted samples.
    pub samples: usize,
    /// Number of rows, samples x K.
    pub rows: usize,
    /// Parquet file of the stored views, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<FileEntry>,
    /// Parquet file of the tokens, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<FileEntry>,
    /// Parquet file of the captions, if the cache has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<FileEntry>,
}

impl ShardEntry {
    /// All files.
    fn files(&self) -> impl Iterator<Item = &FileEntry> {
        [Some(&self.file), self.pixels.as_ref(), self.tokens.as_ref(), self.captions.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// Contents of `cache.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheManifest {
    /// Format version, 1 to 3. See [`CacheConfig::format_version`].
    pub format_version: u32,
    /// Inputs and settings.
    pub config: CacheConfig,
    /// Rows in all shards.
    pub rows: usize,
    /// Number of rejected samples.
    pub rejected: usize,
    /// Contents of the source that are neither samples nor rejected, counted by kind.
    #[serde(default, skip_serializing_if = "LeftAside::is_empty")]
    pub left_aside: LeftAside,
    /// Shards, in order.
    pub shards: Vec<ShardEntry>,
    /// Entry of `rejects.jsonl`.
    pub rejects: FileEntry,
    /// Projection of the tokens, if they are projected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_projection: Option<ProjectionEntry>,
}

impl CacheManifest {
    /// Fails if numbers in the manifest contradict each other.
    fn validate(&self, path: &Path) -> Result<(), ArtifactError> {
        let rows: usize = self.shards.iter().map(|shard| shard.rows).fold(0, usize::saturating_add);
        let views = usize::from(self.config.views);
        let config = &self.config;
        let partly = |wanted: bool, file: fn(&ShardEntry) -> &Option<FileEntry>| {
            self.shards.iter().any(|shard| file(shard).is_some() != wanted)
        };
        let fault = match self.config.fault() {
            Some(fault) => Some(fault),
            None if rows != self.rows => Some("a number of rows other than its shards'"),
            None if !rows.is_multiple_of(views) => Some("a sample with fewer than K views"),
            None if partly(config.stored_views.is_some(), |shard| &shard.pixels) => {
                Some("stored views that only some of its shards have")
            }
            None if partly(config.tokens.is_some(), |shard| &shard.tokens) => {
                Some("tokens that only some of its shards have")
            }
            None if partly(config.captions.is_some(), |shard| &shard.captions) => {
                Some("captions that only some of its shards have")
            }
            None if config.captions.is_some()
                && self.shards.iter().any(|s| s.samples.checked_mul(views) != Some(s.rows)) =>
            {
                Some("a shard whose samples and rows disagree")
            }
            None if config.projects() != self.token_projection.is_some() => {
                Some("projected tokens without a projection, or the other way round")
            }
            None => None,
        };
        match fault {
            Some(fault) => Err(ArtifactError::invalid(path, format!("the manifest has {fault}"))),
            None => Ok(()),
        }
    }

    /// Size of all shards in bytes: first the files of views, embeddings and features, then those of the stored views.
    pub fn bytes(&self) -> (u64, u64) {
        let stored = self.shards.iter().filter_map(|shard| shard.pixels.as_ref());
        (self.shards.iter().map(|shard| shard.file.bytes).sum(), stored.map(|file| file.bytes).sum())
    }

    /// Total size of the token files in bytes.
    pub fn token_bytes(&self) -> u64 {
        self.shards.iter().filter_map(|shard| shard.tokens.as_ref()).map(|file| file.bytes).sum()
    }

    /// Total size of the caption files in bytes.
    pub fn caption_bytes(&self) -> u64 {
        self.shards.iter().filter_map(|shard| shard.captions.as_ref()).map(|file| file.bytes).sum()
    }

    /// Number of accepted samples.
    pub fn samples(&self) -> usize {
        self.rows / usize::from(self.config.views)
    }
}

/// Identifies the image that the teacher saw, so that another image with the same key is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageStamp {
    /// Width of the upright image, in pixels.
    pub width: u32,
    /// Height of the upright image, in pixels.
    pub height: u32,
    /// First 64 bits of the BLAKE3 hash of the encoded file, as a little-endian integer.
    pub content: u64,
}

impl ImageStamp {
    /// The stamp of an image with `width` x `height` pixels, encoded as `bytes`.
    pub fn new(bytes: &[u8], width: u32, height: u32) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *ContentHash::of(bytes).as_bytes();
        Self { width, height, content: u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
    }
}

/// A sample that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Key of the sample.
    pub key: String,
    /// Short, stable code, such as "corrupt" or "nan-embedding".
    pub reason: String,
    /// Full error message.
    pub detail: String,
}

/// One of `of` equal parts of the shards, so that several jobs can share a cache folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    index: usize,
    of: usize,
}

impl Partition {
    /// The only part: all shards.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Part `index` (from 0) of `of` parts; `None` unless `index < of`.
    pub fn new(index: usize, of: usize) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }

    /// Whether `shard` belongs to this part. Shards are assigned round-robin.
    pub fn contains(self, shard: usize) -> bool {
        shard % self.of == self.index
    }

    /// Whether there are other parts.
    pub fn is_shared(self) -> bool {
        self.of > 1
    }
}

impl std::str::FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(index, of)| Self::new(index.parse().ok()?, of.parse().ok()?))
            .ok_or_else(|| format!("expected i/n with 0 <= i < n, got {text:?}"))
    }
}

/// Appends values, rounded to f16.
fn append_halves(builder: &mut Float16Builder, values: &[f32]) {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    builder.append_slice(&halves);
}
