//! Estimates the disk space of stored views, features, tokens and captions before the extraction starts.

use lgd_data::cache::{CacheConfig, Partition, StoredFormat};
use lgd_data::strided::StridedViews;

use super::prepare::Preparer;

/// Number of views that are encoded to estimate the bytes per view.
const PROBES: usize = 48;

/// Estimated size of the stored views of a cache or of one of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEstimate {
    /// Number of views if no sample is rejected.
    pub views: u64,
    /// Bytes per view, rounded up.
    pub bytes_per_view: u64,
    /// Whether every view takes exactly this many bytes.
    pub exact: bool,
}

impl StoredEstimate {
    /// Bytes of all views.
    pub fn bytes(&self) -> u64 {
        self.views.saturating_mul(self.bytes_per_view)
    }
}

/// Estimates the stored views of the shards of `partition`.
pub(super) fn estimate(
    preparer: &Preparer<'_>,
    config: &CacheConfig,
    format: StoredFormat,
    partition: Partition,
) -> StoredEstimate {
    let exact = format.fixed_bytes();
    // If no sampled image is usable, the estimate is the maximum that a view can take.
    let bytes = exact.or_else(|| probe(preparer, config, format)).or(format.pixel_bytes().ok()).unwrap_or(0);
    StoredEstimate { views: views(config, partition), bytes_per_view: whole(bytes), exact: exact.is_some() }
}

/// Number of samples in the shards of `partition` if none is rejected.
fn samples(config: &CacheConfig, partition: Partition) -> u64 {
    let samples: usize = (0..config.shards())
        .filter(|&shard| partition.contains(shard))
        .map(|shard| config.shard_samples.min(config.samples - shard * config.shard_samples))
        .sum();
    whole(samples)
}

/// Number of views of those samples.
fn views(config: &CacheConfig, partition: Partition) -> u64 {
    samples(config, partition).saturating_mul(u64::from(config.views))
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Exact size of the features, tokens and captions of a cache or of one of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputEstimate {
    /// Number of samples if none is rejected.
    pub samples: u64,
    /// Number of views of those samples.
    pub views: u64,
    /// Bytes per view of the features; `None` if the cache holds none.
    pub features: Option<u64>,
    /// Bytes per view of the tokens; `None` if the cache holds none.
    pub tokens: Option<u64>,
    /// Bytes per sample of the captions; `None` if the cache holds none.
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

/// Mean size in bytes of a stored view over a strided sample of views; `None` if none of them is usable.
fn probe(preparer: &Preparer<'_>, config: &CacheConfig, format: StoredFormat) -> Option<usize> {
    let samples = preparer.source().samples().len();
    let strided = StridedViews::new(PROBES.min(samples), samples, config.views.into());
    let lengths: Vec<usize> = (0..strided.count())
        .map(|probe| strided.get(probe))
        .filter_map(|(sample, view)| preparer.stored_length(format, sample, view))
        .collect();
    lengths.iter().sum::<usize>().checked_div(lengths.len()).map(|mean| mean + 1)
}
