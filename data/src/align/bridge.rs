//! The map itself.

/// Norm below which nothing is left of a unit vector. Rounding to f32 leaves 1e-7.
const NOTHING: f64 = 1e-6;

/// The map from text embeddings, `[Dt]`, to the space of image embeddings, `[D]`: `e -> unit(M unit(unit(e) - mean))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    mean: Vec<f32>,
    matrix: Vec<f32>,
}

impl Bridge {
    /// Makes a bridge of `mean`, `[Dt]`, and `matrix`, `[D, Dt]`. `None` if one is empty or the matrix has no whole
    /// number of rows.
    pub fn new(mean: Vec<f32>, matrix: Vec<f32>) -> Option<Self> {
        let whole = !mean.is_empty() && !matrix.is_empty() && matrix.len().is_multiple_of(mean.len());
        whole.then_some(Self { mean, matrix })
    }

    /// Width of text embeddings, Dt.
    pub fn text_dim(&self) -> usize {
        self.mean.len()
    }

    /// Width of image embeddings, D.
    pub fn dim(&self) -> usize {
        self.matrix.len() / self.mean.len()
    }

    /// The mean that is subtracted from text embeddings, `[Dt]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The matrix, `[D, Dt]`.
    pub fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// Maps text embeddings, `[n, Dt]`, to unit vectors, `[n, D]`. A row becomes zero if it is zero or not finite, equals
    /// the mean, or is mapped to zero by the matrix. Sums are f64 and each row is computed by itself, so a row does not
    /// depend on the others.
    ///
    /// # Panics
    /// If the length of `rows` is not a multiple of Dt.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
    pub fn apply(&self, rows: &[f32]) -> Vec<f32> {
        let (text_dim, dim) = (self.text_dim(), self.dim());
        assert!(rows.len().is_multiple_of(text_dim), "{} values in rows of {text_dim}", rows.len());
        // By columns, so that a row is a sum of columns, which is vectorized.
        let mut columns = vec![0.0f32; self.matrix.len()];
        for (row, values) in self.matrix.chunks_exact(text_dim).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                columns[column * dim + row] = value;
            }
        }
        let mut out = vec![0.0; rows.len() / text_dim * dim];
        for (row, out) in rows.chunks_exact(text_dim).zip(out.chunks_exact_mut(dim)) {
            if let Some(mapped) = self.apply_row(row, &columns) {
                out.iter_mut().zip(mapped).for_each(|(out, value)| *out = value as f32);
            }
        }
        out
    }

    /// The unit vector of a row; `None` if nothing is left of it. `columns` is the matrix by columns.
    fn apply_row(&self, row: &[f32], columns: &[f32]) -> Option<Vec<f64>> {
        let row = unit(&row.iter().map(|&value| value.into()).collect::<Vec<f64>>())?;
        let centered: Vec<f64> = row.iter().zip(&self.mean).map(|(a, &b)| a - f64::from(b)).collect();
        let source = unit(&centered).filter(|_| norm(&centered) >= NOTHING)?;
        let mut sum = vec![0.0f64; self.dim()];
        for (value, column) in source.iter().zip(columns.chunks_exact(self.dim())) {
            sum.iter_mut().zip(column).for_each(|(sum, &item)| *sum += value * f64::from(item));
        }
        unit(&sum)
    }
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// `row` scaled to length 1; `None` if its length is 0 or not finite.
fn unit(row: &[f64]) -> Option<Vec<f64>> {
    let norm = norm(row);
    (norm.is_finite() && norm > 0.0).then(|| row.iter().map(|value| value / norm).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> Bridge {
        // Swaps the axes, and adds a third one.
        Bridge::new(vec![0.6, 0.0], vec![0.0, 2.0, 1.0, 0.0, 0.0, 0.0]).unwrap()
    }

    #[test]
    fn rows_are_normalized_centered_multiplied_and_normalized() {
        let bridge = bridge();
        assert_eq!((bridge.text_dim(), bridge.dim()), (2, 3));
        // (3, 4) / 5 - (0.6, 0) = (0, 0.8), which becomes (0, 1), then (2, 0, 0).
        let got = bridge.apply(&[3.0, 4.0, 7.0, 0.0]);
        let pairs = got.iter().zip([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        // 0.6 is rounded to f32.
        assert!(got.len() == 6 && pairs.clone().all(|(got, value)| (got - value).abs() < 1e-7), "{got:?}");
    }

    #[test]
    fn rows_of_which_nothing_is_left_become_zero() {
        let mean = Bridge::new(vec![0.6, 0.8], vec![1.0, 0.0]).unwrap();
        assert_eq!(mean.apply(&[1.0, 0.0, 3.0, 4.0]), [1.0, 0.0]);
        for bad in [0.0, f32::NAN, f32::INFINITY] {
            let got = bridge().apply(&[1.0, 1.0, bad, 0.0]);
            assert!(got[..3] != [0.0; 3] && got[3..] == [0.0; 3], "{bad}: {got:?}");
        }
        assert_eq!(Bridge::new(vec![1.0], vec![0.0]).unwrap().apply(&[-1.0]), [0.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_no_bridge() {
        assert_eq!(Bridge::new(vec![], vec![1.0]), None);
        assert_eq!(Bridge::new(vec![1.0, 2.0], vec![1.0; 3]), None);
        assert_eq!(Bridge::new(vec![1.0], vec![]), None);
    }
}
