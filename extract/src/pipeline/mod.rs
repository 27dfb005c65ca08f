//! The extraction pipeline: from a listing and a teacher to the shards of a cache.
//!
//! ```text
//! feeder ─► readers ─► decoders ─► batcher ─► encoders (one per session) ─► writer
//!           bytes      pixels of    batches     unit vectors               shards
//!                      K views
//! ```
//!
//! Every arrow is a bounded queue: memory does not grow with the data, and each stage works while the others do. Order is
//! kept without sorting: a sample, and later a batch, travels as a promise in listing order, while its content is made by
//! whichever worker is free.
//!
//! Batches never span shards; the last one of a shard is padded. So a shard's bytes depend on its own samples, the batch
//! size and the kind of device only: not on the number of threads, on partitions, or on what was done before an
//! interruption. Samples that cannot be decoded take no place in a batch; one whose embedding is bad took its place
//! before that was known. Both are functions of the shard alone.

mod batcher;
mod encode;
mod estimate;
mod feed;
mod prepare;
mod writer;

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use lgd_data::cache::{CacheBuilder, CacheConfig, Partition, StoredFormat, TeacherRecord};
use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, listing_hash};
use lgd_data::source::ImageSource;
use lgd_data::view::Policy;

use crate::device::{ExecutionDevice, Slot};
use crate::encoder::{EncoderOptions, ImageEncoder};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::teacher::{Pooling, Teacher};

pub use estimate::StoredEstimate;

/// Files read ahead at a time where nothing else is said.
pub const READ_THREADS: usize = 2;

/// Batches whose embeddings may wait for the writer while it flushes a shard.
const WAITING_RESULTS: usize = 16;

/// Bytes of rendered pixels that may wait to be put into batches, and bytes of stored views that may wait for the writer.
const WAITING_PIXELS: usize = 1 << 30;

/// How an extraction runs. None of it changes the results but the device and the batch size.
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
}

/// Which views a cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewPlan {
    /// Views per image, K.
    pub views: u16,
    /// Share of the short side that view 0 shows, where view 0 is the plain centre crop; `None` where it is drawn too.
    pub center_fraction: Option<f32>,
    /// How the other views are drawn.
    pub policy: Policy,
    /// Seed of the views.
    pub seed: u64,
    /// The size and encoding in which the views' pixels are stored too, for training; `None` where they are not.
    pub stored: Option<StoredFormat>,
}

/// What one run did.
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
    /// Duration.
    pub elapsed: Duration,
}

/// A teacher's image encoders, ready to fill caches.
#[derive(Debug)]
pub struct Extractor {
    encoders: Vec<ImageEncoder>,
    options: ExtractOptions,
    name: String,
    image_model: ContentHash,
    text_encoder: Option<ContentHash>,
}

impl Extractor {
    /// Opens one session per GPU, or two on the processor that share its threads.
    ///
    /// # Errors
    /// [`ExtractError`] where a device cannot be used or the model is not what the teacher says.
    pub fn open(teacher: &Teacher, runtime: &Runtime, options: ExtractOptions) -> Result<Self, ExtractError> {
        let settings = teacher.image()?;
        let open = |(slot, threads)| {
            let options = EncoderOptions { threads, ..options.encoder.clone() };
            ImageEncoder::open(runtime, settings, slot, &options)
        };
        let encoders: Result<Vec<_>, _> = sessions(&options.encoder).into_iter().map(open).collect();
        Ok(Self {
            encoders: encoders?,
            options,
            name: teacher.name().to_owned(),
            image_model: teacher.image_hash()?,
            text_encoder: if teacher.has_text() { Some(teacher.text_hash()?) } else { None },
        })
    }

    /// The encoder of the first device: width, batch, input size, warnings.
    pub fn encoder(&self) -> &ImageEncoder {
        &self.encoders[0]
    }

