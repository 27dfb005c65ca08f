//! Options and summary of an extraction.

use std::time::Duration;

use lgd_data::cache::StoredFormat;
use lgd_data::image::DecodeLimits;
use lgd_data::render::Resample;
use lgd_data::view::{CenterCrop, Policy};

use crate::encoder::EncoderOptions;

/// Default number of threads that read files.
pub const READ_THREADS: usize = 2;

/// Storage format of tokens.
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

/// Options of an extraction. Only the device, the batch size and the filter can change the embeddings.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// Device, batch size and threads of the encoder.
    pub encoder: EncoderOptions,
    /// Threads that decode and render; 0 means all cores.
    pub decode_threads: usize,
    /// Threads that read files; 0 means [`READ_THREADS`].
    pub read_threads: usize,
    /// Limits beyond which an image is rejected.
    pub limits: DecodeLimits,
    /// Filter of every resize in place of the teacher's.
    pub resample: Option<Resample>,
    /// Whether the teacher's features are also cached.
    pub features: bool,
    /// Storage format of the teacher's tokens; `None` if they are not cached.
    pub tokens: Option<TokenStorage>,
    /// Rewrites the details of rejects before they are stored, such as paths that mean nothing later; `None` stores them as
    /// they are.
    pub rewrite_details: Option<fn(&str) -> String>,
}

/// The views that a cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewPlan {
    /// Views per image, K.
    pub views: u16,
    /// The crop of view 0, if view 0 is the center view; `None` if view 0 is random like the others.
    pub center: Option<CenterCrop>,
    /// Policy of the random views.
    pub policy: Policy,
    /// Seed of the random views.
    pub seed: u64,
    /// Size and encoding of the stored pixels of the views, for training; `None` if pixels are not stored.
    pub stored: Option<StoredFormat>,
}

/// Results of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExtractSummary {
    /// Samples written to the cache.
    pub samples: u64,
    /// Samples rejected.
    pub rejected: u64,
    /// Views embedded, without those of rejected samples.
    pub views: u64,
    /// Shards completed.
    pub shards: usize,
    /// Captions that were longer than the text encoder's context and were truncated.
    pub cut_captions: usize,
    /// Images with a pixel that is not fully opaque. Their alpha is dropped.
    pub transparent: u64,
    /// Wall time.
    pub elapsed: Duration,
    /// Part of the wall time that fitted the projection of the tokens.
    pub fitting: Duration,
    /// Time that the writer wrote, instead of waiting for the stages before it.
    pub writing: Duration,
}
