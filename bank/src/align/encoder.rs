//! A text encoder with a bridge behind it.

use lgd_data::ArtifactError;
use lgd_data::align::Align;
use lgd_data::cache::Cache;
use lgd_data::manifest::ContentHash;

use crate::encoder::PromptEncoder;
use crate::error::EncodeFailure;

/// Encodes prompts in the space of a cache's image embeddings: the text encoder's embeddings, bridged.
pub struct AlignedEncoder<'a> {
    text: &'a mut dyn PromptEncoder,
    align: &'a Align,
}

impl<'a> AlignedEncoder<'a> {
    /// Puts `align` behind `text`, for a bank of `cache`.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] if the bridge was fitted to another text encoder, or leads to the space of another
    /// teacher than that of the cache.
    pub fn new(
        text: &'a mut dyn PromptEncoder,
        align: &'a Align,
        cache: &Cache,
    ) -> Result<Self, ArtifactError> {
        align.require_text_encoder(text.hash())?;
        align.require_cache(cache)?;
        Ok(Self { text, align })
    }
}

impl PromptEncoder for AlignedEncoder<'_> {
    fn hash(&self) -> ContentHash {
        self.align.hash_behind(self.text.hash())
    }

    fn dim(&self) -> usize {
        self.align.bridge().dim()
    }

    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
        let (rows, width) = (self.text.encode(prompts)?, self.align.bridge().text_dim());
        if rows.len() != prompts.len() * width {
            let got = rows.len();
            return Err(format!(
                "the text encoder returned {got} values, the bridge expects {width} per prompt"
            )
            .into());
        }
        let bridged = self.align.bridge().apply(&rows);
        let zero = |row: &[f32]| row.iter().all(|&value| value == 0.0);
        match bridged.chunks_exact(self.dim()).zip(prompts).find(|(row, _)| zero(row)) {
            Some((_, prompt)) => {
                Err(format!("the embedding of {prompt:?} is zero, not finite or equal to the bridge's mean")
                    .into())
            }
            None => Ok(bridged),
        }
    }

    fn tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, EncodeFailure> {
        self.text.tokens(prompts)
    }

    fn count_cut(&self, prompts: &[String]) -> Result<usize, EncodeFailure> {
        self.text.count_cut(prompts)
    }

    fn bridge(&self) -> Option<ContentHash> {
        Some(self.align.hash())
    }
}
