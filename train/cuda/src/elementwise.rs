//! Kernels that visit every value once: activations, sums, conversions, images, bias, dropout, and the gate of
//! squeeze-and-excitation; and reading of fused operands.

use lgd_kernels::Activation;

use crate::error::{
    Result, expect_derivative_of_value, expect_element, expect_eq, expect_floats, expect_like, int, long,
    rows_of,
};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, lanes};
use crate::memory::{Element, Slice, SliceMut};
use crate::operand::Operand;

/// Blocks per multiprocessor in kernels that only stream.
pub(crate) const WAVES: usize = 8;

/// A kernel over `len` values of `element` at `addresses`, and its grid.
fn map(gpu: &Gpu, name: &'static str, element: Element, len: usize, addresses: &[u64]) -> (Kernel, Grid) {
    // The last group may be short, so only the addresses matter.
    let lanes = lanes(element, 16, addresses);
    (Kernel::typed(name, element, lanes), Grid::flat(len.div_ceil(lanes), gpu.blocks(WAVES)))
}

/// `y = activation(x)`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn activate(gpu: &mut Gpu, activation: Activation, x: Slice<'_>, y: &mut SliceMut<'_>) -> Result<()> {
    expect_like("activated values", x, y.as_slice())?;
    let (kernel, grid) = map(gpu, "activate", x.element(), x.len(), &[x.address(), y.address()]);
    let args = [x.into(), Arg::Int(Arg::activation(activation)), Arg::Long(long(x.len())?), Arg::from(&*y)];
    gpu.launch(kernel, grid, &args)
}

/// Replaces the gradient `dy` of the value by the gradient of the argument `x`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn activate_backward(
    gpu: &mut Gpu,
    activation: Activation,
    x: Slice<'_>,
    dy: &mut SliceMut<'_>,
) -> Result<()> {
    if activation == Activation::Identity {
        return Ok(());
    }
    expect_like("gradient of activated values", x, dy.as_slice())?;
    let (kernel, grid) = map(gpu, "activate_backward", x.element(), x.len(), &[x.address(), dy.address()]);
    let args = [x.into(), Arg::Int(Arg::activation(activation)), Arg::Long(long(x.len())?), Arg::from(&*dy)];
    gpu.launch(kernel, grid, &args)
}

/// Writes the values of `x`, which may be normalized while they are read, to `y`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn materialize(gpu: &mut Gpu, x: Operand<'_>, channels: usize, y: &mut SliceMut<'_>) -> Result<()> {
    let (rows, element) = (rows_of(x.data, channels)?, x.data.element());
    expect_like("normalized values", x.data, y.as_slice())?;
    let lanes = lanes(element, channels, &[x.data.address(), y.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        Arg::from(&*y),
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("apply", element, lanes), grid, &args)
}

/// `y = activation(a + b)`; both summands may be normalized while they are read.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn add(
    gpu: &mut Gpu,
    a: Operand<'_>,
    b: Operand<'_>,
    channels: usize,
    activation: Activation,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    let (rows, element) = (rows_of(a.data, channels)?, a.data.element());
    expect_like("second summand", a.data, b.data)?;
    expect_like("sum", a.data, y.as_slice())?;
    let lanes = lanes(element, channels, &[a.data.address(), b.data.address(), y.address()]);
    let args = [
        a.data.into(),
        Arg::Norm(a.norm(channels)?),
        b.data.into(),
        Arg::Norm(b.norm(channels)?),
        Arg::Int(Arg::activation(activation)),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        Arg::from(&*y),
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("add", element, lanes), grid, &args)
}

/// Replaces the gradient `dy` of the value `y` of [`add`] by the gradient of either summand.
///
/// # Errors
/// Lengths or elements that do not match, an activation whose derivative cannot be computed from its value, or an error
/// of the device.
pub fn add_backward(
    gpu: &mut Gpu,
    activation: Activation,
    y: Slice<'_>,
    dy: &mut SliceMut<'_>,
) -> Result<()> {
    expect_derivative_of_value(activation)?;
    activate_backward(gpu, activation, y, dy)
}

/// `to += from`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn add_into(gpu: &mut Gpu, from: Slice<'_>, to: &mut SliceMut<'_>) -> Result<()> {
    expect_like("term of a sum", to.as_slice(), from)?;
    let (kernel, grid) = map(gpu, "add_into", from.element(), from.len(), &[from.address(), to.address()]);
    gpu.launch(kernel, grid, &[from.into(), Arg::Long(long(from.len())?), Arg::from(&*to)])
}

