//! The training stream: batch after batch, epoch after epoch.
//!
//! Epoch e visits the samples in [`crate::loader::order::epoch_order`] and shows view (e mod K) of each. The last, incomplete
//! batch of an epoch is dropped, so that every step has the same batch statistics and meaning. The next epoch's permutation
//! drops other samples.
//!
//! Workers fill the batches of the next steps in place. Pixel buffers are recycled: dropping a batch returns its
//! buffer. A batch holds 8-bit pixels, which the engine normalizes. A GPU does so after the upload, which then has a
//! quarter of the bytes. The CPU needs one pass.
//!
//! Targets are gathered with the pixels, ahead of the step, because a row of patch tokens can be larger than its view.
//!
//! Held-out samples ([`super::holdout`]) are not part of any order.
//!
//! A bad image ends the run. Extraction would have rejected it, but here its row is already part of the bank and of the
//! order. If it were skipped, the run would depend on when the file broke.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lgd_data::cache::{Cache, CachedViews, StoredViews};
use lgd_data::image::DecodeLimits;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::LoaderError;
use super::blocks::{BlockPool, PixelBlock};
use super::matching::match_samples;
use super::order::EpochOrders;
use super::ordered::{Ordered, ordered_map};
use super::origin::{Originals, StoredUse, ViewOrigin, require_originals};
use super::pixels::{InputFormat, PixelError, load_view_into};
use super::targets::TargetSource;
use crate::objective::TargetBatch;

/// Batches that workers may fill ahead of the step: one that is ready, and one that keeps the workers busy while the
/// last images of the first are decoded.
const LOOK_AHEAD: usize = 2;

/// The views of a cache, ready to be streamed.
pub struct TrainingImages<'a> {
    views: CachedViews,
    views_per_sample: u32,
    pixels: Pixels<'a>,
    origin: ViewOrigin,
    format: InputFormat,
    targets: Option<&'a TargetSource<'a>>,
    /// The samples that are trained on, ascending; `None` for all.
    trained: Option<Vec<usize>>,
}

/// The source of the pixels.
enum Pixels<'a> {
    /// The image of every sample, by its position in the source.
    Originals {
        originals: Originals<'a>,
        positions: Vec<usize>,
        limits: DecodeLimits,
    },
    Stored(StoredViews),
}

/// The batches to stream. The first `done` steps are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Samples per step.
    pub batch: usize,
    /// Total number of epochs.
    pub epochs: u32,
    /// Seed of the order.
    pub seed: u64,
    /// Steps already done, over all epochs.
    pub done: usize,
}

/// One step's input.
#[derive(Debug)]
pub struct Batch {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Whether the epoch ends with this batch.
    pub ends_epoch: bool,
    /// Cache row of each image.
    pub rows: Vec<usize>,
    /// Rendered pixels, RGB8 `[B, S, S, 3]`.
    pub images: PixelBlock,
    /// The rows' targets, on the CPU; empty without a [`TargetSource`].
    pub targets: TargetBatch,
}

/// The samples of a step: a range of an epoch's order of the trained samples, and the view shown of each.
struct StepSamples {
    epoch: u32,
    order: Arc<[usize]>,
    /// Position of the step's first sample in the order.
    first: usize,
    view: usize,
}

impl<'a> TrainingImages<'a> {
    /// Opens the views of `cache`. The stored views are used if `stored_use` and the student's size allow it, and
    /// `originals` are then not read. Otherwise views are rendered from `originals`.
    ///
    /// # Errors
    /// [`LoaderError::NeedsImages`] if originals are needed and absent; [`LoaderError::MissingSample`] if they lack a sample;
    /// [`LoaderError::Artifact`] if the views are unreadable.
    pub fn open(
        cache: &Cache,
        originals: Option<Originals<'a>>,
        format: InputFormat,
        stored_use: StoredUse,
        limits: DecodeLimits,
    ) -> Result<Self, LoaderError> {
        let views = cache.views()?;
        let config = &cache.manifest().config;
        let origin = ViewOrigin::of(config, format.size, stored_use);
        let stored = if origin.stored().is_some() { cache.stored_views()? } else { None };
        let pixels = match stored {
            Some(stored) => Pixels::Stored(stored),
            None => {
                let originals = require_originals(cache, format.size, originals)?;
                let positions = match_samples(cache, &views, originals.source, originals.path)?;
                Pixels::Originals { originals, positions, limits }
            }
        };
        let views_per_sample = u32::from(config.views);
        Ok(Self { views, views_per_sample, pixels, origin, format, targets: None, trained: None })
    }

