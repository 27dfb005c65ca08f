//! Weights in the order in which the tiles read them.

use rayon::prelude::*;

use super::axis::Axis;
use crate::conv::Conv;
use crate::simd;
use crate::workspace::{Buffer, Workspace};

/// The partition of columns into panels of a few vectors.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// Number of columns without padding.
    count: usize,
    /// Vectors of every panel.
    vectors: Vec<usize>,
    lanes: usize,
}

impl Columns {
    pub(super) fn new(count: usize) -> Self {
        let lanes = simd::lanes();
        let vectors = cut(count.div_ceil(lanes), simd::max_vectors());
        Self { count, vectors, lanes }
    }

    /// Number of columns without padding.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.vectors.len()
    }

    /// Vectors of panel `j`.
    pub(super) fn vectors(&self, j: usize) -> usize {
        self.vectors[j]
    }

    /// First column of panel `j`, or the end.
    pub(super) fn first(&self, j: usize) -> usize {
        (self.vectors[..j].iter().sum::<usize>() * self.lanes).min(self.count)
    }

    /// Columns of panel `j` without padding.
    pub(super) fn used(&self, j: usize) -> usize {
        self.first(j + 1) - self.first(j)
    }

    /// Number of columns with the padding of the last vector.
    pub(super) fn padded(&self) -> usize {
        self.vectors.iter().sum::<usize>() * self.lanes
    }
}

/// Splits `vectors` into parts of at most `most`. It avoids small parts if possible, because narrow tiles are slow.
fn cut(vectors: usize, most: usize) -> Vec<usize> {
    let parts = vectors.div_ceil(most);
    let (size, larger) = (vectors / parts, vectors % parts);
    (0..parts).map(|part| size + usize::from(part < larger)).collect()
}

/// Weights of all groups as panels: `[group][panel][depth][column]`.
#[derive(Debug)]
pub(super) struct Panels {
    data: Buffer,
    depth: usize,
    /// The columns of one group.
    pub(super) columns: Columns,
}

/// Weights to be packed: a matrix per group.
pub(super) struct Weights<'a> {
    data: &'a [f32],
    groups: usize,
    columns: usize,
    depth: usize,
    order: Order,
}

/// Memory order of the weights.
enum Order {
    /// The depth of a column is contiguous.
    ByColumn,
    /// The columns of a step are contiguous; `steps` holds where each step of a group starts.
    ByStep { steps: Vec<usize> },
}

impl<'a> Weights<'a> {
    /// Columns are output channels; the depth is taps by input channels.
    pub(super) fn forward(conv: &Conv, data: &'a [f32]) -> Self {
        let columns = conv.out_channels / conv.groups;
        Self {
            data,
            groups: conv.groups,
            columns,
            depth: data.len() / conv.out_channels,
            order: Order::ByColumn,
        }
    }

    /// Columns are input channels; the depth is the taps of a phase by output channels.
    pub(super) fn backward(conv: &Conv, data: &'a [f32], rows: &Axis, columns: &Axis) -> Self {
        let channels = conv.sliding.channels / conv.groups;
        let filters = conv.out_channels / conv.groups;
        let filter = channels * conv.sliding.taps();
        let taps = rows
            .taps
            .iter()
            .flat_map(|row| columns.taps.iter().map(|column| row.tap * conv.sliding.kernel.1 + column.tap));
        let steps: Vec<usize> = taps
            .flat_map(|tap| (0..filters).map(move |filter_index| filter_index * filter + tap * channels))
            .collect();
        Self {
            data,
            groups: conv.groups,
            columns: channels,
            depth: steps.len(),
            order: Order::ByStep { steps },
        }
    }
}

/// Steps packed by one job.
const STEPS: usize = 256;

impl Panels {
    pub(super) fn pack(weights: &Weights<'_>, workspace: &mut Workspace) -> Self {
        let &Weights { data: source, groups, columns: count, depth, ref order } = weights;
        let columns = Columns::new(count);
        let mut data = workspace.take(groups * depth * columns.padded());
        let mut jobs = Vec::new();
        let mut rest = &mut *data;
        let group_len = source.len() / groups;
        for group in 0..groups {
            for j in 0..columns.panels() {
                let width = columns.vectors(j) * columns.lanes;
                let (panel, after) = rest.split_at_mut(depth * width);
                rest = after;
                let source = &source[group * group_len..][..group_len];
                let steps = panel.chunks_mut(STEPS * width).enumerate();
                jobs.extend(
                    steps.map(|(i, out)| (source, i * STEPS, columns.first(j), columns.used(j), width, out)),
                );
            }
        }
        jobs.into_par_iter().for_each(|(source, step, first, used, width, out)| match order {
            Order::ByColumn => transpose(&source[first * depth + step..], depth, used, (out, width)),
            Order::ByStep { steps } => {
                for (out, &start) in out.chunks_exact_mut(width).zip(&steps[step..]) {
                    out[..used].copy_from_slice(&source[start + first..][..used]);
                    out[used..].fill(0.0);
                }
            }
        });
        Self { data, depth, columns }
    }

    /// Panel `j` of `group`, `[depth][vectors(j) * lanes]`.
    pub(super) fn panel(&self, group: usize, j: usize) -> &[f32] {
        let before = self.columns.vectors[..j].iter().sum::<usize>() * self.columns.lanes;
        let start = (group * self.columns.padded() + before) * self.depth;
        &self.data[start..][..self.depth * self.columns.vectors(j) * self.columns.lanes]
    }

    /// Steps of every panel.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Returns the buffer, for the workspace.
    pub(super) fn into_buffer(self) -> Buffer {
        self.data
    }
}

/// Side of the blocks that are transposed at once: few enough cache lines if they are a power of two apart.
const SIDE: usize = 16;

/// `out[k][c] = source[c * depth + k]` for `used` columns; zero in the other columns of `out`.
fn transpose(source: &[f32], depth: usize, used: usize, (out, width): (&mut [f32], usize)) {
    if used < width {
        out.fill(0.0);
    }
    simd::vectorized(
        #[inline(always)]
        || {
            // The columns of a block stay the same for many steps, so that the hardware prefetches a few long streams.
            for first in (0..used).step_by(SIDE) {
                for (block, out) in out.chunks_mut(SIDE * width).enumerate() {
                    let steps = out.len() / width;
                    let column = |c: usize| &source[(first + c) * depth + block * SIDE..][..steps];
                    if steps == SIDE && first + SIDE <= used {
                        transpose_block(column, (&mut out[first..], width));
                        continue;
                    }
                    for c in 0..(used - first).min(SIDE) {
                        for (out, &value) in out.chunks_exact_mut(width).zip(column(c)) {
                            out[first + c] = value;
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn transpose_block<'s>(column: impl Fn(usize) -> &'s [f32], (out, width): (&mut [f32], usize)) {
    let mut columns = [&[0.0; SIDE]; SIDE];
    for (c, column_c) in columns.iter_mut().enumerate() {
        let Some(block) = column(c).first_chunk() else { return };
        *column_c = block;
    }
    for k in 0..SIDE {
        let out = &mut out[k * width..][..SIDE];
        for (out, column) in out.iter_mut().zip(&columns) {
            *out = column[k];
        }
    }
}
