//! SEED (arXiv 2101.04731): docs/methods.md section 4.
//!
//! ```text
//! p = softmax([1, t . Q^T] / tau_t)      logits = [s . t, s . Q^T] / tau_s      L = -(1/B) Σ_b Σ_k p[b,k] log_softmax(logits)[b,k]
//! ```
//!
//! over the filled part of a queue Q of the last K teacher embeddings. Entries of a view's own sample are left out: they
//! would be a second positive. A batch is added after its step. The loss of a step with an empty queue is 0.

use std::collections::BTreeMap;

use candle_core::{D, Tensor};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::registry::{Declared, Setup};
use super::settings::positive;
use super::{
    InputError, Loss, Objective, ObjectiveSpec, ReadEmbeddings, SettingGroup, SharedSettings, TargetBatch,
    TargetColumns, TeacherQueue, WantedOutputs, check_temperature,
};
use crate::error::{SettingError, TrainError, expect_dims};
use crate::ops;
use crate::parse;
use crate::student::StudentOutput;

/// Settings that only this objective reads; `--queue`, `--queue-fill` and `--tau-s` are shared.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedSettings {
    /// seed: temperature of the teacher's similarities to the queue; lgd uses the bank's, see `lgd bank --tau-t`.
    #[arg(long = "tau-t", value_name = "TAU_T", default_value_t = DEFAULT.teacher_temperature, value_parser = parse::temperature)]
    pub teacher_temperature: f32,
}

/// The paper's setting (docs/methods.md section 4).
const DEFAULT: SeedSettings = SeedSettings { teacher_temperature: 0.01 };

impl Default for SeedSettings {
    fn default() -> Self {
        DEFAULT
    }
}

impl SettingGroup for SeedSettings {
    fn check(&self) -> Result<(), SettingError> {
        SettingError::first([positive("teacher_temperature", self.teacher_temperature)])
    }
}

impl Declared for Seed {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "seed",
        about: "matches the teacher's similarities to a queue of past teacher embeddings; no text",
        needs: &[],
        flags: &["--queue", "--queue-fill", "--tau-t", "--tau-s"],
        outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "SEED, arXiv 2101.04731",
    };

    fn build(setup: &Setup<'_>) -> Result<Self, InputError> {
        let constants = SeedConstants {
            teacher_temperature: setup.settings.seed.teacher_temperature,
            student_temperature: setup.settings.shared.student_temperature,
        };
        Ok(Self::new(constants, TeacherQueue::of_run(setup)?)?)
    }
}

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedConstants {
    /// Teacher's temperature.
    pub teacher_temperature: f32,
    /// Student's temperature.
    pub student_temperature: f32,
}

impl Default for SeedConstants {
    /// The constants of the default settings.
    fn default() -> Self {
        let student_temperature = SharedSettings::default().student_temperature;
        Self { teacher_temperature: DEFAULT.teacher_temperature, student_temperature }
    }
}

/// The SEED objective.
pub struct Seed {
    constants: SeedConstants,
    queue: TeacherQueue,
}

impl Seed {
    /// Creates the objective over `queue`.
    ///
    /// # Errors
    /// If a temperature is out of range.
    pub fn new(constants: SeedConstants, queue: TeacherQueue) -> Result<Self, TrainError> {
        check_temperature("the teacher's temperature", constants.teacher_temperature)?;
        check_temperature("the student's temperature", constants.student_temperature)?;
        Ok(Self { constants, queue })
    }
}

/// `positive` `[B, 1]`, then the similarities to the queue, divided by a temperature.
fn logits(positive: Tensor, queue: Option<Tensor>, temperature: f32) -> Result<Tensor, TrainError> {
    let logits = match queue {
        None => positive,
        Some(queue) => Tensor::cat(&[&positive, &queue], 1)?,
    };
    Ok((logits / f64::from(temperature))?)
}

impl Objective for Seed {
    fn columns(&self) -> TargetColumns {
        TargetColumns { embedding: true, rows: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (s, t) = (output.embedding()?, targets.embedding()?);
        expect_dims("teacher embeddings", t, s.dims())?;
        let own = self.queue.own_entries(targets.rows()?, s.dims()[0])?;
        let similarities = |x: &Tensor| self.queue.similarities(x, own.as_ref());
        let one = Tensor::ones((s.dims()[0], 1), s.dtype(), s.device())?;
        let teacher = logits(one, similarities(t)?, self.constants.teacher_temperature)?;
        let p = ops::softmax(&teacher, &vec![1.0; 1 + self.queue.filled()])?;
        let positive = s.mul(t)?.sum_keepdim(D::Minus1)?;
        let student = logits(positive, similarities(s)?, self.constants.student_temperature)?;
        let total = ops::soft_cross_entropy(&student, &p, vec![true; 1 + self.queue.filled()].into())?;
        Ok(Loss { parts: vec![("seed", total.detach())], total })
    }

    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError> {
        self.queue.push(targets.rows()?, targets.embedding()?)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        self.queue.state()
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        self.queue.restore(state, read)
    }
}
