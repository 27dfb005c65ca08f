//! Masked images (SparK: Tian et al. 2023): hidden cells are zero, or a learned token, and statistics skip them.

use rayon::prelude::*;

use crate::elementwise::{float, single, with_scratch};
use crate::geometry::{Result, expect_eq, expect_positive};
use crate::moments::{Moments, Part};

/// Maximum number of parts of a batch for its moments, and minimum rows of `[M, C]` in one.
const MAX_PARTS: usize = 64;
const MIN_ROWS: usize = 64;
/// Visible pixels that are gathered before their moments are computed.
const GATHERED: usize = 64;

/// The visible cells of a grid over each image.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    /// `[B, rows, columns]`.
    pub visible: &'a [bool],
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub columns: usize,
}

/// Zeroes the hidden cells of `data`, NHWC of `dims` = (batch, height, width, channels).
///
/// # Errors
/// Lengths that do not match, or a grid that does not divide the image.
pub fn apply(mask: &Mask<'_>, dims: (usize, usize, usize, usize), data: &mut [f32]) -> Result<()> {
    for_hidden(mask, dims, data, |pixels| pixels.fill(0.0))
}

/// Writes `token`, `[C]`, to every hidden pixel of `data`.
///
/// # Errors
/// Those of [`apply`], or a token of another length.
pub fn fill(
    mask: &Mask<'_>,
    dims: (usize, usize, usize, usize),
    token: &[f32],
    data: &mut [f32],
) -> Result<()> {
    expect_eq("channels of the token", dims.3, token.len())?;
    for_hidden(mask, dims, data, |pixels| {
        pixels.chunks_exact_mut(token.len()).for_each(|pixel| pixel.copy_from_slice(token));
    })
}

/// The sum of the hidden pixels of `data`, per channel: the gradient of the token of [`fill`].
///
/// # Errors
/// Those of [`apply`].
pub fn hidden_sums(mask: &Mask<'_>, dims: (usize, usize, usize, usize), data: &[f32]) -> Result<Vec<f64>> {
    check(mask, dims, data.len())?;
    let hidden: Vec<bool> = mask.visible.iter().map(|visible| !visible).collect();
    if !hidden.contains(&true) {
        return Ok(vec![0.0; dims.3]);
    }
    let moments = Moments::masked(data, &Mask { visible: &hidden, ..*mask }, dims)?;
    let rows = float(moments.rows);
    Ok(moments.mean.iter().map(|mean| mean * rows).collect())
}

/// Calls `f` with the pixels of every hidden cell, one row of pixels at a time.
fn for_hidden(
    mask: &Mask<'_>,
    dims: (usize, usize, usize, usize),
    data: &mut [f32],
    f: impl Fn(&mut [f32]) + Sync,
) -> Result<()> {
    check(mask, dims, data.len())?;
    let (_, _, width, channels) = dims;
    let cell = width / mask.columns * channels;
    data.par_chunks_mut(width * channels).enumerate().for_each(|(row, data)| {
        let cells = data.chunks_exact_mut(cell).zip(mask.row(dims, row));
        cells.filter(|(_, visible)| !**visible).for_each(|(cell, _)| f(cell));
    });
    Ok(())
}

impl<'a> Mask<'a> {
    /// Per image, the number of cells over the number of visible cells. This factor turns a mean over all positions
    /// into the mean over the visible ones, if the value is zero at the others. It is 0 for an image without visible
    /// cells, whose mean is 0.
    ///
    /// # Errors
    /// Cells that are not whole images.
    pub fn shares(&self) -> Result<Vec<f32>> {
        let cells = self.rows * self.columns;
        expect_positive("cells of a mask", cells)?;
        expect_eq("cells of a mask", self.visible.len() / cells * cells, self.visible.len())?;
        let share = |image: &[bool]| {
            let count = image.iter().filter(|&&visible| visible).count();
            if count == 0 { 0.0 } else { single(float(cells) / float(count)) }
        };
        Ok(self.visible.chunks_exact(cells).map(share).collect())
    }

