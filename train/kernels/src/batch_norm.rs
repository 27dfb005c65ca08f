//! Batch normalization over the rows of `[M, C]` (NHWC: M = batch x height x width), followed by an activation.
//!
//! The forward pass computes only the per-channel factors; consumers apply them while they read (see
//! [`crate::operand`]). The backward pass reads the input and the gradient twice: for the sums over the batch, and for
//! the gradient of the input.

use rayon::prelude::*;

use crate::activation::{Activation, Fixed, for_activation};
use crate::elementwise::{Aligned, TASK, float, repeat, single, whole};
use crate::geometry::{Result, expect_eq, expect_positive};
use crate::gradient::GradientTarget;
use crate::moments::Moments;
use crate::operand::Affine;
use crate::simd;

/// Values per channel that are summed in f32 before they are added in f64.
const DEPTH: usize = 64;
/// Minimum number of blocks, if there are enough rows, and maximum number of parts that sums are split into.
const MIN_BLOCKS: usize = 32;
const MAX_PARTS: usize = 64;

/// A normalization with its statistics: `activation((x - mean) * inverse * gamma + beta)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// Mean, `[C]`; in f64, because a mean far from zero rounded to f32 would shift the normalized values.
    pub mean: Vec<f64>,
    /// `1 / sqrt(variance + eps)`, `[C]`.
    pub inverse: Vec<f32>,
    /// `gamma * inverse`, `[C]`.
    pub scale: Vec<f32>,
    /// `beta - mean * scale`, `[C]`.
    pub shift: Vec<f32>,
    /// Rows that the statistics cover.
    pub rows: usize,
    /// Activation after the normalization.
    pub activation: Activation,
}

impl Normalization {
    /// Normalizes by the statistics of the batch.
    ///
    /// # Errors
    /// Lengths that do not match, or no rows.
    pub fn training(
        moments: &Moments,
        gamma: &[f32],
        beta: &[f32],
        eps: f32,
        activation: Activation,
    ) -> Result<Self> {
        expect_positive("rows to normalize", moments.rows)?;
        let rows = float(moments.rows);
        let variance = moments.centered.iter().map(|centered| centered / rows);
        Self::new((moments.mean.clone(), variance), (gamma, beta), eps, (moments.rows, activation))
    }

    /// Normalizes by running statistics.
    ///
    /// # Errors
    /// Lengths that do not match.
    pub fn inference(
        (mean, variance): (&[f32], &[f32]),
        gamma: &[f32],
        beta: &[f32],
        eps: f32,
        activation: Activation,
    ) -> Result<Self> {
        let mean = mean.iter().copied().map(f64::from).collect();
        let variance = variance.iter().copied().map(f64::from);
        Self::new((mean, variance), (gamma, beta), eps, (0, activation))
    }

    fn new(
        (mean, variance): (Vec<f64>, impl ExactSizeIterator<Item = f64>),
        (gamma, beta): (&[f32], &[f32]),
        eps: f32,
        (rows, activation): (usize, Activation),
    ) -> Result<Self> {
        expect_positive("channels to normalize", gamma.len())?;
        expect_eq("beta", gamma.len(), beta.len())?;
        expect_eq("mean", gamma.len(), mean.len())?;
        expect_eq("variance", gamma.len(), variance.len())?;
        let inverse: Vec<f64> = variance.map(|v| 1.0 / (v + f64::from(eps)).sqrt()).collect();
        let scale: Vec<f32> =
            inverse.iter().zip(gamma).map(|(inverse, &gamma)| single(inverse * f64::from(gamma))).collect();
        // Computed from the rounded scale, so that a value at the mean becomes beta.
        let shift = mean.iter().zip(&scale).zip(beta);
        let shift =
            shift.map(|((mean, &scale), &beta)| single(f64::from(beta) - mean * f64::from(scale))).collect();
        Ok(Self { inverse: inverse.into_iter().map(single).collect(), mean, scale, shift, rows, activation })
    }

    /// Scale, shift and activation, in the form that consumers apply.
    pub fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift, activation: self.activation }
    }
}

