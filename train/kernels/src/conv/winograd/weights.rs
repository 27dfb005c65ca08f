//! From filters to transformed panels, and from gradients of transformed filters to those of filters.

use std::ops::Range;

use pulp::Simd;

use super::layout::Layout;
use super::output::store;
use super::product::{GROUP, Places, Planes};
use super::scheme::{Scheme, both_axes, unrolled};
use super::stage::{Direction, TAPS};

/// Vectors between the points of a panel: one more than it holds, so that the points spread over the sets of a cache.
pub(super) fn point_stride(depth_vectors: usize, lanes: usize, width: usize) -> usize {
    depth_vectors * lanes * width + 1
}

/// Transforms a panel of a block of [`stage`](super::stage::stage) to `[point][channel][column]`.
///
/// The panel has `width` vectors from vector `first` of the block's group on, and `vectors` vectors of channels.
#[inline(always)]
pub(super) fn transform<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    (layout, direction): (Layout, Direction),
    staged: &[f32],
    (vectors, first, width): (usize, usize, usize),
    panel: &mut [S::f32s],
) {
    let channels = vectors * S::F32_LANES;
    let stride = point_stride(vectors, S::F32_LANES, width);
    let (staged, _) = S::as_simd_f32s(staged).0.as_chunks::<TAPS>();
    match direction {
        Direction::Forward => {
            for v in 0..width {
                let quads = &staged[(first + v) * layout.depth_vectors() * S::F32_LANES..][..channels];
                for (q, quads) in quads.as_flattened().chunks_exact(4 * TAPS).enumerate() {
                    let mut taps = [[simd.splat_f32s(0.0); TAPS]; 4];
                    for (t, &quad) in quads.as_chunks::<4>().0.iter().enumerate() {
                        let [a, b, c, d] = simd.deinterleave_shfl_f32s(quad);
                        (taps[0][t], taps[1][t], taps[2][t], taps[3][t]) = (a, b, c, d);
                    }
                    for (i, taps) in taps.iter().enumerate() {
                        transform_taps::<S, X, M, A>(
                            simd,
                            taps,
                            &mut panel[(4 * q + i) * width + v..],
                            stride,
                        );
                    }
                }
            }
        }
        Direction::Backward => {
            let row = layout.group_vectors();
            for (c, block) in staged.chunks_exact(row).take(channels).enumerate() {
                for v in 0..width {
                    let mut taps = [simd.splat_f32s(0.0); TAPS];
                    for (t, tap) in taps.iter_mut().enumerate() {
                        *tap = block.as_flattened()[t * row + first + v];
                    }
                    transform_taps::<S, X, M, A>(simd, &taps, &mut panel[c * width + v..], stride);
                }
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