    /// The least number of samples per shard, not below `wanted`, that fills whole batches where no sample is rejected.
    pub fn aligned_shard_samples(&self, wanted: usize, views: u16) -> usize {
        let (mut a, mut b) = (self.encoder().batch(), usize::from(views));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        wanted.max(1).next_multiple_of(self.encoder().batch() / a)
    }

    /// The configuration of a cache of all of `source`.
    pub fn cache_config(
        &self,
        source: &dyn ImageSource,
        plan: &ViewPlan,
        shard_samples: usize,
    ) -> CacheConfig {
        let encoder = self.encoder();
        CacheConfig {
            teacher: TeacherRecord {
                name: self.name.clone(),
                image_model: self.image_model,
                size: encoder.size(),
                normalization: *encoder.normalization(),
                resample: encoder.resample(),
                output: encoder.output().to_owned(),
                pooling: pooling_name(encoder.pooling()).to_owned(),
                prefix_tokens: u32::try_from(encoder.prefix_tokens()).unwrap_or(u32::MAX),
                text_encoder: self.text_encoder,
            },
            dim: encoder.dim(),
            listing: listing_hash(source.samples()),
            samples: source.samples().len(),
            class_names: source.class_names().map(<[String]>::to_vec),
            views: plan.views,
            center_fraction: plan.center_fraction,
            policy: plan.policy,
            seed: plan.seed,
            batch: encoder.batch(),
            shard_samples,
            device: device_kind(&self.options.encoder.device).to_owned(),
            stored_views: plan.stored,
        }
    }

    /// What the stored views of `partition` of a cache will take on disk; `None` where it stores none. Where their size depends
    /// on what they show, a few dozen views are rendered and encoded to find out.
    pub fn estimate_stored(
        &self,
        source: &dyn ImageSource,
        config: &CacheConfig,
        partition: Partition,
    ) -> Option<StoredEstimate> {
        let format = config.stored_views?;
        let preparer = prepare::Preparer::new(source, config, self.encoder(), self.options.limits);
        Some(estimate::estimate(&preparer, config, format, partition))
    }

    /// Makes the shards of `partition` that the cache still lacks. `job` counts samples.
    ///
    /// A sample that cannot be read or decoded, or of which a view's embedding is NaN or zero, is rejected with its
    /// reason, and the run goes on.
    ///
    /// # Errors
    /// [`ExtractError::Interrupted`] soon after [`Job::interrupt`]: complete shards stay, the one under way is dropped;
    /// [`ExtractError::CacheMismatch`] where the cache was begun for another source or encoder;
    /// [`ExtractError::Inference`] and [`ExtractError::Artefact`] where the encoder or the disk fails.
    pub fn extract(
        &mut self,
        source: &dyn ImageSource,
        builder: &CacheBuilder,
        partition: Partition,
        job: &Job,
    ) -> Result<ExtractSummary, ExtractError> {
        let started = Instant::now();
        self.check(source, builder.config())?;
        let shards = builder.missing_shards(partition)?;
        let samples: usize = shards.iter().map(|&shard| builder.sample_range(shard).len()).sum();
        job.begin(u64::try_from(samples).unwrap_or(u64::MAX));
        let mut summary = if shards.is_empty() {
            ExtractSummary::default()
        } else {
            self.run(source, builder, &shards, job)?
        };
        summary.elapsed = started.elapsed();
        Ok(summary)
    }

    fn check(&self, source: &dyn ImageSource, config: &CacheConfig) -> Result<(), ExtractError> {
        let encoder = self.encoder();
        let compare = |what, expected: String, got: String| {
            if expected == got { Ok(()) } else { Err(ExtractError::CacheMismatch { what, expected, got }) }
        };
        compare("listing", config.listing.to_string(), listing_hash(source.samples()).to_string())?;
        compare("image model", config.teacher.image_model.to_string(), self.image_model.to_string())?;
        compare("embedding width", config.dim.to_string(), encoder.dim().to_string())?;
        compare("input size", config.teacher.size.to_string(), encoder.size().to_string())?;
        compare("batch", config.batch.to_string(), encoder.batch().to_string())?;
        compare("device", config.device.clone(), device_kind(&self.options.encoder.device).to_owned())
    }

