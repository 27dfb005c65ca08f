//! NVIDIA GPUs: kernels of `lgd-cuda` on pooled device memory.
//!
//! All work is issued to one stream, Candle's own; the host waits only for values that it reads. Three fusions are here
//! and not in the tape. The backward pass of a residual sum also computes the gradient sums of the normalizations
//! before it. The gradient through a max-pool or a global average reaches a normalization without being written.

mod device;
mod layers;
mod memory;
mod norm;
mod saved;
mod transfer;
mod update;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use lgd_cuda::elementwise::Draw;
use lgd_cuda::host::Uploader;
use lgd_cuda::{Buffer, CudaError, Element, Gpu, Tuning, conv, elementwise, mask, optimizer, rows};
use lgd_kernels::geometry::expect_eq;
use lgd_kernels::{Activation, GradientTarget, Sliding};

pub(crate) use self::device::is_out_of_memory;
use self::layers::{Direction, add_any};
use self::memory::{Content, CudaBuffer, Pool};
use self::saved::{OwnedMask, Saved, operand};
use super::backend::{Backend, FusedOperand, Images, Mode, Site};
use super::graph::{BatchNorm, Convolution, Dense, Dropout, Graph, Op, Shape};
use super::optimizer::{Group, OptimizerState, Update};
use super::parameters::{Range, State, Table};
use crate::error::{Result, TrainError};
use crate::rng::Stream;

/// Parameters, their gradients and the optimizer's state, flat, f32; pooled memory for everything else.
pub struct CudaBackend {
    device: Device,
    gpu: Gpu,
    /// Element type of activations and of the weights that layers read.
    element: Element,
    parameters: Buffer,
    /// Copy of the parameters in `element`; none if that is f32.
    copy: Option<Buffer>,
    buffers: Buffer,
    gradients: Buffer,
    optimizer: OptimizerState<Buffer>,
    /// The groups of the last update, and their tensors on the device.
    tensors: Option<(Vec<Group>, optimizer::Table)>,
    saved: Vec<Saved>,
    /// By value of the graph in progress: whether it is an unmasked normalization with exactly one reader, so that no
    /// other node needs its gradient. The caller counts as a reader of an output.
    lone_norms: Vec<bool>,
    mode: Mode,
    accumulate: bool,
    mask: Option<OwnedMask>,
    pool: Pool,
    /// Bytes per batch, and the uploader for batches of that size.
    uploader: Option<(usize, Uploader)>,
}

impl CudaBackend {
    /// Opens GPU number `ordinal` with its own stream.
    ///
    /// # Errors
    /// No such GPU, or no driver, cuBLAS or cuRAND.
    pub fn open(ordinal: usize) -> Result<Device> {
        device::open(ordinal)
    }

    /// A backend on `device` with the parameters and buffers of `state` and activations of `element`: bf16, f16 or f32.
    ///
    /// # Errors
    /// A device without CUDA, cuBLAS or cuDNN, or without enough memory.
    pub fn new(device: Device, state: &State, element: Element, tuning: Tuning) -> Result<Self> {
        let gpu = Gpu::new(device.as_cuda_device()?.cuda_stream(), tuning)?;
        let stream = Arc::clone(gpu.stream());
        let mut backend = Self {
            parameters: Buffer::from_host(&stream, &state.parameters)?,
            copy: None,
            buffers: Buffer::from_host(&stream, &state.buffers)?,
            gradients: Buffer::zeros(&stream, Element::F32, state.parameters.len())?,
            device,
            gpu,
            element,
            optimizer: OptimizerState::default(),
            tensors: None,
            saved: Vec::new(),
            lone_norms: Vec::new(),
            mode: Mode::Inference,
            accumulate: false,
            mask: None,
            pool: Pool::default(),
            uploader: None,
        };
        backend.refresh()?;
        Ok(backend)
    }

    /// Updates the copy of the parameters that layers read.
    fn refresh(&mut self) -> Result<(), CudaError> {
        if self.element == Element::F32 {
            return Ok(());
        }
        let mut copy = match self.copy.take() {
            Some(copy) => copy,
            None => self.gpu.alloc(self.element, self.parameters.len())?,
        };
        elementwise::narrow(&mut self.gpu, self.parameters.as_slice(), &mut copy.as_mut())?;
        self.copy = Some(copy);
        Ok(())
    }
}

impl Backend for CudaBackend {
    type Buffer = CudaBuffer;

