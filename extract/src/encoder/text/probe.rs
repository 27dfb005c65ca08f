//! The first runs of a text model. They determine the width, find batch sizes that the model only declares to be
//! free, and check that different prompts get different vectors.

use super::inputs::TokenBatch;
use super::{Rows, TextEncoder};
use crate::error::ExtractError;
use crate::session::describe;
use crate::teacher::Tokens;

/// Words that every text encoder tells apart. Two of the same number of tokens are encoded together.
const WORDS: &[&str] = &["cat", "dog", "a", "red", "tree", "house", "one", "two", "photo"];

/// Batch sizes that a free batch axis must take.
const FREE: [usize; 2] = [3, 5];

/// Batch sizes that exporters trace models with.
const TRACED: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];

/// Two vectors with a larger cosine are the same up to rounding.
const SAME: f64 = 1.0 - 1e-6;

impl TextEncoder {
    /// Runs the model on a few words.
    ///
    /// # Errors
    /// [`ExtractError`] if the model cannot be run, or gives different words the same vector.
    pub(super) fn probe(&mut self) -> Result<(), ExtractError> {
        let (words, tokens) = self.probe_words()?;
        let mut vectors = match self.rows {
            Rows::Exactly(rows) => self.try_rows(&tokens, rows)?,
            Rows::UpTo(most) => {
                let free: Result<Vec<_>, _> = FREE
                    .into_iter()
                    .filter(|rows| *rows <= most)
                    .map(|rows| self.try_rows(&tokens, rows))
                    .collect();
                match free {
                    Ok(runs) if !runs.is_empty() => runs.into_iter().next_back().unwrap_or_default(),
                    Ok(_) => self.try_rows(&tokens, most)?,
                    Err(error) => self.traced_rows(&tokens, error)?,
                }
            }
        };
        // A batch of one holds the first word alone.
        if vectors.len() == self.model_dim {
            vectors.extend(self.run(&TokenBatch::gather(&tokens, &[1], 1))?);
        }
        self.require_difference(&words, &tokens, &vectors)
    }

    /// Two words of the same number of tokens with different ids; if there are none, one word twice.
    fn probe_words(&self) -> Result<([&'static str; 2], [Tokens; 2]), ExtractError> {
        let all: Result<Vec<Tokens>, _> = WORDS.iter().map(|word| self.tokenizer.encode(word)).collect();
        let all = all?;
        let pairs = (0..all.len()).flat_map(|a| (a + 1..all.len()).map(move |b| (a, b)));
        let fits =
            |(a, b): &(usize, usize)| all[*a].ids.len() == all[*b].ids.len() && all[*a].ids != all[*b].ids;
        let (a, b) = pairs.into_iter().find(fits).unwrap_or((0, 0));
        Ok(([WORDS[a], WORDS[b]], [all[a].clone(), all[b].clone()]))
    }

    /// Runs a batch that alternates between the words. Fails if a word's vector depends on its row.
    fn try_rows(&mut self, tokens: &[Tokens; 2], rows: usize) -> Result<Vec<f32>, ExtractError> {
        let members: Vec<usize> = (0..rows).map(|row| row % 2).collect();
        let vectors = self.run(&TokenBatch::gather(tokens, &members, rows))?;
        let all: Vec<&[f32]> = vectors.chunks_exact(self.model_dim).collect();
        let moved = all
            .iter()
            .enumerate()
            .skip(2)
            .find(|(row, vector)| cosine(vector, all[row % 2]).is_some_and(|cosine| cosine < 1.0 - 1e-3));
        match moved {
            Some((row, _)) => Err(ExtractError::inference(
                self.model.path(),
                format!(
                    "the same prompt has different vectors in rows {row} and {} of a batch of {rows}",
                    row % 2
                ),
            )),
            None => Ok(vectors),
        }
    }

    /// Finds the only batch size of a model whose batch axis is free in name only. `first` is the error of the others.
    fn traced_rows(&mut self, tokens: &[Tokens; 2], first: ExtractError) -> Result<Vec<f32>, ExtractError> {
        for rows in TRACED {
            self.model_dim = 0;
            if let Ok(vectors) = self.try_rows(tokens, rows) {
                self.rows = Rows::Exactly(rows);
                self.notes.push(format!(
                    "{}: the batch axis is free in name only, so prompts are encoded in batches of {rows}",
                    self.model.path().display()
                ));
                return Ok(vectors);
            }
        }
        Err(first)
    }

    /// Fails if two words have different tokens and the same vector.
    fn require_difference(
        &self,
        words: &[&str; 2],
        tokens: &[Tokens; 2],
        vectors: &[f32],
    ) -> Result<(), ExtractError> {
        let (first, second) = match vectors.chunks_exact(self.model_dim).collect::<Vec<_>>().as_slice() {
            [first, second, ..] if tokens[0].ids != tokens[1].ids => (first.to_vec(), second.to_vec()),
            _ => return Ok(()),
        };
        if first != second && cosine(&first, &second).is_none_or(|cosine| cosine < SAME) {
            return Ok(());
        }
        let pooling = self.pooling.name();
        let names = self.selection.names().join(", ");
        let got = format!(
            "the same vector for {:?} and {:?} from {names} with pooling = \"{pooling}\" (outputs: {})",
            words[0],
            words[1],
            describe(self.model.outputs())
        );
        let hint = "set output in teacher.toml to the embedding (text_embeds, sentence_embedding; pooler_output for SigLIP), or \
                    pooling to the one that the model was trained with; the first token of a causal text model such as CLIP's \
                    does not depend on the words";
        Err(self.model.mismatch("different vectors for different prompts", got, hint))
    }
}

/// Cosine of two vectors; `None` if one is zero or not finite.
fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    (norms.is_finite() && norms > 0.0).then(|| dot(a, b) / norms)
}
