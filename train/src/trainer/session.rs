//! Student, objective and optimizer of one run, and the step that updates them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use lgd_data::cache::Cache;
use lgd_data::render::Normalization;

use crate::checkpoint::Stateful;
use crate::error::TrainError;
use crate::loader::batches::Batch;
use crate::objective::{BatchMask, Objective};
use crate::optim::{OptimizerSettings, Schedule, ScheduleSettings};
use crate::run::{RunError, TrainConfig};
use crate::student::{Images, Mode, Student, StudentConfig, StudentOutput};

/// The parts of a run that change from step to step.
pub(super) struct Session {
    pub(super) student: Student,
    optimizer: OptimizerSettings,
    objective: Box<dyn Objective>,
    normalization: Normalization,
    seed: u64,
    side: usize,
    parts: usize,
    /// Share of cells that are hidden, if the student has a decoder.
    mask_ratio: Option<f32>,
    views: usize,
    device: Device,
}

/// The loss of one step: scalars on the device, read when a metrics line is due.
pub(super) struct StepLoss {
    pub(super) total: Tensor,
    pub(super) parts: Vec<(&'static str, Tensor)>,
    /// The norm of the clipped gradients, if the device has not checked it.
    norm: Option<Tensor>,
}

impl Session {
    /// Combines the new `student` with the optimizer of `config`, for training with `objective` on the views of
    /// `cache`.
    pub(super) fn new(
        config: &TrainConfig,
        student: StudentConfig,
        objective: Box<dyn Objective>,
        cache: &Cache,
        device: &Device,
    ) -> Result<Self, RunError> {
        let mask_ratio = student.extras.decoder.map(|_| config.objective_settings.hgkd.mask_ratio);
        let student = Student::new(student, device)?;
        let side = usize::try_from(config.size).unwrap_or(usize::MAX);
        let (optimizer, seed, parts) = (config.optimizer, config.seed, config.batch_parts);
        let device = device.clone();
        Ok(Self {
            student,
            optimizer,
            objective,
            normalization: cache.manifest().config.teacher.normalization,
            seed,
            side,
            parts,
            mask_ratio,
            views: cache.views_per_sample(),
            device,
        })
    }

    /// Everything that a checkpoint holds.
    pub(super) fn stateful(&mut self) -> Stateful<'_> {
        Stateful { student: &mut self.student, optimizer: &self.optimizer, objective: &mut *self.objective }
    }

