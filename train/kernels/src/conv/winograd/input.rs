//! From images to transformed tiles.

use pulp::Simd;
use pulp::bytemuck::cast_slice_mut;

use super::plan::Grid;
use super::product::Places;
use super::scheme::{Scheme, both_axes, unrolled};
use crate::activation::Activation;
use crate::operand::Operand;
use std::ops::Range;

/// Vectors in the strip of input rows that [`transform`] fills.
pub(super) fn strip_vectors(grid: &Grid, vectors: usize) -> usize {
    grid.reach * row_width(grid) * vectors
}

/// Columns of input under a row of tiles.
fn row_width(grid: &Grid) -> usize {
    grid.tiles.1 * grid.tile + grid.reach - grid.tile
}

/// An NHWC image batch, and the range of channels to read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The images.
    pub(super) operand: Operand<'a>,
    /// Their geometry.
    pub(super) grid: &'a Grid,
    /// First channel, a multiple of a vector's lanes.
    pub(super) first: usize,
    /// Channels.
    pub(super) channels: usize,
}

/// Transforms the tiles of some rows of tiles.
///
/// The rows of input under a row of tiles are first copied to `strip`, padded and normalized; the last of them are
/// reused for the next row of tiles.
#[inline(always)]
pub(super) fn transform<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    source: Source<'_>,
    tile_rows: Range<usize>,
    strip: &mut [S::f32s],
    (cells, places): (&mut [S::f32s], impl Places),
) {
    let grid = source.grid;
    let width = row_width(grid);
    let row_len = source.channels.div_ceil(S::F32_LANES) * width;
    let mut starts = [0; A];
    unrolled!(i < A, starts[i] = i * row_len);
    let start = tile_rows.start;
    for tile_row in tile_rows {
        let fresh = if tile_row == start || tile_row.is_multiple_of(grid.tiles.0) {
            0
        } else {
            starts.rotate_left(M);
            A - M
        };
        for i in fresh..A {
            fill(simd, source, (tile_row, i), &mut strip[starts[i]..][..row_len], width);
        }
        let mut rows = [&strip[..0]; A];
        unrolled!(i < A, rows[i] = &strip[starts[i]..][..row_len]);
        let first = (tile_row - start) * grid.tiles.1;
        transform_row::<S, X, M, A>(simd, rows, width, (&mut *cells, places, first));
    }
}

/// Transforms one row of tiles from `rows` of `[vector][column]`; the first is tile `first`.
#[inline(always)]
fn transform_row<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
    simd: S,
    rows: [&[S::f32s]; A],
    width: usize,
    (cells, places, first): (&mut [S::f32s], impl Places, usize),
) {
    for d in 0..rows[0].len() / width {
        let mut lines = rows;
        unrolled!(i < A, lines[i] = &rows[i][d * width..][..width]);
        for tile in 0..(width + M - A) / M {
            let cell = places.values(cells, first + tile, d);
            let mut values = [[simd.splat_f32s(0.0); A]; A];
            unrolled!(i < A, {
                let line = &lines[i][tile * M..][..A];
                unrolled!(j < A, values[i][j] = line[j]);
            });
            both_axes(
                simd,
                values,
                #[inline(always)]
                |values| X::input(simd, values),
                #[inline(always)]
                |i, j, value| cell[places.at(i * A + j)] = value,
            );
        }
    }
}

/// Fills a row of the strip, `[vector][column]`, with row `i` of the inputs of a row of tiles.
#[inline(always)]
fn fill<S: Simd>(
    simd: S,
    source: Source<'_>,
    (tile_row, i): (usize, usize),
    row: &mut [S::f32s],
    width: usize,
) {
    let grid = source.grid;
    let (height, row_len) = grid.input;
    let rows = grid.window(height, tile_row % grid.tiles.0 * grid.tile + i, 1);
    let columns = grid.window(row_len, 0, width);
    let zero = simd.splat_f32s(0.0);
    if rows.positions.is_empty() {
        row.fill(zero);
        return;
    }
    let image = tile_row / grid.tiles.0;
    let pixel = (image * height + rows.source) * row_len + columns.source;
    for (d, line) in row.chunks_exact_mut(width).enumerate() {
        line[..columns.positions.start].fill(zero);
        line[columns.positions.end..].fill(zero);
        load(simd, source, (pixel, d * S::F32_LANES), &mut line[columns.positions.clone()]);
    }
}

/// Loads one vector of channels of consecutive pixels.
#[inline(always)]
fn load<S: Simd>(simd: S, source: Source<'_>, (pixel, first): (usize, usize), line: &mut [S::f32s]) {
    let Source { operand, grid, .. } = source;
    let lanes = S::F32_LANES.min(source.channels - first);
    let first = source.first + first;
    let data = operand.data[pixel * grid.depth + first..].chunks(grid.depth);
    let Some(norm) = operand.norm else {
        for (value, data) in line.iter_mut().zip(data) {
            *value = vector(simd, &data[..lanes]);
        }
        return;
    };
    let scale = vector(simd, &norm.scale[first..][..lanes]);
    let shift = vector(simd, &norm.shift[first..][..lanes]);
    let zero = simd.splat_f32s(0.0);
    if norm.activation == Activation::Relu {
        for (value, data) in line.iter_mut().zip(data) {
            let sum = affine(simd, vector(simd, &data[..lanes]), scale, shift);
            *value = simd.select_f32s(simd.less_than_f32s(sum, zero), zero, sum);
        }
        return;
    }
    for (value, data) in line.iter_mut().zip(data) {
        *value = affine(simd, vector(simd, &data[..lanes]), scale, shift);
    }
    if norm.activation != Activation::Identity {
        for value in cast_slice_mut::<S::f32s, f32>(line) {
            *value = norm.activation.apply(*value);
        }
    }
}

/// `value * scale + shift`, rounded twice, as in scalar code.
#[inline(always)]
fn affine<S: Simd>(simd: S, value: S::f32s, scale: S::f32s, shift: S::f32s) -> S::f32s {
    simd.add_f32s(simd.mul_f32s(value, scale), shift)
}

/// Loads a vector, or the part of it that exists.
#[inline(always)]
pub(super) fn vector<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    if let ([value], _) = S::as_simd_f32s(values) { *value } else { simd.partial_load_f32s(values) }
}
