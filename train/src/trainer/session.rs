//! Student, objective and optimiser of one run, and the step that moves them.

use candle_core::{Device, Tensor};
use lgd_data::bank::{Bank, UnassignedSlots};

use crate::checkpoint::Stateful;
use crate::error::TrainError;
use crate::loader::batches::Batch;
use crate::loader::targets::TargetSource;
use crate::objective::{Lgd, LgdSettings, Objective, VisualBank};
use crate::optim::{Schedule, Sgd, SgdSettings};
use crate::run::{RunError, TrainConfig, VisualMode};
use crate::student::{Mode, Student};

/// The parts of a run that change from step to step.
pub(super) struct Session {
    pub(super) student: Student,
    sgd: Sgd,
    objective: Box<dyn Objective>,
    seed: u64,
    size: usize,
}

/// The loss of one step.
pub(super) struct StepLoss {
    pub(super) total: f32,
    pub(super) parts: Vec<(&'static str, f32)>,
}

impl Session {
    /// A new student with its objective and optimiser, as `config` and `bank` say.
    pub(super) fn new(config: &TrainConfig, bank: &Bank) -> Result<Self, RunError> {
        let student = Student::new(config.student, bank.dim(), config.seed, &Device::Cpu)?;
        let settings = SgdSettings { momentum: config.momentum, weight_decay: config.weight_decay };
        let sgd = Sgd::new(settings, student.params())?;
        let objective = Box::new(objective(config, bank)?);
        let size = usize::try_from(config.size).unwrap_or(usize::MAX);
        Ok(Self { student, sgd, objective, seed: config.seed, size })
    }

    /// Everything a checkpoint holds.
    pub(super) fn stateful(&mut self) -> Stateful<'_> {
        Stateful { student: &self.student, sgd: &mut self.sgd, objective: &mut *self.objective }
    }

    /// One step on `batch`, the `step`-th over all epochs, at learning rate `lr`.
    pub(super) fn step(
        &mut self,
        batch: Batch,
        step: usize,
        lr: f32,
        targets: &TargetSource<'_>,
    ) -> Result<StepLoss, RunError> {
        let (rows, epoch) = (batch.rows.len(), batch.epoch);
        let shape = (rows, self.size, self.size, 3);
        let images = Tensor::from_vec(batch.images, shape, &Device::Cpu).map_err(TrainError::from)?;
        let targets = targets.gather(&batch.rows, self.objective.columns())?;
        let mode = Mode::Train { seed: self.seed, step: u64::try_from(step).unwrap_or(u64::MAX) };
        let output = self.student.forward(&images, mode)?;
        let loss = self.objective.loss(&output, &targets)?;
        let total = loss.total.to_scalar::<f32>()?;
        if !total.is_finite() {
            let parts: Vec<String> =
                loss.parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            return Err(RunError::NonFinite { epoch, step, loss: total, parts: parts.join(", ") });
        }
        let gradients = loss.total.backward()?;
        self.sgd.step(self.student.params(), &gradients, lr)?;
        self.objective.after_step(&targets)?;
        Ok(StepLoss { total, parts: loss.parts })
    }
}

/// The learning rate of a run. A run of no epochs never asks for one.
pub(super) fn schedule(config: &TrainConfig) -> Result<Schedule, RunError> {
    let (base, start) = (f64::from(config.base_lr), f64::from(config.start_lr));
    Ok(Schedule::new(base, start, config.warmup_epochs, config.epochs.max(1))?)
}

fn objective(config: &TrainConfig, bank: &Bank) -> Result<Lgd, RunError> {
    let record = &bank.manifest().record;
    let prototypes = |values: &[f32]| {
        let shape = (bank.categories(), bank.dim());
        Tensor::from_slice(values, shape, &Device::Cpu).map_err(TrainError::from)
    };
    let settings = LgdSettings {
        alpha: config.alpha,
        teacher_temperature: record.teacher_temperature,
        student_temperature: config.student_temperature,
    };
    let visual = match config.vsb {
        VisualMode::Mean => VisualBank::Mean { vsb: prototypes(bank.vsb())? },
        VisualMode::Ema => VisualBank::Ema { momentum: config.vsb_momentum, seed: config.seed },
    };
    let kept = record.unassigned_slots == UnassignedSlots::Kept;
    let assigned: Vec<bool> = record.categories.iter().map(|category| kept || category.count > 0).collect();
    Ok(Lgd::new(settings, prototypes(bank.tsb())?, visual, &assigned)?)
}
