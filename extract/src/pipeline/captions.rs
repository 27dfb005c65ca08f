//! Unit vectors of a shard's captions: encoded in parallel with the pipeline, or taken from the listing.

use std::ops::Range;

use crossbeam_channel::Sender;
use half::slice::HalfFloatSliceExt;
use lgd_data::cache::{CacheBuilder, CaptionRecord};
use lgd_data::job::Job;
use lgd_data::source::{Captions, ImageSource};

use crate::encoder::{EmbeddingFault, TextEncoder};
use crate::error::ExtractError;

/// Number of texts encoded between two checks for an interruption.
const CHUNK: usize = 256;

/// The source of the captions' unit vectors.
#[derive(Debug)]
pub(super) enum CaptionEncoder {
    /// Texts, encoded by the teacher's text encoder.
    Texts(Box<TextEncoder>),
    /// Embeddings of this width, given in the listing.
    Ready(usize),
}

/// Unit vectors of the captions of one shard's samples, rejected samples included.
pub(super) struct ShardCaptions {
    samples: Range<usize>,
    dim: usize,
    values: Vec<f32>,
    faults: Vec<Option<EmbeddingFault>>,
    /// Number of texts that were longer than the context and were truncated.
    pub cut: usize,
}

impl ShardCaptions {
    /// The unit vector of the sample with this index in the listing, or its fault.
    pub(super) fn row(&self, sample: usize) -> Result<&[f32], EmbeddingFault> {
        let at = sample - self.samples.start;
        match self.faults[at] {
            Some(fault) => Err(fault),
            None => Ok(&self.values[at * self.dim..(at + 1) * self.dim]),
        }
    }
}

impl CaptionEncoder {
    /// The record of the captions for the cache's configuration.
    pub(super) fn record(&self) -> CaptionRecord {
        match self {
            Self::Texts(encoder) => CaptionRecord { dim: encoder.dim(), text_encoder: Some(encoder.hash()) },
            Self::Ready(dim) => CaptionRecord { dim: *dim, text_encoder: None },
        }
    }

    /// Encodes the captions of `samples`. Batches, and thus the bits, depend only on the range.
    fn encode(
        &mut self,
        captions: Option<&Captions>,
        samples: Range<usize>,
        job: &Job,
    ) -> Result<ShardCaptions, ExtractError> {
        let mut shard = ShardCaptions {
            samples: samples.clone(),
            dim: self.record().dim,
            values: Vec::new(),
            faults: Vec::new(),
            cut: 0,
        };
        match (&mut *self, captions) {
            (Self::Texts(encoder), Some(Captions::Texts(texts))) => {
                for texts in texts[samples].chunks(CHUNK) {
                    if job.interrupted() {
                        return Err(ExtractError::Interrupted);
                    }
                    let encoded = encoder.encode_texts(texts)?;
                    shard.faults.extend((0..texts.len()).map(|row| encoded.embeddings.fault(row)));
                    shard.cut += encoded.cut;
                    shard.values.extend(encoded.embeddings.into_values());
                }
            }
            (Self::Ready(dim), Some(Captions::Embeddings { values, .. })) => {
                shard.faults = vec![None; samples.len()];
                shard.values = values[samples.start * *dim..samples.end * *dim].to_f32_vec();
            }
            (encoder, captions) => {
                let expected =
                    if matches!(encoder, Self::Texts(_)) { "texts" } else { "embeddings" }.to_owned();
                let got = match captions {
                    Some(Captions::Texts(_)) => "texts",
                    Some(Captions::Embeddings { .. }) => "embeddings",
                    None => "none",
                };
                return Err(ExtractError::CacheMismatch { what: "captions", expected, got: got.to_owned() });
            }
        }
        Ok(shard)
    }
}

/// Sends the captions of every shard, in order, until all are sent, the job is interrupted, or the writer ends.
pub(super) fn encode_all(
    encoder: &mut CaptionEncoder,
    source: &dyn ImageSource,
    builder: &CacheBuilder,
    shards: &[usize],
    writer: &Sender<Result<ShardCaptions, ExtractError>>,
    job: &Job,
) {
    for &shard in shards {
        let encoded = encoder.encode(source.listing().captions.as_ref(), builder.sample_range(shard), job);
        let failed = encoded.is_err();
        if writer.send(encoded).is_err() || failed {
            return;
        }
    }
}