    fn device(&self) -> &Device {
        &self.device
    }

    fn fuses_norm(&self, op: &Op) -> bool {
        match op {
            Op::Conv(conv) => conv::is_depthwise(&conv.geometry),
            Op::Bias { .. }
            | Op::Add { .. }
            | Op::MaxPool { .. }
            | Op::GlobalAveragePool { .. }
            | Op::Scale
            | Op::Dropout(_)
            | Op::Mask
            | Op::FillMasked { .. } => true,
            Op::Images
            | Op::ConvTranspose(_)
            | Op::BatchNorm(_)
            | Op::Activate { .. }
            | Op::Linear(_)
            | Op::L2Normalize => false,
        }
    }

    fn begin_forward(&mut self, graph: &Graph, mode: Mode) {
        self.mode = mode;
        let count = graph.nodes().len();
        if self.saved.len() < count {
            self.saved.resize_with(count, Saved::default);
        }
        for saved in &mut self.saved {
            for summand in saved.summands.drain(..) {
                self.pool.release(summand.x);
            }
        }
        let mut readers = vec![0_usize; count];
        let inputs = graph.nodes().iter().flat_map(|node| &node.inputs);
        inputs.chain(graph.outputs()).for_each(|value| readers[value.0] += 1);
        let is_lone = |(node, &readers): (&super::graph::Node, &usize)| {
            readers == 1 && matches!(&node.op, Op::BatchNorm(norm) if !norm.masked)
        };
        self.lone_norms = graph.nodes().iter().zip(&readers).map(is_lone).collect();
    }

    fn begin_backward(&mut self, accumulate: bool) -> Result<()> {
        self.accumulate = accumulate;
        if !accumulate {
            // The pass does not reach parameters that no differentiated output depends on: clear their old gradients.
            self.gradients.as_mut().set_zero(self.gpu.stream())?;
        }
        Ok(())
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<()> {
        let mask = lgd_kernels::mask::Mask { visible, rows, columns };
        let shares = mask.shares()?;
        self.mask = Some(OwnedMask::new(&self.gpu, &mask, &shares)?);
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<CudaBuffer> {
        Ok(CudaBuffer::new(len))
    }

    fn give(&mut self, buffer: CudaBuffer) {
        self.pool.give(buffer.content);
    }

    fn copy(&mut self, from: &CudaBuffer, to: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, .. } = self;
        let from = from.values()?;
        Ok(to.room(gpu, pool, from.element())?.as_mut().copy_from(gpu.stream(), from)?)
    }

    fn add_into(&mut self, from: &CudaBuffer, to: &mut CudaBuffer) -> Result<()> {
        Ok(add_any(&mut self.gpu, &mut self.pool, from.values()?, to)?)
    }

    fn images(&mut self, images: Images<'_>, to: &mut CudaBuffer) -> Result<()> {
        self.load_images(images, to)
    }

    fn to_tensor(&mut self, from: &CudaBuffer, shape: &[usize]) -> Result<Tensor> {
        self.download(from, shape)
    }

    fn load_tensor(&mut self, from: &Tensor, to: &mut CudaBuffer) -> Result<()> {
        self.load(from, to)
    }

    fn conv(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
        _norm: Option<usize>,
    ) -> Result<()> {
        self.convolve(Direction::Forward, conv, x, y)
    }

    fn conv_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        self.convolve_backward_data(Direction::Forward, conv, dy, dx, accumulate)
    }

    fn conv_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<()> {
        self.convolve_backward_weight(Direction::Forward, conv, x, dy)
    }

    fn conv_transpose(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        self.convolve(Direction::Transposed, conv, x, y)
    }

