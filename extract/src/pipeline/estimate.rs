//! What stored views will take on disk, before the work begins.

use lgd_data::cache::{CacheConfig, Partition, StoredFormat};

use super::prepare::Preparer;

/// Views that are encoded to learn how many bytes one takes.
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
    let samples: usize = (0..config.shards())
        .filter(|&shard| partition.contains(shard))
        .map(|shard| config.shard_samples.min(config.samples - shard * config.shard_samples))
        .sum();
    let views = samples.saturating_mul(usize::from(config.views));
    let exact = format.fixed_bytes();
    // A probe that finds no usable image says the most that a view could take.
    let bytes = exact.or_else(|| probe(preparer, config, format)).or(format.pixel_bytes().ok()).unwrap_or(0);
    let whole = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    StoredEstimate { views: whole(views), bytes_per_view: whole(bytes), exact: exact.is_some() }
}

/// The mean over views of samples spread over the listing, view 0 of one, view 1 of the next and so on.
fn probe(preparer: &Preparer<'_>, config: &CacheConfig, format: StoredFormat) -> Option<usize> {
    let samples = preparer.source().samples().len();
    let probes = PROBES.min(samples);
    let lengths: Vec<usize> = (0..probes)
        .zip((0..config.views).cycle())
        .filter_map(|(probe, view)| preparer.stored_length(format, probe * samples / probes, view))
        .collect();
    lengths.iter().sum::<usize>().checked_div(lengths.len()).map(|mean| mean + 1)
}
