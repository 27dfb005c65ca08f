//! Depthwise convolution: 3x3 and 5x5, stride 1 or 2, padding half the kernel on both sides, or TensorFlow's; filters
//! `[C][K][K]`.
//!
//! Other shapes go through cuDNN as grouped convolutions (see [`crate::conv`]).

use lgd_kernels::Sliding;

use crate::error::{CudaError, Result, expect_element, expect_eq, expect_floats, int};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, NormArg, lanes};
use crate::memory::{Element, Slice, SliceMut};
use crate::operand::Operand;

/// Output columns of a thread: `COLUMNS` of kernels/depthwise.cu.
const COLUMNS: usize = 4;
/// Threads of a block: `BLOCK` of kernels/depthwise.cu.
const THREADS: usize = 128;
/// Maximum rows per thread. Longer runs load fewer rows twice; shorter ones give more threads.
const ROWS: usize = 16;
/// Blocks per multiprocessor in the kernel that reduces.
const REDUCING: usize = 8;

/// Whether there are kernels for this shape.
pub fn supports(s: &Sliding) -> bool {
    let side = s.kernel.0;
    let window = s.window;
    s.kernel.0 == s.kernel.1
        && matches!(side, 3 | 5)
        && matches!(window.stride, 1 | 2)
        // At stride 2, TensorFlow's padding has one zero less before the input than after it.
        && (window.padding == side / 2 || window.stride == 2 && window.padding + 1 == side / 2)
        && s.padding_after() == (side / 2, side / 2)
        && window.dilation == 1
}

/// Kernel names by (side, stride).
fn name(s: &Sliding, names: [&'static str; 4]) -> Result<&'static str> {
    let [three, three_two, five, five_two] = names;
    if !supports(s) {
        return Err(CudaError::Unsupported { what: format!("depthwise {:?}, {:?}", s.kernel, s.window) });
    }
    Ok(match (s.kernel.0, s.window.stride) {
        (3, 1) => three,
        (3, _) => three_two,
        (_, 1) => five,
        (_, _) => five_two,
    })
}

const FORWARD: [&str; 4] =
    ["depthwise_forward_3_1", "depthwise_forward_3_2", "depthwise_forward_5_1", "depthwise_forward_5_2"];
const FILTERS: [&str; 4] = [
    "depthwise_backward_filters_3_1",
    "depthwise_backward_filters_3_2",
    "depthwise_backward_filters_5_1",
    "depthwise_backward_filters_5_2",
];

/// Rows per thread, an even number if there are several runs, and the grid over all runs in a value of `height` x
/// `width`.
fn walks(s: &Sliding, lanes: usize, (height, width): (usize, usize), blocks: usize) -> (usize, Grid) {
    let run = height.div_ceil(height.div_ceil(ROWS)).next_multiple_of(2);
    let tiles = s.batch * height.div_ceil(run) * width.div_ceil(COLUMNS);
    (run, Grid::rows_of(THREADS, tiles, s.channels, lanes, blocks))
}

/// Channels of a thread. All of its values are in registers, so more taps leave room for fewer channels.
fn lanes_of(s: &Sliding, element: Element, addresses: &[u64]) -> usize {
    let aligned = lanes(element, s.channels, addresses) > 1;
    if aligned { if s.kernel.0 == 3 { 4 } else { 2 } } else { 1 }
}

fn check(s: &Sliding, x: usize, weights: usize, y: usize) -> Result<()> {
    expect_eq("depthwise input", s.in_len(), x)?;
    expect_eq("depthwise filters", s.channels * s.taps(), weights)?;
    expect_eq("depthwise output", s.out_pixels() * s.channels, y)?;
    // Threads count strips in 32 bits.
    u32::try_from(x.max(y)).map(|_| ()).map_err(|_| CudaError::TooLarge { value: x.max(y) })
}

/// `y[b, i, j, c] = Σ x[b, i*s + r - p, j*s + q - p, c] * w[c, r, q]`.
///
/// # Errors
/// A shape without a kernel, lengths or elements that do not match, or an error of the device.
pub fn forward(
    gpu: &mut Gpu,
    s: &Sliding,
    x: Operand<'_>,
    weights: Slice<'_>,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    let kernel = name(s, FORWARD)?;
    check(s, x.data.len(), weights.len(), y.len())?;
    let element = x.data.element();
    expect_element("depthwise filters", element, weights.element())?;
    expect_element("depthwise output", element, y.element())?;
    let lanes = lanes_of(s, element, &[x.data.address(), y.address()]);
    let (run, grid) = walks(s, lanes, (s.out_height, s.out_width), usize::MAX);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(s.channels)?),
        weights.into(),
        Arg::sliding(s)?,
        Arg::Int(int(run)?),
        Arg::from(false),
        Arg::from(&*y),
        Arg::from(false),
    ];
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)
}

