//! The loop over steps and epochs: metrics, checkpoints, interruption.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lgd_data::job::Job;
use lgd_data::manifest::{FileEntry, Verify};

use super::holdout::HoldoutSet;
use super::meter::{Meter, StepRecord, share};
use super::session::{ReadLoss, Session, StepLoss, schedule};
use super::statistics::{self, Last};
use super::{LoopSettings, TrainInputs, TrainReport};
use crate::checkpoint::{self, Progress};
use crate::error::TrainError;
use crate::loader::batches::{Batch, Batches, StreamPlan, TrainingImages};
use crate::loader::targets::TargetSource;
use crate::optim::Schedule;
use crate::run::{
    HoldoutFigures, MetricsFile, MetricsKind, MetricsLine, RunError, RunFolder, TrainConfig, per_second,
};

/// Largest number of steps between two readings of losses, so that an infinite loss is noticed soon.
const MAX_UNREAD: usize = 50;

/// A run in progress.
pub(super) struct TrainLoop<'a> {
    config: &'a TrainConfig,
    settings: &'a LoopSettings,
    dir: &'a Path,
    inputs: &'a TrainInputs<'a>,
    folder: &'a mut RunFolder,
    job: &'a Job,
    schedule: Schedule,
    /// Steps done, over all epochs.
    step: usize,
    /// Step of the latest checkpoint on disk.
    saved: Option<usize>,
    epoch_loss: Vec<f64>,
    /// Losses that have not been read from the device.
    unread: Vec<(StepRecord, StepLoss)>,
    /// Samples that are evaluated after every epoch.
    held_out: Option<HoldoutSet<'a>>,
    /// Time that their evaluation took.
    evaluating: Duration,
    /// Time that the statistics of the finished student took, which a run without held-out samples estimates too.
    finishing: Duration,
    /// The finished student as a file, if it was evaluated.
    finished: Option<Vec<u8>>,
    /// Set once the job is interrupted.
    stop: Arc<AtomicBool>,
}

/// The measurements of one call of the loop.
struct Meters {
    epoch: Meter,
    line: Meter,
}

