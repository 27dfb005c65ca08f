//! Rehearses a run: checks it, takes a few steps in memory, and writes nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use lgd_data::job::{Job, Pace};

use super::session::{Session, StepLoss, schedule};
use super::statistics::{AT_THE_END, in_between};
use super::{LoopSettings, Parts, Ready, TrainInputs, TrainReport, begun};
use crate::checkpoint::{self, Progress};
use crate::loader::LoaderError;
use crate::loader::batches::{Batch, Batches, StreamPlan, TrainingImages};
use crate::optim::Schedule;
use crate::run::{KEPT, RunError, RunFolder, TrainConfig};

/// Parts that a measurement is divided into, so that their spread shows its uncertainty.
const PARTS: u32 = 8;
/// Most steps between two readings of losses, as in training.
const MAX_STEPS: usize = 50;

/// A run as it would be, and the pace of its first steps.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The report of the run before its first step.
    pub report: TrainReport,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Steps that an earlier run has done.
    pub done: usize,
    /// Samples that are evaluated after every epoch.
    pub evaluated: usize,
    /// Images that the student sees besides the steps' from now on, in evaluations and to estimate running statistics. Each
    /// costs a third of an image of a step: its pass is forward only.
    pub forward_images: usize,
    /// Bytes of a training checkpoint.
    pub checkpoint_bytes: u64,
    /// Bytes of a student's weights.
    pub weights_bytes: u64,
    /// Bytes of the run folder's checkpoints and weights, at most and at the end.
    pub folder_bytes: (u64, u64),
    /// The pace of the stages in images; `None` if no step is left.
    pub measured: Option<Measured>,
}

/// The pace of the stages of training, in images.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The loader without the student: pixels and targets.
    pub loading: Pace,
    /// Steps on a batch that is there.
    pub step: Pace,
    /// Both, as in training, in parts; empty if only one step is left.
    pub together: Vec<Pace>,
}

/// Prepares the run that [`train`](super::train) would make of the same arguments, and measures for about `budget`. `job` may
/// interrupt.
///
/// # Errors
/// Those of [`train`](super::train), except that a run that is trained meanwhile is not noticed.
pub fn rehearse(
    config: &TrainConfig,
    settings: &LoopSettings,
    inputs: &TrainInputs<'_>,
    dir: &Path,
    job: &Job,
    budget: Duration,
) -> Result<Rehearsal, RunError> {
    let Parts { student, objective, targets } = Parts::open(config, settings, inputs)?;
    let ready = Ready::open(config, settings, inputs, dir, (student, objective), &targets)?;
    let Ready { images, manifest, held_out, mut session, init } = ready;
    let mut report = begun(&manifest, &images, &session.student);
    if let Some((record, loaded)) = init {
        (settings.initialized)(&record.path, &loaded);
        report.init = Some(loaded);
    }
    let started = RunFolder::started(dir, &manifest, settings.existing)?;
    let done = started.map_or(0, |run| if run.complete { report.steps } else { run.step });
    let schedule = schedule(config, manifest.steps_per_epoch)?;
    let stream = StreamPlan { batch: config.batch, epochs: config.epochs, seed: config.seed, done };
    let left = report.steps - done.min(report.steps);
    let rehearsed = Rehearsed { images: &images, settings, stream, left, schedule, job, dir };
    let measured = if left == 0 { None } else { Some(rehearsed.measure(&mut session, budget)?) };

    let progress = Progress { step: 0, epoch_loss: vec![0.0; 2] };
    let checkpoint = bytes(&checkpoint::encode(&mut session.stateful(), &progress)?);
    let weights = bytes(&session.student.to_safetensors(&manifest.weights_metadata())?);
    let (per_epoch, evaluated) = (manifest.steps_per_epoch, held_out.map_or(0, |set| set.samples()));
    let students = if evaluated > 0 { 2 } else { 1 };
    let kept = if settings.keep_checkpoints { KEPT } else { 0 };
    // A new checkpoint is written before the oldest is deleted, and so are new best weights.
    let most = number(KEPT + 1) * checkpoint + if evaluated > 0 { 3 * weights } else { weights };
    Ok(Rehearsal {
        steps_per_epoch: per_epoch,
        done,
        evaluated,
        forward_images: forward_images(config, per_epoch, left, evaluated),
        checkpoint_bytes: checkpoint,
        weights_bytes: weights,
        folder_bytes: (most, number(kept) * checkpoint + students * weights),
        measured,
        report,
    })
}

/// Images besides those of the `left` steps: those evaluated after every epoch, the batches for their statistics except after
/// the last, and the batches for the finished student's.
fn forward_images(config: &TrainConfig, per_epoch: usize, left: usize, evaluated: usize) -> usize {
    let epochs = left.div_ceil(per_epoch.max(1));
    let statistics = in_between(per_epoch) * config.batch;
    // The last evaluation is of the finished student, whose statistics are estimated once.
    let in_between = epochs.saturating_sub(1) * statistics;
    let evaluations = if evaluated > 0 { epochs * evaluated + in_between } else { 0 };
    if left == 0 { 0 } else { evaluations + AT_THE_END.min(left) * config.batch }
}

