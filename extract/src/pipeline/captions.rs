//! The captions of a shard's samples as unit vectors: encoded beside the pipeline, or as the list gave them.

use std::ops::Range;

use crossbeam_channel::Sender;
use half::slice::HalfFloatSliceExt;
use lgd_data::cache::{CacheBuilder, CaptionRecord};
use lgd_data::job::Job;
use lgd_data::source::{Captions, ImageSource};

use crate::encoder::{EmbeddingFault, TextEncoder};
use crate::error::ExtractError;

/// Texts that are encoded between two checks for a request to stop.
const CHUNK: usize = 256;

/// Encodes captions as unit vectors.
#[derive(Debug)]
pub(super) enum CaptionEncoder {
    /// Texts, through the teacher's text encoder.
    Texts(Box<TextEncoder>),
    /// Ready embeddings of this width.
    Ready(usize),
}

/// The captions of the samples of one shard, rejects included.
pub(super) struct ShardCaptions {
    samples: Range<usize>,
    dim: usize,
    values: Vec<f32>,
    faults: Vec<Option<EmbeddingFault>>,
    /// How many texts were longer than the context.
    pub cut: usize,
}

impl ShardCaptions {
    /// The unit vector of a sample of the listing, or its fault.
    pub(super) fn row(&self, sample: usize) -> Result<&[f32], EmbeddingFault> {
        let at = sample - self.samples.start;
        match self.faults[at] {
            Some(fault) => Err(fault),
            None => Ok(&self.values[at * self.dim..(at + 1) * self.dim]),
        }
    }
}

impl CaptionEncoder {
    /// The record of the captions in the cache's configuration.
    pub(super) fn record(&self) -> CaptionRecord {
        match self {
            Self::Texts(encoder) => CaptionRecord { dim: encoder.dim(), text_encoder: Some(encoder.hash()) },
            Self::Ready(dim) => CaptionRecord { dim: *dim, text_encoder: None },
        }
    }

    /// The captions of `samples`. Batches depend on the range alone, and so do the bits.
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

/// Sends the captions of every shard, in order, until done, asked to stop, or the writer has ended.
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