    /// Adds targets to the batches.
    pub fn with_targets(self, targets: &'a TargetSource<'a>) -> Self {
        Self { targets: Some(targets), ..self }
    }

    /// Excludes the samples `held_out`, ascending positions in the cache, from [`stream`](Self::stream).
    pub fn without(mut self, held_out: &[usize]) -> Self {
        let kept = (0..self.views.samples()).filter(|sample| held_out.binary_search(sample).is_err());
        self.trained = Some(kept.collect());
        self
    }

    /// Number of samples that are trained on.
    pub fn samples(&self) -> usize {
        self.trained.as_ref().map_or(self.views.samples(), Vec::len)
    }

    /// Keys, labels and views of all samples in the cache.
    pub fn views(&self) -> &CachedViews {
        &self.views
    }

    /// The source of the pixels.
    pub fn origin(&self) -> ViewOrigin {
        self.origin
    }

    /// Size, filter and normalization of the student's input.
    pub fn format(&self) -> &InputFormat {
        &self.format
    }

    /// Steps per epoch at a batch size.
    ///
    /// # Errors
    /// [`LoaderError::TooFewSamples`] if there are epochs but too few samples for one batch.
    pub fn steps_per_epoch(&self, batch: usize, epochs: u32) -> Result<usize, LoaderError> {
        match self.samples().checked_div(batch) {
            None | Some(0) if epochs > 0 => {
                Err(LoaderError::TooFewSamples { samples: self.samples(), batch })
            }
            steps => Ok(steps.unwrap_or(0)),
        }
    }

