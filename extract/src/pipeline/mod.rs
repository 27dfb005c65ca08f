//! The extraction pipeline: makes the shards of a cache from a listing and a teacher.
//!
//! ```text
//! feeder ─► readers ─► decoders ─► batcher ─► encoders (one per session) ─► writer
//!           bytes      pixels of    batches     unit vectors, features,    shards
//!                      K views                  tokens                       ▲
//! captions ─► text encoder ─► unit vectors of a shard's samples ─────────────┘
//! ```
//!
//! Every arrow is a bounded queue: memory does not grow with the data, and all stages work at the same time. Order is
//! kept without sorting: each sample, and later each batch, travels in listing order as a result channel, and any
//! free worker computes its content.
//!
//! Batches never span shards, and the last batch of a shard is padded. A shard's bytes therefore depend only on its
//! own samples, the batch size and the kind of device, not on the number of threads, on partitions, or on
//! interruptions. A sample that cannot be decoded takes no place in a batch; a sample with a bad embedding has
//! already taken its place when that is found. Both are functions of the shard alone. If tokens are projected, the
//! projection is fitted before the first shard, by the first part to run, and stored in the cache for all parts.

mod batcher;
mod captions;
mod config;
mod encode;
mod estimate;
mod feed;
mod fit;
mod measure;
mod options;
mod prepare;
mod writer;

use std::time::Instant;

use crossbeam_channel::bounded;
use lgd_data::cache::{CacheBuilder, CacheConfig, Partition, TokenEncoding, TokenRecord};
use lgd_data::job::Job;
use lgd_data::manifest::ContentHash;
use lgd_data::projection::Projection;
use lgd_data::source::{Captions, ImageSource};
use lgd_data::view::CenterCrop;

use crate::device::Slot;
use crate::encoder::{EncoderOptions, ImageEncoder, Outputs};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::teacher::Teacher;

use captions::CaptionEncoder;

pub use estimate::{OutputEstimate, StoredEstimate};
pub use options::{ExtractOptions, ExtractSummary, READ_THREADS, TokenStorage, ViewPlan};

/// Number of batches whose embeddings may wait for the writer while it flushes a shard.
const WAITING_RESULTS: usize = 16;

/// Limit in bytes of rendered pixels that wait to be batched, and of stored views and outputs that wait for the
/// writer.
const WAITING_PIXELS: usize = 1 << 30;

/// A teacher's image encoders, ready to fill caches.
#[derive(Debug)]
pub struct Extractor {
    encoders: Vec<ImageEncoder>,
    options: ExtractOptions,
    name: String,
    /// The teacher's own center crop: by its files, else the default.
    center: CenterCrop,
    image_model: ContentHash,
    text_encoder: Option<ContentHash>,
    captions: Option<CaptionEncoder>,
}

impl Extractor {
    /// Opens one session per GPU, or two on the CPU that share its threads.
    ///
    /// # Errors
    /// [`ExtractError`] if a device cannot be used or the model does not match the teacher's settings.
    pub fn open(teacher: &Teacher, runtime: &Runtime, options: ExtractOptions) -> Result<Self, ExtractError> {
        let mut settings = teacher.image()?;
        settings.resample = options.resample.unwrap_or(settings.resample);
        let outputs = Outputs { features: options.features, tokens: options.tokens.is_some() };
        let open = |(slot, threads)| {
            let options = EncoderOptions { threads, ..options.encoder.clone() };
            ImageEncoder::open(runtime, &settings, slot, &options, outputs)
        };
        let encoders: Result<Vec<_>, _> = sessions(&options.encoder).into_iter().map(open).collect();
        let encoders = encoders?;
        if let Some(TokenStorage::Projected { dim, .. }) = options.tokens {
            encoders.iter().try_for_each(|encoder| encoder.require_token_width(dim))?;
        }
        Ok(Self {
            encoders,
            captions: None,
            options,
            name: teacher.name().to_owned(),
            center: settings.center.unwrap_or_default(),
            image_model: teacher.image_hash()?,
            text_encoder: teacher.text_identity()?,
        })
    }

