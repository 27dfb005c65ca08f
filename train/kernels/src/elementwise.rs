//! Kernels that visit every value once: activations, sums of branches, gates; and reading of fused operands.

use std::cell::Cell;

use rayon::prelude::*;

use crate::activation::{Activation, Fixed, for_activation};
use crate::geometry::{Result, ShapeError, expect_eq, expect_positive};
use crate::operand::Operand;
use crate::simd;

/// Values per task.
pub(crate) const TASK: usize = 16 * 1024;
/// Minimum length of repeated per-channel parameters, so that loops are long even for few channels.
const PERIOD: usize = 512;
/// Values processed at a time if an intermediate result must stay in the level-1 cache.
const BLOCK: usize = 2048;

/// Writes the values of `x`, which may be normalized while they are read, to `y`.
///
/// # Errors
/// Lengths that do not match.
pub fn materialize(x: Operand<'_>, channels: usize, y: &mut [f32]) -> Result<()> {
    let x = Values::new("values to write out", x, channels, y.len())?;
    let task = whole(TASK, channels);
    y.par_chunks_mut(task).enumerate().for_each(|(i, y)| x.copy(i * task, y));
    Ok(())
}

/// `activation(a + b)`.
///
/// # Errors
/// Lengths that do not match.
pub fn add(
    a: Operand<'_>,
    b: Operand<'_>,
    channels: usize,
    activation: Activation,
    y: &mut [f32],
) -> Result<()> {
    let a = Values::new("first summand", a, channels, y.len())?;
    let b = Values::new("second summand", b, channels, y.len())?;
    let (task, block) = (whole(TASK, channels), whole(BLOCK, channels));
    y.par_chunks_mut(task).enumerate().for_each(|(i, y)| {
        with_scratch(block, |scratch| {
            for (k, y) in y.chunks_mut(block).enumerate() {
                let at = i * task + k * block;
                a.copy(at, y);
                let b = b.read(at, &mut scratch[..y.len()]);
                for_activation!(activation, ACT => simd::vectorized(
                    #[inline(always)]
                    || {
                        for (y, b) in y.iter_mut().zip(b) {
                            *y = ACT.apply(*y + b);
                        }
                    },
                ));
            }
        });
    });
    Ok(())
}

/// Replaces the gradient `dy` of the value `y` of [`add`] by the gradient of either summand.
///
/// # Errors
/// Different lengths, or an activation whose derivative cannot be computed from its value.
pub fn add_backward(activation: Activation, y: &[f32], dy: &mut [f32]) -> Result<()> {
    if !activation.has_derivative_of_value() {
        return Err(ShapeError::Derivative { activation });
    }
    activate_backward(activation, y, dy)
}

/// `y = activation(x)`.
///
/// # Errors
/// Different lengths.
pub fn activate(activation: Activation, x: &[f32], y: &mut [f32]) -> Result<()> {
    expect_eq("activations", x.len(), y.len())?;
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        for_activation!(activation, ACT => simd::vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = ACT.apply(x);
                }
            },
        ));
    });
    Ok(())
}

/// Replaces the gradient `dy` of the value by the gradient of the argument `x`.
///
/// # Errors
/// Different lengths.
pub fn activate_backward(activation: Activation, x: &[f32], dy: &mut [f32]) -> Result<()> {
    expect_eq("gradient of activations", x.len(), dy.len())?;
    if activation == Activation::Identity {
        return Ok(());
    }
    dy.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(dy, x)| {
        for_activation!(activation, ACT => simd::vectorized(
            #[inline(always)]
            || {
                for (dy, &x) in dy.iter_mut().zip(x) {
                    *dy = ACT.gradient(x, *dy);
                }
            },
        ));
    });
    Ok(())
}

/// `to += from`.
///
/// # Errors
/// Different lengths.
pub fn add_into(from: &[f32], to: &mut [f32]) -> Result<()> {
    expect_eq("term of a sum", to.len(), from.len())?;
    to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    *to += from;
                }
            },
        );
    });
    Ok(())
}

/// Squeeze-and-excitation's product: every pixel of `x`, `[B, pixels, C]`, times its image's `gate`, `[B, C]`.
///
/// # Errors
/// Lengths that do not match, or a zero.
pub fn scale(x: Operand<'_>, gate: &[f32], pixels: usize, channels: usize, y: &mut [f32]) -> Result<()> {
    let x = Values::new("values to scale", x, channels, y.len())?;
    check_gate(gate, pixels, channels, y.len())?;
    y.par_chunks_mut(pixels * channels).zip(gate.par_chunks(channels)).enumerate().for_each(
        |(image, (y, gate))| {
            let gate = repeat(gate, channels);
            let block = whole(BLOCK, gate.len());
            for (k, y) in y.chunks_mut(block).enumerate() {
                x.copy(image * pixels * channels + k * block, y);
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for y in y.chunks_mut(gate.len()) {
                            for (y, gate) in y.iter_mut().zip(&*gate) {
                                *y *= gate;
                            }
                        }
                    },
                );
            }
        },
    );
    Ok(())
}

