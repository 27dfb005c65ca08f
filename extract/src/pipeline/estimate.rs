//! Estimates of the disk space of stored views, features, tokens and captions, before the extraction begins.

use lgd_data::cache::{CacheConfig, Partition, StoredFormat};
use lgd_data::strided::StridedViews;

use super::prepare::Preparer;

/// Views that are encoded to estimate the bytes of one.
const PROBES: usize = 48;

/// Bytes of a cache's stored views, or of one part's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEstimate {
    /// Views, were no sample rejected.
    pub views: u64,
    /// Bytes of one, rounded up.
    pub bytes_per_view: u64,
    /// Whether every view takes exactly that.
    pub exact: bool,
}

impl StoredEstimate {
    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.views.saturating_mul(self.bytes_per_view)
    }
}

/// The estimate for the shards of `partition`.
pub(super) fn estimate(
    preparer: &Preparer<'_>,
    config: &CacheConfig,
    format: StoredFormat,
    partition: Partition,
) -> StoredEstimate {
    let exact = format.fixed_bytes();
    // Without a usable image the estimate is the most that a view can take.
    let bytes = exact.or_else(|| probe(preparer, config, format)).or(format.pixel_bytes().ok()).unwrap_or(0);
    StoredEstimate { views: views(config, partition), bytes_per_view: whole(bytes), exact: exact.is_some() }
}

/// Samples that the shards of `partition` hold, were none rejected.
fn samples(config: &CacheConfig, partition: Partition) -> u64 {
    let samples: usize = (0..config.shards())
        .filter(|&shard| partition.contains(shard))
        .map(|shard| config.shard_samples.min(config.samples - shard * config.shard_samples))
        .sum();
    whole(samples)
}

/// Views of those samples.
fn views(config: &CacheConfig, partition: Partition) -> u64 {
    samples(config, partition).saturating_mul(u64::from(config.views))
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Exact bytes of the features, tokens and captions of a cache, or of one part's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputEstimate {
    /// Samples, were none rejected.
    pub samples: u64,
    /// Views of those samples.
    pub views: u64,
    /// Bytes of a view's feature; `None` if the cache holds none.
    pub features: Option<u64>,
    /// Bytes of a view's tokens; `None` if the cache holds none.
    pub tokens: Option<u64>,
    /// Bytes of a sample's caption; `None` if the cache holds none.
    pub captions: Option<u64>,
}

impl OutputEstimate {
    /// The estimate for the shards of `partition`.
    pub fn of(config: &CacheConfig, partition: Partition) -> Self {
        Self {
            samples: samples(config, partition),
            views: views(config, partition),
            features: config.features.as_ref().map(|features| whole(2 * features.dim)),
            tokens: config.tokens.as_ref().map(|tokens| whole(tokens.row_bytes())),
            captions: config.captions.as_ref().map(|captions| whole(2 * captions.dim)),
        }
    }

    /// Bytes of all features and tokens.
    pub fn bytes(&self) -> u64 {
        let per_view = self.features.unwrap_or(0).saturating_add(self.tokens.unwrap_or(0));
        self.views.saturating_mul(per_view)
    }
}

/// The mean bytes of a stored view over a strided sample of views; `None` if none of them can be used.
fn probe(preparer: &Preparer<'_>, config: &CacheConfig, format: StoredFormat) -> Option<usize> {
    let samples = preparer.source().samples().len();
    let strided = StridedViews::new(PROBES.min(samples), samples, config.views.into());
    let lengths: Vec<usize> = (0..strided.count())
        .map(|probe| strided.get(probe))
        .filter_map(|(sample, view)| preparer.stored_length(format, sample, view))
        .collect();
    lengths.iter().sum::<usize>().checked_div(lengths.len()).map(|mean| mean + 1)
}