    /// Also caches the captions of `source`. Later calls must be given the same source. Captions that are texts are
    /// encoded by the teacher's text encoder.
    ///
    /// # Errors
    /// [`ExtractError`] if the captions are texts and the teacher has no usable text encoder.
    pub fn with_captions(
        mut self,
        teacher: &Teacher,
        runtime: &Runtime,
        source: &dyn ImageSource,
    ) -> Result<Self, ExtractError> {
        self.captions = match &source.listing().captions {
            Some(Captions::Texts(_)) => {
                let encoder = teacher
                    .text_encoder(runtime, &EncoderOptions { batch: None, ..self.options.encoder.clone() })?;
                Some(CaptionEncoder::Texts(Box::new(encoder)))
            }
            Some(Captions::Embeddings { dim, .. }) => Some(CaptionEncoder::Ready(*dim)),
            None => None,
        };
        Ok(self)
    }

    /// The encoder of the first session, for its width, batch, input size and warnings.
    pub fn encoder(&self) -> &ImageEncoder {
        &self.encoders[0]
    }

    /// Notes of the text encoder for captions, one sentence each.
    pub fn caption_notes(&self) -> &[String] {
        match &self.captions {
            Some(CaptionEncoder::Texts(encoder)) => encoder.notes(),
            _ => &[],
        }
    }

    /// The smallest number of samples per shard, at least `wanted`, that fills whole batches if no sample is
    /// rejected.
    pub fn aligned_shard_samples(&self, wanted: usize, views: u16) -> usize {
        let (mut a, mut b) = (self.encoder().batch(), usize::from(views));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        wanted.max(1).next_multiple_of(self.encoder().batch() / a)
    }

    /// Estimates the disk space of the stored views of `partition` of a cache; `None` if it stores none. If a view's
    /// size depends on its content, a few dozen views are rendered and encoded as a sample.
    pub fn estimate_stored(
        &self,
        source: &dyn ImageSource,
        config: &CacheConfig,
        partition: Partition,
    ) -> Option<StoredEstimate> {
        let format = config.stored_views?;
        let preparer = prepare::Preparer::new(source, config, self.encoder(), &self.options);
        Some(estimate::estimate(&preparer, config, format, partition))
    }

    /// Makes the shards of `partition` that the cache lacks or that are damaged. `job` counts samples.
    ///
    /// A sample is rejected, with a reason, if it cannot be read or decoded, or if the embedding, feature or tokens
    /// of one of its views are NaN, zero or out of range; the run continues. If tokens are projected and no part has
    /// fitted the projection yet, this run fits it first; `job` then counts views.
    ///
    /// # Errors
    /// - [`ExtractError::Interrupted`] soon after [`Job::interrupt`].
    /// - [`ExtractError::CacheMismatch`] if the cache was started for another source or encoder.
    /// - [`ExtractError::Inference`] if the encoder fails, [`ExtractError::Artifact`] if the cache's disk fails, and
    ///   [`ExtractError::Storage`] if the storage of the images fails.
    ///
    /// Complete shards are kept in all cases; the current one is dropped.
    pub fn extract(
        &mut self,
        source: &dyn ImageSource,
        builder: &CacheBuilder,
        partition: Partition,
        job: &Job,
    ) -> Result<ExtractSummary, ExtractError> {
        let started = Instant::now();
        self.check(source, builder.config())?;
        // This comes before the list of missing shards: shards made with another projection must be made again.
        let projection = self.projection(source, builder, partition, job)?;
        let fitting = started.elapsed();
        let shards = builder.missing_shards(partition)?;
        let samples: usize = shards.iter().map(|&shard| builder.sample_range(shard).len()).sum();
        job.begin(u64::try_from(samples).unwrap_or(u64::MAX));
        let mut summary = if shards.is_empty() {
            ExtractSummary::default()
        } else {
            self.run(source, builder, projection.as_ref(), &shards, job)?
        };
        (summary.fitting, summary.elapsed) = (fitting, started.elapsed());
        Ok(summary)
    }

    /// The projection of the tokens: the one that a part has stored in the cache, else a newly fitted one.
    fn projection(
        &mut self,
        source: &dyn ImageSource,
        builder: &CacheBuilder,
        partition: Partition,
        job: &Job,
    ) -> Result<Option<Projection>, ExtractError> {
        let config = builder.config();
        let wanted = config.tokens.as_ref().filter(|tokens| tokens.encoding == TokenEncoding::Projected);
        let kept = builder.projection()?;
        let Some(record) = wanted.filter(|_| kept.is_none()) else { return Ok(kept) };
        // A complete cache has a projection, so that of this one is damaged and made again, to the same bytes.
        if !builder.is_complete() && builder.missing_shards(partition)?.is_empty() {
            return Ok(None);
        }
        let preparer = prepare::Preparer::new(source, config, self.encoder(), &self.options);
        let fitted = fit::fit(&mut self.encoders[0], &preparer, record, config.views, job)?;
        Ok(Some(builder.keep_projection(&fitted)?))
    }

