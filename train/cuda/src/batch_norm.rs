//! Batch normalization over the rows of `[M, C]` (NHWC: M = batch x height x width), followed by an activation.
//!
//! A normalization saves [`SAVED`] x C values in one f32 buffer. Statistics and gradients take two passes over memory
//! each; sums are f32 within a thread and f64 across blocks.

use lgd_kernels::{Activation, GradientTarget, Sliding};

use crate::error::{
    Result, expect_derivative_of_value, expect_element, expect_eq, expect_floats, expect_like, int, long,
    rows_of,
};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, lanes};
use crate::mask::Mask;
use crate::memory::{Element, Slice, SliceMut};
use crate::norm::SAVED;
use crate::pool;

/// Index of the gradient's factors in the saved values.
const FACTORS: usize = 4;
/// Blocks per multiprocessor in kernels that reduce. More blocks would write more partial sums.
const REDUCING: usize = 4;
/// Blocks per multiprocessor in kernels that only stream.
const STREAMING: usize = 8;

/// Scale and shift, `[C]` each, and the epsilon of the variance.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// Scale.
    pub gamma: Slice<'a>,
    /// Shift.
    pub beta: Slice<'a>,
    /// Added to the variance.
    pub eps: f32,
}

impl Parameters<'_> {
    fn check(&self, channels: usize) -> Result<()> {
        expect_floats("gamma", self.gamma, channels)?;
        expect_floats("beta", self.beta, channels)
    }
}

/// Running statistics, `[C]` each, which a training step updates with `momentum`.
#[derive(Debug)]
pub struct Running<'a> {
    /// Mean.
    pub mean: SliceMut<'a>,
    /// Variance.
    pub variance: SliceMut<'a>,
    /// Weight of the batch's statistics.
    pub momentum: f32,
}

/// Computes statistics of the batch `x`, `[M, C]`, over all or over visible rows. Writes `saved` and updates the
/// running statistics.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn training(
    gpu: &mut Gpu,
    x: Slice<'_>,
    parameters: &Parameters<'_>,
    running: Option<Running<'_>>,
    mask: Option<&Mask<'_>>,
    saved: &mut SliceMut<'_>,
) -> Result<()> {
    let channels = saved.len() / SAVED;
    let rows = rows_of(x, channels)?;
    parameters.check(channels)?;
    expect_floats("saved statistics", saved.as_slice(), SAVED * channels)?;
    let lanes = lanes(x.element(), channels, &[x.address()]);
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(REDUCING));
    let partial = Arg::Address(gpu.scratch((grid.y * 2 + 1) * channels * size_of::<f32>())?);
    let shape = [Arg::Long(long(rows)?), Arg::Int(int(channels)?)];
    let counted = match mask {
        None => {
            let kernel = Kernel::typed("bn_statistics", x.element(), lanes);
            gpu.launch(kernel, grid, &[x.into(), shape[0], shape[1], partial])?;
            rows
        }
        Some(mask) => {
            let [visible, height, width, high, wide] = mask.args(rows)?;
            let kernel = Kernel::typed("bn_statistics_masked", x.element(), lanes);
            let args = [x.into(), shape[0], shape[1], partial, visible, height, width, high, wide];
            gpu.launch(kernel, grid, &args)?;
            mask.positions()
        }
    };
    let (mean, variance, momentum) = match &running {
        None => (Arg::NULL, Arg::NULL, 0.0),
        Some(running) => {
            expect_floats("running mean", running.mean.as_slice(), channels)?;
            expect_floats("running variance", running.variance.as_slice(), channels)?;
            (Arg::from(&running.mean), Arg::from(&running.variance), running.momentum)
        }
    };
    let args = [
        partial,
        Arg::Int(int(grid.y)?),
        Arg::Long(long(counted.max(1))?),
        shape[1],
        parameters.gamma.into(),
        parameters.beta.into(),
        Arg::Float(parameters.eps),
        Arg::Float(momentum),
        mean,
        variance,
        Arg::from(&*saved),
    ];
    gpu.launch(Kernel::single("bn_finish"), Grid::finish(channels), &args)
}

/// Writes `saved` from running statistics.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn inference(
    gpu: &mut Gpu,
    (mean, variance): (Slice<'_>, Slice<'_>),
    parameters: &Parameters<'_>,
    saved: &mut SliceMut<'_>,
) -> Result<()> {
    let channels = saved.len() / SAVED;
    parameters.check(channels)?;
    expect_floats("running mean", mean, channels)?;
    expect_floats("running variance", variance, channels)?;
    expect_floats("saved statistics", saved.as_slice(), SAVED * channels)?;
    let args = [
        Arg::Int(int(channels)?),
        mean.into(),
        variance.into(),
        parameters.gamma.into(),
        parameters.beta.into(),
        Arg::Float(parameters.eps),
        Arg::from(&*saved),
    ];
    gpu.launch(Kernel::single("bn_inference"), Grid::flat(channels, channels), &args)
}

