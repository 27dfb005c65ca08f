//! The last stage: writes embeddings and samples, in order, to shards.

use std::ops::Range;
use std::time::Instant;

use crossbeam_channel::Receiver;
use lgd_data::cache::{
    CacheBuilder, CacheConfig, CachedSample, Reject, SampleRows, ShardWriter, TokenRecord,
};
use lgd_data::job::Job;
use lgd_data::source::{ImageSource, Sample};

use super::ExtractSummary;
use super::batcher::{BatchedSample, Item, ShardPart};
use super::captions::ShardCaptions;
use crate::encoder::{EmbeddingFault, EncodedViews, Features, Tokens, ViewFault};
use crate::error::ExtractError;

/// Writes until `shards` shards are complete.
///
/// The queues are taken by value, so that they close when writing fails and the stages before it end.
pub(super) fn write_all(
    builder: &CacheBuilder,
    source: &dyn ImageSource,
    shards: usize,
    parts: Receiver<ShardPart>,
    captions: Option<Receiver<Result<ShardCaptions, ExtractError>>>,
    job: &Job,
) -> Result<ExtractSummary, ExtractError> {
    let mut summary = ExtractSummary::default();
    let mut current = None;
    for part in &parts {
        match (part, &mut current) {
            (ShardPart::Begin(shard), current) => {
                // A channel closes without a result only if an encoder was interrupted.
                let captions =
                    captions.as_ref().map(|queue| queue.recv().map_err(|_| ExtractError::Interrupted)?);
                let captions = captions.transpose()?;
                summary.cut_captions += captions.as_ref().map_or(0, |captions| captions.cut);
                *current = Some(OpenShard::new(builder, source.samples(), shard, captions, job)?);
            }
            (ShardPart::Batch { items, encoded }, Some(shard)) => {
                let encoded = encoded.recv().map_err(|_| ExtractError::Interrupted)??;
                let started = Instant::now();
                shard.rows.append(encoded);
                shard.write(items, &mut summary)?;
                summary.writing += started.elapsed();
            }
            (ShardPart::End { items }, Some(shard)) => {
                let started = Instant::now();
                shard.write(items, &mut summary)?;
                if let Some(shard) = current.take() {
                    shard.writer.finish()?;
                    summary.shards += 1;
                }
                summary.writing += started.elapsed();
            }
            (ShardPart::Failed(source), _) => return Err(ExtractError::Storage { source }),
            (_, None) => {}
        }
    }
    if summary.shards == shards { Ok(summary) } else { Err(ExtractError::Interrupted) }
}

/// The shard being written.
struct OpenShard<'a> {
    writer: ShardWriter,
    samples: &'a [Sample],
    captions: Option<ShardCaptions>,
    views: usize,
    job: &'a Job,
    rows: Rows,
}

impl<'a> OpenShard<'a> {
    fn new(
        builder: &CacheBuilder,
        samples: &'a [Sample],
        shard: usize,
        captions: Option<ShardCaptions>,
        job: &'a Job,
    ) -> Result<Self, ExtractError> {
        let config = builder.config();
        Ok(Self {
            writer: builder.shard_writer(shard)?,
            samples,
            captions,
            views: usize::from(config.views),
            job,
            rows: Rows::new(config),
        })
    }

    fn write(&mut self, items: Vec<Item>, summary: &mut ExtractSummary) -> Result<(), ExtractError> {
        for item in items {
            let rejected = match item {
                Item::Reject(reject) => Some(reject),
                Item::Sample(sample) => self.write_sample(&sample)?,
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

    /// Writes a sample with the next K rows. If one of them or its caption has a fault, returns the rejection
    /// instead.
    fn write_sample(&mut self, item: &BatchedSample) -> Result<Option<Reject>, ExtractError> {
        let Sample { key, label } = &self.samples[item.sample];
        let rows = self.rows.take(self.views);
        if let Some((view, fault)) = self.rows.fault(rows.clone()) {
            let detail = format!("{} of view {view} is {fault}", fault.subject());
            let reason = fault.reason().to_owned();
            return Ok(Some(Reject { key: key.clone(), reason, detail }));
        }
        let caption = match self.captions.as_ref().map(|captions| captions.row(item.sample)).transpose() {
            Ok(caption) => caption.unwrap_or_default(),
            Err(fault) => return Ok(Some(caption_reject(key, fault))),
        };
        let cached = CachedSample { key, label: *label, image: item.image };
        let parts = SampleRows {
            views: &item.views,
            stored: &item.stored,
            caption,
            norms: &self.rows.norms[rows.clone()],
            embeddings: self.rows.embeddings.rows(&rows),
            features: self.rows.features.rows(&rows),
            tokens: self.rows.tokens.rows(&rows),
        };
        self.writer.push_rows(&cached, &parts)?;
        Ok(None)
    }
}

fn caption_reject(key: &str, fault: EmbeddingFault) -> Reject {
    let reason = match fault {
        EmbeddingFault::NotFinite => "nan-caption",
        EmbeddingFault::Zero => "zero-caption",
    };
    let detail = format!("the embedding of the caption is {fault}");
    Reject { key: key.to_owned(), reason: reason.to_owned(), detail }
}

/// Rows that are encoded but not yet written. A sample's rows may span several batches.
struct Rows {
    embeddings: Column,
    features: Column,
    tokens: Column,
    norms: Vec<f32>,
    faults: Vec<Option<ViewFault>>,
    taken: usize,
}

/// Values with a fixed number per row; 0 per row if the cache does not hold them.
struct Column {
    width: usize,
    values: Vec<f32>,
}

impl Column {
    fn new(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    /// Appends rows. If no earlier rows are left, the values are moved and not copied, since a batch's tokens take
    /// megabytes.
    fn append(&mut self, values: Vec<f32>) {
        if self.values.is_empty() {
            self.values = values;
        } else {
            self.values.extend_from_slice(&values);
        }
    }

    fn rows(&self, rows: &Range<usize>) -> &[f32] {
        &self.values[rows.start * self.width..rows.end * self.width]
    }
}

impl Rows {
    fn new(config: &CacheConfig) -> Self {
        Self {
            embeddings: Column::new(config.dim),
            features: Column::new(config.features.as_ref().map_or(0, |features| features.dim)),
            tokens: Column::new(config.tokens.as_ref().map_or(0, TokenRecord::width)),
            norms: Vec::new(),
            faults: Vec::new(),
            taken: 0,
        }
    }

    fn append(&mut self, views: EncodedViews) {
        let rows = 0..views.embeddings.rows();
        self.norms.extend(rows.clone().map(|row| views.embeddings.norm(row)));
        self.faults.extend(rows.map(|row| views.fault(row)));
        self.embeddings.append(views.embeddings.into_values());
        self.features.append(views.features.map_or(Vec::new(), Features::into_values));
        self.tokens.append(views.tokens.map_or(Vec::new(), Tokens::into_values));
    }

    /// Takes the next `count` rows.
    fn take(&mut self, count: usize) -> Range<usize> {
        let rows = self.taken..self.taken + count;
        self.taken = rows.end;
        rows
    }

    /// The first fault among `rows`, with its position in the range.
    fn fault(&self, rows: Range<usize>) -> Option<(usize, ViewFault)> {
        self.faults[rows].iter().enumerate().find_map(|(view, fault)| Some((view, (*fault)?)))
    }

    fn drop_taken(&mut self) {
        for column in [&mut self.embeddings, &mut self.features, &mut self.tokens] {
            column.values.drain(..self.taken * column.width);
        }
        self.norms.drain(..self.taken);
        self.faults.drain(..self.taken);
        self.taken = 0;
    }
}