/// Running statistics after one batch: `(1 - momentum) * running + momentum * batch`, the variance unbiased as in PyTorch.
///
/// # Errors
/// Lengths that do not match.
pub fn update_running(
    moments: &Moments,
    momentum: f32,
    mean: &mut [f32],
    variance: &mut [f32],
) -> Result<()> {
    expect_eq("running mean", moments.mean.len(), mean.len())?;
    expect_eq("running variance", moments.centered.len(), variance.len())?;
    let momentum = f64::from(momentum);
    let mix = |running: &mut f32, batch: f64| {
        *running = single((1.0 - momentum) * f64::from(*running) + momentum * batch);
    };
    let unbiased = (float(moments.rows) - 1.0).max(1.0);
    mean.iter_mut().zip(&moments.mean).for_each(|(running, &batch)| mix(running, batch));
    variance
        .iter_mut()
        .zip(&moments.centered)
        .for_each(|(running, &centered)| mix(running, centered / unbiased));
    Ok(())
}

/// Gradients of a training normalization of `x`, `[M, C]`, from the gradient of `activation(normalized)`: `dgamma` and `dbeta`, `[C]`,
/// added to their content if `accumulate`, and the gradient of `x` in `target`.
///
/// `x` may have more rows than the statistics cover if `dy` is zero in the others (see [`crate::mask`]). The gradient
/// written to those rows has no meaning.
///
/// # Errors
/// Lengths that do not match.
pub fn backward(
    norm: &Normalization,
    gamma: &[f32],
    x: &[f32],
    target: GradientTarget<&[f32], &mut [f32]>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let dy = match &target {
        GradientTarget::InPlace(dy) => dy,
        GradientTarget::Into { dy, .. } => *dy,
    };
    let sums = backward_sums(norm, x, dy)?;
    sums.parameters(norm, dgamma, dbeta, accumulate)?;
    backward_input(&Line::new(norm, gamma, &sums)?, x, target)
}

/// The first pass of [`backward`]: sums over the batch, per channel, of the gradient `g` before the activation, and of `g (x - mean)`.
struct Sums {
    /// `Σ g`, `[C]`.
    plain: Vec<f64>,
    /// `Σ g (x - mean)`, `[C]`.
    centered: Vec<f64>,
}

impl Sums {
    /// Writes or adds the gradients of gamma and beta.
    fn parameters(
        &self,
        norm: &Normalization,
        dgamma: &mut [f32],
        dbeta: &mut [f32],
        accumulate: bool,
    ) -> Result<()> {
        expect_eq("gradient of gamma", norm.inverse.len(), dgamma.len())?;
        expect_eq("gradient of beta", norm.inverse.len(), dbeta.len())?;
        let store = |out: &mut f32, value: f64| {
            *out = single(if accumulate { f64::from(*out) + value } else { value });
        };
        for ((dgamma, &centered), &inverse) in dgamma.iter_mut().zip(&self.centered).zip(&norm.inverse) {
            store(dgamma, centered * f64::from(inverse));
        }
        dbeta.iter_mut().zip(&self.plain).for_each(|(dbeta, &plain)| store(dbeta, plain));
        Ok(())
    }
}

/// The sums over a whole batch, in f32 within a block of rows and in f64 across blocks. The partition depends only on
/// the shape.
fn backward_sums(norm: &Normalization, x: &[f32], dy: &[f32]) -> Result<Sums> {
    check(norm.scale.len(), x, dy)?;
    expect_eq("normalized rows", norm.rows, norm.rows.min(x.len() / norm.scale.len()))?;
    let summing = Summing::new(norm);
    let periods = x.len().div_ceil(summing.period);
    let block = summing.period * periods.div_ceil(MIN_BLOCKS).clamp(1, DEPTH);
    let part = block * x.len().div_ceil(block).div_ceil(MAX_PARTS);
    let add_part = |(x, dy): (&[f32], &[f32])| {
        let mut part = summing.part();
        summing.add(&mut part, x, dy);
        part.fold(norm.scale.len())
    };
    let parts: Vec<Sums> = x.par_chunks(part).zip(dy.par_chunks(part)).map(add_part).collect();
    Ok(summing.finish(parts))
}

/// Fails if a length does not match the channels.
fn check(channels: usize, x: &[f32], dy: &[f32]) -> Result<()> {
    expect_positive("normalized values", x.len())?;
    expect_eq("normalized values", x.len() / channels * channels, x.len())?;
    expect_eq("gradient of the normalized value", x.len(), dy.len())
}

/// Computes [`Sums`] in parts.
struct Summing<'a> {
    norm: &'a Normalization,
    /// Scale, shift and mean, repeated.
    scale: Aligned,
    shift: Aligned,
    near: Aligned,
    /// Their length.
    period: usize,
}