/// The gradient of a normalized value.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// In memory, `[M, C]`.
    Dense(Slice<'a>),
    /// Not in memory: a max-pool is the value's only reader, and the gradient of the pool's output and its argmax are
    /// in memory.
    Pooled {
        /// Gradient of the pool's output.
        dy: Slice<'a>,
        /// The tap of each largest value, as bytes.
        argmax: Slice<'a>,
        /// The pool.
        sliding: Sliding,
    },
    /// Not in memory: a global average is the value's only reader, and the gradient of its output, f32 `[B, C]`, is in
    /// memory.
    Averaged(Slice<'a>),
}

impl Upstream<'_> {
    fn dy(&self) -> Slice<'_> {
        match self {
            Self::Dense(dy) | Self::Averaged(dy) | Self::Pooled { dy, .. } => *dy,
        }
    }

    /// Number of units that the kernels count: rows, or the outputs of a pool whose inputs they read four at a time.
    fn units(&self, rows: usize) -> usize {
        match self {
            Self::Pooled { sliding, .. } if pool::has_quads(sliding) => sliding.out_pixels(),
            _ => rows,
        }
    }

    /// The names of the two kernels, and their arguments for the gradient.
    fn args(
        &self,
        x: Slice<'_>,
        rows: usize,
        channels: usize,
    ) -> Result<(&'static str, &'static str, Vec<Arg>)> {
        match self {
            Self::Dense(dy) => {
                expect_like("gradient of normalized values", x, *dy)?;
                Ok(("bn_backward_sums", "bn_backward_input", vec![(*dy).into()]))
            }
            Self::Pooled { dy, argmax, sliding } => {
                expect_eq("pooled values", sliding.in_len(), x.len())?;
                expect_eq("gradient of the pool", sliding.out_pixels() * channels, dy.len())?;
                expect_eq("argmax", dy.len(), argmax.len())?;
                expect_element("gradient of the pool", x.element(), dy.element())?;
                expect_element("argmax", Element::U8, argmax.element())?;
                let args = vec![(*dy).into(), (*argmax).into(), Arg::sliding(sliding)?];
                if pool::has_quads(sliding) {
                    Ok(("bn_backward_sums_quads", "bn_backward_input_quads", args))
                } else {
                    Ok(("bn_backward_sums_pooled", "bn_backward_input_pooled", args))
                }
            }
            Self::Averaged(dy) => {
                let images = dy.len() / channels.max(1);
                let pixels = rows / images.max(1);
                expect_floats("gradient of the average", *dy, images * channels)?;
                expect_eq("averaged positions", images * pixels, rows)?;
                let args = vec![(*dy).into(), Arg::Int(int(pixels)?)];
                Ok(("bn_backward_sums_averaged", "bn_backward_input_averaged", args))
            }
        }
    }
}

/// A normalization in the backward pass: its input, its saved values, and the gradients of its parameters.
#[derive(Debug)]
pub struct Site<'a> {
    /// Its input, `[M, C]`.
    pub x: Slice<'a>,
    /// `[SAVED][C]`; the factors of the input's gradient are written here.
    pub saved: SliceMut<'a>,
    /// Activation after the normalization.
    pub activation: Activation,
    /// Gradient of the scale, `[C]`.
    pub dgamma: SliceMut<'a>,
    /// Gradient of the shift, `[C]`.
    pub dbeta: SliceMut<'a>,
    /// Whether to add the gradients of the parameters to their content.
    pub accumulate: bool,
    /// Number of rows in the statistics, if fewer than all; 0 if the statistics are constants (running ones).
    pub counted: Option<usize>,
}

impl Site<'_> {
    /// Returns channels and rows after a check of all lengths.
    fn check(&self) -> Result<(usize, usize)> {
        let channels = self.saved.len() / SAVED;
        expect_floats("saved statistics", self.saved.as_slice(), SAVED * channels)?;
        expect_floats("gradient of gamma", self.dgamma.as_slice(), channels)?;
        expect_floats("gradient of beta", self.dbeta.as_slice(), channels)?;
        Ok((channels, rows_of(self.x, channels)?))
    }

    fn factors(&self, channels: usize) -> Result<Slice<'_>> {
        self.saved.as_slice().slice(FACTORS * channels..SAVED * channels)
    }

    /// Computes the gradients of the parameters and the factors from partial sums.
    fn finish(&mut self, gpu: &mut Gpu, partial: Arg, parts: usize) -> Result<()> {
        let (channels, rows) = self.check()?;
        let args = [
            partial,
            Arg::Int(int(parts)?),
            Arg::Long(long(self.counted.unwrap_or(rows).max(1))?),
            Arg::Int(int(channels)?),
            Arg::from(&self.saved),
            Arg::from(self.accumulate),
            Arg::from(&self.dgamma),
            Arg::from(&self.dbeta),
            self.factors(channels)?.into(),
        ];
        gpu.launch(Kernel::single("bn_backward_finish"), Grid::finish(channels), &args)
    }
}

