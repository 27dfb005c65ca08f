//! The rows of one sample, the input of a shard writer.

use super::{CacheConfig, ImageStamp};
use crate::view::{Crop, View};

/// Key, label and image stamp of a sample.
#[derive(Clone, Copy, Debug)]
pub struct CachedSample<'a> {
    /// Key of the sample.
    pub key: &'a str,
    /// Label of the sample, if the source has labels.
    pub label: Option<u32>,
    /// Stamp of the sample's image.
    pub image: ImageStamp,
}

/// The rows of one sample: K views with embeddings and optional columns. Columns that the cache does not store are
/// empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampleRows<'a> {
    /// The K views.
    pub views: &'a [View],
    /// Norms of the K raw embeddings.
    pub norms: &'a [f32],
    /// Normalized embeddings, `[K, D]`.
    pub embeddings: &'a [f32],
    /// The K stored views, encoded by [`super::StoredFormat::encode`].
    pub stored: &'a [Vec<u8>],
    /// Raw features, `[K, F]`.
    pub features: &'a [f32],
    /// Tokens, `[K, rows, columns, dim]`: standardized, and projected if the cache's record requires it.
    pub tokens: &'a [f32],
    /// Unit vector of the caption, `[D']`.
    pub caption: &'a [f32],
}

impl SampleRows<'_> {
    /// Describes the first column whose length does not match `config`.
    pub(super) fn fault(&self, config: &CacheConfig) -> Option<String> {
        let k = usize::from(config.views);
        let of = |present: bool, count: usize| if present { count } else { 0 };
        let features = config.features.as_ref().map_or(0, |record| k * record.dim);
        let tokens = config.tokens.as_ref().map_or(0, |record| k * record.width());
        let caption = config.captions.as_ref().map_or(0, |record| record.dim);
        [
            ("views", k, self.views.len()),
            ("norms", k, self.norms.len()),
            ("values of embeddings", k * config.dim, self.embeddings.len()),
            ("stored views", of(config.stored_views.is_some(), k), self.stored.len()),
            ("values of features", features, self.features.len()),
            ("values of tokens", tokens, self.tokens.len()),
            ("values of a caption", caption, self.caption.len()),
        ]
        .into_iter()
        .find(|(_, expected, got)| expected != got)
        .map(|(what, expected, got)| format!("expected {expected} {what}, got {got}"))
        .or_else(|| self.other_geometry(config))
    }

    /// Describes the first center crop whose resize or offset the columns of a cache with `config` cannot hold.
    fn other_geometry(&self, config: &CacheConfig) -> Option<String> {
        let held = config.center.unwrap_or_default();
        let centers = self.views.iter().filter_map(|view| match view.crop {
            Crop::Center(crop) => Some(crop),
            Crop::Box { .. } => None,
        });
        let mut others = centers.filter(|crop| (crop.resize, crop.rounding) != (held.resize, held.rounding));
        others.next().map(|crop| format!("expected a center crop like {held}, got {crop}"))
    }
}