    fn conv_transpose_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        self.convolve_backward_data(Direction::Transposed, conv, dy, dx, accumulate)
    }

    fn conv_transpose_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<()> {
        self.convolve_backward_weight(Direction::Transposed, conv, x, dy)
    }

    fn batch_norm(&mut self, at: Site<'_>, norm: &BatchNorm, x: &CudaBuffer) -> Result<()> {
        self.normalize(at, norm, x)
    }

    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        norm: &BatchNorm,
        x: &CudaBuffer,
        target: GradientTarget<&CudaBuffer, &mut CudaBuffer>,
    ) -> Result<()> {
        self.normalize_backward(at, norm, x, target)
    }

    fn materialize(
        &mut self,
        channels: usize,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        self.write_out(channels, x, y)
    }

    fn bias(&mut self, bias: Range, x: FusedOperand<'_, CudaBuffer>, y: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, saved, parameters, .. } = self;
        let x = operand(saved, x)?;
        let y = y.room(gpu, pool, x.data.element())?;
        let bias = parameters.as_slice().slice(bias.indices())?;
        Ok(elementwise::bias(gpu, x, bias, &mut y.as_mut())?)
    }

    fn bias_backward(&mut self, bias: Range, dy: &CudaBuffer) -> Result<()> {
        let mut sums = self.gradients.as_mut().slice(bias.indices())?;
        Ok(elementwise::column_sums(&mut self.gpu, dy.values()?, &mut sums, self.accumulate)?)
    }

    fn add(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        a: FusedOperand<'_, CudaBuffer>,
        b: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        self.sum(at, activation, [a, b], y)
    }

    fn add_backward(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        y: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<()> {
        self.sum_backward(at, activation, y, dy)
    }

    fn activate(&mut self, activation: Activation, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, .. } = self;
        let x = x.values()?;
        let y = y.room(gpu, pool, x.element())?;
        Ok(elementwise::activate(gpu, activation, x, &mut y.as_mut())?)
    }

    fn activate_backward(
        &mut self,
        activation: Activation,
        x: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, .. } = self;
        let x = x.values()?;
        dy.convert(gpu, pool, x.element())?;
        let dy = dy.unique(gpu, pool)?;
        Ok(elementwise::activate_backward(gpu, activation, x, &mut dy.as_mut())?)
    }

    fn max_pool(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        self.pool(at, sliding, x, y)
    }

    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        _: &Sliding,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        self.pool_backward(at, dy, dx, accumulate)
    }

    fn global_average(
        &mut self,
        at: Site<'_>,
        masked: bool,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let (pixels, channels) = (at.input.pixels(), at.input.channels);
        let means = &mut y.room(gpu, pool, Element::F32)?.as_mut();
        lgd_cuda::pool::global_average(gpu, operand(saved, x)?, pixels, channels, means)?;
        if masked {
            let scaled = self.count_visible(at.input.batch, y.values()?)?;
            self.pool.give(std::mem::replace(&mut y.content, Content::Memory(Arc::new(scaled))));
        }
        Ok(())
    }

    fn global_average_backward(
        &mut self,
        at: Site<'_>,
        masked: bool,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        if !masked {
            return self.average_backward(at, dy, dx, accumulate);
        }
        let converted = self.pool.converted(&mut self.gpu, dy.values()?, Element::F32)?;
        let means = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let scaled = self.count_visible(at.input.batch, means)?;
        self.pool.recycle(converted);
        let dy = CudaBuffer { len: dy.len, content: Content::Memory(Arc::new(scaled)) };
        let result = self.average_backward(at, &dy, dx, accumulate);
        self.pool.give(dy.content);
        result
    }

    fn linear(&mut self, layer: &Dense, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<()> {
        self.dense(layer, x, y)
    }

    fn linear_backward(
        &mut self,
        layer: &Dense,
        x: &CudaBuffer,
        dy: &CudaBuffer,
        dx: Option<(&mut CudaBuffer, bool)>,
    ) -> Result<()> {
        self.dense_backward(layer, x, dy, dx)
    }

    fn scale(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, CudaBuffer>,
        gate: &CudaBuffer,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let x = operand(saved, x)?;
        let converted = pool.converted(gpu, gate.values()?, Element::F32)?;
        let gate = converted.as_ref().map_or(gate.values()?, Buffer::as_slice);
        let y = y.room(gpu, pool, x.data.element())?;
        elementwise::scale(gpu, x, gate, shape.channels, &mut y.as_mut())?;
        pool.recycle(converted);
        Ok(())
    }

    fn scale_backward(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, CudaBuffer>,
        gate: &CudaBuffer,
        dy: &mut CudaBuffer,
        dgate: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let x = operand(saved, x)?;
        let element = gate.memory()?.element();
        let converted = pool.converted(gpu, gate.values()?, Element::F32)?;
        let gate = converted.as_ref().map_or(gate.values()?, Buffer::as_slice);
        dy.convert(gpu, pool, x.data.element())?;
        let to = &mut dgate.room(gpu, pool, Element::F32)?.as_mut();
        let dy = &mut dy.unique(gpu, pool)?.as_mut();
        elementwise::scale_backward(gpu, x, gate, shape.channels, dy, to)?;
        pool.recycle(converted);
        Ok(dgate.convert(gpu, pool, element)?)
    }

    fn dropout(
        &mut self,
        at: Site<'_>,
        dropout: &Dropout,
        numbers: Stream,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let group = if dropout.per_image { at.shape.len() / at.shape.batch } else { 1 };
        let draw = Draw { base: numbers.state(), rate: dropout.rate, group };
        self.saved[at.id].draw = Some(draw);
        let Self { gpu, pool, saved, .. } = self;
        let x = operand(saved, x)?;
        let y = y.room(gpu, pool, x.data.element())?;
        Ok(elementwise::dropout(gpu, &draw, x, at.shape.channels, &mut y.as_mut())?)
    }

    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let draw = saved[at.id].draw.ok_or(TrainError::NothingRan)?;
        let dy = dy.unique(gpu, pool)?;
        Ok(elementwise::dropout_backward(gpu, &draw, at.shape.channels, &mut dy.as_mut())?)
    }

    fn l2_normalize(&mut self, columns: usize, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, .. } = self;
        let converted = pool.converted(gpu, x.values()?, Element::F32)?;
        let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
        let y = y.room(gpu, pool, Element::F32)?;
        rows::l2_normalize(gpu, x, columns, &mut y.as_mut())?;
        pool.recycle(converted);
        Ok(())
    }

    fn l2_normalize_backward(&mut self, columns: usize, x: &CudaBuffer, dy: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, .. } = self;
        let element = x.memory()?.element();
        let converted = pool.converted(gpu, x.values()?, Element::F32)?;
        let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
        dy.convert(gpu, pool, Element::F32)?;
        rows::l2_normalize_backward(gpu, x, columns, &mut dy.unique(gpu, pool)?.as_mut())?;
        pool.recycle(converted);
        Ok(dy.convert(gpu, pool, element)?)
    }

    fn mask(&mut self, shape: Shape, values: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, mask, .. } = self;
        let mask = mask.as_ref().ok_or(TrainError::NoMask)?.view(shape);
        let values = values.unique(gpu, pool)?;
        Ok(mask::apply(gpu, &mask, shape.channels, &mut values.as_mut())?)
    }

    fn fill_masked(&mut self, shape: Shape, token: Range, values: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, mask, parameters, .. } = self;
        let mask = mask.as_ref().ok_or(TrainError::NoMask)?.view(shape);
        let token = parameters.as_slice().slice(token.indices())?;
        Ok(mask::fill(gpu, &mask, token, &mut values.unique(gpu, pool)?.as_mut())?)
    }

    fn fill_masked_backward(&mut self, shape: Shape, token: Range, dy: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, mask, gradients, accumulate, .. } = self;
        let inverse = mask.as_ref().ok_or(TrainError::NoMask)?.inverse(shape);
        let from = dy.values()?;
        let mut hidden = pool.take(gpu, from.element(), from.len())?;
        hidden.as_mut().copy_from(gpu.stream(), from)?;
        mask::apply(gpu, &inverse, shape.channels, &mut hidden.as_mut())?;
        let mut sums = gradients.as_mut().slice(token.indices())?;
        elementwise::column_sums(gpu, hidden.as_slice(), &mut sums, *accumulate)?;
        pool.recycle(Some(hidden));
        self.mask(shape, dy)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<()> {
        self.step(table, update)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>> {
        self.clipped_norm()
    }

    fn state(&mut self) -> Result<State> {
        let stream = self.gpu.stream();
        let parameters = self.parameters.as_slice().to_host(stream)?;
        Ok(State { parameters, buffers: self.buffers.as_slice().to_host(stream)? })
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        expect_eq("parameters of a state", self.parameters.len(), state.parameters.len())?;
        expect_eq("buffers of a state", self.buffers.len(), state.buffers.len())?;
        let stream = Arc::clone(self.gpu.stream());
        self.parameters.as_mut().copy_from_host(&stream, &state.parameters)?;
        self.buffers.as_mut().copy_from_host(&stream, &state.buffers)?;
        Ok(self.refresh()?)
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        Ok(self.gradients.as_slice().to_host(self.gpu.stream())?)
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState> {
        Ok(self.optimizer.try_map(|vector| vector.as_slice().to_host(self.gpu.stream()))?)
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()> {
        self.optimizer = state.try_map(|vector| Buffer::from_host(self.gpu.stream(), vector))?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.pool.bytes + self.gpu.scratch_bytes()
    }
}
