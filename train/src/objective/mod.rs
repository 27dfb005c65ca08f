//! Objectives: which targets they need, and how they turn them and a student's output into a loss.
//!
//! One file per objective, each with its `SPEC`; [`ObjectiveKind`] lists them, [`Objectives`] is a weighted choice of some. To add one:
//! its file, a variant of [`ObjectiveKind`], and where that is matched.

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
mod visual_bank;

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

pub use self::caption::Caption;
pub use self::combined::Combined;
pub use self::hgkd::{Hgkd, HgkdSettings};
pub use self::kdep::Kdep;
pub use self::lgd::{Lgd, LgdSettings};
pub use self::queue::TeacherQueue;
pub use self::registry::{ObjectiveChoice, ObjectiveKind, Objectives};
pub use self::seed::{Seed, SeedSettings};
pub use self::supervised::Supervised;
pub use self::visual_bank::VisualBank;
use crate::error::TrainError;
use crate::student::StudentOutput;

/// The target columns an objective wants loaded for every batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetColumns {
    /// Teacher embeddings.
    pub embedding: bool,
    /// Text similarity distributions.
    pub text_distribution: bool,
    /// Visual similarity distributions.
    pub visual_distribution: bool,
    /// Pseudo-categories.
    pub pseudo_category: bool,
    /// Projected teacher features.
    pub kdep: bool,
    /// The teacher's patch tokens.
    pub tokens: bool,
    /// Caption embeddings.
    pub caption: bool,
    /// Labels.
    pub label: bool,
    /// Cache rows.
    pub rows: bool,
}

impl TargetColumns {
    /// The columns that either wants.
    pub fn union(self, other: Self) -> Self {
        Self {
            embedding: self.embedding || other.embedding,
            text_distribution: self.text_distribution || other.text_distribution,
            visual_distribution: self.visual_distribution || other.visual_distribution,
            pseudo_category: self.pseudo_category || other.pseudo_category,
            kdep: self.kdep || other.kdep,
            tokens: self.tokens || other.tokens,
            caption: self.caption || other.caption,
            label: self.label || other.label,
            rows: self.rows || other.rows,
        }
    }
}

/// The targets of one batch: at least the columns the objective wants.
#[derive(Debug, Clone, Default)]
pub struct TargetBatch {
    /// L2-normalised teacher embeddings, `[B, D]`.
    pub embedding: Option<Tensor>,
    /// Teacher's distribution over the categories, `[B, C]`.
    pub text_distribution: Option<Tensor>,
    /// Teacher's distribution over itself (slot 0) and the categories, `[B, C + 1]`.
    pub visual_distribution: Option<Tensor>,
    /// The category whose text embedding is nearest to the teacher's embedding, per row.
    pub pseudo_category: Option<Vec<u32>>,
    /// The teacher's features, projected to the student's width and scaled, `[B, d]`.
    pub kdep: Option<Tensor>,
    /// The teacher's patch tokens of the whole view, standardised, `[B, rows, columns, dim]`.
    pub tokens: Option<Tensor>,
    /// L2-normalised embeddings of the images' captions, `[B, D]`.
    pub caption: Option<Tensor>,
    /// Label of each row.
    pub label: Option<Vec<u32>>,
    /// Cache row of each row.
    pub rows: Option<Vec<u32>>,
    /// The cells that the student was shown.
    pub mask: Option<BatchMask>,
}

/// Which cells of the student's coarsest grid are visible, image after image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMask {
    /// `[B, rows, columns]`.
    pub visible: Vec<bool>,
    /// Rows of cells.
    pub rows: usize,
    /// Columns of cells.
    pub columns: usize,
}

impl TargetBatch {
    /// The targets of rows `start..start + len`.
    ///
    /// # Errors
    /// Rows that are not there.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self, TrainError> {
        let rows = |tensor: &Option<Tensor>| {
            let narrowed = |tensor: &Tensor| tensor.narrow(0, start, len)?.contiguous();
            tensor.as_ref().map(narrowed).transpose()
        };
        let numbers = |all: &Option<Vec<u32>>| all.as_ref().map(|all| all[start..start + len].to_vec());
        Ok(Self {
            embedding: rows(&self.embedding)?,
            text_distribution: rows(&self.text_distribution)?,
            visual_distribution: rows(&self.visual_distribution)?,
            pseudo_category: numbers(&self.pseudo_category),
            kdep: rows(&self.kdep)?,
            tokens: rows(&self.tokens)?,
            caption: rows(&self.caption)?,
            label: numbers(&self.label),
            rows: numbers(&self.rows),
            mask: self.mask.as_ref().map(|mask| mask.narrow(start, len)),
        })
    }

    fn embedding(&self) -> Result<&Tensor, TrainError> {
        present("embedding", self.embedding.as_ref())
    }

    fn text_distribution(&self) -> Result<&Tensor, TrainError> {
        present("text_distribution", self.text_distribution.as_ref())
    }

    fn visual_distribution(&self) -> Result<&Tensor, TrainError> {
        present("visual_distribution", self.visual_distribution.as_ref())
    }

    fn pseudo_category(&self) -> Result<&[u32], TrainError> {
        present("pseudo_category", self.pseudo_category.as_deref())
    }

    fn kdep(&self) -> Result<&Tensor, TrainError> {
        present("kdep", self.kdep.as_ref())
    }

    fn caption(&self) -> Result<&Tensor, TrainError> {
        present("caption", self.caption.as_ref())
    }

    fn label(&self) -> Result<&[u32], TrainError> {
        present("label", self.label.as_deref())
    }

    fn rows(&self) -> Result<&[u32], TrainError> {
        present("rows", self.rows.as_deref())
    }
}

fn present<T>(column: &'static str, value: Option<T>) -> Result<T, TrainError> {
    value.ok_or(TrainError::MissingColumn { column })
}

/// `Err(Setting)` unless a temperature can divide logits.
fn check_temperature(name: &'static str, value: f32) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(TrainError::Setting { name, value: value.into(), range: "finite and above 0" })
}

impl BatchMask {
    /// The cells of images `start..start + len`.
    fn narrow(&self, start: usize, len: usize) -> Self {
        let cells = self.rows * self.columns;
        Self { visible: self.visible[start * cells..(start + len) * cells].to_vec(), ..*self }
    }
}

/// A loss and the terms it is made of.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to minimise; differentiable.
    pub total: Tensor,
    /// Its terms, before weighting, by name; scalars on the objective's device. No two objectives have a name in common.
    pub parts: Vec<(&'static str, Tensor)>,
}

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

    /// Updates what the objective itself tracks, once per optimiser step, after the step's loss was taken.
    ///
    /// # Errors
    /// A column that is missing, or shapes that disagree.
    fn after_step(&mut self, _targets: &TargetBatch) -> Result<(), TrainError> {
        Ok(())
    }

    /// What a checkpoint must keep beside the student and the optimiser; empty if nothing.
    ///
    /// # Errors
    /// Tensors that cannot be made.
    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        Ok(BTreeMap::new())
    }

    /// Takes [`state`](Self::state) back from a checkpoint; [`refill`](Self::refill) follows.
    ///
    /// # Errors
    /// An entry that is missing or has another shape; the objective must not be used then.
    fn load_state(&mut self, _state: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        Ok(())
    }

    /// Reads again what the state only names: `read` gives the teacher's embeddings `[n, D]` of cache rows.
    ///
    /// # Errors
    /// Those of `read`.
    fn refill(
        &mut self,
        _read: &mut dyn FnMut(&[usize]) -> Result<Tensor, TrainError>,
    ) -> Result<(), TrainError> {
        Ok(())
    }
}
