//! The tile for AVX2 and FMA: 6 rows x 16 columns, 12 accumulators of 8 lanes.

use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::Tile;

/// Columns of a panel.
pub(super) const WIDTH: usize = LANES * VECTORS;
/// Rows of a tile.
pub(super) const ROWS: usize = 6;

const LANES: usize = 8;
const VECTORS: usize = 2;

/// Multiplies the first `min(available, ROWS)` rows of the tile.
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile(tile: Tile<'_>, available: usize) {
    match available {
        1 => rows::<1>(tile),
        2 => rows::<2>(tile),
        3 => rows::<3>(tile),
        4 => rows::<4>(tile),
        5 => rows::<5>(tile),
        _ => rows::<6>(tile),
    }
}

#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "vector loads and stores through pointers")]
fn rows<const R: usize>(tile: Tile<'_>) {
    tile.check(R, WIDTH);
    let (a, row_stride) = (tile.rows.as_ptr(), tile.row_stride);
    let (out, out_stride) = (tile.out.as_mut_ptr(), tile.out_stride);
    let mut sums: [[__m256; VECTORS]; R] = [[_mm256_setzero_ps(); VECTORS]; R];
    if tile.accumulate {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `check` bounds row < R and (vector + 1) * LANES <= WIDTH inside `out`.
                *sum = unsafe { _mm256_loadu_ps(out.add(row * out_stride + vector * LANES)) };
            }
        }
    }
    for (depth, panel) in tile.panel.chunks_exact(WIDTH).enumerate() {
        let mut b = [_mm256_setzero_ps(); VECTORS];
        for (vector, b) in b.iter_mut().enumerate() {
            // SAFETY: `panel` holds WIDTH = VECTORS * LANES values.
            *b = unsafe { _mm256_loadu_ps(panel.as_ptr().add(vector * LANES)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `check` bounds row < R and depth inside `rows`.
            let a = _mm256_set1_ps(unsafe { *a.add(row * row_stride + depth) });
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (vector, &sum) in sums.iter().enumerate() {
            // SAFETY: as for the loads of the sums.
            unsafe { _mm256_storeu_ps(out.add(row * out_stride + vector * LANES), sum) };
        }
    }
}
