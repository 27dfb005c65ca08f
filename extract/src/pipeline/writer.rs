//! The last stage: embeddings and samples, in order, into shards.

use crossbeam_channel::Receiver;
use lgd_data::cache::{CacheBuilder, CachedSample, Reject, ShardWriter};
use lgd_data::job::Job;
use lgd_data::source::{ImageSource, Sample};
use lgd_data::view::View;

use super::ExtractSummary;
use super::batcher::{Item, ShardPart};
use crate::encoder::{EmbeddingFault, Embeddings};
use crate::error::ExtractError;

/// Writes until `shards` shards are complete.
///
/// Takes the queue by value: when writing fails, the stages before it must find it closed.
pub(super) fn write_all(
    builder: &CacheBuilder,
    source: &dyn ImageSource,
    shards: usize,
    parts: Receiver<ShardPart>,
    job: &Job,
) -> Result<ExtractSummary, ExtractError> {
    let mut summary = ExtractSummary::default();
    let mut current = None;
    for part in &parts {
        match (part, &mut current) {
            (ShardPart::Begin(shard), current) => {
                *current = Some(OpenShard::new(builder, source.samples(), shard, job)?);
            }
            (ShardPart::Batch { items, embeddings }, Some(shard)) => {
                // The promise is broken only by an encoder that was told to stop.
                let embeddings = embeddings.recv().map_err(|_| ExtractError::Interrupted)??;
                shard.rows.append(&embeddings);
                shard.write(items, &mut summary)?;
            }
            (ShardPart::End { items }, Some(shard)) => {
                shard.write(items, &mut summary)?;
                if let Some(shard) = current.take() {
                    shard.writer.finish()?;
                    summary.shards += 1;
                }
            }
            (_, None) => {}
        }
    }
    if summary.shards == shards { Ok(summary) } else { Err(ExtractError::Interrupted) }
}

/// The shard being written.
struct OpenShard<'a> {
    writer: ShardWriter,
    samples: &'a [Sample],
    views: usize,
    job: &'a Job,
    rows: Rows,
}

impl<'a> OpenShard<'a> {
    fn new(
        builder: &CacheBuilder,
        samples: &'a [Sample],
        shard: usize,
        job: &'a Job,
    ) -> Result<Self, ExtractError> {
        let config = builder.config();
        Ok(Self {
            writer: builder.shard_writer(shard)?,
            samples,
            views: usize::from(config.views),
            job,
            rows: Rows { dim: config.dim, ..Rows::default() },
        })
    }

    fn write(&mut self, items: Vec<Item>, summary: &mut ExtractSummary) -> Result<(), ExtractError> {
        for item in items {
            let rejected = match item {
                Item::Reject(reject) => Some(reject),
                Item::Sample { sample, image, views, stored } => {
                    let sample = &self.samples[sample];
                    let cached = CachedSample { key: &sample.key, label: sample.label, image };
                    self.write_sample(&cached, &views, &stored)?
                }
            };
            match rejected {
                Some(reject) => {
                    self.writer.reject(reject);
                    self.job.reject(1);
                    summary.rejected += 1;
                }
                None => {
                    summary.samples += 1;
                    summary.views += u64::try_from(self.views).unwrap_or(u64::MAX);
                }
            }
            self.job.advance(1);
        }
        self.rows.drop_taken();
        Ok(())
    }

    /// Writes a sample with the next K rows, unless one of them is bad.
    fn write_sample(
        &mut self,
        sample: &CachedSample<'_>,
        views: &[View],
        stored: &[Vec<u8>],
    ) -> Result<Option<Reject>, ExtractError> {
        let (first, norms, values, fault) = self.rows.take(self.views);
        if let Some((row, fault)) = fault {
            let reason = match fault {
                EmbeddingFault::NotFinite => "nan-embedding",
                EmbeddingFault::Zero => "zero-embedding",
            };
            let detail = format!("the embedding of view {} is {fault}", row - first);
            return Ok(Some(Reject { key: sample.key.to_owned(), reason: reason.to_owned(), detail }));
        }
        self.writer.push_stored(sample, views, norms, values, stored)?;
        Ok(None)
    }
}

/// Rows that have been encoded and not yet written. A sample's rows may come in two batches.
#[derive(Default)]
struct Rows {
    dim: usize,
    values: Vec<f32>,
    norms: Vec<f32>,
    faults: Vec<Option<EmbeddingFault>>,
    taken: usize,
}

type Taken<'a> = (usize, &'a [f32], &'a [f32], Option<(usize, EmbeddingFault)>);

impl Rows {
    fn append(&mut self, embeddings: &Embeddings) {
        self.values.extend_from_slice(embeddings.values());
        self.norms.extend((0..embeddings.rows()).map(|row| embeddings.norm(row)));
        self.faults.extend((0..embeddings.rows()).map(|row| embeddings.fault(row)));
    }

    /// The next `count` rows: index of the first, norms, values, and the first fault among them.
    fn take(&mut self, count: usize) -> Taken<'_> {
        let rows = self.taken..self.taken + count;
        self.taken = rows.end;
        let fault = rows.clone().find_map(|row| self.faults[row].map(|fault| (row, fault)));
        (
            rows.start,
            &self.norms[rows.clone()],
            &self.values[rows.start * self.dim..rows.end * self.dim],
            fault,
        )
    }

    fn drop_taken(&mut self) {
        self.values.drain(..self.taken * self.dim);
        self.norms.drain(..self.taken);
        self.faults.drain(..self.taken);
        self.taken = 0;
    }
}
