//! The portable tile: 4 rows x 16 columns in plain Rust, for processors without a specialized tile.

use super::Tile;

/// Columns of a panel.
pub(super) const WIDTH: usize = 16;
/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// Multiplies the first `min(available, ROWS)` rows of the tile.
pub(super) fn tile(tile: Tile<'_>, available: usize) {
    let rows = available.min(ROWS);
    tile.check(rows, WIDTH);
    for row in 0..rows {
        let out = &mut tile.out[row * tile.out_stride..][..WIDTH];
        let mut sums = [0.0f32; WIDTH];
        if tile.accumulate {
            sums.copy_from_slice(out);
        }
        let a = &tile.rows[row * tile.row_stride..];
        for (a, panel) in a.iter().zip(tile.panel.chunks_exact(WIDTH)) {
            for (sum, b) in sums.iter_mut().zip(panel) {
                *sum = a.mul_add(*b, *sum);
            }
        }
        out.copy_from_slice(&sums);
    }
}
