//! The interface to a text encoder.

use lgd_data::manifest::ContentHash;

use crate::error::EncodeFailure;

/// Encodes prompts to embeddings in the space of the cache's image embeddings.
///
/// `hash` and `dim` can be answered from the model's files without loading the model. [`PromptEncoder::encode`] is
/// called only for prompts that are not in the prompt cache, so a rerun need not load the model at all.
pub trait PromptEncoder {
    /// Hash of everything that affects an embedding: model, tokenizer and options. It is the key of the prompt cache.
    fn hash(&self) -> ContentHash;

    /// Embedding width, D.
    fn dim(&self) -> usize;

    /// Encodes `prompts` to row-major `[prompts.len(), D]`. Rows need not be normalized but must not be zero.
    ///
    /// # Errors
    /// Any error of the encoder. The caller adds the prompts of the batch.
    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure>;
}