    fn run(
        &mut self,
        source: &dyn ImageSource,
        builder: &CacheBuilder,
        shards: &[usize],
        job: &Job,
    ) -> Result<ExtractSummary, ExtractError> {
        let config = builder.config();
        let decoders = threads_or(self.options.decode_threads, cores());
        let readers = threads_or(self.options.read_threads, READ_THREADS);
        let preparer = prepare::Preparer::new(source, config, self.encoder(), self.options.limits);
        let window = window(decoders, preparer.sample_bytes());

        let (to_readers, reader_tasks) = bounded(window);
        let (to_decoders, decoder_tasks) = bounded(decoders);
        let (to_batcher, ordered) = bounded(window);
        let (to_encoders, batches) = bounded(self.encoders.len());
        let batch = self.encoder().batch();
        let waiting = WAITING_PIXELS / (batch * preparer.stored_bytes()).max(1);
        let (to_writer, results) = bounded(waiting.clamp(1, WAITING_RESULTS));
        let (used_buffers, buffers) = batcher::batch_buffers(self.encoder(), 2 * self.encoders.len() + 1);
        let blocks = prepare::BlockPool::new(window);

        std::thread::scope(|scope| {
            scope.spawn(move || feed::feed(builder, shards, job, &to_readers, &to_batcher));
            for _ in 0..readers {
                let (tasks, decoders, preparer) = (reader_tasks.clone(), to_decoders.clone(), &preparer);
                scope.spawn(move || prepare::read_all(preparer, &tasks, &decoders));
            }
            for _ in 0..decoders {
                let (tasks, preparer, blocks) = (decoder_tasks.clone(), &preparer, &blocks);
                scope.spawn(move || prepare::decode_all(preparer, &tasks, blocks));
            }
            for encoder in &mut self.encoders {
                let (batches, used_buffers) = (batches.clone(), used_buffers.clone());
                scope.spawn(move || encode::encode_all(encoder, &batches, &used_buffers, job));
            }
            // The originals would keep queues open after their workers are gone.
            drop((reader_tasks, to_decoders, decoder_tasks, batches, used_buffers));
            let batcher = batcher::Batcher {
                preparer: &preparer,
                batch,
                blocks: &blocks,
                buffers,
                encoders: to_encoders,
                writer: to_writer,
            };
            scope.spawn(move || batcher.run(&ordered, job));
            writer::write_all(builder, source, shards.len(), results, job)
        })
    }
}

/// Where each session runs, and on how many threads.
fn sessions(options: &EncoderOptions) -> Vec<(Slot, usize)> {
    if !options.device.is_cpu() {
        return options.device.slots().into_iter().map(|slot| (slot, options.threads)).collect();
    }
    // The threads of one operation wait for each other, so a decoder that takes a core from one of them stops them all.
    // A second session uses the time.
    match threads_or(options.threads, cores()) {
        1 => vec![(Slot::Cpu, 1)],
        threads => vec![(Slot::Cpu, threads.div_ceil(2)), (Slot::Cpu, threads / 2)],
    }
}

/// Samples that may be on their way between listing and batch.
fn window(decoders: usize, sample_bytes: usize) -> usize {
    (2 * decoders + 2).min(WAITING_PIXELS / sample_bytes.max(1)).max(2)
}

fn threads_or(set: usize, default: usize) -> usize {
    if set == 0 { default } else { set }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn pooling_name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::None => "none",
        Pooling::Cls => "cls",
        Pooling::Mean => "mean",
        Pooling::Gap => "gap",
    }
}

fn device_kind(device: &ExecutionDevice) -> &'static str {
    match device {
        ExecutionDevice::Cpu => "cpu",
        ExecutionDevice::Cuda(_) => "cuda",
        ExecutionDevice::TensorRt(_) => "tensorrt",
    }
}
