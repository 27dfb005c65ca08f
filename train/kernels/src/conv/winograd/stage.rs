//! Filters in the order in which they are transformed.
//!
//! OHWI filters are read once, in long runs, and sorted into blocks `[group of columns][chunk of channels]` (or the
//! transpose), each of which is then read in one go. Zeros fill up vectors and panels.

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::layout::Layout;
use super::product::GROUP;
use crate::simd;

/// Taps of a filter.
pub(super) const TAPS: usize = 9;
/// Lanes of the widest vectors.
const MAX_LANES: usize = 16;

/// The direction in which values pass through filters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the convolution's input channels to its filters: filters are columns.
    Forward,
    /// From the filters to the input channels, with taps in reverse: input channels are columns.
    Backward,
}

/// Sorts the filters `weights` of `channels` input channels into `staged`, in blocks of [`Layout::stage_len`].
pub(super) fn stage(
    weights: &[f32],
    channels: usize,
    layout: Layout,
    direction: Direction,
    staged: &mut [f32],
) {
    let blocks = match direction {
        Direction::Forward => layout.chunks(),
        Direction::Backward => layout.groups(),
    };
    staged.par_chunks_mut(blocks * layout.stage_len()).enumerate().for_each(|(i, blocks)| {
        simd::dispatch(Stage { weights, channels, layout, direction, i, blocks });
    });
}

/// The blocks of one group, or of one chunk.
struct Stage<'a> {
    weights: &'a [f32],
    channels: usize,
    layout: Layout,
    direction: Direction,
    i: usize,
    blocks: &'a mut [f32],
}

impl WithSimd for Stage<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.direction {
            Direction::Forward => self.turn(simd),
            Direction::Backward => self.reverse(),
        }
    }
}

impl Stage<'_> {
    /// `[chunk][vector of filters][channel / 4][tap][slot][channel % 4]`: a slot holds four channels of a filter, so
    /// that `deinterleave_shfl` yields vectors of filters.
    #[inline(always)]
    fn turn<S: Simd>(self, simd: S) {
        let Self { weights, channels, layout, .. } = self;
        let columns = layout.columns(&(self.i..self.i + 1));
        if !columns.len().is_multiple_of(GROUP) || !channels.is_multiple_of(GROUP) {
            self.blocks.fill(0.0);
        }
        let (blocks, _) = self.blocks.as_chunks_mut::<4>();
        let order = filters_by_slot(simd);
        let (whole, rest) = (channels / 4, channels % 4);
        for (v, first) in columns.clone().step_by(S::F32_LANES).enumerate() {
            // Four filters together fill cache lines.
            for (line, filters) in order[..S::F32_LANES].chunks_exact(4).enumerate() {
                for t in 0..TAPS {
                    let row = |i: usize| {
                        let o = first + filters[i];
                        if o < columns.end { &weights[(o * TAPS + t) * channels..][..channels] } else { &[] }
                    };
                    let rows = [row(0), row(1), row(2), row(3)];
                    let place = |q: usize| {
                        let (chunk, q) = (4 * q / GROUP, q % (GROUP / 4));
                        let vectors = v * layout.depth_vectors() * S::F32_LANES / 4 + q;
                        chunk * layout.stage_len() / 4 + (vectors * TAPS + t) * S::F32_LANES + 4 * line
                    };
                    for q in 0..whole {
                        let slots = &mut blocks[place(q)..][..4];
                        for (slot, row) in slots.iter_mut().zip(rows) {
                            if let Some(&values) = row.as_chunks::<4>().0.get(q) {
                                *slot = values;
                            }
                        }
                    }
                    for (i, row) in
                        rows.into_iter().enumerate().filter(|(_, row)| rest > 0 && !row.is_empty())
                    {
                        blocks[place(whole) + i][..rest].copy_from_slice(&row[4 * whole..]);
                    }
                }
            }
        }
    }

    /// `[group][filter][tap][channel]`, the taps in reverse.
    #[inline(always)]
    fn reverse(self) {
        let Self { weights, channels, layout, .. } = self;
        let filters = layout.depths(self.i);
        if !filters.len().is_multiple_of(GROUP) || !channels.is_multiple_of(GROUP) {
            self.blocks.fill(0.0);
        }
        let width = layout.group_vectors() * layout.lanes;
        for (i, o) in filters.enumerate() {
            for t in 0..TAPS {
                let row = &weights[(o * TAPS + TAPS - 1 - t) * channels..][..channels];
                for (group, row) in row.chunks(GROUP).enumerate() {
                    let at = group * layout.stage_len() + (i * TAPS + t) * width;
                    self.blocks[at..][..row.len()].copy_from_slice(row);
                }
            }
        }
    }
}

/// The filter of a vector that each slot holds. It makes `deinterleave_shfl` yield the filters in order, although the
/// order of its results depends on the instruction set.
#[inline(always)]
fn filters_by_slot<S: Simd>(simd: S) -> [usize; MAX_LANES] {
    let mut numbers = [simd.splat_f32s(0.0); 4];
    let mut count = 0.0;
    for number in cast_slice_mut::<S::f32s, f32>(&mut numbers).iter_mut().step_by(4) {
        *number = count;
        count += 1.0;
    }
    let [separated, ..] = simd.deinterleave_shfl_f32s(numbers);
    let mut order = [0; MAX_LANES];
    for (slot, number) in cast_slice::<S::f32s, f32>(&numbers).iter().step_by(4).enumerate() {
        let found = cast_slice::<S::f32s, f32>(&[separated]).iter().position(|value| value == number);
        order[slot] = found.unwrap_or(0);
    }
    order
}
