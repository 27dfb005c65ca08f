//! Objectives: the targets they need, and the loss they compute from those and a student's output.
//!
//! An objective is one file here: its `SPEC` (name, inputs, flags, the student's outputs), its settings, and its
//! [`Objective`]. To add one:
//!
//! 1. Write its file. Copy `caption.rs`, the smallest one with a setting. One struct defines the flags, their defaults
//!    and the members of `config.toml`. A setting that other objectives read too goes into `settings.rs`.
//! 2. Add its `mod` line and its line in `objectives!` below.
//!
//! That is all if the objective reads columns that [`TargetColumns`] has and outputs that [`WantedOutputs`] has. For a
//! new column, add a field in `targets.rs` and its reader in `loader/targets.rs`. For a new input, add a variant of
//! [`Input`] in `inputs.rs`. For a new output of the student, extend `student/config.rs`. Tests: a case with PyTorch's
//! losses and gradients in `tests/numerics/objectives.rs`, and a line in `tests/cli/objectives.txt` of the workspace.

mod caption;
mod combined;
mod compress;
mod error;
mod hgkd;
mod inputs;
mod kdep;
mod lgd;
mod mask;
mod queue;
mod registry;
mod seed;
mod settings;
mod supervised;
mod targets;
mod visual_bank;

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

pub use self::caption::{Caption, CaptionSettings};
pub use self::combined::Combined;
pub use self::compress::{Compress, CompressSettings};
pub use self::error::ObjectiveError;
pub use self::hgkd::{Hgkd, HgkdSettings};
pub use self::inputs::{Input, InputError, Inputs};
pub use self::kdep::Kdep;
pub use self::lgd::{CategoryWeights, Lgd, LgdConstants, LgdSettings, VisualMode};
pub use self::mask::BatchMask;
pub use self::queue::{QueueFill, TeacherQueue};
pub use self::registry::{ObjectiveChoice, Objectives, Setup};
pub use self::seed::{Seed, SeedConstants, SeedSettings};
pub use self::settings::{IdleFlag, SettingGroup, SharedSettings};
pub use self::supervised::Supervised;
pub use self::targets::{TargetBatch, TargetColumns};
pub use self::visual_bank::VisualBank;
use crate::error::{SettingError, TrainError};
use crate::student::StudentOutput;

registry::objectives! {
    /// Language-guided distillation.
    Lgd: Lgd, lgd: LgdSettings;
    /// Similarities to a queue of teacher embeddings.
    Seed: Seed, seed: SeedSettings;
    /// Distributions over a queue of teacher embeddings.
    Compress: Compress, compress: CompressSettings;
    /// The teacher's pooled features.
    Kdep: Kdep;
    /// The teacher's patch tokens, from masked images.
    Hgkd: Hgkd, hgkd: HgkdSettings;
    /// Caption embeddings.
    Caption: Caption, caption: CaptionSettings;
    /// Labels.
    Supervised: Supervised;
}

impl ObjectiveSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), SettingError> {
        self.groups().into_iter().try_for_each(|group| group.check())
    }

    /// Flags that other settings leave without effect.
    pub fn idle(&self) -> Vec<IdleFlag> {
        self.groups().into_iter().filter_map(|group| group.idle()).collect()
    }
}

/// A loss and its terms.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to minimize; differentiable.
    pub total: Tensor,
    /// Its terms, before weighting, by name; scalars on the objective's device. Names are unique across objectives.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// The student's outputs that objectives read, besides the pooled feature, which every student has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedOutputs {
    /// The head's output: the embedding in the teacher's space, or logits.
    pub embedding: bool,
    /// The pooled feature before its last activation.
    pub raw_pooled: bool,
    /// The decoder's tokens of a masked view.
    pub tokens: bool,
}

impl WantedOutputs {
    /// None of them.
    pub const NONE: Self = Self { embedding: false, raw_pooled: false, tokens: false };

    /// The outputs that `self` or `other` reads.
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

/// Name, inputs, flags and source of an objective, for the registry and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ObjectiveSpec {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// Its inputs besides a cache's views and embeddings.
    pub needs: &'static [Input],
    /// The flags of `lgd train` that it reads, for `lgd objectives`: its own settings, those of [`SharedSettings`], and
    /// `--bank`. A test compares this list with the flags that clap defines.
    pub flags: &'static [&'static str],
    /// The student's outputs that its loss reads.
    #[serde(skip)]
    pub outputs: WantedOutputs,
    /// Default weight in a sum.
    pub default_weight: f32,
    /// The paper.
    pub source: &'static str,
}

/// A training objective.
pub trait Objective: Send {
    /// The target columns that [`loss`](Self::loss) and [`after_step`](Self::after_step) read.
    fn columns(&self) -> TargetColumns;

    /// The loss of a batch, averaged over its rows.
    ///
    /// # Errors
    /// If a column or an output of the student is missing, or shapes disagree.
    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError>;

    /// Updates the objective's own state, once per optimizer step, after the step's loss was computed. The targets are
    /// those of the whole batch, on the CPU, so reading them does not wait for a device.
    ///
    /// # Errors
    /// If a column is missing, or shapes disagree.
    fn after_step(&mut self, _targets: &TargetBatch) -> Result<(), TrainError> {
        Ok(())
    }

    /// The objective's state for a checkpoint; empty if it has none.
    ///
    /// # Errors
    /// If tensors cannot be created.
    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        Ok(BTreeMap::new())
    }

    /// Restores [`state`](Self::state) from a checkpoint. Embeddings saved as row numbers are re-read through `read`.
    ///
    /// # Errors
    /// If an entry is missing or does not fit, or `read` fails. The objective must not be used after an error.
    fn restore(
        &mut self,
        _state: &BTreeMap<String, Tensor>,
        _read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        Ok(())
    }
}

/// `Err(Setting)` unless a temperature can divide logits.
fn check_temperature(name: &'static str, value: f32) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(TrainError::Setting { name, value: value.into(), range: "finite and above 0" })
}