    /// Threads that read, and threads that decode and render.
    fn prepare_threads(&self) -> (usize, usize) {
        let ExtractOptions { read_threads, decode_threads, .. } = self.options;
        (threads_or(read_threads, READ_THREADS), threads_or(decode_threads, cores()))
    }

    fn run(
        &mut self,
        source: &dyn ImageSource,
        builder: &CacheBuilder,
        projection: Option<&Projection>,
        shards: &[usize],
        job: &Job,
    ) -> Result<ExtractSummary, ExtractError> {
        let config = builder.config();
        let threads = self.prepare_threads();
        let preparer = prepare::Preparer::new(source, config, self.encoder(), &self.options);
        let window = window(threads.1, preparer.sample_bytes());

        let (to_readers, reader_tasks) = bounded(window);
        let (to_batcher, ordered) = bounded(window);
        let (to_encoders, batches) = bounded(self.encoders.len());
        let batch = self.encoder().batch();
        let waiting = WAITING_PIXELS / (batch * (preparer.stored_bytes() + output_bytes(config))).max(1);
        let (to_writer, results) = bounded(waiting.clamp(1, WAITING_RESULTS));
        let (used_buffers, buffers) = batcher::batch_buffers(self.encoder(), 2 * self.encoders.len() + 1);
        let pool = prepare::BufferPool::new(window);
        // Captions are encoded at most one shard ahead of the writer.
        let (to_captioned, captioned) = self.captions.as_ref().map(|_| bounded(1)).unzip();

        std::thread::scope(|scope| {
            scope.spawn(move || feed::feed(builder, shards, job, &to_readers, &to_batcher));
            prepare::spawn(scope, &preparer, &pool, threads, &reader_tasks);
            for encoder in &mut self.encoders {
                let (batches, used_buffers) = (batches.clone(), used_buffers.clone());
                scope.spawn(move || encode::encode_all(encoder, projection, &batches, &used_buffers, job));
            }
            if let Some((encoder, queue)) = self.captions.as_mut().zip(to_captioned) {
                scope.spawn(move || captions::encode_all(encoder, source, builder, shards, &queue, job));
            }
            // The original handles would keep queues open after their workers have ended.
            drop((reader_tasks, batches, used_buffers));
            let batcher = batcher::Batcher {
                preparer: &preparer,
                batch,
                pool: &pool,
                buffers,
                encoders: to_encoders,
                writer: to_writer,
            };
            scope.spawn(move || batcher.run(&ordered, job));
            let summary = writer::write_all(builder, source, shards.len(), results, captioned, job)?;
            Ok(ExtractSummary { transparent: preparer.transparent(), ..summary })
        })
    }
}

/// The device and the number of threads of each session.
fn sessions(options: &EncoderOptions) -> Vec<(Slot, usize)> {
    if !options.device.is_cpu() {
        return options.device.slots().into_iter().map(|slot| (slot, options.threads)).collect();
    }
    // The threads of one operation wait for each other, so a decoder that takes a core from one of them delays all of
    // them. A second session uses that time.
    match threads_or(options.threads, cores()) {
        1 => vec![(Slot::Cpu, 1)],
        threads => vec![(Slot::Cpu, threads.div_ceil(2)), (Slot::Cpu, threads / 2)],
    }
}

/// Bytes in memory of one view's features and tokens.
fn output_bytes(config: &CacheConfig) -> usize {
    let features = config.features.as_ref().map_or(0, |features| features.dim);
    let tokens = config.tokens.as_ref().map_or(0, TokenRecord::width);
    4 * (features + tokens)
}

/// Maximum number of samples in the queues between listing and batch.
fn window(decoders: usize, sample_bytes: usize) -> usize {
    (2 * decoders + 2).min(WAITING_PIXELS / sample_bytes.max(1)).max(2)
}

fn threads_or(set: usize, default: usize) -> usize {
    if set == 0 { default } else { set }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
