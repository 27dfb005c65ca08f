//! Batch normalization over the rows of `[M, C]` (NHWC: M = batch x height x width), with an activation behind it.
//!
//! What a normalization keeps between forward and backward lies in one f32 buffer of [`KEPT`] x C values: mean,
//! 1 / sqrt(variance + eps), scale, shift, and the three factors of its gradient. Statistics and gradients take two passes over
//! memory each; sums are f32 per thread, f64 across blocks.

use lgd_kernels::{Activation, Sliding};

use crate::error::{CudaError, expect_element, expect_eq, int, long};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, NormArg, lanes};
use crate::memory::{Element, Slice, SliceMut};
use crate::pool;

/// f32 values per channel that a normalization keeps.
pub const KEPT: usize = 7;
/// Where the factors of the gradient start among them.
const FACTORS: usize = 4;
/// Blocks per multiprocessor in kernels that reduce: more would write more partial sums.
const REDUCING: usize = 4;
/// Blocks per multiprocessor in kernels that only stream.
const STREAMING: usize = 8;

/// A normalization in its final form, with the activation behind it.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[KEPT][C]`.
    pub kept: Slice<'a>,
    /// What follows.
    pub activation: Activation,
}

/// A value as its consumer reads it: as it lies in memory, or through a normalization.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// What lies in memory.
    pub data: Slice<'a>,
    /// What is still to be applied.
    pub norm: Option<Norm<'a>>,
}

impl<'a> Operand<'a> {
    /// A value that needs nothing.
    pub fn plain(data: Slice<'a>) -> Self {
        Self { data, norm: None }
    }

    /// The normalization as kernels take it.
    pub(crate) fn norm(&self, channels: usize) -> Result<NormArg, CudaError> {
        let Some(norm) = self.norm else { return Ok(NormArg::default()) };
        let kept = norm.check(channels)?;
        let (scale, shift) =
            (kept.slice(2 * channels..3 * channels)?, kept.slice(3 * channels..4 * channels)?);
        let activation = Arg::activation(norm.activation);
        Ok(NormArg { scale: scale.address(), shift: shift.address(), activation })
    }
}

impl<'a> Norm<'a> {
    fn check(&self, channels: usize) -> Result<Slice<'a>, CudaError> {
        expect_element("kept statistics", Element::F32, self.kept.element())?;
        expect_eq("kept statistics", KEPT * channels, self.kept.len())?;
        Ok(self.kept)
    }
}

/// Scale and shift, `[C]` each, and what is added to the variance.
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
    fn check(&self, channels: usize) -> Result<(), CudaError> {
        expect_floats("gamma", self.gamma, channels)?;
        expect_floats("beta", self.beta, channels)
    }
}

/// Running statistics, `[C]` each, which a batch moves by `momentum`.
#[derive(Debug)]
pub struct Running<'a> {
    /// Mean.
    pub mean: SliceMut<'a>,
    /// Variance.
    pub variance: SliceMut<'a>,
    /// Share of the batch's statistics.
    pub momentum: f32,
}

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
    pub(crate) fn args(&self, positions: usize) -> Result<[Arg; 5], CudaError> {
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

/// Statistics of the batch `x`, `[M, C]`, over all or over visible rows: fills `kept` and moves the running statistics.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn training(
    gpu: &mut Gpu,
    x: Slice<'_>,
    parameters: &Parameters<'_>,
    running: Option<Running<'_>>,
    mask: Option<&Mask<'_>>,
    kept: &mut SliceMut<'_>,
) -> Result<(), CudaError> {
    let channels = kept.len() / KEPT;
    let rows = rows_of(x, channels)?;
    parameters.check(channels)?;
    expect_floats("kept statistics", kept.as_slice(), KEPT * channels)?;
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
        Arg::from(&*kept),
    ];
    gpu.launch(Kernel::single("bn_finish"), Grid::finish(channels), &args)
}

/// Fills `kept` from running statistics.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn inference(
    gpu: &mut Gpu,
    (mean, variance): (Slice<'_>, Slice<'_>),
    parameters: &Parameters<'_>,
    kept: &mut SliceMut<'_>,
) -> Result<(), CudaError> {
    let channels = kept.len() / KEPT;
    parameters.check(channels)?;
    expect_floats("running mean", mean, channels)?;
    expect_floats("running variance", variance, channels)?;
    expect_floats("kept statistics", kept.as_slice(), KEPT * channels)?;
    let args = [
        Arg::Int(int(channels)?),
        mean.into(),
        variance.into(),
        parameters.gamma.into(),
        parameters.beta.into(),
        Arg::Float(parameters.eps),
        Arg::from(&*kept),
    ];
    gpu.launch(Kernel::single("bn_inference"), Grid::flat(channels, channels), &args)
}

