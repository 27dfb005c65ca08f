//! Rows of outputs from held rows of inputs: the inner loop of forward and backward-data.

use pulp::{Simd, WithSimd};

use super::ahead::Ahead;

/// Output columns computed together, so that an input vector is loaded once for all its windows.
const COLUMNS: usize = 4;

/// One row of outputs, for all channels: `out[j] = Σ_r Σ_q rows[r][first + j*stride + q*dilation] * filters[r][q]`.
pub(super) struct Correlate<'a, 'm, const N: usize> {
    /// Held rows of the input, with their number of columns.
    pub(super) rows: (&'a [&'a [f32]], usize),
    /// `[block][row][tap][lane]`.
    pub(super) filters: &'a [f32],
    /// Taps per row.
    pub(super) taps: usize,
    /// Held column of the first tap of the first output.
    pub(super) first: usize,
    /// Columns between windows, and between the taps of one.
    pub(super) step: (usize, usize),
    /// Number of outputs.
    pub(super) columns: usize,
    /// Destination of the outputs.
    pub(super) target: Target<'a>,
    /// Memory to prefetch.
    pub(super) ahead: &'a mut Ahead<'m, N>,
}

/// Pixels at a fixed distance.
pub(super) struct Target<'a> {
    /// Memory from the first pixel on.
    pub(super) out: &'a mut [f32],
    /// Channels of a pixel.
    pub(super) channels: usize,
    /// Scalars between the starts of pixels.
    pub(super) step: usize,
    /// Whether values are added to the content of `out`.
    pub(super) accumulate: bool,
}

/// Held columns, from the first tap of the first output on, that a row of `columns` outputs may read.
pub(super) fn reach(columns: usize, taps: usize, (stride, dilation): (usize, usize)) -> usize {
    (columns.next_multiple_of(COLUMNS) - 1) * stride + taps.saturating_sub(1) * dilation + 1
}

/// Calls of [`Ahead::step`] in a row of `columns` outputs.
pub(super) fn steps(columns: usize, blocks: usize) -> usize {
    columns.div_ceil(COLUMNS) * blocks
}

impl<const N: usize> WithSimd for Correlate<'_, '_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.rows.0.len(), self.taps, self.step) {
            (3, 3, (1, 1)) => self.window::<S, 3, 3, 1>(simd),
            (3, 3, (2, 1)) => self.window::<S, 3, 3, 2>(simd),
            (5, 5, (1, 1)) => self.window::<S, 5, 5, 1>(simd),
            (5, 5, (2, 1)) => self.window::<S, 5, 5, 2>(simd),
            // The parts of these filters on every second column and row.
            (1, 1, (1, _)) => self.window::<S, 1, 1, 1>(simd),
            (1, 2, (1, 1)) => self.window::<S, 1, 2, 1>(simd),
            (2, 1, (1, _)) => self.window::<S, 2, 1, 1>(simd),
            (2, 2, (1, 1)) => self.window::<S, 2, 2, 1>(simd),
            (2, 3, (1, 1)) => self.window::<S, 2, 3, 1>(simd),
            (3, 2, (1, 1)) => self.window::<S, 3, 2, 1>(simd),
            _ => self.any(simd),
        }
    }
}

impl<const N: usize> Correlate<'_, '_, N> {
    /// Windows of `R` rows and `K` neighboring taps, `T` columns apart.
    #[inline(always)]
    fn window<S: Simd, const R: usize, const K: usize, const T: usize>(mut self, simd: S) {
        let (held, padded) = self.rows;
        let mut rows = [S::as_simd_f32s(&[]).0; R];
        for (row, held) in rows.iter_mut().zip(held) {
            *row = S::as_simd_f32s(held).0;
        }
        let (filters, _) = S::as_simd_f32s(self.filters);
        for j in (0..self.columns).step_by(COLUMNS) {
            let used = COLUMNS.min(self.columns - j);
            let mut start = self.first + j * T;
            for (block, filters) in filters.chunks_exact(R * K).enumerate() {
                let mut sums = [simd.splat_f32s(0.0); COLUMNS];
                for r in 0..R {
                    let x = &rows[r][start..][..(COLUMNS - 1) * T + K];
                    for q in 0..K {
                        for i in 0..COLUMNS {
                            sums[i] = simd.mul_add_e_f32s(x[i * T + q], filters[r * K + q], sums[i]);
                        }
                    }
                }
                self.ahead.step();
                self.target.store(simd, (j, block), &sums[..used]);
                start += padded;
            }
        }
    }

    /// Computes windows of any size.
    #[inline(always)]
    fn any<S: Simd>(mut self, simd: S) {
        let (rows, padded) = self.rows;
        let (stride, dilation) = self.step;
        let kernel = rows.len() * self.taps;
        let (filters, _) = S::as_simd_f32s(self.filters);
        for j in 0..self.columns {
            for block in 0..self.target.channels.div_ceil(S::F32_LANES) {
                let mut sum = simd.splat_f32s(0.0);
                let filters = &filters[block * kernel..][..kernel];
                for (row, filters) in rows.iter().zip(filters.chunks_exact(self.taps.max(1))) {
                    let x = &S::as_simd_f32s(row).0[block * padded + self.first + j * stride..];
                    for (x, w) in x.iter().step_by(dilation).zip(filters) {
                        sum = simd.mul_add_e_f32s(*x, *w, sum);
                    }
                }
                self.target.store(simd, (j, block), &[sum]);
            }
        }
    }
}

impl Target<'_> {
    /// Stores a block of channels of some pixels from `column` on.
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, (column, block): (usize, usize), sums: &[S::f32s]) {
        let first = block * S::F32_LANES;
        let used = (self.channels - first).min(S::F32_LANES);
        let mut at = column * self.step + first;
        for &sum in sums {
            let out = &mut self.out[at..][..used];
            if used < S::F32_LANES {
                let old = if self.accumulate { simd.partial_load_f32s(out) } else { simd.splat_f32s(0.0) };
                simd.partial_store_f32s(out, simd.add_f32s(old, sum));
            } else if let ([out], _) = S::as_mut_simd_f32s(out) {
                *out = if self.accumulate { simd.add_f32s(*out, sum) } else { sum };
            }
            at += self.step;
        }
    }
}