    /// Takes one step on `batch`, at learning rate `lr`. `step`: number of the step over all epochs. If `stop` is set before
    /// the update, the step fails with [`TrainError::Stopped`] and changes nothing; GPUs take the whole step.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        step: usize,
        lr: f32,
        stop: &Arc<AtomicBool>,
    ) -> Result<StepLoss, RunError> {
        self.student.engine().watch(Some(Arc::clone(stop)));
        let loss = self.watched_step(batch, step, lr);
        self.student.engine().watch(None);
        loss
    }

    fn watched_step(&mut self, batch: &Batch, step: usize, lr: f32) -> Result<StepLoss, RunError> {
        let mut targets = batch.targets.to_device(&self.device)?;
        targets.mask = self.mask(batch)?;
        let rows = batch.rows.len() / self.parts;
        let mut losses = Vec::with_capacity(self.parts);
        for part in 0..self.parts {
            let narrowed = if self.parts == 1 { None } else { Some(targets.narrow(part * rows, rows)?) };
            let targets = narrowed.as_ref().unwrap_or(&targets);
            let output = self.forward(batch, part, targets.mask.as_ref(), step * self.parts + part)?;
            let loss = self.objective.loss(&output, targets)?;
            let share = (&loss.total / real(self.parts)).map_err(TrainError::from)?;
            self.student.backward(&share, part > 0)?;
            losses.push(StepLoss { total: loss.total.detach(), parts: loss.parts, norm: None });
        }
        let mut loss = mean(losses).map_err(TrainError::from)?;
        self.require_finite_on_cpu(&loss, batch.epoch, step)?;
        let number = u64::try_from(step).unwrap_or(u64::MAX).saturating_add(1);
        let update = self.optimizer.update(self.student.table(), lr, number);
        self.student.update(&update)?;
        if update.clip.is_some() {
            loss.norm = self.student.engine().unchecked_norm()?;
        }
        self.objective.after_step(&batch.targets)?;
        Ok(loss)
    }

    /// Adds `batch` to the running statistics as the run's batch number `at`. Batch 0 replaces them. Nothing else changes.
    pub(super) fn add_statistics(&mut self, batch: &Batch, at: usize) -> Result<(), RunError> {
        let mask = self.mask(batch)?;
        let rows = batch.rows.len() / self.parts;
        for part in 0..self.parts {
            let mask = mask.as_ref().map(|mask| mask.narrow(part * rows, rows)).transpose()?;
            self.forward(batch, part, mask.as_ref(), at * self.parts + part)?;
        }
        Ok(())
    }

    /// The outputs for part `part` of `batch`, in training. `mask`: that of the part. `pass`: number of the forward pass
    /// over all epochs.
    fn forward(
        &mut self,
        batch: &Batch,
        part: usize,
        mask: Option<&BatchMask>,
        pass: usize,
    ) -> Result<StudentOutput, TrainError> {
        let rows = batch.rows.len() / self.parts;
        let pixels = rows * self.side * self.side * 3;
        let rgb = &batch.images[part * pixels..][..pixels];
        let images = Images::Pixels { rgb, normalization: &self.normalization };
        let mode = Mode::Train { seed: self.seed, step: u64::try_from(pass).unwrap_or(u64::MAX) };
        if let Some(mask) = mask {
            self.student.set_mask(mask.visible(), mask.cells())?;
        }
        self.student.forward(images, (rows, self.side, self.side), mode)
    }

    /// The mask of a batch for a student with a decoder: a function of (seed, sample's number in the cache, epoch).
    fn mask(&self, batch: &Batch) -> Result<Option<BatchMask>, TrainError> {
        let Some(ratio) = self.mask_ratio else { return Ok(None) };
        let sample = |row: &usize| u64::try_from(row / self.views).unwrap_or(u64::MAX);
        let samples: Vec<u64> = batch.rows.iter().map(sample).collect();
        let cells = Student::mask_cells(self.side);
        BatchMask::draw((self.seed, batch.epoch), &samples, (cells, cells), ratio).map(Some)
    }

    /// Calls `visit` with the student as it would be finished now: with averaged weights if the run averages. The weights
    /// and the statistics in training do not change.
    pub(super) fn with_finished<R>(
        &mut self,
        visit: impl FnOnce(&mut Self) -> Result<R, RunError>,
    ) -> Result<R, RunError> {
        let trained = self.student.engine().state()?;
        self.take_average()?;
        let result = visit(self);
        self.student.engine().load_state(&trained)?;
        result
    }

    /// Replaces the trained weights and buffers with their average. A run without averaging or without steps has none.
    pub(super) fn take_average(&mut self) -> Result<(), RunError> {
        let engine = self.student.engine();
        if let Some(average) = engine.optimizer_state()?.ema {
            engine.load_state(&average)?;
        }
        Ok(())
    }

    /// Fails on the CPU if the loss is not finite, before the parameters change: reading the loss costs nothing there.
    /// Elsewhere the loss is checked when it is read.
    fn require_finite_on_cpu(&self, loss: &StepLoss, epoch: u32, step: usize) -> Result<(), RunError> {
        match loss.total.device() {
            Device::Cpu => loss.read(epoch, step).map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// A loss and its parts, read from the device.
pub(super) struct ReadLoss {
    pub(super) total: f32,
    pub(super) parts: Vec<(&'static str, f32)>,
}

impl StepLoss {
    /// Reads the total and the parts.
    ///
    /// # Errors
    /// [`RunError::NonFinite`] if the total is NaN or infinite, [`TrainError::GradientNorm`] if the norm of the gradients is.
    pub(super) fn read(&self, epoch: u32, step: usize) -> Result<ReadLoss, RunError> {
        let scalar = |tensor: &Tensor| tensor.to_scalar::<f32>().map_err(TrainError::from);
        let total = scalar(&self.total)?;
        let parts: Vec<(&'static str, f32)> = self
            .parts
            .iter()
            .map(|(name, value)| Ok((*name, scalar(value)?)))
            .collect::<Result<_, TrainError>>()?;
        if !total.is_finite() {
            let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            return Err(RunError::NonFinite { epoch, step, loss: total, parts: parts.join(", ") });
        }
        let norm = self.norm.as_ref().map_or(Ok(0.0), scalar)?;
        if !norm.is_finite() {
            let step = u64::try_from(step).unwrap_or(u64::MAX);
            return Err(TrainError::GradientNorm { step, norm: norm.into() }.into());
        }
        Ok(ReadLoss { total, parts })
    }
}

/// The mean of the losses of a batch's parts.
fn mean(mut losses: Vec<StepLoss>) -> Result<StepLoss, candle_core::Error> {
    let count = real(losses.len());
    let Some(mut sum) = losses.pop() else { candle_core::bail!("a step without parts") };
    if losses.is_empty() {
        return Ok(sum);
    }
    for loss in losses {
        sum.total = (sum.total + loss.total)?;
        for ((_, sum), (_, part)) in sum.parts.iter_mut().zip(loss.parts) {
            *sum = (&*sum + part)?;
        }
    }
    sum.total = (sum.total / count)?;
    for (_, part) in &mut sum.parts {
        *part = (&*part / count)?;
    }
    Ok(sum)
}

/// The learning-rate schedule of a run. A run of no epochs never reads it.
pub(super) fn schedule(config: &TrainConfig, steps_per_epoch: usize) -> Result<Schedule, RunError> {
    Ok(Schedule::new(ScheduleSettings {
        base: f64::from(config.base_lr),
        start: f64::from(config.start_lr),
        warmup_epochs: config.warmup_epochs,
        epochs: config.epochs.max(1),
        steps_per_epoch: steps_per_epoch.max(1),
        kind: config.schedule,
        unit: config.lr_unit,
    })?)
}

#[expect(clippy::cast_precision_loss, reason = "a batch has few parts")]
fn real(parts: usize) -> f64 {
    parts as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_that_a_device_left_unchecked_is_found_with_the_loss() {
        let scalar = |value: f32| Tensor::new(value, &Device::Cpu).unwrap();
        let read = |norm: f32| {
            let loss = StepLoss { total: scalar(1.5), parts: Vec::new(), norm: Some(scalar(norm)) };
            loss.read(0, 4).map(|read| read.total)
        };
        assert_eq!(read(1e30).unwrap(), 1.5);
        for bad in [f32::NAN, f32::INFINITY] {
            let error = read(bad).unwrap_err();
            assert!(matches!(error, RunError::Train(TrainError::GradientNorm { step: 4, .. })), "{error}");
        }
    }
}