    /// Streams the rest of a run to `consume`. `threads` threads decode and render, two more gather targets. Up to
    /// three batches with their targets are in memory: the one in use and two ahead.
    ///
    /// # Errors
    /// [`LoaderError::TooFewSamples`], [`LoaderError::Threads`], and every error of `consume`.
    pub fn stream<R, E: From<LoaderError>>(
        &self,
        plan: StreamPlan,
        threads: usize,
        consume: impl FnOnce(&mut Batches<'_, '_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let steps = self.steps_per_epoch(plan.batch, plan.epochs)?;
        let orders = EpochOrders::new(self.samples(), plan.seed);
        let samples_of = |step: usize| {
            let (epoch, in_epoch) = (step / steps.max(1), step % steps.max(1));
            let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
            let view = usize::try_from(epoch % self.views_per_sample.max(1)).unwrap_or(0);
            StepSamples { epoch, order: orders.get(epoch), first: in_epoch * plan.batch, view }
        };
        let blocks = BlockPool::new(plan.batch.saturating_mul(self.format.numbers()));
        let workers = workers(threads)?;
        let fill = |ticket: usize| {
            let step = plan.done + ticket;
            let StepSamples { epoch, order, first, view } = samples_of(step);
            let trained = |&at: &usize| self.trained.as_ref().map_or(at, |trained| trained[at]);
            let samples: Vec<usize> = order[first..first + plan.batch].iter().map(trained).collect();
            let mut images = blocks.take();
            workers.install(|| self.fill(&samples, view, &mut images))?;
            let rows: Vec<usize> = samples.iter().map(|&sample| self.views.row(sample, view)).collect();
            let targets = self.targets.map(|targets| targets.gather(&rows)).transpose()?.unwrap_or_default();
            let ends_epoch = (step + 1).is_multiple_of(steps.max(1));
            Ok(Batch { epoch, ends_epoch, rows, images, targets })
        };
        let epochs = usize::try_from(plan.epochs).unwrap_or(usize::MAX);
        let count = steps.saturating_mul(epochs).saturating_sub(plan.done);
        // One thread per batch in progress, besides the workers: it waits until they have filled the batch, then
        // gathers the targets itself. With the batch that the step holds, up to LOOK_AHEAD + 1 batches of targets are
        // in memory.
        ordered_map(count, LOOK_AHEAD, LOOK_AHEAD, fill, |results| {
            consume(&mut Batches { results, waited: Duration::ZERO })
        })
    }

    /// Calls `visit` with view `view` of `samples`, positions in the cache, in their order: up to `batch` samples at a
    /// time, and their pixels, RGB8 `[n, S, S, 3]`. `threads` threads decode and render.
    ///
    /// # Errors
    /// [`LoaderError::Threads`], the error of the first bad image, and every error of `visit`.
    pub fn visit<E: From<LoaderError>>(
        &self,
        samples: &[usize],
        view: usize,
        (batch, threads): (usize, usize),
        mut visit: impl FnMut(&[usize], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let batches: Vec<&[usize]> = samples.chunks(batch.max(1)).collect();
        let blocks = BlockPool::new(batch.max(1).saturating_mul(self.format.numbers()));
        let workers = workers(threads)?;
        let fill = |ticket: usize| {
            let mut images = blocks.take();
            workers.install(|| self.fill(batches[ticket], view, &mut images))?;
            Ok::<_, LoaderError>(images)
        };
        ordered_map(batches.len(), LOOK_AHEAD, LOOK_AHEAD, fill, |results| {
            for (samples, images) in batches.iter().zip(results) {
                visit(samples, &images?[..samples.len() * self.format.numbers()])?;
            }
            Ok(())
        })
    }

    /// Renders view `view` of every sample into `images`. If several samples fail, the first sample's error is
    /// returned, whichever worker failed first.
    fn fill(&self, samples: &[usize], view: usize, images: &mut [u8]) -> Result<(), LoaderError> {
        let places = images.par_chunks_exact_mut(self.format.numbers().max(1)).with_max_len(1);
        let failed = places.zip(samples).enumerate().filter_map(|(at, (place, &sample))| {
            self.load(sample, view, place).err().map(|error| (at, error))
        });
        match failed.min_by_key(|(at, _)| *at) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn load(&self, sample: usize, view: usize, out: &mut [u8]) -> Result<(), LoaderError> {
        let (originals, position, limits) = match &self.pixels {
            Pixels::Stored(stored) => return Ok(stored.read_into(self.views.row(sample, view), out)?),
            Pixels::Originals { originals, positions, limits } => (originals, positions[sample], limits),
        };
        let (view, expected) = (self.views.view(sample, view), Some(self.views.images[sample]));
        let loaded = load_view_into(originals.source, position, view, expected, &self.format, limits, out);
        loaded.map_err(|error| {
            let key = self.views.keys[sample].clone();
            match error {
                PixelError::Changed { expected, got } => LoaderError::ImageChanged { key, expected, got },
                error => LoaderError::Image { key, source: Box::new(error) },
            }
        })
    }
}

/// The threads that decode and render.
fn workers(threads: usize) -> Result<ThreadPool, LoaderError> {
    let builder = ThreadPoolBuilder::new().num_threads(threads.max(1));
    let builder = builder.thread_name(|index| format!("loader-{index}"));
    builder.build().map_err(|source| LoaderError::Threads { source })
}

/// Batches in order. Measures the time that its caller waits in [`Batches::next_batch`].
pub struct Batches<'a, 'b> {
    results: &'a mut Ordered<'b, Result<Batch, LoaderError>>,
    waited: Duration,
}

impl Batches<'_, '_> {
    /// The next batch, `None` after the last one.
    ///
    /// # Errors
    /// The error of the first bad image in the order of the batch, whichever worker failed first.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, LoaderError> {
        let start = Instant::now();
        let batch = self.results.next().transpose();
        self.waited += start.elapsed();
        batch
    }

    /// Time spent in [`Batches::next_batch`] so far, waiting for workers.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}
