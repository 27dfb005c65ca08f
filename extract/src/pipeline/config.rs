//! The configuration of a cache, which determines its bytes: builds it, and checks that a cache was started with it.

use lgd_data::cache::{CacheConfig, FeatureRecord, TeacherRecord, TokenEncoding, TokenRecord};
use lgd_data::manifest::ContentHash;
use lgd_data::source::{ImageSource, listing_hash};

use super::Extractor;
use super::captions::CaptionEncoder;
use super::options::{TokenStorage, ViewPlan};
use crate::device::ExecutionDevice;
use crate::error::ExtractError;

impl Extractor {
    /// The configuration of a cache of all of `source`.
    pub fn cache_config(
        &self,
        source: &dyn ImageSource,
        plan: &ViewPlan,
        shard_samples: usize,
    ) -> CacheConfig {
        let encoder = self.encoder();
        CacheConfig {
            teacher: TeacherRecord {
                name: self.name.clone(),
                image_model: self.image_model,
                size: encoder.size(),
                normalization: *encoder.normalization(),
                resample: encoder.resample(),
                output: encoder.output().to_owned(),
                pooling: encoder.pooling().name().to_owned(),
                prefix_tokens: u32::try_from(encoder.prefix_tokens()).unwrap_or(u32::MAX),
                text_encoder: self.text_encoder,
                center: Some(self.center),
            },
            dim: encoder.dim(),
            listing: self.listing(source),
            samples: source.samples().len(),
            class_names: source.class_names().map(<[String]>::to_vec),
            fields: source.listing().fields.clone(),
            views: plan.views,
            center: plan.center,
            policy: plan.policy,
            seed: plan.seed,
            batch: encoder.batch(),
            shard_samples,
            device: device_kind(&self.options.encoder.device).to_owned(),
            stored_views: plan.stored,
            row_key: None,
            features: self.feature_record(),
            tokens: self.token_record(),
            captions: self.captions.as_ref().map(CaptionEncoder::record),
        }
    }

    /// Hash of the listing. It includes the captions if they are cached.
    fn listing(&self, source: &dyn ImageSource) -> ContentHash {
        match source.listing().captions.as_ref().filter(|_| self.captions.is_some()) {
            Some(captions) => captions.listing_hash(source.samples()),
            None => listing_hash(source.samples()),
        }
    }

    fn feature_record(&self) -> Option<FeatureRecord> {
        self.encoder().features().map(|(output, dim)| FeatureRecord { output: output.to_owned(), dim })
    }

    fn token_record(&self) -> Option<TokenRecord> {
        let ((output, shape), storage) = self.encoder().tokens().zip(self.options.tokens)?;
        let (encoding, dim, fit_views) = match storage {
            TokenStorage::F16 => (TokenEncoding::F16, shape.dim, None),
            TokenStorage::Int8 => (TokenEncoding::Int8, shape.dim, None),
            TokenStorage::Projected { dim, fit_views } => (TokenEncoding::Projected, dim, Some(fit_views)),
        };
        let (rows, columns, teacher_dim) = (shape.rows, shape.columns, shape.dim);
        Some(TokenRecord { output: output.to_owned(), rows, columns, teacher_dim, dim, encoding, fit_views })
    }

    /// Fails if the cache was started for another source or encoder.
    pub(super) fn check(&self, source: &dyn ImageSource, config: &CacheConfig) -> Result<(), ExtractError> {
        let encoder = self.encoder();
        let compare = |what, expected: String, got: String| {
            if expected == got { Ok(()) } else { Err(ExtractError::CacheMismatch { what, expected, got }) }
        };
        compare("listing", config.listing.to_string(), self.listing(source).to_string())?;
        compare("image model", config.teacher.image_model.to_string(), self.image_model.to_string())?;
        compare("embedding width", config.dim.to_string(), encoder.dim().to_string())?;
        compare("input size", config.teacher.size.to_string(), encoder.size().to_string())?;
        compare("batch", config.batch.to_string(), encoder.batch().to_string())?;
        compare("device", config.device.clone(), device_kind(&self.options.encoder.device).to_owned())?;
        let captions = self.captions.as_ref().map(CaptionEncoder::record);
        compare("features", format!("{:?}", config.features), format!("{:?}", self.feature_record()))?;
        compare("tokens", format!("{:?}", config.tokens), format!("{:?}", self.token_record()))?;
        compare("captions", format!("{:?}", config.captions), format!("{captions:?}"))
    }
}

fn device_kind(device: &ExecutionDevice) -> &'static str {
    match device {
        ExecutionDevice::Cpu => "cpu",
        ExecutionDevice::Cuda(_) => "cuda",
        ExecutionDevice::TensorRt(_) => "tensorrt",
    }
}
