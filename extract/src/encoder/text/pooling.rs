//! Pools a text model's output to one vector per prompt. Padding never counts.

use super::inputs::TokenBatch;
use crate::session::Tensor;
use crate::teacher::TextPooling;

/// Pools the output of a batch: returns one vector per row of the batch, and their width.
///
/// # Errors
/// The shape that was expected and the one that the output has.
pub(super) fn pool(
    pooling: TextPooling,
    output: &Tensor<'_>,
    batch: &TokenBatch,
) -> Result<(Vec<f32>, usize), String> {
    let data = output.to_f32();
    let (rows, length) = (batch.rows, batch.length);
    let wrong =
        |expected: String| Err(format!("the output has shape {:?}, expected {expected}", output.shape));
    match (pooling, output.shape.as_slice()) {
        (TextPooling::None, &[n, dim]) if n == rows && dim > 0 => Ok((data.to_vec(), dim)),
        (TextPooling::None, _) => wrong(format!("[{rows}, D]")),
        (_, &[n, tokens, dim]) if n == rows && tokens == length && dim > 0 => {
            let prompts = data.chunks_exact(tokens * dim).zip(batch.words.chunks_exact(length));
            Ok((prompts.flat_map(|(states, words)| pooled(pooling, states, words, dim)).collect(), dim))
        }
        _ => wrong(format!("[{rows}, {length}, D], as the input has")),
    }
}

/// Pools the hidden states of one prompt, [T, dim]. `words` is false for padding.
fn pooled(pooling: TextPooling, states: &[f32], words: &[bool], dim: usize) -> Vec<f32> {
    let mut tokens = states.chunks_exact(dim).zip(words).filter(|(_, word)| **word).map(|(state, _)| state);
    let owned = |state: Option<&[f32]>| state.map_or_else(|| vec![0.0; dim], <[f32]>::to_vec);
    match pooling {
        TextPooling::None | TextPooling::Cls => owned(tokens.next()),
        TextPooling::LastToken => owned(tokens.next_back()),
        TextPooling::Mean => {
            let (mut sum, mut count) = (vec![0.0; dim], 0.0_f32);
            for state in tokens {
                count += 1.0;
                sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
            }
            sum.iter().map(|sum| sum / count.max(1.0)).collect()
        }
        TextPooling::Max => {
            let mut most = owned(tokens.next());
            for state in tokens {
                most.iter_mut().zip(state).for_each(|(most, value)| *most = most.max(*value));
            }
            most
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::Tokens;

    fn batch(words: &[bool]) -> TokenBatch {
        let tokens = Tokens { ids: vec![1; words.len()], words: words.to_vec(), cut: false };
        TokenBatch::gather(&[tokens], &[0], 1)
    }

    #[test]
    fn padding_on_either_side_does_not_count() {
        let states = [9.0, 9.0, 1.0, 4.0, 3.0, 2.0, 9.0, 9.0];
        let tensor = Tensor::of(vec![1, 4, 2], &states);
        for (pooling, expected) in [
            (TextPooling::Cls, [1.0, 4.0]),
            (TextPooling::Mean, [2.0, 3.0]),
            (TextPooling::Max, [3.0, 4.0]),
            (TextPooling::LastToken, [3.0, 2.0]),
        ] {
            let batch = batch(&[false, true, true, false]);
            assert_eq!(pool(pooling, &tensor, &batch).unwrap(), (expected.to_vec(), 2), "{pooling:?}");
        }
    }

    #[test]
    fn an_output_of_another_shape_is_refused() {
        let values = [0.0; 8];
        for (pooling, shape, expected) in [
            (TextPooling::None, vec![2, 4], "[1, D]"),
            (TextPooling::None, vec![1, 2, 4], "[1, D]"),
            (TextPooling::Mean, vec![1, 4, 2], "[1, 2, D], as the input has"),
            (TextPooling::Cls, vec![1, 8], "[1, 2, D]"),
        ] {
            let text = pool(pooling, &Tensor::of(shape, &values), &batch(&[true, true])).unwrap_err();
            assert!(text.contains(expected), "{text}");
        }
    }
}