/// `y = norm(x)`: writes a normalized value out.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn materialize(
    gpu: &mut Gpu,
    x: Operand<'_>,
    channels: usize,
    y: &mut SliceMut<'_>,
) -> Result<(), CudaError> {
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
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(STREAMING));
    gpu.launch(Kernel::typed("apply", element, lanes), grid, &args)
}

/// `y = activation(a + b)`, both summands read through their normalizations.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn add(
    gpu: &mut Gpu,
    a: Operand<'_>,
    b: Operand<'_>,
    activation: Activation,
    channels: usize,
    y: &mut SliceMut<'_>,
) -> Result<(), CudaError> {
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
    let grid = Grid::rows(rows, channels, lanes, gpu.blocks(STREAMING));
    gpu.launch(Kernel::typed("add", element, lanes), grid, &args)
}

/// Where the gradient of a normalized value comes from.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// It lies in memory, `[M, C]`.
    Dense(Slice<'a>),
    /// The value went into a max-pool alone: gradient and taken positions of the pool's output.
    Pooled {
        /// Gradient of the pool's output.
        dy: Slice<'a>,
        /// Which tap each output took, bytes.
        taken: Slice<'a>,
        /// The pool.
        sliding: Sliding,
    },
    /// The value went into a global average alone: the gradient of that, f32 `[B, C]`.
    Averaged(Slice<'a>),
}

impl Upstream<'_> {
    fn dy(&self) -> Slice<'_> {
        match self {
            Self::Dense(dy) | Self::Averaged(dy) | Self::Pooled { dy, .. } => *dy,
        }
    }

    /// What the kernels count: rows, or the outputs of a pool whose inputs they take four at a time.
    fn units(&self, rows: usize) -> usize {
        match self {
            Self::Pooled { sliding, .. } if pool::has_quads(sliding) => sliding.out_pixels(),
            _ => rows,
        }
    }

    /// The names of the two kernels, and what they take for the gradient.
    fn args(
        &self,
        x: Slice<'_>,
        rows: usize,
        channels: usize,
    ) -> Result<(&'static str, &'static str, Vec<Arg>), CudaError> {
        match self {
            Self::Dense(dy) => {
                expect_like("gradient of normalized values", x, *dy)?;
                Ok(("bn_backward_sums", "bn_backward_input", vec![(*dy).into()]))
            }
            Self::Pooled { dy, taken, sliding } => {
                expect_eq("pooled values", sliding.in_len(), x.len())?;
                expect_eq("gradient of the pool", sliding.out_pixels() * channels, dy.len())?;
                expect_eq("taken positions", dy.len(), taken.len())?;
                expect_element("gradient of the pool", x.element(), dy.element())?;
                expect_element("taken positions", Element::U8, taken.element())?;
                let args = vec![(*dy).into(), (*taken).into(), Arg::sliding(sliding)?];
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

/// A normalization on its way back: its input, what it kept, and where the gradients of its parameters go.
#[derive(Debug)]
pub struct Site<'a> {
    /// Its input, `[M, C]`.
    pub x: Slice<'a>,
    /// `[KEPT][C]`; the factors of the input's gradient are written here.
    pub kept: SliceMut<'a>,
    /// What follows it.
    pub activation: Activation,
    /// Gradient of the scale, `[C]`.
    pub dgamma: SliceMut<'a>,
    /// Gradient of the shift, `[C]`.
    pub dbeta: SliceMut<'a>,
    /// Whether the parameters' gradients are added to what is there.
    pub accumulate: bool,
    /// Rows the statistics were taken over, if fewer than all; 0 where they are constants (running ones).
    pub counted: Option<usize>,
}

impl Site<'_> {
    /// Channels, rows, and a check of all lengths.
    fn check(&self) -> Result<(usize, usize), CudaError> {
        let channels = self.kept.len() / KEPT;
        expect_floats("kept statistics", self.kept.as_slice(), KEPT * channels)?;
        expect_floats("gradient of gamma", self.dgamma.as_slice(), channels)?;
        expect_floats("gradient of beta", self.dbeta.as_slice(), channels)?;
        Ok((channels, rows_of(self.x, channels)?))
    }

    fn factors(&self, channels: usize) -> Result<Slice<'_>, CudaError> {
        self.kept.as_slice().slice(FACTORS * channels..KEPT * channels)
    }

    /// Parameters' gradients and factors, from partial sums.
    fn finish(&mut self, gpu: &mut Gpu, partial: Arg, parts: usize) -> Result<(), CudaError> {
        let (channels, rows) = self.check()?;
        let args = [
            partial,
            Arg::Int(int(parts)?),
            Arg::Long(long(self.counted.unwrap_or(rows).max(1))?),
            Arg::Int(int(channels)?),
            Arg::from(&self.kept),
            Arg::from(self.counted == Some(0)),
            Arg::from(self.accumulate),
            Arg::from(&self.dgamma),
            Arg::from(&self.dbeta),
            self.factors(channels)?.into(),
        ];
        gpu.launch(Kernel::single("bn_backward_finish"), Grid::finish(channels), &args)
    }
}

