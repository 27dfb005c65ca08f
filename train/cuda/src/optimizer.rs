//! Optimizer steps. One launch updates all parameters, which are one flat f32 vector, and writes the copy that the
//! layers read.
//!
//! Tensors start at multiples of four values; gaps between them hold zeros.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use crate::error::{CudaError, Result, expect_eq, expect_floats, int, long};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel, THREADS};
use crate::memory::{Buffer, Element, Slice, SliceMut};

/// Values of a chunk, the work of one block.
const CHUNK: usize = 4096;
/// 32-bit words of a table entry of a chunk and of a tensor: `Chunk` and `Tensor` of kernels/optimizer.cu.
const CHUNK_WORDS: usize = 4;

/// A tensor of the flat vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tensor {
    /// Index of the first value.
    pub start: usize,
    /// Number of values.
    pub len: usize,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether LARS adapts its learning rate.
    pub adapted: bool,
}

/// The tensors of a flat vector on the device, cut into chunks.
#[derive(Debug)]
pub struct Table {
    chunks: Buffer,
    tensors: Buffer,
    first: Buffer,
    trusts: Buffer,
    /// Sums of squares by chunk, of gradients and of parameters, as f64. Each f64 counts as two words.
    sums: [Buffer; 2],
    /// Factor of the gradients, whether the step is skipped, and their norm.
    control: Buffer,
    count: usize,
    len: usize,
}

impl Table {
    /// Uploads the table of a vector of `len` values.
    ///
    /// # Errors
    /// Tensors that are outside the vector, out of order or not at multiples of four, or an error of the device.
    pub fn new(stream: &Arc<CudaStream>, tensors: &[Tensor], len: usize) -> Result<Self> {
        let word = |value: usize| u32::try_from(value).map_err(|_| CudaError::TooLarge { value });
        let (mut chunks, mut entries, mut first) = (Vec::new(), Vec::new(), vec![0]);
        let mut end = 0;
        for (number, tensor) in tensors.iter().enumerate() {
            if tensor.start < end || !tensor.start.is_multiple_of(4) {
                expect_eq("start of a tensor", end.next_multiple_of(4), tensor.start)?;
            }
            end = tensor.start + tensor.len;
            for start in (tensor.start..end).step_by(CHUNK) {
                chunks.extend([word(start)?, word(CHUNK.min(end - start))?, word(number)?, 0]);
            }
            entries.extend([tensor.weight_decay.to_bits(), u32::from(tensor.adapted)]);
            first.push(word(chunks.len() / CHUNK_WORDS)?);
        }
        // The last group of four values of a tensor may extend past its end.
        if end.next_multiple_of(4) > len {
            expect_eq("values of all tensors", len, end.next_multiple_of(4))?;
        }
        let count = chunks.len() / CHUNK_WORDS;
        let sums = || Buffer::zeros(stream, Element::U32, 2 * count.max(1));
        Ok(Self {
            chunks: Buffer::from_host(stream, &chunks)?,
            tensors: Buffer::from_host(stream, &entries)?,
            first: Buffer::from_host(stream, &first)?,
            trusts: Buffer::zeros(stream, Element::F32, tensors.len().max(1))?,
            sums: [sums()?, sums()?],
            control: Buffer::zeros(stream, Element::F32, 3)?,
            count,
            len,
        })
    }

    fn tensors(&self) -> usize {
        self.trusts.len()
    }

    /// The norm of the gradients that the last call of [`clip`] computed.
    pub fn norm(&self) -> Result<Slice<'_>> {
        self.control.as_slice().slice(2..3)
    }

    fn control(&self, clipped: bool) -> Arg {
        if clipped { self.control.as_slice().into() } else { Arg::NULL }
    }
}

/// Parameters and gradients, flat f32, and the copy of the parameters in the layers' element.
#[derive(Debug)]
pub struct Vectors<'a> {
    /// Gradients.
    pub gradients: Slice<'a>,
    /// Parameters.
    pub parameters: SliceMut<'a>,
    /// Copy of the parameters; none if the layers read the parameters themselves.
    pub copy: Option<SliceMut<'a>>,
    /// Whether [`clip`] has been called for these gradients: its factor applies, and a step with a norm that is not
    /// finite is skipped.
    pub clipped: bool,
}

impl Vectors<'_> {
    fn check(&self, len: usize, state: &[&SliceMut<'_>]) -> Result<()> {
        expect_floats("gradients", self.gradients, len)?;
        expect_floats("parameters", self.parameters.as_slice(), len)?;
        state.iter().try_for_each(|state| expect_floats("vector of the optimizer", state.as_slice(), len))?;
        self.copy.as_ref().map_or(Ok(()), |copy| expect_eq("copy of the parameters", len, copy.len()))
    }

    /// The element type of the copy, and its address, or null if there is none.
    fn copy(&self) -> (Element, Arg) {
        self.copy.as_ref().map_or((Element::F32, Arg::NULL), |copy| (copy.element(), Arg::from(copy)))
    }
}

/// Constants of [`sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay factor of the momentum buffer.
    pub momentum: f32,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// LARS's trust coefficient, which gives each adapted tensor its own learning rate; none for SGD.
    pub trust: Option<f32>,
}

