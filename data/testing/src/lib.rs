//! Caches, image sources and comparisons for the tests and benches of the other crates. This is a development dependency, not part
//! of the product.
//!
//! A test states the settings that it depends on and takes the others from here:
//!
//! ```
//! use lgd_data::cache::{CacheConfig, FeatureRecord};
//! use lgd_testing::cache_config;
//!
//! let features = FeatureRecord { output: "pooled".to_owned(), dim: 28 };
//! let config = CacheConfig { views: 1, features: Some(features), ..cache_config(16, 100) };
//! assert_eq!((config.dim, config.samples, config.shards()), (16, 100, 3));
//! ```

pub mod pixels;

use lgd_data::cache::{CacheConfig, TeacherRecord};
use lgd_data::manifest::ContentHash;
use lgd_data::render::{Normalization, Resample};
use lgd_data::source::{Captions, FieldNames, ImageSource, Listing, Sample, SourceError};
use lgd_data::view::{CenterCrop, Policy};

/// A fictitious teacher with 32-pixel input and no text encoder.
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
        center: None,
    }
}

/// The configuration of a small cache of `samples` samples with embeddings of width `dim`. It has the teacher
/// [`teacher_record`], two views per image (view 0 is the center crop, policy `moco-v2`, seed 7), shards of 40 samples,
/// no class names and no optional columns.
pub fn cache_config(dim: usize, samples: usize) -> CacheConfig {
    CacheConfig {
        teacher: teacher_record(),
        dim,
        listing: ContentHash::of(b"listing"),
        samples,
        class_names: None,
        fields: FieldNames::default(),
        views: 2,
        center: Some(CenterCrop::default()),
        policy: Policy::MocoV2,
        seed: 7,
        batch: 32,
        shard_samples: 40,
        device: "cpu".to_owned(),
        stored_views: None,
        row_key: None,
        features: None,
        tokens: None,
        captions: None,
    }
}

/// Encoded images in memory. The fields are public, so a test can change the listing.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    /// Samples and all other parts of the listing.
    pub listing: Listing,
    /// Encoded bytes of each sample.
    pub bytes: Vec<Vec<u8>>,
}

impl MemorySource {
    /// Makes a source of unlabeled images from pairs of key and encoded bytes.
    pub fn new(images: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let (samples, bytes) =
            images.into_iter().map(|(key, bytes)| (Sample { key, label: None }, bytes)).unzip();
        Self { listing: Listing { samples, ..Listing::default() }, bytes }
    }

    /// Adds `captions`, one per sample.
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

    /// Returns the bytes without checking `max_bytes`.
    fn read(&self, index: usize, _max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        self.listing.sample(index)?;
        Ok(self.bytes[index].clone())
    }
}
