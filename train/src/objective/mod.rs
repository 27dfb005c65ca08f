//! Objectives: which targets they need, and how they turn them and a student's output into a loss.
//!
//! One file per objective, each with its `SPEC`; [`ObjectiveKind`] lists them, [`Objectives`] is a weighted choice of some. To add one:
//! - its file here, with its `SPEC` and its [`Objective`];
//! - a variant of [`ObjectiveKind`], in `registry.rs`;
//! - how it is made of a configuration, and which input it needs, in `trainer/objectives.rs`;
//! - its settings in `run/objectives.rs`, and their flags in the command line's `args.rs` and `commands/objectives.rs`;
//! - a target column that no other has: in `targets.rs`, and where it is read, in `loader/targets.rs`;
//! - an output that no student makes yet: in [`WantedOutputs`], and in `student/config.rs`.

mod caption;
mod combined;
mod hgkd;
mod kdep;
mod lgd;
mod mask;
mod queue;
mod registry;
mod seed;
mod supervised;
mod targets;
mod visual_bank;

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

pub use self::caption::Caption;
pub use self::combined::Combined;
pub use self::hgkd::{Hgkd, HgkdSettings};
pub use self::kdep::Kdep;
pub use self::lgd::{Lgd, LgdSettings};
pub use self::mask::BatchMask;
pub use self::queue::TeacherQueue;
pub use self::registry::{ObjectiveChoice, ObjectiveKind, Objectives};
pub use self::seed::{Seed, SeedSettings};
pub use self::supervised::Supervised;
pub use self::targets::{TargetBatch, TargetColumns};
pub use self::visual_bank::VisualBank;
use crate::error::TrainError;
use crate::student::StudentOutput;

/// `Err(Setting)` unless a temperature can divide logits.
fn check_temperature(name: &'static str, value: f32) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(TrainError::Setting { name, value: value.into(), range: "finite and above 0" })
}

/// A loss and the terms it is made of.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to minimize; differentiable.
    pub total: Tensor,
    /// Its terms, before weighting, by name; scalars on the objective's device. No two objectives have a name in common.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// The student's outputs that objectives read, beside the pooled feature, which every student has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedOutputs {
    /// What the head makes: the embedding in the teacher's space, or logits.
    pub embedding: bool,
    /// The pooled feature before its last activation.
    pub raw_pooled: bool,
    /// The decoder's tokens of a masked view.
    pub tokens: bool,
}

impl WantedOutputs {
    /// None of them.
    pub const NONE: Self = Self { embedding: false, raw_pooled: false, tokens: false };

    /// The outputs that either wants.
    pub fn union(self, other: Self) -> Self {
        Self {
            embedding: self.embedding || other.embedding,
            raw_pooled: self.raw_pooled || other.raw_pooled,
            tokens: self.tokens || other.tokens,
        }
    }
}

/// Reads the teacher's embeddings `[n, D]` of `n` cache rows.
pub type ReadEmbeddings<'a> = dyn FnMut(&[usize]) -> Result<Tensor, TrainError> + 'a;

/// What is to be known of an objective before it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ObjectiveSpec {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// What it needs besides views and embeddings of a cache.
    pub needs: &'static [&'static str],
    /// The settings of `lgd train` that it reads.
    pub flags: &'static [&'static str],
    /// The student's outputs that its loss reads.
    #[serde(skip)]
    pub outputs: WantedOutputs,
    /// Its weight where none is given.
    pub default_weight: f32,
    /// Where it comes from.
    pub source: &'static str,
}

/// Something to train a student for.
pub trait Objective: Send {
    /// The target columns [`loss`](Self::loss) and [`after_step`](Self::after_step) read.
    fn columns(&self) -> TargetColumns;

    /// The loss of a batch, averaged over its rows.
    ///
    /// # Errors
    /// A column or an output of the student that is missing, or shapes that disagree.
    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError>;

    /// Updates what the objective itself tracks, once per optimizer step, after the step's loss was taken. The targets are the whole
    /// batch's, on the CPU: reading them waits for no device.
    ///
    /// # Errors
    /// A column that is missing, or shapes that disagree.
    fn after_step(&mut self, _targets: &TargetBatch) -> Result<(), TrainError> {
        Ok(())
    }

    /// What a checkpoint must keep beside the student and the optimizer; empty if nothing.
    ///
    /// # Errors
    /// Tensors that cannot be made.
    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        Ok(BTreeMap::new())
    }

    /// Takes [`state`](Self::state) back from a checkpoint; what it only names, `read` reads again.
    ///
    /// # Errors
    /// An entry that is missing or does not fit, or those of `read`; the objective must not be used then.
    fn restore(
        &mut self,
        _state: &BTreeMap<String, Tensor>,
        _read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        Ok(())
    }
}