/// First pass of the gradient: sums over the batch. Writes the gradients of the parameters, and the factors of the
/// input's gradient.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_sums(gpu: &mut Gpu, site: &mut Site<'_>, upstream: &Upstream<'_>) -> Result<()> {
    let (channels, rows) = site.check()?;
    let (kernel, _, from) = upstream.args(site.x, rows, channels)?;
    let element = site.x.element();
    let lanes = lanes(element, channels, &[site.x.address(), upstream.dy().address()]);
    let units = upstream.units(rows);
    let grid = Grid::rows(units, channels, lanes, gpu.blocks(REDUCING));
    let partial = Arg::Address(gpu.scratch(grid.y * 2 * channels * size_of::<f32>())?);
    let mut args = vec![Arg::from(site.x)];
    args.extend(from);
    args.extend([
        Arg::Long(long(units)?),
        Arg::Int(int(channels)?),
        Arg::from(&site.saved),
        Arg::Int(Arg::activation(site.activation)),
        partial,
    ]);
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)?;
    site.finish(gpu, partial, grid.y)
}

/// Second pass: the gradient of the input, from the factors that [`backward_sums`] or [`residual_backward`] wrote.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_input(
    gpu: &mut Gpu,
    site: &Site<'_>,
    target: GradientTarget<Upstream<'_>, &mut SliceMut<'_>>,
) -> Result<()> {
    let (channels, rows) = site.check()?;
    let (upstream, dx, accumulate) = match &target {
        GradientTarget::InPlace(dy) => (Upstream::Dense(dy.as_slice()), dy.as_slice(), false),
        GradientTarget::Into { dy, dx, accumulate } => (*dy, dx.as_slice(), *accumulate),
    };
    expect_like("gradient of the normalization's input", site.x, dx)?;
    let (_, kernel, from) = upstream.args(site.x, rows, channels)?;
    let element = site.x.element();
    let lanes = lanes(element, channels, &[site.x.address(), upstream.dy().address(), dx.address()]);
    let units = upstream.units(rows);
    let grid = Grid::rows(units, channels, lanes, gpu.blocks(STREAMING));
    let mut args = vec![Arg::from(site.x)];
    args.extend(from);
    args.extend([
        Arg::Long(long(units)?),
        Arg::Int(int(channels)?),
        Arg::from(&site.saved),
        site.factors(channels)?.into(),
        Arg::Int(Arg::activation(site.activation)),
        dx.into(),
        Arg::from(accumulate),
    ]);
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)
}

/// Both passes of the gradient.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward(
    gpu: &mut Gpu,
    site: &mut Site<'_>,
    target: GradientTarget<Upstream<'_>, &mut SliceMut<'_>>,
) -> Result<()> {
    match &target {
        GradientTarget::InPlace(dy) => backward_sums(gpu, site, &Upstream::Dense(dy.as_slice()))?,
        GradientTarget::Into { dy, .. } => backward_sums(gpu, site, dy)?,
    }
    backward_input(gpu, site, target)
}

/// The end of a residual block, `y = activation(norm1(x1) + r)` with a value or `norm2(x2)` as `r`. `dy` becomes `dy *
/// activation'`, and the same pass computes the sums of one or both normalizations, so that only [`backward_input`]
/// remains for them. The normalizations must have no activation of their own.
///
/// # Errors
/// Lengths or elements that do not match, an activation whose derivative cannot be computed from its value, or an error
/// of the device.
pub fn residual_backward(
    gpu: &mut Gpu,
    y: Slice<'_>,
    dy: &mut SliceMut<'_>,
    activation: Activation,
    first: &mut Site<'_>,
    second: Option<&mut Site<'_>>,
) -> Result<()> {
    expect_derivative_of_value(activation)?;
    let (channels, rows) = first.check()?;
    let element = y.element();
    expect_like("gradient of a sum", y, dy.as_slice())?;
    expect_like("first summand", y, first.x)?;
    let mut addresses = vec![y.address(), dy.address(), first.x.address()];
    if let Some(second) = &second {
        expect_eq("channels of the second summand", channels, second.check()?.0)?;
        expect_like("second summand", y, second.x)?;
        addresses.push(second.x.address());
    }
    let lanes = lanes(element, channels, &addresses);
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(REDUCING));
    let bytes = grid.y * 2 * channels * size_of::<f32>();
    let partial = gpu.scratch(2 * bytes)?;
    let other = Arg::Address(partial + u64::try_from(bytes).unwrap_or(0));
    let partial = Arg::Address(partial);
    let shape = [Arg::Int(Arg::activation(activation)), Arg::Long(long(rows)?), Arg::Int(int(channels)?)];
    let mut args = vec![y.into(), Arg::from(&*dy), first.x.into(), Arg::from(&first.saved)];
    match second {
        None => {
            args.extend(shape);
            args.push(partial);
            gpu.launch(Kernel::typed("residual_backward", element, lanes), grid, &args)?;
            first.finish(gpu, partial, grid.y)
        }
        Some(second) => {
            args.extend([second.x.into(), Arg::from(&second.saved)]);
            args.extend(shape);
            args.extend([partial, other]);
            gpu.launch(Kernel::typed("residual_backward_two", element, lanes), grid, &args)?;
            first.finish(gpu, partial, grid.y)?;
            second.finish(gpu, other, grid.y)
        }
    }
}