/// Converts any float to f32; adds it to the content of `to` with `accumulate`.
///
/// # Errors
/// Lengths that do not match, a target that is not f32, or an error of the device.
pub fn widen(gpu: &mut Gpu, from: Slice<'_>, to: &mut SliceMut<'_>, accumulate: bool) -> Result<()> {
    expect_floats("widened values", to.as_slice(), from.len())?;
    let (kernel, grid) = map(gpu, "widen", from.element(), from.len(), &[from.address(), to.address()]);
    let args = [from.into(), Arg::Long(long(from.len())?), Arg::from(&*to), Arg::from(accumulate)];
    gpu.launch(kernel, grid, &args)
}

/// Converts f32 to any float, rounding to nearest.
///
/// # Errors
/// Lengths that do not match, a source that is not f32, or an error of the device.
pub fn narrow(gpu: &mut Gpu, from: Slice<'_>, to: &mut SliceMut<'_>) -> Result<()> {
    expect_floats("values to narrow", from, to.len())?;
    let (kernel, grid) = map(gpu, "narrow", to.element(), from.len(), &[from.address(), to.address()]);
    gpu.launch(kernel, grid, &[from.into(), Arg::Long(long(from.len())?), Arg::from(&*to)])
}

/// `(value / 255 - mean) / deviation` per channel of RGB pixels, NHWC. Only bytes are sent to the device.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn images(
    gpu: &mut Gpu,
    rgb: Slice<'_>,
    (mean, deviation): ([f32; 3], [f32; 3]),
    y: &mut SliceMut<'_>,
) -> Result<()> {
    expect_element("pixels", Element::U8, rgb.element())?;
    expect_eq("images", rgb.len(), y.len())?;
    expect_eq("values in whole pixels", rgb.len() / 3 * 3, rgb.len())?;
    let factor = deviation.map(|deviation| 1.0 / (255.0 * deviation));
    let mut summand = [0.0; 3];
    for ((summand, mean), deviation) in summand.iter_mut().zip(mean).zip(deviation) {
        *summand = -mean / deviation;
    }
    let (kernel, grid) = map(gpu, "images", y.element(), y.len(), &[rgb.address(), y.address()]);
    let args =
        [rgb.into(), Arg::Long(long(rgb.len())?), Arg::Floats(factor), Arg::Floats(summand), Arg::from(&*y)];
    gpu.launch(kernel, grid, &args)
}

/// `y = x + bias`, per channel.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn bias(gpu: &mut Gpu, x: Operand<'_>, bias: Slice<'_>, y: &mut SliceMut<'_>) -> Result<()> {
    expect_like("biased values", x.data, y.as_slice())?;
    biased(gpu, x, bias, Arg::from(&*y), y.address())
}

fn biased(gpu: &mut Gpu, x: Operand<'_>, bias: Slice<'_>, y: Arg, address: u64) -> Result<()> {
    let channels = bias.len();
    let (rows, element) = (rows_of(x.data, channels)?, x.data.element());
    expect_floats("bias", bias, channels)?;
    let lanes = lanes(element, channels, &[x.data.address(), address, bias.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        bias.into(),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        y,
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("bias", element, lanes), grid, &args)
}

/// `y += bias`, per channel, in place.
pub(crate) fn add_bias(gpu: &mut Gpu, bias: Slice<'_>, y: &mut SliceMut<'_>) -> Result<()> {
    biased(gpu, Operand::plain(y.as_slice()), bias, Arg::from(&*y), y.address())
}

/// The sum of each column of `[M, C]`: the gradient of a bias.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn column_sums(gpu: &mut Gpu, x: Slice<'_>, sums: &mut SliceMut<'_>, accumulate: bool) -> Result<()> {
    let channels = sums.len();
    let rows = rows_of(x, channels)?;
    expect_floats("column sums", sums.as_slice(), channels)?;
    let lanes = lanes(x.element(), channels, &[x.address()]);
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(1));
    let partial = Arg::Address(gpu.scratch(grid.y * channels * size_of::<f32>())?);
    let args = [x.into(), Arg::Long(long(rows)?), Arg::Int(int(channels)?), partial];
    gpu.launch(Kernel::typed("column_sums", x.element(), lanes), grid, &args)?;
    let args =
        [partial, Arg::Int(int(grid.y)?), Arg::Int(int(channels)?), Arg::from(&*sums), Arg::from(accumulate)];
    gpu.launch(Kernel::single("sum_columns"), Grid::finish(channels), &args)
}

