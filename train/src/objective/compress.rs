//! CompRess with one queue (arXiv 2010.14713): docs/methods.md section 4.
//!
//! ```text
//! p = softmax(t . Q^T / tau)      q = softmax(s . Q^T / tau)      L = (1/B) Σ_b KL(p[b] | q[b])
//! ```
//!
//! over the filled part of a queue Q of the last K teacher embeddings, for teacher and student alike. Entries of a view's
//! own sample are left out. A batch is added after its step. The loss is 0 while the queue is empty.

use std::collections::BTreeMap;

use candle_core::Tensor;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::registry::{Declared, Setup};
use super::settings::positive;
use super::{
    InputError, Loss, Objective, ObjectiveSpec, ReadEmbeddings, SettingGroup, TargetBatch, TargetColumns,
    TeacherQueue, WantedOutputs, check_temperature,
};
use crate::error::{SettingError, TrainError, expect_dims};
use crate::ops;
use crate::parse;
use crate::student::StudentOutput;

/// Settings that only this objective reads; `--queue` and `--queue-fill` are shared.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct CompressSettings {
    /// compress: temperature of the similarities to the queue, of teacher and student.
    #[arg(long = "tau-compress", value_name = "TAU_COMPRESS", default_value_t = DEFAULT.compress_temperature, value_parser = parse::temperature)]
    pub compress_temperature: f32,
}

/// The paper's setting (docs/methods.md section 4).
const DEFAULT: CompressSettings = CompressSettings { compress_temperature: 0.04 };

impl Default for CompressSettings {
    fn default() -> Self {
        DEFAULT
    }
}

impl SettingGroup for CompressSettings {
    fn check(&self) -> Result<(), SettingError> {
        SettingError::first([positive("compress_temperature", self.compress_temperature)])
    }
}

impl Declared for Compress {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "compress",
        about: "matches the teacher's distribution over a queue of past teacher embeddings, without the view itself; no text",
        needs: &[],
        flags: &["--queue", "--queue-fill", "--tau-compress"],
        outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "CompRess, arXiv 2010.14713",
    };

    fn build(setup: &Setup<'_>) -> Result<Self, InputError> {
        Ok(Self::new(setup.settings.compress.compress_temperature, TeacherQueue::of_run(setup)?)?)
    }
}

/// The CompRess objective.
pub struct Compress {
    temperature: f32,
    queue: TeacherQueue,
}

impl Compress {
    /// Creates the objective over `queue`.
    ///
    /// # Errors
    /// If the temperature is out of range.
    pub fn new(temperature: f32, queue: TeacherQueue) -> Result<Self, TrainError> {
        check_temperature("the temperature of compress", temperature)?;
        Ok(Self { temperature, queue })
    }
}

impl Objective for Compress {
    fn columns(&self) -> TargetColumns {
        TargetColumns { embedding: true, rows: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (s, t) = (output.embedding()?, targets.embedding()?);
        expect_dims("teacher embeddings", t, s.dims())?;
        let own = self.queue.own_entries(targets.rows()?, s.dims()[0])?;
        let similarities = |x: &Tensor| self.queue.similarities(x, own.as_ref());
        let total = match (similarities(t)?, similarities(s)?) {
            (Some(teacher), Some(student)) => {
                let (filled, tau) = (self.queue.filled(), f64::from(self.temperature));
                let p = ops::softmax(&(teacher / tau)?, &vec![1.0; filled])?;
                let cross = ops::soft_cross_entropy(&(student / tau)?, &p, vec![true; filled].into())?;
                (cross - entropy(&p)?)?
            }
            // A gradient of zeros: a factor of 0 would leave the output without one.
            _ => s.mul(&s.zeros_like()?)?.sum_all()?,
        };
        Ok(Loss { parts: vec![("compress", total.detach())], total })
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

/// The mean entropy of the rows of `p`, in nats. An entry of 0 adds nothing.
fn entropy(p: &Tensor) -> candle_core::Result<Tensor> {
    let logs = p.clamp(f32::MIN_POSITIVE, 1.0)?.log()?;
    p.mul(&logs)?.sum(1)?.mean_all()?.neg()
}
