//! Targets: the columns that objectives can request, and the values for one batch.

use candle_core::{Device, Tensor};

use super::{BatchMask, ObjectiveError};
use crate::error::TrainError;

/// The target columns that an objective reads from every batch.
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
    /// The columns in `self` or `other`.
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

/// The targets of one batch: at least the columns that the objective reads.
#[derive(Debug, Clone, Default)]
pub struct TargetBatch {
    /// L2-normalized teacher embeddings, `[B, D]`.
    pub embedding: Option<Tensor>,
    /// Teacher's distribution over the categories, `[B, C]`.
    pub text_distribution: Option<Tensor>,
    /// Teacher's distribution over its own view (column 0) and the categories, `[B, C + 1]`.
    pub visual_distribution: Option<Tensor>,
    /// The category whose text embedding is nearest to the teacher's embedding, per row.
    pub pseudo_category: Option<Vec<u32>>,
    /// The teacher's features, projected to the student's width and scaled, `[B, d]`.
    pub kdep: Option<Tensor>,
    /// The teacher's patch tokens of the whole view, standardized, `[B, rows, columns, dim]`.
    pub tokens: Option<Tensor>,
    /// L2-normalized embeddings of the images' captions, `[B, D]`.
    pub caption: Option<Tensor>,
    /// Label of each row.
    pub label: Option<Vec<u32>>,
    /// Cache row of each row of the batch.
    pub rows: Option<Vec<u32>>,
    /// The cells that the student can see.
    pub mask: Option<BatchMask>,
}

impl TargetBatch {
    /// Copies the targets to `device`. Tensors that are already there are not copied.
    ///
    /// # Errors
    /// If the device fails.
    pub fn to_device(&self, device: &Device) -> Result<Self, TrainError> {
        let moved = |tensor: &Option<Tensor>| {
            Ok::<_, TrainError>(tensor.as_ref().map(|tensor| tensor.to_device(device)).transpose()?)
        };
        Ok(Self {
            embedding: moved(&self.embedding)?,
            text_distribution: moved(&self.text_distribution)?,
            visual_distribution: moved(&self.visual_distribution)?,
            kdep: moved(&self.kdep)?,
            tokens: moved(&self.tokens)?,
            caption: moved(&self.caption)?,
            ..self.clone()
        })
    }

    /// The targets of rows `start..start + len`.
    ///
    /// # Errors
    /// [`ObjectiveError::MissingRows`] if a column has fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self, TrainError> {
        let rows = |tensor: &Option<Tensor>| {
            let narrowed = |tensor: &Tensor| {
                expect_rows(tensor.dims().first().copied().unwrap_or(0), start, len)?;
                Ok::<_, TrainError>(tensor.narrow(0, start, len)?.contiguous()?)
            };
            tensor.as_ref().map(narrowed).transpose()
        };
        let numbers = |all: &Option<Vec<u32>>| {
            let narrowed = |all: &Vec<u32>| {
                expect_rows(all.len(), start, len)?;
                Ok::<_, TrainError>(all[start..start + len].to_vec())
            };
            all.as_ref().map(narrowed).transpose()
        };
        Ok(Self {
            embedding: rows(&self.embedding)?,
            text_distribution: rows(&self.text_distribution)?,
            visual_distribution: rows(&self.visual_distribution)?,
            pseudo_category: numbers(&self.pseudo_category)?,
            kdep: rows(&self.kdep)?,
            tokens: rows(&self.tokens)?,
            caption: rows(&self.caption)?,
            label: numbers(&self.label)?,
            rows: numbers(&self.rows)?,
            mask: self.mask.as_ref().map(|mask| mask.narrow(start, len)).transpose()?,
        })
    }

    /// The column [`embedding`](field@Self::embedding).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn embedding(&self) -> Result<&Tensor, TrainError> {
        present("embedding", self.embedding.as_ref())
    }

    /// The column [`text_distribution`](field@Self::text_distribution).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn text_distribution(&self) -> Result<&Tensor, TrainError> {
        present("text_distribution", self.text_distribution.as_ref())
    }

    /// The column [`visual_distribution`](field@Self::visual_distribution).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn visual_distribution(&self) -> Result<&Tensor, TrainError> {
        present("visual_distribution", self.visual_distribution.as_ref())
    }

    /// The column [`pseudo_category`](field@Self::pseudo_category).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn pseudo_category(&self) -> Result<&[u32], TrainError> {
        present("pseudo_category", self.pseudo_category.as_deref())
    }

    /// The column [`kdep`](field@Self::kdep).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn kdep(&self) -> Result<&Tensor, TrainError> {
        present("kdep", self.kdep.as_ref())
    }

    /// The column [`tokens`](field@Self::tokens).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn tokens(&self) -> Result<&Tensor, TrainError> {
        present("tokens", self.tokens.as_ref())
    }

    /// The column [`caption`](field@Self::caption).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn caption(&self) -> Result<&Tensor, TrainError> {
        present("caption", self.caption.as_ref())
    }

    /// The column [`label`](field@Self::label).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn label(&self) -> Result<&[u32], TrainError> {
        present("label", self.label.as_deref())
    }

    /// The column [`rows`](field@Self::rows).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn rows(&self) -> Result<&[u32], TrainError> {
        present("rows", self.rows.as_deref())
    }

    /// The column [`mask`](field@Self::mask).
    ///
    /// # Errors
    /// [`ObjectiveError::MissingColumn`].
    pub fn mask(&self) -> Result<&BatchMask, TrainError> {
        present("mask", self.mask.as_ref())
    }
}

fn present<T>(column: &'static str, value: Option<T>) -> Result<T, TrainError> {
    Ok(value.ok_or(ObjectiveError::MissingColumn { column })?)
}

/// `Err(MissingRows)` unless rows `start..start + len` are among `rows`.
pub(super) fn expect_rows(rows: usize, start: usize, len: usize) -> Result<(), TrainError> {
    if start.checked_add(len).is_some_and(|end| end <= rows) {
        return Ok(());
    }
    Err(ObjectiveError::MissingRows { start, len, rows }.into())
}