impl<'a> TrainLoop<'a> {
    pub(super) fn open(
        config: &'a TrainConfig,
        settings: &'a LoopSettings,
        (dir, inputs): (&'a Path, &'a TrainInputs<'a>),
        folder: &'a mut RunFolder,
        job: &'a Job,
        held_out: Option<HoldoutSet<'a>>,
    ) -> Result<Self, RunError> {
        let schedule = schedule(config, folder.manifest().steps_per_epoch)?;
        Ok(Self {
            config,
            settings,
            dir,
            inputs,
            folder,
            job,
            schedule,
            step: 0,
            saved: None,
            epoch_loss: Vec::new(),
            unread: Vec::new(),
            held_out,
            evaluating: Duration::ZERO,
            finishing: Duration::ZERO,
            finished: None,
            stop: job.stop_flag(),
        })
    }

    /// Restores the latest checkpoint, if there is one.
    pub(super) fn restore(
        &mut self,
        session: &mut Session,
        targets: &TargetSource<'_>,
        report: &mut TrainReport,
    ) -> Result<(), RunError> {
        let Some((path, bytes)) = self.folder.latest_checkpoint()? else { return Ok(()) };
        let read = &mut |rows: &[usize]| targets.embeddings(rows);
        let progress = checkpoint::restore(&bytes, &path, &mut session.stateful(), read)?;
        self.step = progress.step;
        self.saved = Some(progress.step);
        self.epoch_loss = progress.epoch_loss;
        report.resumed_from = Some(progress.step);
        self.job.skip(u64::try_from(progress.step).unwrap_or(u64::MAX));
        Ok(())
    }

    /// The finished student as a file, if its last epoch was evaluated by this process.
    pub(super) fn take_finished(&mut self) -> Option<Vec<u8>> {
        self.finished.take()
    }

    /// Runs the remaining steps. Returns the entry of the metrics file, and the epochs of the whole run, which are fewer
    /// than configured if it stopped early.
    pub(super) fn run(
        &mut self,
        session: &mut Session,
        images: &TrainingImages<'_>,
        observe: &mut dyn FnMut(&MetricsLine),
        report: &mut TrainReport,
    ) -> Result<(FileEntry, u32), RunError> {
        let mut metrics = MetricsFile::open(self.dir, self.step)?;
        let plan = StreamPlan {
            batch: self.config.batch,
            epochs: self.config.epochs,
            seed: self.config.seed,
            done: self.step,
        };
        let start = (Instant::now(), self.step);
        let mut write = |line: &MetricsLine| {
            metrics.push(line)?;
            observe(line);
            Ok(())
        };
        let waited = images.stream(plan, self.settings.threads, |batches| {
            self.steps(session, images, batches, &mut write)?;
            Ok::<_, RunError>(batches.waited())
        })?;
        let written = metrics.sync()?;
        let seconds = start.0.elapsed().saturating_sub(self.evaluating + self.finishing).as_secs_f64();
        report.holdout_seconds = self.evaluating.as_secs_f64();
        report.images = (self.step - start.1) * self.config.batch;
        report.images_per_second = per_second(report.images, seconds);
        report.data_wait = share(waited, seconds);
        Ok((written, self.epochs_done().unwrap_or(self.config.epochs)))
    }

    /// Epochs done; `None` in the middle of one, or in a run without steps.
    fn epochs_done(&self) -> Option<u32> {
        let per_epoch = self.folder.manifest().steps_per_epoch;
        let whole = per_epoch > 0 && self.step.is_multiple_of(per_epoch);
        whole.then(|| u32::try_from(self.step / per_epoch).unwrap_or(u32::MAX))
    }

    /// Whether the held-out score has not improved for as many epochs as the run has patience.
    fn is_out_of_patience(&self) -> bool {
        let best = self.folder.manifest().best.as_ref();
        let state = (self.config.patience, best, self.epochs_done());
        let (Some(patience), Some(best), Some(done)) = state else { return false };
        done.saturating_sub(best.epoch + 1) >= patience
    }

    fn steps(
        &mut self,
        session: &mut Session,
        images: &TrainingImages<'_>,
        batches: &mut Batches<'_, '_>,
        write: &mut dyn FnMut(&MetricsLine) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let epoch = Meter::new(std::mem::take(&mut self.epoch_loss), Duration::ZERO);
        let mut meters = Meters { epoch, line: Meter::new(Vec::new(), Duration::ZERO) };
        loop {
            if self.job.interrupted() {
                self.read_losses(&mut meters)?;
                self.save(session, &meters.epoch)?;
                return Err(RunError::Interrupted { step: self.step, dir: self.dir.to_owned() });
            }
            if self.is_out_of_patience() {
                break;
            }
            let Some(batch) = batches.next_batch()? else { break };
            let ends_epoch = batch.ends_epoch;
            let taken = match self.take_step(session, &batch) {
                Err(RunError::Train(TrainError::Stopped)) => continue,
                taken => taken?,
            };
            let logs = self.settings.log_steps > 0 && self.step.is_multiple_of(self.settings.log_steps);
            let due =
                self.settings.checkpoint_steps.is_some_and(|every| self.step.is_multiple_of(every.max(1)));
            if logs || ends_epoch || due || self.unread.len() >= MAX_UNREAD {
                self.read_losses(&mut meters)?;
            }
            if logs {
                write(&meters.line.line(MetricsKind::Step, taken, batches.waited()))?;
                meters.line = Meter::new(Vec::new(), batches.waited());
            }
            if ends_epoch {
                let mut line = meters.epoch.line(MetricsKind::Epoch, taken, batches.waited());
                line.holdout = self.evaluate(session, images, &mut meters, taken.epoch)?;
                write(&line)?;
                meters.epoch = Meter::new(Vec::new(), batches.waited());
            }
            if ends_epoch || due {
                self.save(session, &meters.epoch)?;
            }
        }
        Ok(())
    }

    /// Evaluates the held-out samples and keeps the student if it is the best so far.
    fn evaluate(
        &mut self,
        session: &mut Session,
        images: &TrainingImages<'_>,
        meters: &mut Meters,
        epoch: u32,
    ) -> Result<Option<HoldoutFigures>, RunError> {
        let Some(held_out) = &self.held_out else { return Ok(None) };
        let start = Instant::now();
        let (folder, step) = (&mut *self.folder, self.step);
        let (config, threads) = (self.config, self.settings.threads);
        // The last evaluation is of the finished student.
        let per_epoch = folder.manifest().steps_per_epoch;
        let is_last = epoch + 1 == config.epochs;
        let batches = if is_last { statistics::AT_THE_END } else { statistics::in_between(per_epoch) };
        let last = Last { steps: step, batches };
        let (finishing, finished) = (&mut self.finishing, &mut self.finished);
        let figures = session.with_finished(|session| {
            statistics::reestimate(session, images, config, threads, last)?;
            let student = &mut session.student;
            if is_last {
                *finished = Some(student.to_safetensors(&folder.manifest().weights_metadata())?);
                *finishing += start.elapsed();
            }
            let figures = held_out.evaluate(student, images)?;
            let best = folder.manifest().best.as_ref();
            let better = figures.score().filter(|score| best.is_none_or(|best| best.is_beaten_by(*score)));
            if let Some(score) = better {
                // The finished student is already a file.
                let weights = match &*finished {
                    Some(weights) => Cow::Borrowed(weights.as_slice()),
                    None => Cow::Owned(student.to_safetensors(&folder.manifest().weights_metadata())?),
                };
                folder.save_best((epoch, step), score, &weights)?;
            }
            Ok(figures)
        })?;
        let taken = start.elapsed();
        self.evaluating += if is_last { taken.saturating_sub(self.finishing) } else { taken };
        meters.line.pause(taken);
        Ok(Some(figures))
    }

    fn take_step(&mut self, session: &mut Session, batch: &Batch) -> Result<StepRecord, RunError> {
        let epoch = batch.epoch;
        let lr = self.schedule.lr(self.step);
        #[expect(clippy::cast_possible_truncation, reason = "the optimizer computes in f32")]
        let loss = session.step(batch, self.step, lr as f32, &self.stop)?;
        self.step += 1;
        self.job.advance(1);
        let taken = StepRecord { epoch, step: self.step, lr, batch: self.config.batch };
        self.unread.push((taken, loss));
        Ok(taken)
    }

    /// Reads the losses of the steps since the last call. The loop waits for a device only here.
    fn read_losses(&mut self, meters: &mut Meters) -> Result<(), RunError> {
        for (taken, loss) in self.unread.drain(..) {
            let ReadLoss { total, parts } = loss.read(taken.epoch, taken.step - 1)?;
            meters.epoch.add(total, &parts);
            meters.line.add(total, &parts);
        }
        Ok(())
    }

    fn save(&mut self, session: &mut Session, epoch: &Meter) -> Result<(), RunError> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        // A checkpoint must not contain what the student learned from changed files.
        self.inputs.require_unchanged(Verify::Length)?;
        let progress = Progress { step: self.step, epoch_loss: epoch.sums().to_vec() };
        let bytes = checkpoint::encode(&mut session.stateful(), &progress)?;
        self.folder.save_checkpoint(self.step, &bytes)?;
        self.saved = Some(self.step);
        Ok(())
    }
}
