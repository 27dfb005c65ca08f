//! The text encoder as this crate sees it.

use lgd_data::manifest::ContentHash;

use crate::error::EncodeFailure;

/// Turns prompts into embeddings that can be compared with the cache's image embeddings.
///
/// The three methods may be answered from the model's file alone until [`PromptEncoder::encode`] is called, which
/// happens only for prompts that the prompt cache does not hold: a rerun need not even load the model.
pub trait PromptEncoder {
    /// Hash of everything that decides an embedding: model, tokenizer, options. The key of the prompt cache.
    fn hash(&self) -> ContentHash;

    /// Width of an embedding, D.
    fn dim(&self) -> usize;

    /// Encodes `prompts` to row-major `[prompts.len(), D]`. Rows need not be normalized, but must not be zero.
    ///
    /// # Errors
    /// Whatever the encoder meets; it is reported with the prompts concerned.
    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure>;
}
