//! From filters to transformed panels, and from gradients of transformed filters to those of filters.

use std::ops::Range;

use pulp::Simd;
use pulp::bytemuck::{cast_slice, cast_slice_mut};

use super::input::vector;
use super::output::store;
use super::product::{GROUP, Places, Planes, width};
use super::scheme::{Scheme, both_axes, unrolled};

/// Taps of a filter.
const TAPS: usize = 9;

/// OHWI filters as a product reads them: `depth` channels in, `columns` channels out.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    /// The filters.
    pub(super) weights: &'a [f32],
    /// Input channels of the convolution.
    pub(super) channels: usize,
    /// Who reads them.
    pub(super) direction: Direction,
}

/// Which way values flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the convolution's input channels to its filters.
    Forward,
    /// From its filters to its input channels, with taps in reverse.
    Backward,
}

/// Vectors from point to point of a panel: one more than it holds, so that the points spread over the sets of a cache.
pub(super) fn point_stride(depth_vectors: usize, lanes: usize, width: usize) -> usize {
    depth_vectors * lanes * width + 1
}

/// Vectors that [`transform`] gathers filters in.
pub(super) fn gathered_vectors(depth_vectors: usize, lanes: usize) -> usize {
    depth_vectors * lanes * TAPS
}

/// Transforms the filters between channels `depths` and channels `columns` to `[point][channel][column]`.
#[inline(always)]
pub(super) fn transform<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    filters: Filters<'_>,
    (depths, columns): (Range<usize>, Range<usize>),
    gathered: &mut [S::f32s],
    panel: &mut [S::f32s],
) {
    let lanes = S::F32_LANES;
    let width = width(columns.len(), lanes);
    let vectors = depths.len().div_ceil(lanes);
    let stride = point_stride(vectors, lanes, width);
    let gathered = &mut gathered[..gathered_vectors(vectors, lanes)];
    let vector_of = |v: usize| {
        let column = |v: usize| columns.end.min(columns.start + v * lanes);
        column(v)..column(v + 1)
    };
    if filters.direction == Direction::Backward {
        for c in 0..vectors * lanes {
            for v in 0..width {
                let taps = reversed(simd, filters, (depths.start + c, depths.end), vector_of(v));
                transform_taps::<S, X, M, A>(simd, &taps, &mut panel[c * width + v..], stride);
            }
        }
        return;
    }
    let slots = slots(simd);
    for v in 0..width {
        gather(simd, filters, (depths.clone(), vector_of(v)), &slots, gathered);
        let (quads, _) = gathered.as_chunks::<4>();
        for (q, quads) in quads.chunks_exact(TAPS).enumerate() {
            let mut taps = [[simd.splat_f32s(0.0); TAPS]; 4];
            for (t, &quad) in quads.iter().enumerate() {
                let [a, b, c, d] = simd.deinterleave_shfl_f32s(quad);
                (taps[0][t], taps[1][t], taps[2][t], taps[3][t]) = (a, b, c, d);
            }
            for (i, taps) in taps.iter().enumerate() {
                transform_taps::<S, X, M, A>(simd, taps, &mut panel[(4 * q + i) * width + v..], stride);
            }
        }
    }
}

/// Transforms one vector of filters to one vector of every point.
#[inline(always)]
fn transform_taps<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    taps: &[S::f32s; TAPS],
    panel: &mut [S::f32s],
    stride: usize,
) {
    let mut values = [[simd.splat_f32s(0.0); 3]; 3];
    unrolled!(i < 3, unrolled!(j < 3, values[i][j] = taps[i * 3 + j]));
    both_axes(
        simd,
        values,
        #[inline(always)]
        |values| X::weight(simd, values),
        #[inline(always)]
        |i, j, value| panel[(i * A + j) * stride] = value,
    );
}

