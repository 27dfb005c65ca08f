//! The products of transformed values, one small matrix product for each of the `A²` points.
//!
//! Transformed values are stored in *cells*. A cell belongs to one tile (or filter) and one vector of channels. It
//! holds the vectors of all points and one more, so that the step between cells is odd and they spread over the sets of
//! a cache.

use std::slice::from_ref;

use pulp::Simd;
use pulp::bytemuck::cast_slice;

use crate::simd::is_wide;

/// Vectors of a cell.
pub(super) const fn cell(points: usize) -> usize {
    points + 1
}

/// Channels whose cells are stored together: of the input, of the output, or of filters.
pub(super) const GROUP: usize = 64;
/// Tiles whose sums are held in registers.
pub(super) const ROWS: usize = 6;

/// Vectors stored for `columns` columns of a panel: 1, 2 or 4, the sizes that have loops.
pub(super) const fn width(columns: usize, lanes: usize) -> usize {
    columns.div_ceil(lanes).next_power_of_two()
}

/// Vectors from the cells of one tile (or filter) to those of the next, in vectors of `lanes`.
#[inline(always)]
pub(super) const fn tile_stride(points: usize, lanes: usize) -> usize {
    GROUP / lanes * cell(points)
}

/// Floats in the cells of `tiles` tiles, with room for the sums of tiles past the last one, which have arbitrary
/// values.
pub(super) const fn cells_len(tiles: usize, points: usize) -> usize {
    (tiles + ROWS - 1) * GROUP * cell(points)
}

/// Memory layout of transformed values.
pub(super) trait Places: Copy {
    /// The values of one vector of channels of one tile.
    fn values<V>(self, cells: &mut [V], tile: usize, vector: usize) -> &mut [V];
    /// Index of a point among them.
    fn at(self, point: usize) -> usize;
}

/// Cells `[tile][vector of channels]`, with the points of a tile together: for [`multiply`].
#[derive(Clone, Copy)]
pub(super) struct Tiles<const A: usize> {
    /// Vectors from tile to tile.
    stride: usize,
}

impl<const A: usize> Tiles<A> {
    #[inline(always)]
    pub(super) fn of<S: Simd>() -> Self {
        Self { stride: const { tile_stride(A * A, S::F32_LANES) } }
    }
}

impl<const A: usize> Places for Tiles<A> {
    #[inline(always)]
    fn values<V>(self, cells: &mut [V], tile: usize, vector: usize) -> &mut [V] {
        &mut cells[tile * self.stride + vector * cell(A * A)..][..A * A]
    }

    #[inline(always)]
    fn at(self, point: usize) -> usize {
        point
    }
}

/// Planes `[point][tile][vector of channels]`: for [`correlate`].
#[derive(Clone, Copy)]
pub(super) struct Planes {
    /// Vectors from point to point.
    pub(super) stride: usize,
    /// Vectors from tile to tile.
    vectors: usize,
}

impl Planes {
    /// Planes of `tiles` tiles, and one more vector, so that the points spread over the sets of a cache.
    #[inline(always)]
    pub(super) fn of<S: Simd>(tiles: usize) -> Self {
        let vectors = GROUP / S::F32_LANES;
        Self { stride: vectors * tiles + 1, vectors }
    }

    /// Floats of all planes of `tiles` tiles, with vectors of `lanes`.
    pub(super) fn len(tiles: usize, points: usize, lanes: usize) -> usize {
        points * (GROUP * tiles + lanes)
    }
}

impl Places for Planes {
    #[inline(always)]
    fn values<V>(self, cells: &mut [V], tile: usize, vector: usize) -> &mut [V] {
        &mut cells[tile * self.vectors + vector..]
    }

    #[inline(always)]
    fn at(self, point: usize) -> usize {
        point * self.stride
    }
}

/// One panel of weights, `[point][channel][column]` with `stride` vectors from point to point.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a, V> {
    /// The weights.
    pub(super) weights: &'a [V],
    /// Vectors from point to point.
    pub(super) stride: usize,
    /// Columns, in vectors: 1 or 2, or 4 on machines with 32 registers.
    pub(super) width: usize,
}

/// The initial value of sums: zero, or the content of the output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Overwrite the output.
    Zero,
    /// Add to the output.
    Stored,
}

/// `m[t][first + j][point] = Σ_c v[t][c][point] * weights[point][c][j]` for `tiles` tiles, `vectors` vectors of channels `c`,
/// and each of `A²` points.
#[inline(always)]
pub(super) fn multiply<S: Simd, const A: usize>(
    simd: S,
    (tiles, vectors): (usize, usize),
    v: &[S::f32s],
    panel: Panel<'_, S::f32s>,
    (m, first): (&mut [S::f32s], usize),
    start: Start,
) {
    match panel.width {
        4 if is_wide::<S>() => multiply_tiles::<S, A, 4>(simd, (tiles, vectors), v, panel, (m, first), start),
        2 => multiply_tiles::<S, A, 2>(simd, (tiles, vectors), v, panel, (m, first), start),
        _ => multiply_tiles::<S, A, 1>(simd, (tiles, vectors), v, panel, (m, first), start),
    }
}

