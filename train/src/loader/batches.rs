//! The training stream: batch after batch, epoch after epoch.
//!
//! Epoch e visits the samples in [`crate::loader::order::epoch_order`] and shows view (e mod K) of each. Its last,
//! incomplete batch is dropped: batch statistics and the step's meaning would otherwise change from step to step; another
//! permutation drops other samples in the next epoch.
//!
//! A bad image ends the run. At extraction it would have been rejected; here its row is already part of the bank and of
//! the order, and going on without it would make the run depend on the moment at which the file broke.

use std::path::Path;
use std::time::{Duration, Instant};

use lgd_data::cache::{Cache, CachedViews};
use lgd_data::image::{DecodeLimits, RgbImage};
use lgd_data::source::ImageSource;

use super::matching::match_samples;
use super::order::EpochOrders;
use super::ordered::{Ordered, ordered_map};
use super::pixels::{InputFormat, PixelError, load_view};
use crate::run::RunError;

/// Batches that the workers may be ahead of the step.
const LOOK_AHEAD: usize = 2;

/// The images of a cache, ready to be streamed.
pub struct TrainingImages<'a> {
    views: CachedViews,
    views_per_sample: u32,
    positions: Vec<usize>,
    source: &'a dyn ImageSource,
    format: InputFormat,
    limits: DecodeLimits,
}

/// What to stream, and from where: `done` steps are skipped, as if they had been streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Samples per step.
    pub batch: usize,
    /// Epochs in all.
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
    /// Normalised pixels, `[B, S, S, 3]`.
    pub images: Vec<f32>,
}

impl<'a> TrainingImages<'a> {
    /// Matches the samples of `cache` to `source`; `images` names the source in messages.
    ///
    /// # Errors
    /// [`RunError::MissingSample`] where the source lacks a sample; [`RunError::Artefact`] where the views are unreadable.
    pub fn open(
        cache: &Cache,
        source: &'a dyn ImageSource,
        images: &Path,
        format: InputFormat,
        limits: DecodeLimits,
    ) -> Result<Self, RunError> {
        let views = cache.views()?;
        let positions = match_samples(cache, &views, source, images)?;
        let views_per_sample = u32::from(cache.manifest().config.views);
        Ok(Self { views, views_per_sample, positions, source, format, limits })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.positions.len()
    }

    /// Steps per epoch at a batch size.
    ///
    /// # Errors
    /// [`RunError::TooFewSamples`] where there are epochs and not even one batch can be filled.
    pub fn steps_per_epoch(&self, batch: usize, epochs: u32) -> Result<usize, RunError> {
        match self.samples().checked_div(batch) {
            None | Some(0) if epochs > 0 => Err(RunError::TooFewSamples { samples: self.samples(), batch }),
            steps => Ok(steps.unwrap_or(0)),
        }
    }

    /// Streams the rest of a run to `consume`, rendering on `threads` threads.
    ///
    /// # Errors
    /// [`RunError::TooFewSamples`], and whatever `consume` returns.
    pub fn stream<R>(
        &self,
        plan: StreamPlan,
        threads: usize,
        consume: impl FnOnce(&mut Batches<'_, '_>) -> Result<R, RunError>,
    ) -> Result<R, RunError> {
        let steps = self.steps_per_epoch(plan.batch, plan.epochs)?;
        let in_epoch = steps * plan.batch;
        let epochs = usize::try_from(plan.epochs).unwrap_or(usize::MAX);
        let start = plan.done * plan.batch;
        let orders = EpochOrders::new(self.samples(), plan.seed);
        let place = |ticket: usize| {
            let (epoch, at) = ((start + ticket) / in_epoch, (start + ticket) % in_epoch);
            let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
            let sample = orders.get(epoch)[at];
            (epoch, sample, self.view_index(epoch))
        };
        let work = |ticket: usize| {
            let (_, sample, view) = place(ticket);
            self.load(sample, view)
        };
        let count = (in_epoch * epochs).saturating_sub(start);
        ordered_map(count, threads, LOOK_AHEAD * plan.batch, work, |results| {
            let row = |ticket| {
                let (_, sample, view) = place(ticket);
                self.views.row(sample, view)
            };
            let mut batches = Batches {
                results,
                row: &row,
                format: &self.format,
                batch: plan.batch,
                steps,
                done: plan.done,
                pulled: 0,
                waited: Duration::ZERO,
            };
            consume(&mut batches)
        })
    }

    /// View (epoch mod K).
    fn view_index(&self, epoch: u32) -> usize {
        usize::try_from(epoch % self.views_per_sample.max(1)).unwrap_or(0)
    }

    fn load(&self, sample: usize, view: usize) -> Result<RgbImage, RunError> {
        let (position, expected) = (self.positions[sample], Some(self.views.images[sample]));
        let view = self.views.view(sample, view);
        load_view(self.source, position, view, expected, &self.format, &self.limits).map_err(|error| {
            let key = self.views.keys[sample].clone();
            match error {
                PixelError::Changed { expected, got } => RunError::ImageChanged { key, expected, got },
                error => RunError::Image { key, reason: error.to_string() },
            }
        })
    }
}

/// Batches in order. Keeps account of the time that its caller spent waiting in [`Batches::next_batch`].
pub struct Batches<'a, 'b> {
    results: &'a mut Ordered<'b, Result<RgbImage, RunError>>,
    row: &'a dyn Fn(usize) -> usize,
    format: &'a InputFormat,
    batch: usize,
    steps: usize,
    done: usize,
    pulled: usize,
    waited: Duration,
}

impl Batches<'_, '_> {
    /// The next batch, `None` after the last one.
    ///
    /// # Errors
    /// The error of the first bad image in the order of the batch, whichever worker met one first.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, RunError> {
        let start = Instant::now();
        let images: Vec<RgbImage> = self.results.take(self.batch).collect::<Result<_, _>>()?;
        if images.len() < self.batch {
            return Ok(None);
        }
        let rows = (self.pulled..self.pulled + self.batch).map(self.row).collect();
        let images = self.format.normalize(&images)?;
        let epoch = u32::try_from(self.done / self.steps).unwrap_or(u32::MAX);
        let batch = Batch { epoch, ends_epoch: (self.done + 1).is_multiple_of(self.steps), rows, images };
        self.pulled += self.batch;
        self.done += 1;
        self.waited += start.elapsed();
        Ok(Some(batch))
    }

    /// Time spent in [`Batches::next_batch`] so far: waiting for workers and normalising.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}