/// The taps of filter `o` at a vector of input channels, in reverse; zeros if `o` is not below `end`.
#[inline(always)]
fn reversed<S: Simd>(
    simd: S,
    Filters { weights, channels, .. }: Filters<'_>,
    (o, end): (usize, usize),
    columns: Range<usize>,
) -> [S::f32s; TAPS] {
    let mut taps = [simd.splat_f32s(0.0); TAPS];
    if o < end {
        for (t, tap) in taps.iter_mut().enumerate() {
            *tap = vector(simd, &weights[(o * TAPS + TAPS - 1 - t) * channels..][columns.clone()]);
        }
    }
    taps
}

/// Lanes of the widest vectors.
const MAX_LANES: usize = 16;

/// Where four channels of a filter go among those of the other filters of a vector, so that `deinterleave_shfl` yields vectors
/// with the filters in order: it leaves the order of what it separates to the instruction set.
#[inline(always)]
fn slots<S: Simd>(simd: S) -> [usize; MAX_LANES] {
    let mut numbers = [[simd.splat_f32s(0.0); 4]; 1];
    let mut count = 0.0;
    for number in cast_slice_mut::<[S::f32s; 4], f32>(&mut numbers).iter_mut().step_by(4) {
        *number = count;
        count += 1.0;
    }
    let places: [S::f32s; 4] = simd.deinterleave_shfl_f32s(numbers[0]);
    let mut slots = [0; MAX_LANES];
    for (slot, place) in slots.iter_mut().zip(cast_slice::<S::f32s, f32>(&places[..1])) {
        let number = cast_slice::<[S::f32s; 4], f32>(&numbers).iter().step_by(4).position(|n| n == place);
        *slot = number.unwrap_or(0);
    }
    slots
}

/// Copies the channels `depths` of a vector of filters to `[channels / 4][tap][slot][4]`, zeros beyond the last.
#[inline(always)]
fn gather<S: Simd>(
    simd: S,
    Filters { weights, channels, .. }: Filters<'_>,
    (depths, filters): (Range<usize>, Range<usize>),
    slots: &[usize; MAX_LANES],
    gathered: &mut [S::f32s],
) {
    if filters.len() < S::F32_LANES || depths.len() * TAPS < gathered.len() {
        gathered.fill(simd.splat_f32s(0.0));
    }
    let (gathered, _) = cast_slice_mut::<S::f32s, f32>(gathered).as_chunks_mut::<4>();
    for (o, &slot) in filters.zip(slots) {
        for t in 0..TAPS {
            let (quads, rest) = weights[(o * TAPS + t) * channels..][depths.clone()].as_chunks::<4>();
            let mut gathered = gathered[t * S::F32_LANES + slot..].iter_mut().step_by(TAPS * S::F32_LANES);
            for (&quad, gathered) in quads.iter().zip(&mut gathered) {
                *gathered = quad;
            }
            if let Some(gathered) = gathered.next().filter(|_| !rest.is_empty()) {
                gathered[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Transforms `sums`, in planes `[point][filter][vector of channels]`, to the channels `depths` of OHWI filters.
#[inline(always)]
pub(super) fn transform_adjoint<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    sums: &mut [S::f32s],
    (channels, depths): (usize, Range<usize>),
    dw: &mut [f32],
    accumulate: bool,
) {
    let places = Planes::of::<S>(GROUP);
    for (o, dw) in dw.chunks_exact_mut(TAPS * channels).enumerate() {
        for (c, first) in depths.clone().step_by(S::F32_LANES).enumerate() {
            let sums = places.values(sums, o, c);
            let mut values = [[simd.splat_f32s(0.0); A]; A];
            unrolled!(i < A, unrolled!(j < A, values[i][j] = sums[places.at(i * A + j)]));
            let lanes = S::F32_LANES.min(depths.end - first);
            both_axes(
                simd,
                values,
                #[inline(always)]
                |values| X::weight_adjoint(simd, values),
                #[inline(always)]
                |i, j, value| {
                    store(simd, value, &mut dw[(i * 3 + j) * channels + first..][..lanes], accumulate)
                },
            );
        }
    }
}
