//! The interface to a text encoder.

use lgd_data::manifest::ContentHash;

use crate::error::EncodeFailure;

/// Encodes prompts to embeddings in the space of the cache's image embeddings.
///
/// `hash` and `dim` can be answered from the model's files without loading the model. [`PromptEncoder::encode`] is
/// called only for prompts that are not in the prompt cache, so a rerun need not load the model at all.
pub trait PromptEncoder {
    /// Hash of everything that decides an embedding: model, tokenizer and resolved settings. It is the key of the prompt
    /// cache.
    fn hash(&self) -> ContentHash;

    /// Hashes under which a cache may have recorded this text encoder as that of its teacher.
    fn recorded_as(&self) -> Vec<ContentHash> {
        vec![self.hash()]
    }

    /// Embedding width, D.
    fn dim(&self) -> usize;

    /// Encodes `prompts` to row-major `[prompts.len(), D]`. Rows need not be normalized but must not be zero.
    ///
    /// # Errors
    /// Any error of the encoder. The caller adds the prompts of the batch.
    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure>;

    /// Tokens of `prompts`, as the model gets them. Prompts with equal tokens have equal embeddings. Default: every
    /// byte is a token.
    ///
    /// # Errors
    /// Any error of the tokenizer.
    fn tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, EncodeFailure> {
        Ok(prompts.iter().map(|prompt| prompt.bytes().map(u32::from).collect()).collect())
    }

    /// Hash of the bridge's manifest, if embeddings pass through one. Default: none.
    fn bridge(&self) -> Option<ContentHash> {
        None
    }

    /// Number of prompts that are longer than the model's context and are cut. Default: none.
    ///
    /// # Errors
    /// Any error of the tokenizer.
    fn count_cut(&self, _prompts: &[String]) -> Result<usize, EncodeFailure> {
        Ok(0)
    }
}