/// A draw of dropout: value (or image) `i` is zero if number `i` of the SplitMix64 stream that starts at `base` is
/// below `rate`, else divided by `1 - rate`.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// State of the stream before its first number.
    pub base: u64,
    /// Probability of a zero.
    pub rate: f32,
    /// Number of values that share one random number: 1, or those of an image.
    pub group: usize,
}

impl Draw {
    /// The smallest of 2^53 possible numbers that keeps a value.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a probability times 2^53 fits"
    )]
    fn threshold(&self) -> u64 {
        (f64::from(self.rate).clamp(0.0, 1.0) * 9_007_199_254_740_992.0).ceil() as u64
    }
}

/// `y` = `x` after a draw of dropout.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn dropout(
    gpu: &mut Gpu,
    draw: &Draw,
    x: Operand<'_>,
    channels: usize,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    expect_like("values after dropout", x.data, y.as_slice())?;
    drop_out(gpu, draw, x, channels, Arg::from(&*y), y.address())
}

/// Applies the same draw to a gradient, in place.
///
/// # Errors
/// A length that does not match, or an error of the device.
pub fn dropout_backward(gpu: &mut Gpu, draw: &Draw, channels: usize, dy: &mut SliceMut<'_>) -> Result<()> {
    drop_out(gpu, draw, Operand::plain(dy.as_slice()), channels, Arg::from(&*dy), dy.address())
}

fn drop_out(gpu: &mut Gpu, draw: &Draw, x: Operand<'_>, channels: usize, y: Arg, address: u64) -> Result<()> {
    let (rows, element) = (rows_of(x.data, channels)?, x.data.element());
    let lanes = lanes(element, channels, &[x.data.address(), address]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        Arg::Word(draw.base),
        Arg::Word(draw.threshold()),
        Arg::Float(1.0 / (1.0 - draw.rate)),
        Arg::Long(long(draw.group.max(1))?),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        y,
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("dropout", element, lanes), grid, &args)
}

/// Checks a gate, f32 `[B, C]`, against values `[B, pixels, C]`; returns rows and pixels.
fn gated(x: Slice<'_>, gate: Slice<'_>, channels: usize) -> Result<(usize, usize)> {
    let rows = rows_of(x, channels)?;
    let images = gate.len() / channels.max(1);
    let pixels = rows / images.max(1);
    expect_floats("gate", gate, images * channels)?;
    expect_eq("gated positions", images * pixels, rows)?;
    Ok((rows, pixels))
}

/// Every pixel of `x`, `[B, pixels, C]`, times its image's `gate`, f32 `[B, C]`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn scale(
    gpu: &mut Gpu,
    x: Operand<'_>,
    gate: Slice<'_>,
    channels: usize,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    let (rows, pixels) = gated(x.data, gate, channels)?;
    let element = x.data.element();
    expect_like("scaled values", x.data, y.as_slice())?;
    let lanes = lanes(element, channels, &[x.data.address(), y.address(), gate.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        gate.into(),
        Arg::Int(int(pixels)?),
        Arg::Long(long(rows)?),
        Arg::Int(int(channels)?),
        Arg::from(&*y),
    ];
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(WAVES));
    gpu.launch(Kernel::typed("scale", element, lanes), grid, &args)
}

/// Replaces `dy` by the gradient of `x` of [`scale`]; writes the gate's gradient, f32 `[B, C]`, to `dgate`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn scale_backward(
    gpu: &mut Gpu,
    x: Operand<'_>,
    gate: Slice<'_>,
    channels: usize,
    dy: &mut SliceMut<'_>,
    dgate: &mut SliceMut<'_>,
) -> Result<()> {
    let (rows, pixels) = gated(x.data, gate, channels)?;
    let element = x.data.element();
    expect_like("gradient of scaled values", x.data, dy.as_slice())?;
    expect_floats("gradient of the gate", dgate.as_slice(), gate.len())?;
    let lanes = lanes(element, channels, &[x.data.address(), dy.address(), gate.address()]);
    let args = [
        x.data.into(),
        Arg::Norm(x.norm(channels)?),
        gate.into(),
        Arg::Int(int(pixels)?),
        Arg::Int(int(channels)?),
        Arg::from(&*dy),
        Arg::from(&*dgate),
    ];
    gpu.launch(
        Kernel::typed("scale_backward", element, lanes),
        per_image(rows, pixels, channels, lanes),
        &args,
    )
}

/// One block for each image and chunk of channels.
pub(crate) fn per_image(rows: usize, pixels: usize, channels: usize, lanes: usize) -> Grid {
    Grid { y: rows / pixels.max(1), ..Grid::rows(rows, channels, lanes, 1) }
}
