//! The positions of the tiles, and the partition of the work into tasks.

use std::ops::Range;

use super::super::Conv;
use super::product::ROWS;
use super::scheme::Scheme;

/// A 3x3 filter of unit stride over a batch of images, with the output split into square tiles.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Images.
    pub(super) batch: usize,
    /// Rows and columns of an input image.
    pub(super) input: (usize, usize),
    /// Input channels.
    pub(super) depth: usize,
    /// Rows and columns of an output image.
    pub(super) output: (usize, usize),
    /// Output channels.
    pub(super) columns: usize,
    /// Zeros before the first input of an axis.
    pad: usize,
    /// Inputs of an axis before the first that is read; nonzero only if `pad` is zero.
    skip: usize,
    /// Side of a tile of the output.
    pub(super) tile: usize,
    /// Side of the input under a tile.
    pub(super) reach: usize,
    /// Rows and columns of tiles of an image.
    pub(super) tiles: (usize, usize),
}

impl Grid {
    /// From the input to the output of `conv`.
    pub(super) fn forward<X: Scheme<M, A>, const M: usize, const A: usize>(conv: &Conv) -> Self {
        let s = &conv.sliding;
        let output = (s.out_height, s.out_width);
        Self {
            batch: s.batch,
            input: (s.height, s.width),
            depth: s.channels,
            output,
            columns: conv.out_channels,
            pad: s.window.padding.saturating_sub(X::LEAD),
            skip: X::LEAD.saturating_sub(s.window.padding),
            tile: M,
            reach: A,
            tiles: (output.0.div_ceil(M), output.1.div_ceil(M)),
        }
    }

    /// From the gradient of the output to that of the input: the filter turned by 180 degrees; the positions that it
    /// reaches beyond the gradient are padding.
    pub(super) fn backward<X: Scheme<M, A>, const M: usize, const A: usize>(conv: &Conv) -> Self {
        let s = &conv.sliding;
        let output = (s.height, s.width);
        let ahead = s.window.padding + X::LEAD;
        Self {
            batch: s.batch,
            input: (s.out_height, s.out_width),
            depth: conv.out_channels,
            output,
            columns: s.channels,
            pad: 2_usize.saturating_sub(ahead),
            skip: ahead.saturating_sub(2),
            tile: M,
            reach: A,
            tiles: (output.0.div_ceil(M), output.1.div_ceil(M)),
        }
    }

    /// Rows of tiles in the batch.
    pub(super) fn tile_rows(&self) -> usize {
        self.batch * self.tiles.0
    }

    /// First row of output pixels of a row of tiles, counted over the batch; the end for the row after the last.
    pub(super) fn pixel_row(&self, tile_row: usize) -> usize {
        tile_row / self.tiles.0 * self.output.0 + tile_row % self.tiles.0 * self.tile
    }

    /// Rows of output pixels that a row of tiles holds.
    pub(super) fn height_of(&self, tile_row: usize) -> usize {
        self.tile.min(self.output.0 - tile_row % self.tiles.0 * self.tile)
    }

    /// Input rows (or columns) under the `count` positions from `first` on, for an axis of `size`.
    pub(super) fn window(&self, size: usize, first: usize, count: usize) -> Window {
        let first = first + self.skip;
        let lead = self.pad.saturating_sub(first).min(count);
        let end = (size + self.pad).saturating_sub(first).clamp(lead, count);
        Window { positions: lead..end, source: (first + lead).saturating_sub(self.pad) }
    }

    /// Splits the rows of tiles into nearly equal blocks of about `tiles` tiles, if possible multiples of [`ROWS`].
    pub(super) fn blocks(&self, tiles: usize) -> Vec<Range<usize>> {
        let rows = self.tile_rows();
        let per_block = (tiles / self.tiles.1).clamp(1, rows);
        let unit =
            [1, 2, 3].into_iter().find(|unit| (unit * self.tiles.1).is_multiple_of(ROWS)).unwrap_or(ROWS);
        let unit = if unit <= per_block { unit } else { 1 };
        let units = rows.div_ceil(unit);
        let count = units.div_ceil(per_block / unit);
        split(units, count).into_iter().map(|block| block.start * unit..rows.min(block.end * unit)).collect()
    }

    /// Number of tiles in some rows of tiles.
    pub(super) fn tiles_in(&self, tile_rows: &Range<usize>) -> usize {
        tile_rows.len() * self.tiles.1
    }

    /// Number of output pixels in some rows of tiles.
    pub(super) fn pixels_in(&self, tile_rows: &Range<usize>) -> usize {
        (self.pixel_row(tile_rows.end) - self.pixel_row(tile_rows.start)) * self.output.1
    }
}

/// A range of input positions; the first of them is at `source`.
pub(super) struct Window {
    pub(super) positions: Range<usize>,
    pub(super) source: usize,
}

/// Splits `0..len` into `parts` nearly equal ranges.
pub(super) fn split(len: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|i| i * len / parts..(i + 1) * len / parts).collect()
}

/// Splits `0..len` into ranges of `step`; the last may be shorter.
pub(super) fn steps(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}
