//! A student's outputs.

use candle_core::Tensor;

use super::StudentError;

/// A student's outputs for a batch. In training they are variables that objectives differentiate.
#[derive(Debug, Clone)]
pub struct StudentOutput {
    /// The feature `[B, d]`: the last map after its activation, averaged over its positions, then the neck if there is one. On
    /// masked images, averaged over the visible positions only.
    pub pooled: Tensor,
    /// The head's output: L2-normalized embedding in the teacher's space `[B, D]`, or logits `[B, classes]`.
    pub embedding: Option<Tensor>,
    /// Like `pooled`, but before its last activation: `[B, d]`. Present if [`Extras::raw_pooled`](super::Extras) is set.
    pub raw_pooled: Option<Tensor>,
    /// The decoder's output: `[B, rows, columns, D]`. Present in training if the student has a decoder.
    pub tokens: Option<Tensor>,
}

impl StudentOutput {
    /// The head's output.
    ///
    /// # Errors
    /// If the student has no head.
    pub fn embedding(&self) -> Result<&Tensor, StudentError> {
        self.embedding.as_ref().ok_or(StudentError::MissingOutput { output: "embedding" })
    }

    /// The pooled feature before its last activation.
    ///
    /// # Errors
    /// If the student was created without it.
    pub fn raw_pooled(&self) -> Result<&Tensor, StudentError> {
        self.raw_pooled.as_ref().ok_or(StudentError::MissingOutput { output: "raw_pooled" })
    }

    /// The decoder's output.
    ///
    /// # Errors
    /// In inference, or if the student has no decoder.
    pub fn tokens(&self) -> Result<&Tensor, StudentError> {
        self.tokens.as_ref().ok_or(StudentError::MissingOutput { output: "tokens" })
    }
}
