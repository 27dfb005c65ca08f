//! The mean of all image embeddings, which `--center` subtracts.

use lgd_data::ArtifactError;
use rayon::prelude::*;

use crate::error::BankError;
use crate::rows::EmbeddingRows;
use crate::tsb::rounded;

/// Rows of one partial sum.
const BLOCK: usize = 128;
/// Rows read at a time.
const CHUNK: usize = 64 * BLOCK;

/// The mean of all rows, `[D]`. Sums are f64: exact for embeddings in f16 (see [`crate::vsb::VsbPartial`]), and in a fixed order
/// for others, so the mean does not depend on threads.
///
/// # Errors
/// [`BankError::NoRows`]; [`BankError::Artifact`] if the rows cannot be read.
pub fn mean_embedding(embeddings: &dyn EmbeddingRows) -> Result<Vec<f32>, BankError> {
    let (rows, dim) = (embeddings.rows(), embeddings.dim());
    if rows == 0 {
        return Err(BankError::NoRows);
    }
    let mut sum = vec![0.0f64; dim];
    for start in (0..rows).step_by(CHUNK) {
        let end = rows.min(start + CHUNK);
        let blocks: Vec<usize> = (start..end).step_by(BLOCK).collect();
        let partial = |first: usize| {
            let last = end.min(first + BLOCK);
            let mut values = vec![0.0f32; (last - first) * dim];
            embeddings.copy_rows_f32(first..last, &mut values)?;
            let mut sum = vec![0.0f64; dim];
            for row in values.chunks_exact(dim) {
                sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            Ok::<_, ArtifactError>(sum)
        };
        let partials = blocks.into_par_iter().map(partial).collect::<Result<Vec<_>, _>>()?;
        for partial in partials {
            sum.iter_mut().zip(partial).for_each(|(sum, part)| *sum += part);
        }
        embeddings.release(start..end);
    }
    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    let count = rows as f64;
    Ok(sum.into_iter().map(|sum| rounded(sum / count)).collect())
}
