//! A cache in memory, as far as reports need it.

use lgd_data::ArtifactError;
use lgd_data::cache::{Cache, CachedViews};

/// Most samples whose embeddings are compared. Of a larger cache, a strided sample is.
const MOST: usize = 50_000;

/// Keys, labels and views of a cache, and embeddings of a strided sample of its samples.
pub(crate) struct CachedImages<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// Keys, labels and views.
    pub views: CachedViews,
    /// Numbers of the samples whose embeddings are in `embeddings`, ascending.
    pub samples: Vec<usize>,
    /// Embeddings of view 0 of `samples`, `[samples, D]`, unit rows.
    pub embeddings: Vec<f32>,
}

impl<'a> CachedImages<'a> {
    /// Reads a cache.
    ///
    /// # Errors
    /// [`ArtifactError`] if a shard is unreadable or inconsistent.
    pub(crate) fn read(cache: &'a Cache) -> Result<Self, ArtifactError> {
        let views = cache.views()?;
        let (count, chosen) = (views.samples(), views.samples().min(MOST));
        let samples: Vec<usize> = (0..chosen).map(|at| at * count / chosen).collect();
        let mut embeddings = vec![0.0; chosen * cache.dim()];
        cache.embeddings().copy_rows(samples.iter().map(|&sample| views.row(sample, 0)), &mut embeddings);
        Ok(Self { cache, views, samples, embeddings })
    }

    /// Embedding of `samples[at]`.
    pub(crate) fn embedding(&self, at: usize) -> &[f32] {
        let dim = self.cache.dim();
        &self.embeddings[at * dim..(at + 1) * dim]
    }

    /// A sentence if only a part of the samples is compared.
    pub(crate) fn sampled_note(&self) -> Option<String> {
        let (compared, all) = (self.samples.len(), self.views.samples());
        (compared < all).then(|| {
            let [compared, all] = [compared, all].map(crate::text::count);
            format!("Embeddings of {compared} evenly spaced samples of {all} are compared.")
        })
    }

    /// Name of the class of a sample; empty without a label.
    pub(crate) fn class_of(&self, sample: usize) -> String {
        self.views.labels[sample].map_or(String::new(), |label| self.class_name(label))
    }

    /// Name of a class, or its number.
    pub(crate) fn class_name(&self, label: u32) -> String {
        let names = self.cache.manifest().config.class_names.as_deref().unwrap_or_default();
        let name = usize::try_from(label).ok().and_then(|label| names.get(label));
        name.map_or_else(|| label.to_string(), String::clone)
    }
}
