//! Normalized embeddings, their norms before normalization, and faults.

use std::fmt;

/// Reasons why an embedding cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingFault {
    /// It has a NaN or infinite element.
    NotFinite,
    /// All its elements are zero, so it has no direction.
    Zero,
}

impl fmt::Display for EmbeddingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "not finite",
            Self::Zero => "all zeros",
        })
    }
}

/// Rows of width `dim`, each divided by its L2 norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    dim: usize,
    values: Vec<f32>,
    norms: Vec<f32>,
}

impl Embeddings {
    /// Normalizes raw rows in place. A row with a fault is left unchanged; its norm is 0, NaN or infinite.
    pub(crate) fn normalize(dim: usize, mut values: Vec<f32>) -> Self {
        let norms = values.chunks_exact_mut(dim).map(normalize_row).collect();
        Self { dim, values, norms }
    }

    /// Width D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.norms.len()
    }

    /// All values, `[rows, D]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Consumes the embeddings and returns all values, `[rows, D]`.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The unit vector of a row, `[D]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }

    /// L2 norm of a row before normalization.
    pub fn norm(&self, row: usize) -> f32 {
        self.norms[row]
    }

    /// The fault of a row, if it has one.
    pub fn fault(&self, row: usize) -> Option<EmbeddingFault> {
        match self.norms[row] {
            norm if !norm.is_finite() => Some(EmbeddingFault::NotFinite),
            0.0 => Some(EmbeddingFault::Zero),
            _ => None,
        }
    }
}

/// Divides a row by its norm and returns the norm.
fn normalize_row(row: &mut [f32]) -> f32 {
    // Squares of f32 values neither overflow nor underflow in f64.
    let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a norm out of the range of f32 becomes infinite and so a fault"
    )]
    let norm = squares.sqrt() as f32;
    if norm.is_finite() && norm > 0.0 {
        for value in row {
            *value /= norm;
        }
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unit_vectors_and_keep_their_norm() {
        let embeddings = Embeddings::normalize(2, vec![3.0, 4.0, 0.0, -2.0]);
        assert_eq!(embeddings.values(), [0.6, 0.8, 0.0, -1.0]);
        assert_eq!((embeddings.norm(0), embeddings.norm(1)), (5.0, 2.0));
        assert_eq!((embeddings.fault(0), embeddings.rows()), (None, 2));
    }

    #[test]
    fn extreme_but_finite_rows_are_normalized() {
        for scale in [1e-30, 1e30_f32] {
            let embeddings = Embeddings::normalize(2, vec![3.0 * scale, 4.0 * scale]);
            assert_eq!(embeddings.fault(0), None);
            assert!((embeddings.row(0)[0] - 0.6).abs() < 1e-6);
        }
    }

    #[test]
    fn faults_are_found_row_by_row() {
        let values = vec![
            0.0,
            0.0,
            f32::NAN,
            1.0,
            f32::INFINITY,
            1.0,
            f32::NEG_INFINITY,
            0.0,
            f32::MAX,
            f32::MAX,
            1.0,
            0.0,
        ];
        let embeddings = Embeddings::normalize(2, values);
        let faults: Vec<_> = (0..6).map(|row| embeddings.fault(row)).collect();
        let not_finite = Some(EmbeddingFault::NotFinite);
        assert_eq!(
            faults,
            [Some(EmbeddingFault::Zero), not_finite, not_finite, not_finite, not_finite, None]
        );
    }
}
