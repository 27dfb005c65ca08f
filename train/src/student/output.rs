//! A student's outputs.

use candle_core::Tensor;

use super::StudentError;

/// A student's outputs for a batch; in training, variables that objectives differentiate.
#[derive(Debug, Clone)]
pub struct StudentOutput {
    /// Globally averaged last feature map, after its activation: `[B, d]`; over visible positions where the student sees masked images.
    pub pooled: Tensor,
    /// The head's output: L2-normalized embedding in the teacher's space `[B, D]`, or logits `[B, classes]`.
    pub embedding: Option<Tensor>,
    /// As `pooled`, of the map before its activation: `[B, d]`. In training of students with [`Extras::raw_pooled`](super::Extras).
    pub raw_pooled: Option<Tensor>,
    /// The decoder's output: `[B, rows, columns, D]`. In training of students with a decoder.
    pub tokens: Option<Tensor>,
}

impl StudentOutput {
    /// The head's output.
    ///
    /// # Errors
    /// A student without a head.
    pub fn embedding(&self) -> Result<&Tensor, StudentError> {
        self.embedding.as_ref().ok_or(StudentError::MissingOutput { output: "embedding" })
    }

    /// The pooled last map before its activation.
    ///
    /// # Errors
    /// A student that was not made for it, or inference.
    pub fn raw_pooled(&self) -> Result<&Tensor, StudentError> {
        self.raw_pooled.as_ref().ok_or(StudentError::MissingOutput { output: "raw_pooled" })
    }

    /// The decoder's output.
    ///
    /// # Errors
    /// A student without a decoder, or inference.
    pub fn tokens(&self) -> Result<&Tensor, StudentError> {
        self.tokens.as_ref().ok_or(StudentError::MissingOutput { output: "tokens" })
    }
}