/// The sums of one part, for repeated channels.
struct SumsPart {
    total: Vec<f64>,
    plain: Aligned,
    centered: Aligned,
}

impl SumsPart {
    /// Reduces the sums to one per channel.
    fn fold(self, channels: usize) -> Sums {
        let (plain, centered) = self.total.split_at(self.plain.len());
        let [plain, centered] = [plain, centered].map(|total| {
            let mut sums = vec![0.0; channels];
            for part in total.chunks_exact(channels) {
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            sums
        });
        Sums { plain, centered }
    }
}

impl<'a> Summing<'a> {
    fn new(norm: &'a Normalization) -> Self {
        let c = norm.scale.len();
        let near = rounded(&norm.mean);
        let [scale, shift, near] = [&norm.scale, &norm.shift, &near].map(|p| repeat(p, c));
        let period = scale.len();
        Self { norm, scale, shift, near, period }
    }

    fn part(&self) -> SumsPart {
        let [plain, centered] = [(); 2].map(|()| Aligned::zeros(self.period));
        SumsPart { total: vec![0.0; 2 * self.period], plain, centered }
    }

    /// Adds some rows.
    fn add(&self, part: &mut SumsPart, x: &[f32], dy: &[f32]) {
        let period = self.period;
        let (plain, centered) = (&mut *part.plain, &mut *part.centered);
        let (total_plain, total_centered) = part.total.split_at_mut(period);
        for (x, dy) in x.chunks(DEPTH * period).zip(dy.chunks(DEPTH * period)) {
            plain.fill(0.0);
            centered.fill(0.0);
            for_activation!(self.norm.activation, ACT => simd::vectorized(
                #[inline(always)]
                || {
                    for (x, dy) in x.chunks(period).zip(dy.chunks(period)) {
                        add_sums(ACT, x, dy, [&self.scale, &self.shift, &self.near], plain, centered);
                    }
                    add_up(total_plain, plain);
                    add_up(total_centered, centered);
                },
            ));
        }
    }

    /// The sums of all parts, in their order.
    fn finish(&self, parts: impl IntoIterator<Item = Sums>) -> Sums {
        let c = self.norm.scale.len();
        let mut sums = Sums { plain: vec![0.0; c], centered: vec![0.0; c] };
        for part in parts {
            sums.plain.iter_mut().zip(part.plain).for_each(|(total, part)| *total += part);
            sums.centered.iter_mut().zip(part.centered).for_each(|(total, part)| *total += part);
        }
        // The sums are about the rounded mean.
        let means = self.norm.mean.iter().zip(&*self.near);
        for ((centered, plain), (mean, &near)) in sums.centered.iter_mut().zip(&sums.plain).zip(means) {
            *centered -= plain * (mean - f64::from(near));
        }
        sums
    }
}

#[inline(always)]
fn add_up(total: &mut [f64], sums: &[f32]) {
    for (total, &sum) in total.iter_mut().zip(sums) {
        *total += f64::from(sum);
    }
}

/// Means rounded to f32.
fn rounded(mean: &[f64]) -> Vec<f32> {
    mean.iter().copied().map(single).collect()
}

/// Adds the terms of a period.
#[inline(always)]
fn add_sums(
    activation: Fixed,
    x: &[f32],
    dy: &[f32],
    [scale, shift, near]: [&[f32]; 3],
    plain: &mut [f32],
    centered: &mut [f32],
) {
    let n = x.len();
    let (dy, scale, shift, near) = (&dy[..n], &scale[..n], &shift[..n], &near[..n]);
    let (plain, centered) = (&mut plain[..n], &mut centered[..n]);
    for j in 0..n {
        let g = activation.gradient(x[j] * scale[j] + shift[j], dy[j]);
        plain[j] += g;
        centered[j] += g * (x[j] - near[j]);
    }
}

/// The second pass of [`backward`]: `dx = scale * g + offset - slope * (x - mean)`, with the gradient `g` before the
/// activation.
struct Line {
    /// The coefficients, each repeated so that loops are long even for few channels.
    scale: Aligned,
    shift: Aligned,
    near: Aligned,
    slope: Aligned,
    offset: Aligned,
    channels: usize,
    activation: Activation,
}

impl Line {
    fn new(norm: &Normalization, gamma: &[f32], sums: &Sums) -> Result<Self> {
        let channels = norm.scale.len();
        expect_eq("gamma", channels, gamma.len())?;
        expect_positive("normalized rows", norm.rows)?;
        let near = rounded(&norm.mean);
        // dx = scale * (g - mean(g) - xhat * mean(g * xhat)).
        let rows = float(norm.rows);
        let coefficients = |j: usize| {
            let inverse = f64::from(norm.inverse[j]);
            let scale = f64::from(gamma[j]) * inverse;
            let slope = scale * sums.centered[j] * inverse * inverse / rows;
            let rest = norm.mean[j] - f64::from(near[j]);
            (single(slope), single(rest * slope - scale * sums.plain[j] / rows))
        };
        let (slope, offset): (Vec<f32>, Vec<f32>) = (0..channels).map(coefficients).unzip();
        let [scale, shift, near, slope, offset] =
            [&norm.scale, &norm.shift, &near, &slope, &offset].map(|p| repeat(p, channels));
        Ok(Self { scale, shift, near, slope, offset, channels, activation: norm.activation })
    }

