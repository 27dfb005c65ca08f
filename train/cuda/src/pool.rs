//! Max-pool, which stores the tap of each largest value as a byte per output, and the mean over the positions of each
//! image.

use lgd_kernels::Sliding;

use crate::elementwise::per_image;
use crate::error::{CudaError, Result, expect_element, expect_eq, expect_floats, int, long, rows_of};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, lanes};
use crate::memory::{Element, Slice, SliceMut};
use crate::operand::Operand;

/// Blocks per multiprocessor.
const WAVES: usize = 16;

/// Whether it is the usual pool, 3x3 with stride 2 and padding 1, whose gradient has a kernel for four inputs at a
/// time.
pub(crate) fn has_quads(s: &Sliding) -> bool {
    s.kernel == (3, 3) && s.window.stride == 2 && s.window.padding == 1
}

/// Writes the largest value of each window to `y` and its tap to `argmax`: the first of equals, or a NaN.
///
/// # Errors
/// Lengths or elements that do not match, more than 255 taps, dilation, or an error of the device.
pub fn max_pool(
    gpu: &mut Gpu,
    s: &Sliding,
    x: Operand<'_>,
    y: &mut SliceMut<'_>,
    argmax: &mut SliceMut<'_>,
) -> Result<()> {
    check(s, y.as_slice(), argmax.as_slice())?;
    expect_eq("pool input", s.in_len(), x.data.len())?;
    expect_element("pool input", y.element(), x.data.element())?;
    let rows = rows_of(y.as_slice(), s.channels)?;
    let lanes = lanes(y.element(), s.channels, &[x.data.address(), y.address(), argmax.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(s.channels)?),
        Arg::sliding(s)?,
        Arg::Long(long(rows)?),
        Arg::from(&*y),
        Arg::from(&*argmax),
    ];
    let grid = Grid::rows(rows, s.channels, lanes, gpu.blocks(WAVES));
    let kernel = if s.kernel == (3, 3) { "max_pool_3" } else { "max_pool" };
    gpu.launch(Kernel::typed(kernel, y.element(), lanes), grid, &args)
}

/// The gradient of a max-pool's input.
///
/// # Errors
/// Those of [`max_pool`].
pub fn max_pool_backward(
    gpu: &mut Gpu,
    s: &Sliding,
    dy: Slice<'_>,
    argmax: Slice<'_>,
    dx: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    check(s, dy, argmax)?;
    expect_eq("gradient of the pool's input", s.in_len(), dx.len())?;
    expect_element("gradient of the pool's input", dy.element(), dx.element())?;
    let rows = rows_of(dx.as_slice(), s.channels)?;
    let (kernel, rows) =
        if has_quads(s) { ("max_pool_backward_quads", s.out_pixels()) } else { ("max_pool_backward", rows) };
    let lanes = lanes(dy.element(), s.channels, &[dy.address(), dx.address(), argmax.address()]);
    let args = [
        dy.into(),
        argmax.into(),
        Arg::sliding(s)?,
        Arg::Long(long(rows)?),
        Arg::Int(int(s.channels)?),
        Arg::from(&*dx),
        Arg::from(accumulate),
    ];
    let grid = Grid::rows(rows, s.channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed(kernel, dy.element(), lanes), grid, &args)
}

fn check(s: &Sliding, y: Slice<'_>, argmax: Slice<'_>) -> Result<()> {
    if s.taps() > 255 || s.window.dilation != 1 {
        return Err(CudaError::Unsupported {
            what: format!("max-pool {:?} with dilation {}", s.kernel, s.window.dilation),
        });
    }
    expect_eq("pool output", s.out_pixels() * s.channels, y.len())?;
    expect_element("argmax", Element::U8, argmax.element())?;
    expect_eq("argmax", y.len(), argmax.len())
}

/// The mean over the positions of each image: `[B, pixels, C]` to f32 `[B, C]`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn global_average(
    gpu: &mut Gpu,
    x: Operand<'_>,
    pixels: usize,
    channels: usize,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    let (rows, element) = (rows_of(x.data, channels)?, x.data.element());
    expect_floats("averages", y.as_slice(), rows / pixels.max(1) * channels)?;
    let lanes = lanes(element, channels, &[x.data.address(), y.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        Arg::Int(int(pixels)?),
        Arg::Int(int(channels)?),
        Arg::from(&*y),
    ];
    gpu.launch(Kernel::typed("average", element, lanes), per_image(rows, pixels, channels, lanes), &args)
}

/// The gradient of [`global_average`]'s input, from the f32 gradient of its output.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn global_average_backward(
    gpu: &mut Gpu,
    dy: Slice<'_>,
    pixels: usize,
    channels: usize,
    dx: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let (rows, element) = (rows_of(dx.as_slice(), channels)?, dx.element());
    expect_floats("gradient of averages", dy, rows / pixels.max(1) * channels)?;
    let lanes = lanes(element, channels, &[dy.address(), dx.address()]);
    let args = [
        dy.into(),
        Arg::Int(int(pixels)?),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        Arg::from(&*dx),
        Arg::from(accumulate),
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("average_backward", element, lanes), grid, &args)
}
