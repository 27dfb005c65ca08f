//! Products of held rows of inputs and gradients, summed per tap: the inner loop of the weights' gradient.

use pulp::{Simd, WithSimd};

use super::ahead::Ahead;

/// Columns of gradients processed together, so that an input vector is loaded once for several taps.
const COLUMNS: usize = 4;

/// Sums for all channels: `sums[block][r][q] += Σ_j rows[r][j*stride + q*dilation] * dy[j]`.
pub(super) struct Products<'a, 'm, const N: usize> {
    /// Held rows of the input, one per kernel row, with their number of columns.
    pub(super) rows: (&'a [&'a [f32]], usize),
    /// A held row of gradients, with its number of columns.
    pub(super) dy: (&'a [f32], usize),
    /// Held column of the first gradient.
    pub(super) first: usize,
    /// Taps of a kernel row.
    pub(super) taps: usize,
    /// Columns between windows, and between the taps of one.
    pub(super) step: (usize, usize),
    /// Number of windows.
    pub(super) columns: usize,
    /// `[block][kernel row][tap][lane]`.
    pub(super) sums: &'a mut [f32],
    /// Memory to prefetch.
    pub(super) ahead: &'a mut Ahead<'m, N>,
}

/// Held columns of gradients that a row of `columns` windows may read.
pub(super) fn reach(columns: usize) -> usize {
    columns.next_multiple_of(COLUMNS)
}

impl<const N: usize> WithSimd for Products<'_, '_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match (self.rows.0.len(), self.taps, self.step) {
            (3, 3, (1, 1)) => self.rows::<S, 3, 3, 1>(simd, 0),
            (3, 3, (2, 1)) => self.rows::<S, 3, 3, 2>(simd, 0),
            (rows, 5, (1, 1)) => {
                for r in 0..rows {
                    self.rows::<S, 1, 5, 1>(simd, r);
                }
            }
            (rows, 5, (2, 1)) => {
                for r in 0..rows {
                    self.rows::<S, 1, 5, 2>(simd, r);
                }
            }
            _ => self.any(simd),
        }
    }
}

impl<const N: usize> Products<'_, '_, N> {
    /// `R` kernel rows from `r` on of `K` neighboring taps, windows `T` columns apart.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const K: usize, const T: usize>(&mut self, simd: S, r: usize) {
        let ((held, padded), (dy, dy_padded)) = (self.rows, self.dy);
        let mut rows = [S::as_simd_f32s(&[]).0; R];
        for (row, held) in rows.iter_mut().zip(&held[r..]) {
            *row = S::as_simd_f32s(held).0;
        }
        let (sums, _) = S::as_mut_simd_f32s(&mut *self.sums);
        let (dy, _) = S::as_simd_f32s(dy);
        for (block, sums) in sums.chunks_exact_mut(held.len() * K).enumerate() {
            let mut products = [[simd.splat_f32s(0.0); K]; R];
            for j in (0..self.columns).step_by(COLUMNS) {
                self.ahead.step();
                let dy = &dy[block * dy_padded + self.first + j..][..COLUMNS];
                for i in 0..R {
                    let x = &rows[i][block * padded + j * T..][..(COLUMNS - 1) * T + K];
                    for column in 0..COLUMNS {
                        for q in 0..K {
                            products[i][q] =
                                simd.mul_add_e_f32s(x[column * T + q], dy[column], products[i][q]);
                        }
                    }
                }
            }
            let sums = &mut sums[r * K..][..R * K];
            for i in 0..R {
                for q in 0..K {
                    sums[i * K + q] = simd.add_f32s(sums[i * K + q], products[i][q]);
                }
            }
        }
    }

    /// Sums for kernels of any size.
    #[inline(always)]
    fn any<S: Simd>(&mut self, simd: S) {
        let ((rows, padded), (dy, dy_padded)) = (self.rows, self.dy);
        let (stride, dilation) = self.step;
        let (sums, _) = S::as_mut_simd_f32s(&mut *self.sums);
        for (block, sums) in sums.chunks_exact_mut(rows.len() * self.taps).enumerate() {
            let dy = &S::as_simd_f32s(dy).0[block * dy_padded + self.first..][..self.columns];
            for (row, sums) in rows.iter().zip(sums.chunks_exact_mut(self.taps)) {
                for (q, sum) in sums.iter_mut().enumerate() {
                    let x = S::as_simd_f32s(row).0[block * padded + q * dilation..].iter().step_by(stride);
                    let mut product = simd.splat_f32s(0.0);
                    for (x, dy) in x.zip(dy) {
                        product = simd.mul_add_e_f32s(*x, *dy, product);
                    }
                    *sum = simd.add_f32s(*sum, product);
                }
            }
        }
    }
}