    /// Writes `dx`, whole pixels, or adds to it if `accumulate`.
    fn write(&self, x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
        let n = self.scale.len();
        for_activation!(self.activation, ACT => simd::vectorized(
            #[inline(always)]
            || {
                for ((dx, x), dy) in dx.chunks_mut(n).zip(x.chunks(n)).zip(dy.chunks(n)) {
                    if accumulate {
                        self.add_period(ACT, x, dy, dx);
                    } else {
                        self.write_period(ACT, x, dy, dx);
                    }
                }
            },
        ));
    }

    /// Replaces `dy` by `dx`.
    fn replace(&self, x: &[f32], dy: &mut [f32]) {
        let n = self.scale.len();
        for_activation!(self.activation, ACT => simd::vectorized(
            #[inline(always)]
            || {
                for (dy, x) in dy.chunks_mut(n).zip(x.chunks(n)) {
                    self.replace_period(ACT, x, dy);
                }
            },
        ));
    }

    #[inline(always)]
    fn replace_period(&self, activation: Fixed, x: &[f32], dy: &mut [f32]) {
        let (line, dy) = (self.first(x.len()), &mut dy[..x.len()]);
        for j in 0..x.len() {
            dy[j] = line.at(activation, j, x[j], dy[j]);
        }
    }

    #[inline(always)]
    fn write_period(&self, activation: Fixed, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (line, dy, dx) = (self.first(x.len()), &dy[..x.len()], &mut dx[..x.len()]);
        for j in 0..x.len() {
            dx[j] = line.at(activation, j, x[j], dy[j]);
        }
    }

    #[inline(always)]
    fn add_period(&self, activation: Fixed, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (line, dy, dx) = (self.first(x.len()), &dy[..x.len()], &mut dx[..x.len()]);
        for j in 0..x.len() {
            dx[j] += line.at(activation, j, x[j], dy[j]);
        }
    }

    /// The first `n` coefficients. Equal lengths let the compiler remove bounds checks.
    #[inline(always)]
    fn first(&self, n: usize) -> Coefficients<'_> {
        Coefficients {
            scale: &self.scale[..n],
            shift: &self.shift[..n],
            near: &self.near[..n],
            slope: &self.slope[..n],
            offset: &self.offset[..n],
        }
    }
}

struct Coefficients<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    near: &'a [f32],
    slope: &'a [f32],
    offset: &'a [f32],
}

impl Coefficients<'_> {
    #[inline(always)]
    fn at(&self, activation: Fixed, j: usize, x: f32, dy: f32) -> f32 {
        let g = activation.gradient(x * self.scale[j] + self.shift[j], dy);
        self.scale[j] * g + (self.offset[j] - self.slope[j] * (x - self.near[j]))
    }
}

/// Writes the gradient of the input `x` of a normalization.
fn backward_input(line: &Line, x: &[f32], target: GradientTarget<&[f32], &mut [f32]>) -> Result<()> {
    let task = whole(TASK, line.scale.len());
    match target {
        GradientTarget::InPlace(dy) => {
            check(line.channels, x, dy)?;
            dy.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(dy, x)| line.replace(x, dy));
        }
        GradientTarget::Into { dy, dx, accumulate } => {
            check(line.channels, x, dy)?;
            expect_eq("gradient of the normalized input", x.len(), dx.len())?;
            let inputs = x.par_chunks(task).zip(dy.par_chunks(task));
            let pieces = dx.par_chunks_mut(task).zip(inputs);
            pieces.for_each(|(dx, (x, dy))| line.write(x, dy, dx, accumulate));
        }
    }
    Ok(())
}
