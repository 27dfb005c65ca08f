//! Options and summary of an extraction.

use std::time::Duration;

use lgd_data::cache::StoredFormat;
use lgd_data::image::DecodeLimits;
use lgd_data::view::Policy;

use crate::encoder::EncoderOptions;

/// Default number of threads that read files.
pub const READ_THREADS: usize = 2;

/// How tokens are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStorage {
    /// Standardized, f16.
    F16,
    /// Standardized, i8 with one scale per token.
    Int8,
    /// Standardized, then projected, f16.
    Projected {
        /// Width after the projection.
        dim: usize,
        /// Views that the projection is fitted to.
        fit_views: usize,
    },
}

/// How an extraction runs. Only the device and the batch size can change the embeddings.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// Device, batch and threads of the encoder.
    pub encoder: EncoderOptions,
    /// Threads that decode and render; 0 = all cores.
    pub decode_threads: usize,
    /// Threads that read files; 0 = [`READ_THREADS`].
    pub read_threads: usize,
    /// Limits beyond which an image is rejected.
    pub limits: DecodeLimits,
    /// Whether the teacher's features are cached too.
    pub features: bool,
    /// How the teacher's tokens are cached too; `None` where they are not.
    pub tokens: Option<TokenStorage>,
}

/// Which views a cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewPlan {
    /// Views per image, K.
    pub views: u16,
    /// Share of the short side that view 0 shows, if view 0 is the center crop; `None` if view 0 is drawn like the others.
    pub center_fraction: Option<f32>,
    /// Policy of the drawn views.
    pub policy: Policy,
    /// Seed of the views.
    pub seed: u64,
    /// The size and encoding in which the views' pixels are stored too, for training; `None` where they are not.
    pub stored: Option<StoredFormat>,
}

/// Results of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExtractSummary {
    /// Samples that are now in the cache.
    pub samples: u64,
    /// Samples that could not be used.
    pub rejected: u64,
    /// Views embedded, rejected samples left out.
    pub views: u64,
    /// Shards completed.
    pub shards: usize,
    /// Captions that were longer than the text encoder's context, and were cut.
    pub cut_captions: usize,
    /// Duration.
    pub elapsed: Duration,
}