    /// The cells of a row of pixels, counted over the batch.
    fn row(&self, (_, height, _, _): (usize, usize, usize, usize), row: usize) -> &'a [bool] {
        let (image, y) = (row / height, row % height);
        let line = image * self.rows + y / (height / self.rows);
        &self.visible[line * self.columns..][..self.columns]
    }
}

fn check(
    mask: &Mask<'_>,
    (batch, height, width, channels): (usize, usize, usize, usize),
    len: usize,
) -> Result<()> {
    expect_positive("channels", channels)?;
    expect_positive("rows of a mask", mask.rows)?;
    expect_positive("columns of a mask", mask.columns)?;
    expect_eq("cells of a mask", batch * mask.rows * mask.columns, mask.visible.len())?;
    expect_eq("height in whole cells", height / mask.rows * mask.rows, height)?;
    expect_eq("width in whole cells", width / mask.columns * mask.columns, width)?;
    expect_eq("masked values", batch * height * width * channels, len)
}

impl Moments {
    /// The moments of `[M, C]`.
    ///
    /// # Errors
    /// No channels, no rows, or a part of a row.
    pub fn of(x: &[f32], channels: usize) -> Result<Self> {
        expect_positive("channels", channels)?;
        expect_positive("rows", x.len() / channels)?;
        expect_eq("values in whole rows", x.len() / channels * channels, x.len())?;
        let rows = x.len() / channels;
        let per = rows.div_ceil(MAX_PARTS).max(MIN_ROWS);
        let part = |x: &[f32]| {
            let mut part = Part::new(0, channels);
            part.add(x, channels, x.len() / channels);
            part
        };
        let parts: Vec<Part> = x.par_chunks(per * channels).map(part).collect();
        let mut moments = Self::default();
        moments.combine(channels, rows, parts);
        Ok(moments)
    }

    /// The moments of the visible pixels of an NHWC value of `dims` = (batch, height, width, channels).
    ///
    /// # Errors
    /// Lengths that do not match, a grid that does not divide the image, or no visible cell.
    pub fn masked(x: &[f32], mask: &Mask<'_>, dims: (usize, usize, usize, usize)) -> Result<Self> {
        check(mask, dims, x.len())?;
        let (batch, height, width, channels) = dims;
        let cells = mask.visible.iter().filter(|&&visible| visible).count();
        expect_positive("visible cells", cells)?;
        let per = (batch * height).div_ceil(MAX_PARTS);
        let part = |(i, x): (usize, &[f32])| {
            let mut part = Part::new(0, channels);
            let cell = width / mask.columns * channels;
            with_scratch(GATHERED * channels, |gathered| {
                let mut held = 0;
                for (row, x) in x.chunks_exact(width * channels).enumerate() {
                    let visible = mask.row(dims, i * per + row);
                    let cells = x.chunks_exact(cell).zip(visible).filter(|(_, visible)| **visible);
                    for pixel in cells.flat_map(|(cell, _)| cell.chunks_exact(channels)) {
                        gathered[held * channels..][..channels].copy_from_slice(pixel);
                        held += 1;
                        if held == GATHERED {
                            part.add(gathered, channels, held);
                            held = 0;
                        }
                    }
                }
                part.add(gathered, channels, held);
            });
            part
        };
        // A part without visible rows would divide by zero.
        let some = |(i, x): &(usize, &[f32])| {
            let rows = x.len() / (width * channels);
            (0..rows).any(|row| mask.row(dims, i * per + row).contains(&true))
        };
        let parts: Vec<Part> =
            x.par_chunks(per * width * channels).enumerate().filter(some).map(part).collect();
        let mut moments = Self::default();
        moments.combine(channels, cells * (height / mask.rows) * (width / mask.columns), parts);
        Ok(moments)
    }
}
