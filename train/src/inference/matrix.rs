//! A matrix of f32 rows, and the operations of evaluation and prediction on it.

use candle_core::{Device, Tensor};

use crate::error::TrainError;
use crate::ops::host::host;

/// Rows per matrix product. Bounds the memory of similarities to all training images.
const BLOCK_ROWS: usize = 256;

/// A row-major matrix of f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// `values`: `[values.len() / width, width]`; an incomplete last row is dropped.
    pub fn new(width: usize, mut values: Vec<f32>) -> Self {
        values.truncate(values.len() - values.len() % width.max(1));
        Self { width: width.max(1), values }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// Numbers per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All numbers, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// Row `row`.
    ///
    /// # Panics
    /// If there is no such row, like slice indexing.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// Appends rows.
    pub(crate) fn extend(&mut self, rows: &[f32]) {
        self.values.extend_from_slice(rows);
    }

    /// The same rows scaled to unit length; a zero row stays zero.
    pub fn normalized(&self) -> Self {
        let mut values = self.values.clone();
        for row in values.chunks_exact_mut(self.width) {
            let norm = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
            let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
            row.iter_mut().for_each(|value| *value *= scale);
        }
        Self { width: self.width, values }
    }

    /// `[rows, width]` on the CPU.
    pub(crate) fn tensor(&self) -> Result<Tensor, TrainError> {
        Ok(Tensor::from_slice(&self.values, (self.rows(), self.width), &Device::Cpu)?)
    }

    /// Calls `visit` with `self * right` in blocks of whole rows, in order. `right`: `[width, n]`.
    pub(crate) fn for_each_block(
        &self,
        right: &Tensor,
        mut visit: impl FnMut(&[f32]),
    ) -> Result<(), TrainError> {
        for block in self.values.chunks(BLOCK_ROWS * self.width) {
            let left = Tensor::from_slice(block, (block.len() / self.width, self.width), &Device::Cpu)?;
            let product = left.matmul(right)?;
            visit(&host(&product)?);
        }
        Ok(())
    }

    /// Calls `visit` with the rows of `self * right`, in order. `right`: `[width, n]`.
    pub(crate) fn for_each_product(
        &self,
        right: &Tensor,
        mut visit: impl FnMut(&[f32]),
    ) -> Result<(), TrainError> {
        let n = right.dim(1)?.max(1);
        self.for_each_block(right, |block| block.chunks_exact(n).for_each(&mut visit))
    }
}

/// The index of the largest number; of equal numbers, the first. NaN is never the largest.
pub(crate) fn argmax(values: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in (0..).zip(values) {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// Percentage of `predicted` that equals `truth`.
#[expect(clippy::cast_precision_loss, reason = "image counts are far below 2^53")]
pub(crate) fn top1(predicted: &[u32], truth: &[u32]) -> f64 {
    let right = predicted.iter().zip(truth).filter(|(predicted, truth)| predicted == truth).count();
    100.0 * right as f64 / predicted.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_unit_vectors_and_zero_stays() {
        let matrix = Matrix::new(2, vec![3.0, 4.0, 0.0, 0.0]).normalized();
        assert_eq!(matrix.values(), [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn products_come_row_by_row_across_blocks() {
        let rows = BLOCK_ROWS + 3;
        let matrix = Matrix::new(1, (0..rows).map(|row| f32::from(u16::try_from(row).unwrap())).collect());
        let right = Tensor::from_slice(&[1f32, -2.0], (1, 2), &Device::Cpu).unwrap();
        let mut seen = Vec::new();
        matrix.for_each_product(&right, |row| seen.push((row[0], row[1]))).unwrap();
        assert_eq!(seen.len(), rows);
        assert_eq!(seen[BLOCK_ROWS + 1], (257.0, -514.0));
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0]), 1);
        assert_eq!(argmax(&[f32::NAN]), 0);
        assert!((top1(&[1, 2, 3, 4], &[1, 2, 0, 4]) - 75.0).abs() < 1e-12);
    }
}
