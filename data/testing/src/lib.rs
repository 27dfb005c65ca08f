//! Caches and image sources for the tests and benches of the other crates. A development dependency: no part of the product.
//!
//! A test states what it depends on and takes the rest from here:
//!
//! ```
//! use lgd_data::cache::{CacheConfig, FeatureRecord};
//! use lgd_testing::cache_config;
//!
//! let features = FeatureRecord { output: "pooled".to_owned(), dim: 28 };
//! let config = CacheConfig { views: 1, features: Some(features), ..cache_config(16, 100) };
//! assert_eq!((config.dim, config.samples, config.shards()), (16, 100, 3));
//! ```

use lgd_data::cache::{CacheConfig, TeacherRecord};
use lgd_data::manifest::ContentHash;
use lgd_data::render::{Normalization, Resample};
use lgd_data::source::{Captions, ImageSource, Listing, Sample, SourceError};
use lgd_data::view::Policy;

/// A teacher of 32 px that does not exist, without a text encoder.
pub fn teacher_record() -> TeacherRecord {
    TeacherRecord {
        name: "test".to_owned(),
        image_model: ContentHash::of(b"model"),
        size: 32,
        normalization: Normalization::CLIP,
        resample: Resample::Bicubic,
        output: "image_embeds".to_owned(),
        pooling: "none".to_owned(),
        prefix_tokens: 0,
        text_encoder: None,
    }
}

/// The configuration of a small cache of `samples` samples with embeddings of width `dim`: [`teacher_record`], two views per image
/// (view 0 the center crop, policy `moco-v2`, seed 7), shards of 40 samples, no class names and no optional column.
pub fn cache_config(dim: usize, samples: usize) -> CacheConfig {
    CacheConfig {
        teacher: teacher_record(),
        dim,
        listing: ContentHash::of(b"listing"),
        samples,
        class_names: None,
        views: 2,
        center_fraction: Some(0.875),
        policy: Policy::MocoV2,
        seed: 7,
        batch: 32,
        shard_samples: 40,
        device: "cpu".to_owned(),
        stored_views: None,
        features: None,
        tokens: None,
        captions: None,
    }
}

/// Encoded images in memory. Its fields are public: a test changes the listing as it needs.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    /// The samples and everything else that a source lists.
    pub listing: Listing,
    /// The encoded bytes of each sample.
    pub bytes: Vec<Vec<u8>>,
}

impl MemorySource {
    /// Unlabeled images by key.
    pub fn new(images: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let (samples, bytes) =
            images.into_iter().map(|(key, bytes)| (Sample { key, label: None }, bytes)).unzip();
        Self { listing: Listing { samples, ..Listing::default() }, bytes }
    }

    /// The same images with `captions`, one per sample.
    #[must_use]
    pub fn captioned(mut self, captions: Captions) -> Self {
        self.listing.captions = Some(captions);
        self
    }
}

impl ImageSource for MemorySource {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The bytes, however many there are: `max_bytes` is not checked.
    fn read(&self, index: usize, _max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        self.listing.sample(index)?;
        Ok(self.bytes[index].clone())
    }
}