/// `v = momentum v + trust (g + weight_decay p)`, `p -= lr v`: LARS, and SGD if `trust` is 1. `v` is the momentum
/// buffer.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn sgd(
    gpu: &mut Gpu,
    table: &Table,
    step: &SgdStep,
    vectors: &Vectors<'_>,
    momentum_buffer: &SliceMut<'_>,
) -> Result<()> {
    vectors.check(table.len, &[momentum_buffer])?;
    let trusts = match step.trust {
        None => Arg::NULL,
        Some(coefficient) => {
            trust_ratios(gpu, table, coefficient, vectors)?;
            table.trusts.as_slice().into()
        }
    };
    let (element, copy) = vectors.copy();
    let args = [
        table.chunks.as_slice().into(),
        table.tensors.as_slice().into(),
        trusts,
        Arg::Float(step.lr),
        Arg::Float(step.momentum),
        Arg::from(step.nesterov),
        table.control(vectors.clipped),
        vectors.gradients.into(),
        Arg::from(&vectors.parameters),
        Arg::from(momentum_buffer),
        copy,
    ];
    gpu.launch(Kernel::typed("sgd", element, 1), Grid::blocks(table.count), &args)
}

fn trust_ratios(gpu: &mut Gpu, table: &Table, coefficient: f32, vectors: &Vectors<'_>) -> Result<()> {
    let [of_gradients, of_parameters] = &table.sums;
    square_sums(gpu, table, vectors.gradients, of_gradients)?;
    square_sums(gpu, table, vectors.parameters.as_slice(), of_parameters)?;
    let args = [
        table.tensors.as_slice().into(),
        table.first.as_slice().into(),
        Arg::Int(int(table.tensors())?),
        of_parameters.as_slice().into(),
        of_gradients.as_slice().into(),
        Arg::Float(coefficient),
        table.control(vectors.clipped),
        table.trusts.as_slice().into(),
    ];
    gpu.launch(Kernel::single("trust_ratios"), Grid::blocks(table.tensors().div_ceil(THREADS)), &args)
}

fn square_sums(gpu: &mut Gpu, table: &Table, x: Slice<'_>, sums: &Buffer) -> Result<()> {
    let args = [table.chunks.as_slice().into(), x.into(), sums.as_slice().into()];
    gpu.launch(Kernel::single("square_sums"), Grid::blocks(table.count), &args)
}

/// Constants of [`adamw`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay factors of `exp_avg` and of `exp_avg_sq`.
    pub betas: (f32, f32),
    /// Added to the root of `exp_avg_sq`.
    pub eps: f32,
    /// `1 - beta^t` for each beta; `t` is the number of this step, counted from 1.
    pub correction: (f64, f64),
}

/// AdamW with decoupled weight decay.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
pub fn adamw(
    gpu: &mut Gpu,
    table: &Table,
    step: &AdamWStep,
    vectors: &Vectors<'_>,
    (exp_avg, exp_avg_sq): (&SliceMut<'_>, &SliceMut<'_>),
) -> Result<()> {
    vectors.check(table.len, &[exp_avg, exp_avg_sq])?;
    let (element, copy) = vectors.copy();
    let args = [
        table.chunks.as_slice().into(),
        table.tensors.as_slice().into(),
        Arg::Float(step.lr),
        Arg::Float(step.betas.0),
        Arg::Float(step.betas.1),
        Arg::Float(step.eps),
        Arg::Float((f64::from(step.lr) / step.correction.0) as f32),
        Arg::Float((1.0 / step.correction.1.sqrt()) as f32),
        table.control(vectors.clipped),
        vectors.gradients.into(),
        Arg::from(&vectors.parameters),
        Arg::from(exp_avg),
        Arg::from(exp_avg_sq),
        copy,
    ];
    gpu.launch(Kernel::typed("adamw", element, 1), Grid::blocks(table.count), &args)
}

/// Computes the norm of `gradients`, and the factor by which the next step multiplies them so that their norm is at most `limit`. If the
/// norm is not finite, the next step changes nothing.
///
/// # Errors
/// A length that does not match, or an error of the device.
pub fn clip(gpu: &mut Gpu, table: &mut Table, gradients: Slice<'_>, limit: f32) -> Result<()> {
    expect_floats("gradients", gradients, table.len)?;
    square_sums(gpu, table, gradients, &table.sums[0])?;
    let args = [
        table.sums[0].as_slice().into(),
        Arg::Int(int(table.count)?),
        Arg::Float(limit),
        table.control.as_slice().into(),
        table.norm()?.into(),
    ];
    gpu.launch(Kernel::single("clip"), Grid::blocks(1), &args)
}

/// `average += (1 - decay) (p - average)`; the length is a multiple of four.
///
/// # Errors
/// Lengths that do not match, or an error of the device.
pub fn ema(gpu: &mut Gpu, decay: f32, p: Slice<'_>, average: &mut SliceMut<'_>) -> Result<()> {
    expect_floats("averaged values", p, average.len())?;
    expect_floats("average", average.as_slice(), average.len().next_multiple_of(4))?;
    let args = [Arg::Float(1.0 - decay), p.into(), Arg::Long(long(p.len())?), Arg::from(&*average)];
    gpu.launch(Kernel::single("ema"), Grid::flat(p.len() / 4, gpu.blocks(8)), &args)
}