/// First half of the gradient: the sums over the batch, hence the parameters' gradients and the factors of the input's.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_sums(gpu: &mut Gpu, site: &mut Site<'_>, upstream: &Upstream<'_>) -> Result<(), CudaError> {
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
        Arg::from(&site.kept),
        Arg::Int(Arg::activation(site.activation)),
        partial,
    ]);
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)?;
    site.finish(gpu, partial, grid.y)
}

/// Where the gradient of a normalization's input goes.
#[derive(Debug)]
pub enum Through<'a, 'b> {
    /// Over the gradient of its output.
    InPlace(&'a mut SliceMut<'b>),
    /// To another place.
    Into {
        /// Gradient of the output.
        upstream: Upstream<'a>,
        /// Gradient of the input.
        dx: &'a mut SliceMut<'b>,
        /// Add instead of write.
        accumulate: bool,
    },
}

/// Second half of the gradient: that of the input, from the factors that [`backward_sums`] or [`residual_backward`] left.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_input(gpu: &mut Gpu, site: &Site<'_>, through: Through<'_, '_>) -> Result<(), CudaError> {
    let (channels, rows) = site.check()?;
    let (upstream, dx, accumulate) = match &through {
        Through::InPlace(dy) => (Upstream::Dense(dy.as_slice()), dy.as_slice(), false),
        Through::Into { upstream, dx, accumulate } => (*upstream, dx.as_slice(), *accumulate),
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
        Arg::from(&site.kept),
        site.factors(channels)?.into(),
        Arg::Int(Arg::activation(site.activation)),
        dx.into(),
        Arg::from(accumulate),
    ]);
    gpu.launch(Kernel::typed(kernel, element, lanes), grid, &args)
}

/// Both halves of the gradient.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward(gpu: &mut Gpu, site: &mut Site<'_>, through: Through<'_, '_>) -> Result<(), CudaError> {
    let upstream = match &through {
        Through::InPlace(dy) => Upstream::Dense(dy.as_slice()),
        Through::Into { upstream, .. } => *upstream,
    };
    backward_sums(gpu, site, &upstream)?;
    backward_input(gpu, site, through)
}

/// The end of a residual block, `y = activation(norm1(x1) + r)` where `r` is a value or `norm2(x2)`: `dy` becomes
/// `dy * activation'`, and the sums of one or both normalizations are taken in the same pass, so that only [`backward_input`]
/// remains for them. The normalizations must have no activation of their own.
///
/// # Errors
/// Lengths or elements that do not match, an activation whose derivative cannot be read off its value, or an error of the device.
pub fn residual_backward(
    gpu: &mut Gpu,
    y: Slice<'_>,
    dy: &mut SliceMut<'_>,
    activation: Activation,
    first: &mut Site<'_>,
    second: Option<&mut Site<'_>>,
) -> Result<(), CudaError> {
    if !matches!(activation, Activation::Identity | Activation::Relu | Activation::Relu6) {
        return Err(CudaError::Unsupported { what: format!("{activation:?} behind a sum") });
    }
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
    let mut args = vec![y.into(), Arg::from(&*dy), first.x.into(), Arg::from(&first.kept)];
    match second {
        None => {
            args.extend(shape);
            args.push(partial);
            gpu.launch(Kernel::typed("residual_backward", element, lanes), grid, &args)?;
            first.finish(gpu, partial, grid.y)
        }
        Some(second) => {
            args.extend([second.x.into(), Arg::from(&second.kept)]);
            args.extend(shape);
            args.extend([partial, other]);
            gpu.launch(Kernel::typed("residual_backward_two", element, lanes), grid, &args)?;
            first.finish(gpu, partial, grid.y)?;
            second.finish(gpu, other, grid.y)
        }
    }
}

/// Rows of `[M, C]`, few enough to be counted in 32 bits.
pub(crate) fn rows_of(x: Slice<'_>, channels: usize) -> Result<usize, CudaError> {
    let rows = x.len() / channels.max(1);
    expect_eq("values in whole rows", rows * channels, x.len())?;
    u32::try_from(rows).map_err(|_| CudaError::TooLarge { value: rows })?;
    Ok(rows)
}

/// `Err` unless `other` has the length and element of `x`.
pub(crate) fn expect_like(what: &'static str, x: Slice<'_>, other: Slice<'_>) -> Result<(), CudaError> {
    expect_eq(what, x.len(), other.len())?;
    expect_element(what, x.element(), other.element())
}

/// `Err` unless `x` holds `len` f32 values.
pub(crate) fn expect_floats(what: &'static str, x: Slice<'_>, len: usize) -> Result<(), CudaError> {
    expect_element(what, Element::F32, x.element())?;
    expect_eq(what, len, x.len())
}
