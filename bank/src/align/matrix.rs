//! Matrices of f64 in rows, and their products.

use rayon::prelude::*;

/// Rows of a product that one task computes.
const BLOCK: usize = 64;

/// Length below which nothing is left of a centered unit vector. Sums of f32 values leave less.
const NOTHING: f64 = 1e-9;

/// A row-major matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    values: Vec<f64>,
    width: usize,
}

impl Matrix {
    /// Takes `values`, `[n, width]`.
    pub(super) fn new(values: Vec<f64>, width: usize) -> Self {
        Self { values, width }
    }

    /// Widens `values`, `[n, width]`.
    pub(super) fn from_f32(values: &[f32], width: usize) -> Self {
        Self::new(values.iter().map(|&value| value.into()).collect(), width)
    }

    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn len(&self) -> usize {
        self.values.len() / self.width
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    /// The rows with these numbers.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        Self::new(rows.iter().flat_map(|&row| self.row(row)).copied().collect(), self.width)
    }

    pub(super) fn transposed(&self) -> Self {
        let columns = (0..self.width).flat_map(|column| self.values.iter().skip(column).step_by(self.width));
        Self::new(columns.copied().collect(), self.len())
    }

    /// The product of `[n, k]` and `[k, m]`. It does not depend on the number of threads, because blocks are fixed.
    pub(super) fn product(&self, other: &Self) -> Self {
        let blocks = self.values.par_chunks(BLOCK * self.width);
        let blocks: Vec<Vec<f64>> = blocks
            .map(|rows| {
                lgd_linalg::multiply(rows, &other.values, (rows.len() / self.width, self.width, other.width))
            })
            .collect();
        Self::new(blocks.concat(), other.width)
    }

    /// Multiplies column `i` by `factors[i]`.
    pub(super) fn scaled_columns(mut self, factors: &[f64]) -> Self {
        for row in self.values.chunks_exact_mut(self.width) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        self
    }

    /// The mean of the rows, `[width]`.
    pub(super) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        for row in self.rows() {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
        }
        let count = self.len() as f64;
        mean.iter_mut().for_each(|mean| *mean /= count);
        mean
    }

    /// Rows less `mean`, scaled to length 1.
    ///
    /// # Errors
    /// The first row of which nothing is left.
    pub(super) fn centered_units(&self, mean: &[f64]) -> Result<Self, usize> {
        let mut values = self.values.clone();
        for (number, row) in values.chunks_exact_mut(self.width).enumerate() {
            let before = norm(row);
            row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
            let norm = norm(row);
            if norm.is_nan() || norm <= NOTHING * before.max(f64::MIN_POSITIVE) {
                return Err(number);
            }
            row.iter_mut().for_each(|value| *value /= norm);
        }
        Ok(Self::new(values, self.width))
    }

    /// Rows scaled to length 1. A row of zeros stays.
    pub(super) fn units(mut self) -> Self {
        for row in self.values.chunks_exact_mut(self.width) {
            let norm = norm(row);
            if norm > 0.0 {
                row.iter_mut().for_each(|value| *value /= norm);
            }
        }
        self
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_many_rows_are_those_of_single_rows() {
        let count = 3 * BLOCK + 5;
        let values = |count: usize| (0..count).map(|item| f64::from(u8::try_from(item % 7).unwrap()) - 3.0);
        let a = Matrix::new(values(count * 4).collect(), 4);
        let b = Matrix::new(values(4 * 3).collect(), 3);
        let (product, columns) = (a.product(&b), b.transposed());
        assert_eq!((product.len(), product.width(), columns.len()), (count, 3, 3));
        for row in 0..count {
            let expected: Vec<f64> = columns.rows().map(|column| dot(a.row(row), column)).collect();
            assert_eq!(product.row(row), expected);
        }
    }

    #[test]
    fn a_row_that_equals_the_mean_is_named() {
        let rows = Matrix::new(vec![1.0, 0.0, 0.5, 0.5, 0.0, 1.0], 2);
        assert_eq!(rows.mean(), [0.5, 0.5]);
        assert_eq!(rows.centered_units(&rows.mean()), Err(1));
        assert_eq!(rows.centered_units(&[0.0, 0.5]).unwrap().row(2), [0.0, 1.0]);
    }
}