/// Gradients of [`scale`]: `dgate[b, c] = Σ x dy` over the image's pixels, then `dy *= gate`, which is the gradient of `x`.
///
/// # Errors
/// Lengths that do not match, or a zero.
pub fn scale_backward(
    x: Operand<'_>,
    gate: &[f32],
    pixels: usize,
    channels: usize,
    dy: &mut [f32],
    dgate: &mut [f32],
) -> Result<()> {
    let x = Values::new("scaled values", x, channels, dy.len())?;
    check_gate(gate, pixels, channels, dy.len())?;
    expect_eq("gradient of the gates", gate.len(), dgate.len())?;
    let images = dy.par_chunks_mut(pixels * channels).zip(dgate.par_chunks_mut(channels));
    images.zip(gate.par_chunks(channels)).enumerate().for_each(|(image, ((dy, dgate), gate))| {
        let gate = repeat(gate, channels);
        let period = gate.len();
        let block = whole(BLOCK, period);
        with_scratch(block + period, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(block);
            sums.fill(0.0);
            for (k, dy) in dy.chunks_mut(block).enumerate() {
                let x = x.read(image * pixels * channels + k * block, &mut scratch[..dy.len()]);
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for (dy, x) in dy.chunks_mut(period).zip(x.chunks(period)) {
                            for (((dy, x), gate), sum) in dy.iter_mut().zip(x).zip(&*gate).zip(&mut *sums) {
                                *sum += *dy * x;
                                *dy *= gate;
                            }
                        }
                    },
                );
            }
            fold(sums, dgate);
        });
    });
    Ok(())
}

fn check_gate(gate: &[f32], pixels: usize, channels: usize, len: usize) -> Result<()> {
    expect_positive("pixels of an image", pixels)?;
    expect_positive("gates", gate.len())?;
    expect_eq("gates", gate.len() / channels * channels, gate.len())?;
    expect_eq("gated values", gate.len() * pixels, len)
}

/// An operand that is read in pieces of whole pixels.
pub(crate) struct Values<'a> {
    data: &'a [f32],
    norm: Option<(Aligned, Aligned, Activation)>,
}

impl<'a> Values<'a> {
    /// Checks `x`, which should hold `len` values, against its channels; `what` names it in errors.
    pub(crate) fn new(what: &'static str, x: Operand<'a>, channels: usize, len: usize) -> Result<Self> {
        expect_positive("channels", channels)?;
        expect_eq(what, len, x.data.len())?;
        expect_eq(what, len / channels * channels, len)?;
        let norm = match x.norm {
            None => None,
            Some(norm) => {
                expect_eq("scale of an operand", channels, norm.scale.len())?;
                expect_eq("shift of an operand", channels, norm.shift.len())?;
                Some((repeat(norm.scale, channels), repeat(norm.shift, channels), norm.activation))
            }
        };
        Ok(Self { data: x.data, norm })
    }

    /// Values in memory.
    pub(crate) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Writes the values from `at` on to `out`; `at` is the start of a pixel.
    pub(crate) fn copy(&self, at: usize, out: &mut [f32]) {
        let data = &self.data[at..][..out.len()];
        let Some((scale, shift, activation)) = &self.norm else {
            out.copy_from_slice(data);
            return;
        };
        for_activation!(activation, ACT => simd::vectorized(
            #[inline(always)]
            || {
                for (out, data) in out.chunks_mut(scale.len()).zip(data.chunks(scale.len())) {
                    normalize(ACT, data, scale, shift, out);
                }
            },
        ));
    }

    /// Returns as many values from `at` on as `scratch` is long: a part of the data, or written to `scratch`.
    pub(crate) fn read<'s>(&'s self, at: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        if self.norm.is_none() {
            return &self.data[at..][..scratch.len()];
        }
        self.copy(at, scratch);
        scratch
    }
}

#[inline(always)]
fn normalize(activation: Fixed, data: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32]) {
    for (((out, data), scale), shift) in out.iter_mut().zip(data).zip(scale).zip(shift) {
        *out = activation.apply(data * scale + shift);
    }
}

// Closures for `simd::vectorized` use `for` loops. The body of a `for_each` is not always inlined, and is then compiled
// for the baseline instruction set.

/// The largest multiple of `unit` up to `target`, at least one `unit`.
pub(crate) fn whole(target: usize, unit: usize) -> usize {
    (target / unit).max(1) * unit
}

/// Length of as many whole pixels as make a long loop.
pub(crate) fn period(channels: usize) -> usize {
    channels * PERIOD.div_ceil(channels)
}

/// Per-channel parameters, repeated for as many pixels as make a long loop.
pub(crate) fn repeat(parameters: &[f32], channels: usize) -> Aligned {
    let mut repeated = Aligned::zeros(period(channels));
    repeated.chunks_exact_mut(channels).for_each(|values| values.copy_from_slice(parameters));
    repeated
}

/// Values of a cache line.
const LINE: usize = 16;

/// Values that start on a cache line, so that no vector crosses two lines.
#[derive(Debug, PartialEq)]
pub(crate) struct Aligned {
    data: Vec<f32>,
    start: usize,
}

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        let mut data = vec![0.0; len + LINE];
        let start = data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        data.truncate(start + len);
        Self { data, start }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..]
    }
}

/// Sums values that are `out.len()` apart.
pub(crate) fn fold(sums: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for part in sums.chunks_exact(out.len()) {
        out.iter_mut().zip(part).for_each(|(out, part)| *out += part);
    }
}

/// Calls `f` with `len` values of arbitrary content, aligned to a cache line. The thread keeps the buffer for the next
/// call.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<Option<Aligned>> = const { Cell::new(None) };
    }
    // Taken out of its cell during the call, so that a nested call gets its own buffer.
    let held = SCRATCH.take().filter(|buffer| buffer.len() >= len);
    let mut buffer = held.unwrap_or_else(|| Aligned::zeros(len));
    let result = f(&mut buffer[..len]);
    SCRATCH.set(Some(buffer));
    result
}

/// Converts a count to a number.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

/// Rounds to f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
#[inline(always)]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}
