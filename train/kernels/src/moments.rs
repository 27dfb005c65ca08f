//! Mean and variance per channel of a batch.
//!
//! Blocks of rows are summed in f32 about a center while they are in cache: the first block about its own mean, the
//! others about the mean so far. Blocks are combined in f64 by the pairwise formula of Chan, Golub and LeVeque (1979).
//! A mean far from zero does not reduce the precision of the variance.

use std::ops::Range;

use crate::simd;

/// Rows summed in f32 before they are combined in f64.
const BLOCK: usize = 128;

/// Per channel: the mean and the sum of squared deviations from it, over `rows` values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// Values per channel.
    pub rows: usize,
    /// Mean, `[C]`.
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean, `[C]`.
    pub centered: Vec<f64>,
}

impl Moments {
    /// Combines the moments of parts, in the order given. Together the parts must hold every row of every channel once.
    pub(crate) fn combine(&mut self, channels: usize, rows: usize, parts: impl IntoIterator<Item = Part>) {
        self.rows = rows;
        self.mean.clear();
        self.mean.resize(channels, 0.0);
        self.centered.clear();
        self.centered.resize(channels, 0.0);
        let mut counts = vec![0.0; channels];
        for part in parts {
            let Part { first, rows, mean, centered, .. } = part;
            for (j, (&mean, &centered)) in mean.iter().zip(&centered).enumerate() {
                let at = first + j;
                merge((&mut counts[at], &mut self.mean[at], &mut self.centered[at]), (rows, mean, centered));
            }
        }
    }
}

/// The moments of some rows of some channels: the result of one task.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// First channel.
    first: usize,
    rows: f64,
    mean: Vec<f64>,
    centered: Vec<f64>,
    /// Centers that the current block is summed about.
    centers: Vec<f32>,
    /// Sums of its deviations from the centers.
    sums: Vec<f32>,
    /// Sums of their squares.
    squares: Vec<f32>,
}

impl Part {
    /// A part without rows, for channels `first..first + channels`.
    pub(crate) fn new(first: usize, channels: usize) -> Self {
        let (mean, centered) = (vec![0.0; channels], vec![0.0; channels]);
        Self { first, rows: 0.0, mean, centered, centers: Vec::new(), sums: Vec::new(), squares: Vec::new() }
    }

    /// Adds `rows` rows; row `r` of the part's channels starts at `y[r * stride]`.
    pub(crate) fn add(&mut self, y: &[f32], stride: usize, rows: usize) {
        let channels = self.mean.len();
        if stride != channels {
            return self.add_rows(rows, |row| &y[row * stride..][..channels]);
        }
        for block in y[..rows * channels].chunks(BLOCK * channels) {
            self.add_dense(block);
        }
    }

    /// Adds at most [`BLOCK`] consecutive rows.
    ///
    /// Rows of few channels are summed several at a time, as if they were one row.
    fn add_dense(&mut self, block: &[f32]) {
        let channels = self.mean.len();
        let together = WIDE.div_ceil(channels);
        let rows = single(block.len() / channels);
        if self.rows == 0.0 {
            self.start(together);
            self.sum_dense(block);
            self.recenter(rows);
        }
        self.sum_dense(block);
        self.merge_block(rows);
    }