/// The gradient of the input.
///
/// # Errors
/// Those of [`forward`].
pub fn backward_data(
    gpu: &mut Gpu,
    s: &Sliding,
    dy: Slice<'_>,
    weights: Slice<'_>,
    dx: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let is_even = s.window.padding == s.kernel.0 / 2;
    let (three, five) = match is_even {
        true => ("depthwise_backward_input_3_1", "depthwise_backward_input_5_2"),
        false => ("depthwise_backward_input_3_0", "depthwise_backward_input_5_1"),
    };
    let kernel = name(s, [FORWARD[0], three, FORWARD[2], five])?;
    check(s, dx.len(), weights.len(), dy.len())?;
    let element = dy.element();
    expect_element("depthwise filters", element, weights.element())?;
    expect_element("gradient of the depthwise input", element, dx.element())?;
    let lanes = lanes_of(s, element, &[dy.address(), dx.address()]);
    let (run, grid) = walks(s, lanes, (s.height, s.width), usize::MAX);
    let run = Arg::Int(int(run)?);
    let (sliding, to, add) = (Arg::sliding(s)?, Arg::from(&*dx), Arg::from(accumulate));
    let kernel = Kernel::typed(kernel, element, lanes);
    if s.window.stride == 1 {
        // With half the kernel as padding, the adjoint is the convolution with filters turned by 180 degrees.
        let args = [
            dy.into(),
            Arg::Norm(NormArg::default()),
            weights.into(),
            sliding,
            run,
            Arg::from(true),
            to,
            add,
        ];
        gpu.launch(kernel, grid, &args)
    } else {
        gpu.launch(kernel, grid, &[dy.into(), weights.into(), sliding, run, to, add])
    }
}

/// The gradient of the filters, f32.
///
/// # Errors
/// Those of [`forward`].
pub fn backward_weight(
    gpu: &mut Gpu,
    s: &Sliding,
    x: Operand<'_>,
    dy: Slice<'_>,
    dw: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let kernel = name(s, FILTERS)?;
    check(s, x.data.len(), dw.len(), dy.len())?;
    expect_floats("gradient of the depthwise filters", dw.as_slice(), s.channels * s.taps())?;
    let element = x.data.element();
    expect_element("gradient of the depthwise output", element, dy.element())?;
    let lanes = lanes_of(s, element, &[x.data.address(), dy.address()]);
    let (run, grid) = walks(s, lanes, (s.out_height, s.out_width), gpu.blocks(REDUCING));
    let partial = Arg::Address(gpu.scratch(grid.y * s.taps() * s.channels * size_of::<f32>())?);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(s.channels)?),
        dy.into(),
        Arg::sliding(s)?,
        Arg::Int(int(run)?),
        partial,
    ];
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)?;
    let args = [
        partial,
        Arg::Int(int(grid.y)?),
        Arg::Int(int(s.taps())?),
        Arg::Int(int(s.channels)?),
        Arg::from(&*dw),
        Arg::from(accumulate),
    ];
    gpu.launch(Kernel::single("depthwise_finish"), Grid::finish(s.taps() * s.channels), &args)
}