/// The run whose stages are measured.
struct Rehearsed<'a> {
    images: &'a TrainingImages<'a>,
    settings: &'a LoopSettings,
    stream: StreamPlan,
    /// Steps that are left.
    left: usize,
    schedule: Schedule,
    job: &'a Job,
    dir: &'a Path,
}

impl Rehearsed<'_> {
    fn measure(&self, session: &mut Session, budget: Duration) -> Result<Measured, RunError> {
        let loading = self.loading(budget / 4)?;
        let (step, each) = self.steps(session, budget / 4)?;
        Ok(Measured { loading, step, together: self.together(session, budget / 2, each)? })
    }

    /// The loader alone. It loads batches of the run's second half, so that the first ones are not in the page cache yet.
    fn loading(&self, budget: Duration) -> Result<Pace, RunError> {
        let stream = StreamPlan { done: self.stream.done + self.left / 2, ..self.stream };
        let started = Instant::now();
        self.images.stream(stream, self.settings.threads, |batches| {
            let mut images = 0;
            while let Some(batch) = batches.next_batch()? {
                self.require_uninterrupted()?;
                images += batch.rows.len();
                if started.elapsed() > budget {
                    break;
                }
            }
            Ok(Pace::since(started, images))
        })
    }

    /// Steps on one batch, and how many of them fit a part of the measurement. The first step, which allocates and chooses
    /// kernels, is not measured.
    fn steps(&self, session: &mut Session, budget: Duration) -> Result<(Pace, usize), RunError> {
        let first = |batches: &mut Batches<'_, '_>| batches.next_batch().map_err(RunError::from);
        let too_few = || LoaderError::TooFewSamples { samples: 0, batch: self.stream.batch };
        let batch = self.images.stream(self.stream, self.settings.threads, first)?.ok_or_else(too_few)?;
        self.finish(&self.step(session, &batch, 0)?, 0)?;
        let started = Instant::now();
        self.finish(&self.step(session, &batch, 1)?, 1)?;
        let parts = (budget / PARTS).as_secs_f64() / started.elapsed().as_secs_f64().max(1e-6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and limited")]
        let each = (parts as usize).clamp(1, MAX_STEPS);
        let mut steps = 1;
        while started.elapsed() < budget {
            let mut losses = (0..each).map(|at| self.step(session, &batch, 1 + steps + at));
            let last = losses.try_fold(None, |_, loss| loss.map(Some))?;
            steps += each;
            last.map_or(Ok(()), |loss| self.finish(&loss, steps))?;
        }
        Ok((Pace::since(started, steps * self.stream.batch), each))
    }

    /// The first steps of the run, `each` per part. The step on the first batch is not measured: workers load the next
    /// ones meanwhile.
    fn together(&self, session: &mut Session, budget: Duration, each: usize) -> Result<Vec<Pace>, RunError> {
        let started = Instant::now();
        self.images.stream(self.stream, self.settings.threads, |batches| {
            let mut step = 0;
            let mut parts = Vec::new();
            let mut wanted = 1;
            loop {
                let (from, first) = (Instant::now(), step);
                let mut last = None;
                while step < first + wanted {
                    let Some(batch) = batches.next_batch()? else { break };
                    last = Some(self.step(session, &batch, step)?);
                    step += 1;
                }
                let Some(loss) = last else { return Ok(parts) };
                self.finish(&loss, step)?;
                if first > 0 {
                    parts.push(Pace::since(from, (step - first) * self.stream.batch));
                }
                wanted = each;
                if started.elapsed() > budget && !parts.is_empty() {
                    return Ok(parts);
                }
            }
        })
    }

    fn step(&self, session: &mut Session, batch: &Batch, at: usize) -> Result<StepLoss, RunError> {
        self.require_uninterrupted()?;
        #[expect(clippy::cast_possible_truncation, reason = "the optimizer computes in f32")]
        let lr = self.schedule.lr(self.stream.done + at) as f32;
        session.step(batch, self.stream.done + at, lr, &self.job.stop_flag())
    }

    /// Waits for the device by reading the loss of its last step.
    fn finish(&self, loss: &StepLoss, at: usize) -> Result<(), RunError> {
        loss.read(0, self.stream.done + at).map(|_| ())
    }

    fn require_uninterrupted(&self) -> Result<(), RunError> {
        if self.job.interrupted() {
            return Err(RunError::Interrupted { step: self.stream.done, dir: self.dir.to_owned() });
        }
        Ok(())
    }
}

fn bytes(content: &[u8]) -> u64 {
    number(content.len())
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::student::Architecture;

    #[test]
    fn images_besides_the_steps_are_those_of_evaluations_and_statistics() {
        let config = TrainConfig::new(Architecture::ResNet18, 32, 3, 10, 0);
        assert_eq!(forward_images(&config, 200, 0, 50), 0, "nothing is left");
        assert_eq!(forward_images(&config, 200, 600, 0), 32 * 10, "the finished student's statistics");
        assert_eq!(forward_images(&config, 200, 600, 50), 3 * 50 + 2 * (2 * 10) + 32 * 10);
        assert_eq!(
            forward_images(&config, 200, 401, 50),
            3 * 50 + 2 * (2 * 10) + 32 * 10,
            "in the last but two"
        );
        assert_eq!(forward_images(&config, 5, 5, 0), 5 * 10, "no more batches than there are steps");
    }
}
