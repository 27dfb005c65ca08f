//! Objectives: which targets they need, and how they turn them and a student's output into a loss.

mod lgd;
mod visual_bank;

use std::collections::BTreeMap;

use candle_core::Tensor;

pub use self::lgd::{Lgd, LgdSettings};
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
}

impl TargetBatch {
    /// The targets of rows `start..start + len`.
    ///
    /// # Errors
    /// Rows that are not there.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self, TrainError> {
        let rows = |tensor: &Option<Tensor>| {
            tensor.as_ref().map(|tensor| tensor.narrow(0, start, len).and_then(|rows| rows.contiguous()))
        };
        Ok(Self {
            embedding: rows(&self.embedding).transpose()?,
            text_distribution: rows(&self.text_distribution).transpose()?,
            visual_distribution: rows(&self.visual_distribution).transpose()?,
            pseudo_category: self.pseudo_category.as_ref().map(|all| all[start..start + len].to_vec()),
        })
    }

    fn embedding(&self) -> Result<&Tensor, TrainError> {
        self.embedding.as_ref().ok_or(TrainError::MissingColumn { column: "embedding" })
    }

    fn text_distribution(&self) -> Result<&Tensor, TrainError> {
        self.text_distribution.as_ref().ok_or(TrainError::MissingColumn { column: "text_distribution" })
    }

    fn visual_distribution(&self) -> Result<&Tensor, TrainError> {
        self.visual_distribution.as_ref().ok_or(TrainError::MissingColumn { column: "visual_distribution" })
    }

    fn pseudo_category(&self) -> Result<&[u32], TrainError> {
        self.pseudo_category.as_deref().ok_or(TrainError::MissingColumn { column: "pseudo_category" })
    }
}

/// A loss and the terms it is made of.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to minimise; differentiable.
    pub total: Tensor,
    /// Its terms, before weighting, by name; scalars on the objective's device.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// Something to train a student for.
pub trait Objective: Send {
    /// The target columns [`loss`](Self::loss) and [`after_step`](Self::after_step) read.
    fn columns(&self) -> TargetColumns;

    /// The loss of a batch, averaged over its rows.
    ///
    /// # Errors
    /// A column that is missing, or shapes that disagree.
    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError>;

    /// Updates what the objective itself tracks, once per optimiser step, after the step's loss was taken.
    ///
    /// # Errors
    /// A column that is missing, or shapes that disagree.
    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError>;

    /// What a checkpoint must keep beside the student and the optimiser; empty if nothing.
    ///
    /// # Errors
    /// Tensors that cannot be made.
    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError>;

    /// Takes [`state`](Self::state) back from a checkpoint.
    ///
    /// # Errors
    /// An entry that is missing or has another shape; nothing is changed then.
    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainError>;
}
