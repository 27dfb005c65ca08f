//! Masked images (SparK: Tian et al. 2023): hidden cells are zero, or a learned token.

use crate::elementwise::WAVES;
use crate::error::{Result, expect_element, expect_eq, expect_floats, int, long, rows_of};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, lanes};
use crate::memory::{Element, Slice, SliceMut};

/// Which positions of a batch are visible: cells of a grid over each image.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    /// `[B, rows, columns]`, bytes: 0 where hidden.
    pub visible: Slice<'a>,
    /// Cells that are not 0.
    pub count: usize,
    /// Rows and columns of the grid.
    pub cells: (usize, usize),
    /// Height and width of the images.
    pub image: (usize, usize),
}

impl Mask<'_> {
    /// Visible positions over the whole batch.
    pub fn positions(&self) -> usize {
        let ((rows, columns), (height, width)) = (self.cells, self.image);
        self.count * (height / rows.max(1)) * (width / columns.max(1))
    }

    /// Checks that the grid fits `positions` positions.
    pub(crate) fn args(&self, positions: usize) -> Result<[Arg; 5]> {
        let ((rows, columns), (height, width)) = (self.cells, self.image);
        expect_element("mask", Element::U8, self.visible.element())?;
        let images = positions / (height * width).max(1);
        expect_eq("masked positions", images * height * width, positions)?;
        expect_eq("cells of a mask", images * rows * columns, self.visible.len())?;
        expect_eq("height in whole cells", height / rows.max(1) * rows, height)?;
        expect_eq("width in whole cells", width / columns.max(1) * columns, width)?;
        let [height, width, rows, columns] =
            [int(height)?, int(width)?, int(rows)?, int(columns)?].map(Arg::Int);
        Ok([self.visible.into(), height, width, rows, columns])
    }
}

/// Zeroes the hidden positions of `x`, NHWC, in place.
///
/// # Errors
/// A grid that does not fit, or an error of the device.
pub fn apply(gpu: &mut Gpu, mask: &Mask<'_>, channels: usize, x: &mut SliceMut<'_>) -> Result<()> {
    hide(gpu, mask, channels, (Arg::NULL, 0), x)
}

/// Writes `token`, f32 `[C]`, to the hidden positions of `x`, NHWC, in place.
///
/// # Errors
/// A grid or a token that does not fit, or an error of the device.
pub fn fill(gpu: &mut Gpu, mask: &Mask<'_>, token: Slice<'_>, x: &mut SliceMut<'_>) -> Result<()> {
    expect_floats("token", token, token.len())?;
    hide(gpu, mask, token.len(), (token.into(), token.address()), x)
}

/// Writes the token, or zero if there is none, to hidden positions.
fn hide(
    gpu: &mut Gpu,
    mask: &Mask<'_>,
    channels: usize,
    (token, address): (Arg, u64),
    x: &mut SliceMut<'_>,
) -> Result<()> {
    let (rows, element) = (rows_of(x.as_slice(), channels)?, x.element());
    let [visible, height, width, high, wide] = mask.args(rows)?;
    let lanes = lanes(element, channels, &[x.address(), address]);
    let args = [
        Arg::from(&*x),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        visible,
        height,
        width,
        high,
        wide,
        token,
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("mask", element, lanes), grid, &args)
}
