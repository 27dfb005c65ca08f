//! From the products of tiles to images, and from gradients of images to gradients of products.

use std::ops::Range;

use pulp::Simd;

use super::input::vector;
use super::plan::Grid;
use super::product::{Places, cell, tile_stride};
use super::scheme::{Scheme, both_axes, unrolled};

/// Some channels of whole rows of an NHWC image batch.
#[derive(Clone, Copy)]
pub(super) struct Region<'a> {
    /// Geometry of the batch.
    pub(super) grid: &'a Grid,
    /// Rows of tiles.
    pub(super) tile_rows: &'a Range<usize>,
    /// Scalars from pixel to pixel.
    pub(super) stride: usize,
    /// First channel.
    pub(super) first: usize,
    /// Channels.
    pub(super) channels: usize,
}

/// Offsets of a tile's pixels.
#[derive(Clone, Copy)]
struct Pixels {
    /// Scalars before the tile's first pixel.
    base: usize,
    /// Scalars from row to row.
    row: usize,
    /// Rows and columns that exist.
    extent: (usize, usize),
}

impl Region<'_> {
    /// Calls `work` with every tile's number and pixels, which are counted from pixel row `origin` of the batch.
    #[inline(always)]
    fn for_each_tile(self, origin: usize, mut work: impl FnMut(usize, Pixels)) {
        let grid = self.grid;
        let width = grid.output.1;
        let mut tile = 0;
        for tile_row in self.tile_rows.clone() {
            let row = grid.pixel_row(tile_row) - origin;
            let height = grid.height_of(tile_row);
            for column in (0..width).step_by(grid.tile) {
                let base = (row * width + column) * self.stride + self.first;
                let extent = (height, grid.tile.min(width - column));
                work(tile, Pixels { base, row: width * self.stride, extent });
                tile += 1;
            }
        }
    }
}

/// Transforms products, cells `[tile][vector]`, to the pixels of `region`; `y` starts at its first row.
#[inline(always)]
pub(super) fn transform<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    region: Region<'_>,
    cells: &[S::f32s],
    y: &mut [f32],
    accumulate: bool,
) {
    let vectors = region.channels.div_ceil(S::F32_LANES);
    region.for_each_tile(
        region.grid.pixel_row(region.tile_rows.start),
        #[inline(always)]
        |tile, pixels| {
            let cells = &cells[tile * tile_stride(A * A, S::F32_LANES)..][..vectors * cell(A * A)];
            for (k, cell) in cells.chunks_exact(cell(A * A)).enumerate() {
                let mut values = [[simd.splat_f32s(0.0); A]; A];
                unrolled!(i < A, unrolled!(j < A, values[i][j] = cell[i * A + j]));
                let lanes = S::F32_LANES.min(region.channels - k * S::F32_LANES);
                let base = pixels.base + k * S::F32_LANES;
                both_axes(
                    simd,
                    values,
                    #[inline(always)]
                    |values| X::output(simd, values),
                    #[inline(always)]
                    |i, j, value| {
                        if i < pixels.extent.0 && j < pixels.extent.1 {
                            let y = &mut y[base + i * pixels.row + j * region.stride..][..lanes];
                            store(simd, value, y, accumulate);
                        }
                    },
                );
            }
        },
    );
}

/// Writes a vector, or the part of it that `y` has room for.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, value: S::f32s, y: &mut [f32], accumulate: bool) {
    if y.len() == S::F32_LANES {
        if let [y] = S::as_mut_simd_f32s(y).0 {
            *y = if accumulate { simd.add_f32s(*y, value) } else { value };
        }
    } else {
        let value = if accumulate { simd.add_f32s(simd.partial_load_f32s(y), value) } else { value };
        simd.partial_store_f32s(y, value);
    }
}

/// Transforms the gradients `dy` of the pixels of `region` to those of the products.
#[inline(always)]
pub(super) fn transform_adjoint<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    region: Region<'_>,
    dy: &[f32],
    (cells, places): (&mut [S::f32s], impl Places),
) {
    let vectors = region.channels.div_ceil(S::F32_LANES);
    let zero = simd.splat_f32s(0.0);
    region.for_each_tile(
        0,
        #[inline(always)]
        |tile, pixels| {
            for k in 0..vectors {
                let cell = places.values(cells, tile, k);
                let lanes = S::F32_LANES.min(region.channels - k * S::F32_LANES);
                let base = pixels.base + k * S::F32_LANES;
                let mut values = [[zero; M]; M];
                unrolled!(
                    i < M,
                    unrolled!(j < M, {
                        if i < pixels.extent.0 && j < pixels.extent.1 {
                            let dy = &dy[base + i * pixels.row + j * region.stride..][..lanes];
                            values[i][j] = vector(simd, dy);
                        }
                    })
                );
                both_axes(
                    simd,
                    values,
                    #[inline(always)]
                    |values| X::output_adjoint(simd, values),
                    #[inline(always)]
                    |i, j, value| cell[places.at(i * A + j)] = value,
                );
            }
        },
    );
}