macro_rules! lanes {
    ($i:ident < $n:expr, $body:expr) => {
        lanes!(@ $i, $n, $body, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    };
    (@ $i:ident, $n:expr, $body:expr, $($at:literal),+) => {
        $(if $at < $n {
            let $i = $at;
            $body;
        })+
    };
}

#[inline(always)]
fn multiply_tiles<S: Simd, const A: usize, const V: usize>(
    simd: S,
    (tiles, vectors): (usize, usize),
    v: &[S::f32s],
    panel: Panel<'_, S::f32s>,
    (m, first): (&mut [S::f32s], usize),
    start: Start,
) {
    // Constants, and one slice for each tile of sums, so that the loops check no bounds.
    let stride = const { tile_stride(A * A, S::F32_LANES) };
    let cell = const { cell(A * A) };
    for point in 0..A * A {
        let (weights, _) = panel.weights[point * panel.stride..].as_chunks::<V>();
        for tile in (0..tiles).step_by(ROWS) {
            let v = &v[tile * stride + point..][..ROWS * stride - A * A];
            let m =
                &mut m[tile * stride + first * cell + point..][..(ROWS - 1) * stride + (V - 1) * cell + 1];
            let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
            if start == Start::Stored {
                for r in 0..ROWS {
                    for j in 0..V {
                        sums[r][j] = m[r * stride + j * cell];
                    }
                }
            }
            for c in 0..const { GROUP / S::F32_LANES } {
                if c == vectors {
                    break;
                }
                let mut values = [&[][..]; ROWS];
                for r in 0..ROWS {
                    values[r] = cast_slice::<S::f32s, f32>(from_ref(&v[r * stride + c * cell]));
                }
                let weights = &weights[c * S::F32_LANES..][..S::F32_LANES];
                lanes!(lane < S::F32_LANES, {
                    let weights = weights[lane];
                    for r in 0..ROWS {
                        let value = simd.splat_f32s(values[r][lane]);
                        for j in 0..V {
                            sums[r][j] = simd.mul_add_e_f32s(value, weights[j], sums[r][j]);
                        }
                    }
                });
            }
            for r in 0..ROWS {
                for j in 0..V {
                    m[r * stride + j * cell] = sums[r][j];
                }
            }
        }
    }
}

/// `sums[point][o][c] (+)= Σ_t d[point][t][o] * v[point][t][c]` for `tiles` tiles, in planes of `stride` vectors.
///
/// The channels `o` are those of `filters` vectors of `d`, and the channels `c` those of `vectors` vectors of `v`.
#[inline(always)]
pub(super) fn correlate<S: Simd, const A: usize>(
    simd: S,
    tiles: usize,
    (d, filters): (&[S::f32s], usize),
    (v, vectors): (&[S::f32s], usize),
    sums: &mut [S::f32s],
    start: Start,
) {
    let planes = Planes::of::<S>(tiles).stride;
    let sum_planes = Planes::of::<S>(GROUP).stride;
    let d = d.chunks(planes).zip(v.chunks(planes));
    for ((d, v), sums) in d.zip(sums.chunks_mut(sum_planes)).take(A * A) {
        for column in (0..vectors).step_by(2) {
            for row in (0..filters * S::F32_LANES).step_by(FILTERS) {
                let place = (row, column);
                if column + 2 <= vectors {
                    correlate_tile::<S, 2>(simd, tiles, (d, v), place, sums, start);
                } else {
                    correlate_tile::<S, 1>(simd, tiles, (d, v), place, sums, start);
                }
            }
        }
    }
}

/// Filters whose sums are held in registers.
const FILTERS: usize = 8;

#[inline(always)]
fn correlate_tile<S: Simd, const V: usize>(
    simd: S,
    tiles: usize,
    (d, v): (&[S::f32s], &[S::f32s]),
    (row, column): (usize, usize),
    sums: &mut [S::f32s],
    start: Start,
) {
    let vectors = const { GROUP / S::F32_LANES };
    let mut tile = [[simd.splat_f32s(0.0); V]; FILTERS];
    let (d, v) = (cast_slice::<S::f32s, f32>(&d[..tiles * vectors]), &v[..tiles * vectors]);
    for (d, v) in d.chunks_exact(GROUP).zip(v.chunks_exact(vectors)) {
        let (d, v) = (&d[row..][..FILTERS], &v[column..][..V]);
        for r in 0..FILTERS {
            let gradient = simd.splat_f32s(d[r]);
            for j in 0..V {
                tile[r][j] = simd.mul_add_e_f32s(gradient, v[j], tile[r][j]);
            }
        }
    }
    let sums = &mut sums[row * vectors + column..][..(FILTERS - 1) * vectors + V];
    for r in 0..FILTERS {
        for j in 0..V {
            let sum = &mut sums[r * vectors + j];
            *sum = if start == Start::Zero { tile[r][j] } else { simd.add_f32s(*sum, tile[r][j]) };
        }
    }
}