    /// Adds `rows` rows of the part's channels.
    pub(crate) fn add_rows<'y>(&mut self, rows: usize, row: impl Fn(usize) -> &'y [f32]) {
        for start in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - start);
            let rows = single(count);
            if self.rows == 0.0 {
                self.start(1);
                self.sum_rows(start..start + count, &row);
                self.recenter(rows);
            }
            self.sum_rows(start..start + count, &row);
            self.merge_block(rows);
        }
    }

    /// Resets the sums for `together` rows side by side, about zero.
    fn start(&mut self, together: usize) {
        let width = together * self.mean.len();
        for buffer in [&mut self.centers, &mut self.sums, &mut self.squares] {
            buffer.clear();
            buffer.resize(width, 0.0);
        }
    }

    fn sum_dense(&mut self, block: &[f32]) {
        let Self { centers, sums, squares, .. } = self;
        simd::vectorized(
            #[inline(always)]
            || add_up(block, centers, sums, squares),
        );
    }

    fn sum_rows<'y>(&mut self, rows: Range<usize>, row: impl Fn(usize) -> &'y [f32]) {
        let Self { centers, sums, squares, .. } = self;
        simd::vectorized(
            #[inline(always)]
            || {
                sums.fill(0.0);
                squares.fill(0.0);
                for r in rows {
                    add_row(row(r), centers, sums, squares);
                }
            },
        );
    }

    /// Moves the centers to the mean of a first block, after its sums about zero.
    fn recenter(&mut self, rows: f32) {
        let channels = self.mean.len();
        fold(&mut self.sums, channels);
        for centers in self.centers.chunks_exact_mut(channels) {
            centers.iter_mut().zip(&self.sums).for_each(|(center, sum)| *center = sum / rows);
        }
    }

    /// Merges a block of `rows` rows by its sums, and moves the centers to the mean so far.
    fn merge_block(&mut self, rows: f32) {
        let channels = self.mean.len();
        let rows = f64::from(rows);
        let total = self.rows + rows;
        let (share, weight) = (rows / total, self.rows * rows / total);
        self.rows = total;
        let Self { mean, centered, centers, sums, squares, .. } = self;
        simd::vectorized(
            #[inline(always)]
            || {
                fold(sums, channels);
                fold(squares, channels);
                for (c, (mean, centered)) in mean.iter_mut().zip(centered).enumerate() {
                    let shift = f64::from(sums[c]) / rows;
                    let difference = f64::from(centers[c]) + shift - *mean;
                    *centered +=
                        f64::from(squares[c]) - shift * shift * rows + difference * difference * weight;
                    *mean += difference * share;
                }
                for centers in centers.chunks_exact_mut(channels) {
                    centers.iter_mut().zip(&*mean).for_each(|(center, &mean)| *center = rounded(mean));
                }
            },
        );
    }
}

/// Minimum number of values summed side by side in registers, if a row is this wide.
const WIDE: usize = 128;

/// Adds the deviations from `centers` and their squares over consecutive rows; the last row may be incomplete.
#[inline(always)]
fn add_up(x: &[f32], centers: &[f32], sums: &mut [f32], squares: &mut [f32]) {
    let width = centers.len();
    let mut at = 0;
    while at < width {
        at += match width - at {
            WIDE.. => add_up_columns::<WIDE>(x, centers, sums, squares, at),
            64.. => add_up_columns::<64>(x, centers, sums, squares, at),
            16.. => add_up_columns::<16>(x, centers, sums, squares, at),
            _ => add_up_columns::<1>(x, centers, sums, squares, at),
        };
    }
    add_row(x.chunks_exact(width).remainder(), centers, sums, squares);
}

/// [`add_up`] for columns `at..at + N` of whole rows; returns the number of rows.
#[inline(always)]
fn add_up_columns<const N: usize>(
    x: &[f32],
    centers: &[f32],
    sums: &mut [f32],
    squares: &mut [f32],
    at: usize,
) -> usize {
    let (mut sum, mut square, mut center) = ([0.0; N], [0.0; N], [0.0; N]);
    center.copy_from_slice(&centers[at..][..N]);
    for row in x.chunks_exact(centers.len()) {
        let row = &row[at..][..N];
        for j in 0..N {
            let deviation = row[j] - center[j];
            sum[j] += deviation;
            square[j] += deviation * deviation;
        }
    }
    sums[at..][..N].copy_from_slice(&sum);
    squares[at..][..N].copy_from_slice(&square);
    N
}

#[inline(always)]
fn add_row(x: &[f32], centers: &[f32], sums: &mut [f32], squares: &mut [f32]) {
    for (((x, center), sum), square) in x.iter().zip(centers).zip(sums).zip(squares) {
        let deviation = x - center;
        *sum += deviation;
        *square += deviation * deviation;
    }
}

/// Adds all later groups of `channels` sums to the first.
#[inline(always)]
fn fold(sums: &mut [f32], channels: usize) {
    let (first, rest) = sums.split_at_mut(channels);
    for group in rest.chunks_exact(channels) {
        first.iter_mut().zip(group).for_each(|(sum, value)| *sum += value);
    }
}

/// Merges `count` values with the given moments into others.
#[inline(always)]
fn merge(all: (&mut f64, &mut f64, &mut f64), (count, mean, centered): (f64, f64, f64)) {
    let (all_count, all_mean, all_centered) = all;
    let total = *all_count + count;
    let difference = mean - *all_mean;
    *all_centered += centered + difference * difference * (*all_count * count / total);
    *all_mean += difference * (count / total);
    *all_count = total;
}

#[expect(clippy::cast_precision_loss, reason = "a block has at most 128 rows")]
fn single(rows: usize) -> f32 {
    rows as f32
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn rounded(value: f64) -> f32 {
    value as f32
}
