//! SEED (arXiv 2101.04731): docs/methods.md section 4.
//!
//! ```text
//! p = softmax([1, t . Q^T] / tau_t)      logits = [s . t, s . Q^T] / tau_s      L = -(1/B) Σ_b Σ_k p[b,k] log_softmax(logits)[b,k]
//! ```
//!
//! over the filled part of a queue Q of the last K teacher embeddings, to which a batch is added after its step. The first step sees an
//! empty queue: its loss is 0.

use std::collections::BTreeMap;

use candle_core::{D, Tensor};

use super::{
    Loss, Objective, ObjectiveSpec, ReadEmbeddings, TargetBatch, TargetColumns, TeacherQueue, WantedOutputs,
    check_temperature,
};
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::student::StudentOutput;

/// What is to be known of it.
pub const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "seed",
    about: "similarities to a queue of past teacher embeddings, as the teacher has them; no text",
    needs: &[],
    flags: &["--queue", "--tau-t", "--tau-s"],
    outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
    default_weight: 1.0,
    source: "SEED, arXiv 2101.04731",
};

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedSettings {
    /// Teacher's temperature.
    pub teacher_temperature: f32,
    /// Student's temperature.
    pub student_temperature: f32,
}

impl Default for SeedSettings {
    /// The paper's.
    fn default() -> Self {
        Self { teacher_temperature: 0.01, student_temperature: 0.2 }
    }
}

/// The SEED objective.
pub struct Seed {
    settings: SeedSettings,
    queue: TeacherQueue,
}

impl Seed {
    /// The objective over `queue`.
    ///
    /// # Errors
    /// A temperature out of range.
    pub fn new(settings: SeedSettings, queue: TeacherQueue) -> Result<Self, TrainError> {
        check_temperature("the teacher's temperature", settings.teacher_temperature)?;
        check_temperature("the student's temperature", settings.student_temperature)?;
        Ok(Self { settings, queue })
    }
}

/// `positive` `[B, 1]`, then the similarities of `x` to the queue, divided by a temperature.
fn logits(
    positive: Tensor,
    x: &Tensor,
    queue: Option<&Tensor>,
    temperature: f32,
) -> Result<Tensor, TrainError> {
    let logits = match queue {
        None => positive,
        Some(queue) => Tensor::cat(&[&positive, &ops::similarity(x, queue)?], 1)?,
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
        let queue = self.queue.tensor()?;
        let one = Tensor::ones((s.dims()[0], 1), s.dtype(), s.device())?;
        let teacher = logits(one, t, queue.as_ref(), self.settings.teacher_temperature)?;
        let p = ops::softmax(&teacher, &vec![1.0; 1 + self.queue.filled()])?;
        let positive = s.mul(t)?.sum_keepdim(D::Minus1)?;
        let student = logits(positive, s, queue.as_ref(), self.settings.student_temperature)?;
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
