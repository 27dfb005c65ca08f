//! NVIDIA GPUs: kernels of `lgd-cuda` on pooled device memory.
//!
//! Everything is issued to one stream, Candle's own, without waiting for anything but values that the host asks for. Three
//! fusions live here and not in the tape: a residual sum's backward pass also takes the sums of the normalizations before it, and
//! the gradient through a max-pool or a global average reaches a normalization without being written out.

mod layers;
mod mask;
mod memory;
mod norm;
mod update;

use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Device, Storage, Tensor};
use lgd_cuda::batch_norm::Operand;
use lgd_cuda::elementwise::Draw;
use lgd_cuda::host::Uploader;
use lgd_cuda::optimizer;
use lgd_cuda::{Buffer, CudaError, Element, Gpu, Slice, SliceMut, Tuning, conv, elementwise, pool, rows};
use lgd_kernels::Activation;
use lgd_kernels::conv::Conv;
use lgd_kernels::geometry::expect_eq;

use self::layers::add_any;
use self::mask::Mask;
use self::memory::{Content, CudaBuffer, Pool};
use self::norm::norm;
use super::backend::{Backend, Images, Mode, Reading, Site, Through};
use super::graph::{Graph, Node, Op, Value};
use super::parameters::{State, Table};
use crate::error::TrainError;
use crate::optim::{Group, Update};
use crate::rng::Stream;

/// Batches of pixels that may be on their way to the device.
const UPLOADS: usize = 2;

/// What a node keeps between forward and backward.
#[derive(Default)]
struct Kept {
    /// Of a normalization: statistics, factors, and those of its gradient.
    norm: Option<Buffer>,
    /// What follows the normalization.
    activation: Option<Activation>,
    /// Whether the sums of its gradient were taken by the residual sum behind it.
    summed: bool,
    /// Of a max-pool: which taps it took.
    taken: Option<Buffer>,
    /// Of a sum: the normalized summands, and their normalizations.
    summands: Vec<(Arc<Buffer>, usize)>,
}

/// Parameters, their gradients and the optimizer's vectors, flat, f32; pooled memory for everything else.
pub struct CudaBackend {
    device: Device,
    gpu: Gpu,
    /// Element of activations and of the weights that layers read.
    element: Element,
    parameters: Buffer,
    /// The parameters in `element`; none where that is f32.
    copy: Option<Buffer>,
    buffers: Buffer,
    gradients: Buffer,
    slots: Vec<Buffer>,
    table: Option<(Vec<Group>, optimizer::Table)>,
    kept: Vec<Kept>,
    /// How many nodes read each value of the graph at work; outputs count as read by the caller.
    readers: Vec<usize>,
    mode: Mode,
    accumulate: bool,
    mask: Option<Mask>,
    pool: Pool,
    uploader: Option<(usize, Uploader)>,
}

impl CudaBackend {
    /// GPU number `ordinal` with a stream of its own. (Candle's plain `Device::new_cuda` takes a stream per thread: work issued from
    /// two threads would not be ordered.)
    ///
    /// # Errors
    /// No driver, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Device, TrainError> {
        Ok(Device::new_cuda_with_stream(ordinal)?)
    }

    /// A backend on `device` that starts from `state`, with activations of `element`: bf16, f16 or f32.
    ///
    /// # Errors
    /// A device without CUDA, or one that lacks cuBLAS, cuDNN or memory.
    pub fn new(device: Device, state: &State, element: Element, tuning: Tuning) -> Result<Self, TrainError> {
        let gpu = Gpu::new(device.as_cuda_device()?.cuda_stream(), tuning).map_err(failed)?;
        let stream = Arc::clone(gpu.stream());
        let make = || {
            let mut backend = Self {
                parameters: Buffer::from_host(&stream, &state.parameters)?,
                copy: None,
                buffers: Buffer::from_host(&stream, &state.buffers)?,
                gradients: Buffer::zeros(&stream, Element::F32, state.parameters.len())?,
                device,
                gpu,
                element,
                slots: Vec::new(),
                table: None,
                kept: Vec::new(),
                readers: Vec::new(),
                mode: Mode::Inference,
                accumulate: false,
                mask: None,
                pool: Pool::default(),
                uploader: None,
            };
            backend.refresh()?;
            Ok(backend)
        };
        make().map_err(failed)
    }

    /// Writes the copy of the parameters that layers read.
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

    /// Whether the value goes to one node alone and is a normalization that is read lazily: nobody else needs its gradient.
    fn feeds_alone(&self, graph: &Graph, value: Value) -> bool {
        let id = value.0;
        self.readers[id] == 1 && matches!(&graph.nodes()[id].op, Op::BatchNorm(spec) if !spec.masked)
    }

    fn stage(&mut self, rgb: &[u8]) -> Result<(), CudaError> {
        if self.uploader.as_ref().is_none_or(|(len, _)| *len != rgb.len()) {
            self.uploader = Some((rgb.len(), Uploader::new(self.gpu.stream(), rgb.len(), UPLOADS)?));
        }
        self.uploader.as_mut().map_or(Ok(()), |(_, uploader)| uploader.upload(rgb))
    }

    fn load_images(&mut self, images: Images<'_>, to: &mut CudaBuffer) -> Result<(), CudaError> {
        let element = self.element;
        match images {
            Images::Normalized(values) => {
                let on = Buffer::from_host(self.gpu.stream(), values)?;
                let y = to.room(&self.gpu, &mut self.pool, element)?;
                if element == Element::F32 {
                    return y.as_mut().copy_from(self.gpu.stream(), on.as_slice());
                }
                elementwise::narrow(&mut self.gpu, on.as_slice(), &mut y.as_mut())
            }
            Images::Pixels { rgb, normalization } => {
                self.stage(rgb)?;
                let statistics = (normalization.mean, normalization.std);
                let Self { gpu, pool, uploader, .. } = self;
                let y = to.room(gpu, pool, element)?;
                let Some((_, uploader)) = uploader else { return Ok(()) };
                uploader.receive(|rgb| elementwise::images(gpu, rgb, statistics, &mut y.as_mut()))
            }
        }
    }

    fn draw(&self, at: Site<'_>) -> Option<Draw> {
        let (Op::Dropout { rate, per_image, stream }, Mode::Train { seed, step }) =
            (&at.node().op, self.mode)
        else {
            return None;
        };
        let group = if *per_image { at.shape().len() / at.shape().batch.max(1) } else { 1 };
        Some(Draw { base: Stream::new(&[seed, *stream, step]).state(), rate: *rate, group })
    }
}

fn nothing_ran() -> CudaError {
    CudaError::Unsupported { what: "a backward pass without its forward pass".to_owned() }
}

fn failed(error: CudaError) -> TrainError {
    match error {
        CudaError::Shape(error) => error.into(),
        error => TrainError::Device { device: "cuda".to_owned(), reason: error.to_string() },
    }
}

impl Backend for CudaBackend {
    type Buffer = CudaBuffer;

    fn device(&self) -> &Device {
        &self.device
    }

    fn reads_lazily(&self, node: &Node) -> bool {
        match &node.op {
            Op::Conv { sliding, groups, .. } => {
                Conv::new(*sliding, node.shape.channels, *groups).is_ok_and(|conv| conv::is_depthwise(&conv))
            }
            Op::ConvTranspose { .. } | Op::Linear { .. } | Op::Activate { .. } | Op::L2Normalize => false,
            _ => true,
        }
    }

    fn begin_forward(&mut self, graph: &Graph, mode: Mode) {
        self.mode = mode;
        let count = graph.nodes().len();
        if self.kept.len() < count {
            self.kept.resize_with(count, Kept::default);
        }
        for kept in &mut self.kept {
            for (memory, _) in kept.summands.drain(..) {
                self.pool.release(memory);
            }
        }
        self.readers.clear();
        self.readers.resize(count, 0);
        let inputs = graph.nodes().iter().flat_map(|node| &node.inputs);
        inputs.chain(graph.outputs()).for_each(|value| self.readers[value.0] += 1);
    }

    fn begin_backward(&mut self, accumulate: bool) -> Result<(), TrainError> {
        self.accumulate = accumulate;
        if accumulate {
            return Ok(());
        }
        // Parameters that no differentiated output depends on are not visited: theirs must not stay from the last step.
        self.gradients.as_mut().set_zero(self.gpu.stream()).map_err(failed)
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError> {
        let mask = lgd_kernels::mask::Mask { visible, rows, columns };
        let shares = mask.shares()?;
        self.mask = Some(Mask::new(&self.gpu, &mask, &shares).map_err(failed)?);
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<CudaBuffer, TrainError> {
        Ok(CudaBuffer::new(len))
    }

    fn give(&mut self, buffer: CudaBuffer) {
        self.pool.give(buffer.content);
    }

    fn copy(&mut self, from: &CudaBuffer, to: &mut CudaBuffer) -> Result<(), TrainError> {
        let Self { gpu, pool, .. } = self;
        let mut copy = || {
            let from = from.values()?;
            to.room(gpu, pool, from.element())?.as_mut().copy_from(gpu.stream(), from)
        };
        copy().map_err(failed)
    }

    fn add_into(&mut self, from: &CudaBuffer, to: &mut CudaBuffer) -> Result<(), TrainError> {
        from.values().and_then(|from| add_any(&mut self.gpu, &mut self.pool, from, to)).map_err(failed)
    }

    fn images(&mut self, images: Images<'_>, to: &mut CudaBuffer) -> Result<(), TrainError> {
        self.load_images(images, to).map_err(failed)
    }

    fn to_tensor(&mut self, from: &CudaBuffer, shape: &[usize]) -> Result<Tensor, TrainError> {
        let device = self.device.as_cuda_device()?;
        let mut values = device.alloc_zeros::<f32>(from.len)?;
        let from = from.values().map_err(failed)?;
        let mut to = SliceMut::of(&mut values);
        if from.element() == Element::F32 {
            to.copy_from(self.gpu.stream(), from).map_err(failed)?;
        } else {
            elementwise::widen(&mut self.gpu, from, &mut to, false).map_err(failed)?;
        }
        let storage = CudaStorage::wrap_cuda_slice(values, device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    fn load_tensor(&mut self, from: &Tensor, to: &mut CudaBuffer) -> Result<(), TrainError> {
        let from = from.to_device(&self.device)?.to_dtype(candle_core::DType::F32)?.contiguous()?;
        expect_eq("values of an output's gradient", to.len, from.elem_count())?;
        let (storage, layout) = from.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return Err(TrainError::NothingRan) };
        let start = layout.start_offset();
        let Self { gpu, pool, .. } = self;
        let mut load = |values: Slice<'_>| {
            let values = values.slice(start..start + to.len)?;
            to.room(gpu, pool, Element::F32)?.as_mut().copy_from(gpu.stream(), values)
        };
        load(Slice::of(storage.as_cuda_slice::<f32>()?)).map_err(failed)
    }

    fn conv(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
        _norm: Option<usize>,
    ) -> Result<(), TrainError> {
        self.convolve(at, x, y).map_err(failed)
    }

    fn conv_backward_data(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        self.convolve_backward_data(at, dy, dx, accumulate).map_err(failed)
    }

    fn conv_backward_weight(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<(), TrainError> {
        self.convolve_backward_weight(at, x, dy).map_err(failed)
    }

    fn batch_norm(&mut self, at: Site<'_>, x: &CudaBuffer) -> Result<(), TrainError> {
        let Op::BatchNorm(spec) = &at.node().op else { return Ok(()) };
        if spec.masked && self.mask.is_none() && self.mode != Mode::Inference {
            return Err(TrainError::NoMask);
        }
        self.normalize(at, spec, x).map_err(failed)
    }

    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        through: Through<'_, CudaBuffer>,
    ) -> Result<(), TrainError> {
        let Op::BatchNorm(spec) = &at.node().op else { return Ok(()) };
        self.normalize_backward(at, spec, x, through).map_err(failed)
    }

    fn materialize(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        self.write_out(at, x, y).map_err(failed)
    }

    fn bias(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Op::Bias { bias } = &at.node().op else { return Ok(()) };
        let Self { gpu, pool, kept, parameters, .. } = self;
        let mut add = || {
            let data = x.buffer.values()?;
            let y = y.room(gpu, pool, data.element())?;
            let bias = parameters.as_slice().slice(bias.indices())?;
            elementwise::bias(gpu, Operand { data, norm: norm(kept, x.norm) }, bias, &mut y.as_mut())
        };
        add().map_err(failed)
    }

    fn bias_backward(&mut self, at: Site<'_>, dy: &CudaBuffer) -> Result<(), TrainError> {
        let Op::Bias { bias } = &at.node().op else { return Ok(()) };
        let Self { gpu, gradients, accumulate, .. } = self;
        let mut sum = || {
            let mut sums = gradients.as_mut().slice(bias.indices())?;
            elementwise::column_sums(gpu, dy.values()?, &mut sums, *accumulate)
        };
        sum().map_err(failed)
    }

    fn add(
        &mut self,
        at: Site<'_>,
        a: Reading<'_, CudaBuffer>,
        b: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Op::Add { activation } = at.node().op else { return Ok(()) };
        self.sum(at, activation, [a, b], y).map_err(failed)
    }

    fn add_backward(&mut self, at: Site<'_>, y: &CudaBuffer, dy: &mut CudaBuffer) -> Result<(), TrainError> {
        let Op::Add { activation } = at.node().op else { return Ok(()) };
        self.sum_backward(at, activation, y, dy).map_err(failed)
    }

    fn activate(&mut self, at: Site<'_>, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<(), TrainError> {
        let Op::Activate { activation } = at.node().op else { return Ok(()) };
        let Self { gpu, pool, .. } = self;
        let mut apply = || {
            let x = x.values()?;
            let y = y.room(gpu, pool, x.element())?;
            elementwise::activate(gpu, activation, x, &mut y.as_mut())
        };
        apply().map_err(failed)
    }

    fn activate_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Op::Activate { activation } = at.node().op else { return Ok(()) };
        let Self { gpu, pool, .. } = self;
        let mut apply = || {
            let x = x.values()?;
            dy.convert(gpu, pool, x.element())?;
            elementwise::activate_backward(gpu, activation, x, &mut dy.unique(gpu, pool)?.as_mut())
        };
        apply().map_err(failed)
    }

    fn max_pool(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Op::MaxPool { sliding } = &at.node().op else { return Ok(()) };
        let Self { gpu, pool, kept, .. } = self;
        let mut run = || {
            let mut taken = match kept[at.id].taken.take().filter(|taken| taken.len() == y.len) {
                Some(taken) => taken,
                None => gpu.alloc(Element::U8, y.len)?,
            };
            let data = x.buffer.values()?;
            let y = y.room(gpu, pool, data.element())?;
            let operand = Operand { data, norm: norm(kept, x.norm) };
            pool::max_pool(gpu, sliding, operand, &mut y.as_mut(), &mut taken.as_mut())?;
            kept[at.id].taken = Some(taken);
            Ok(())
        };
        run().map_err(failed)
    }

    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        self.pool_backward(at, dy, dx, accumulate).map_err(failed)
    }

    fn average(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let shape = at.input(0);
        let Self { gpu, pool, kept, .. } = self;
        let mut run = || {
            let y = y.room(gpu, pool, Element::F32)?;
            let operand = Operand { data: x.buffer.values()?, norm: norm(kept, x.norm) };
            pool::global_average(gpu, operand, shape.pixels(), shape.channels, &mut y.as_mut())
        };
        run().map_err(failed)?;
        if let Some(scaled) = self.count_visible(at, y.values().map_err(failed)?)? {
            self.pool.give(std::mem::replace(&mut y.content, Content::Memory(Arc::new(scaled))));
        }
        Ok(())
    }

    fn average_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        if !matches!(at.node().op, Op::GlobalAveragePool { masked: true }) {
            return self.spread(at, dy, dx, accumulate).map_err(failed);
        }
        let converted = self.pool.converted(&mut self.gpu, dy.values().map_err(failed)?, Element::F32);
        let converted = converted.map_err(failed)?;
        let means = converted.as_ref().map_or(dy.values(), |dy| Ok(dy.as_slice())).map_err(failed)?;
        let scaled = self.count_visible(at, means)?.map(Arc::new);
        self.pool.recycle(converted);
        let content = scaled.map_or(Content::Nothing, Content::Memory);
        let dy = CudaBuffer { len: dy.len, content };
        let result = self.spread(at, &dy, dx, accumulate).map_err(failed);
        self.pool.give(dy.content);
        result
    }

    fn linear(&mut self, at: Site<'_>, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<(), TrainError> {
        self.dense(at, x, y).map_err(failed)
    }

    fn linear_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        dy: &CudaBuffer,
        dx: Option<(&mut CudaBuffer, bool)>,
    ) -> Result<(), TrainError> {
        self.dense_backward(at, x, dy, dx).map_err(failed)
    }

    fn scale(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        gate: &CudaBuffer,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Self { gpu, pool, kept, .. } = self;
        let mut run = || {
            let data = x.buffer.values()?;
            let converted = pool.converted(gpu, gate.values()?, Element::F32)?;
            let gate = converted.as_ref().map_or(gate.values()?, Buffer::as_slice);
            let y = y.room(gpu, pool, data.element())?;
            let operand = Operand { data, norm: norm(kept, x.norm) };
            elementwise::scale(gpu, operand, gate, at.shape().channels, &mut y.as_mut())?;
            pool.recycle(converted);
            Ok(())
        };
        run().map_err(failed)
    }

    fn scale_backward(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        gate: &CudaBuffer,
        dy: &mut CudaBuffer,
        dgate: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Self { gpu, pool, kept, .. } = self;
        let mut run = || {
            let data = x.buffer.values()?;
            let element = gate.memory()?.element();
            let converted = pool.converted(gpu, gate.values()?, Element::F32)?;
            let gates = converted.as_ref().map_or(gate.values()?, Buffer::as_slice);
            dy.convert(gpu, pool, data.element())?;
            let operand = Operand { data, norm: norm(kept, x.norm) };
            let to = dgate.room(gpu, pool, Element::F32)?;
            let channels = at.shape().channels;
            elementwise::scale_backward(
                gpu,
                operand,
                gates,
                channels,
                &mut dy.unique(gpu, pool)?.as_mut(),
                &mut to.as_mut(),
            )?;
            pool.recycle(converted);
            dgate.convert(gpu, pool, element)
        };
        run().map_err(failed)
    }

    fn dropout(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Some(draw) = self.draw(at) else { return self.materialize(at, x, y) };
        let Self { gpu, pool, kept, .. } = self;
        let mut run = || {
            let data = x.buffer.values()?;
            let y = y.room(gpu, pool, data.element())?;
            let operand = Operand { data, norm: norm(kept, x.norm) };
            elementwise::dropout(gpu, &draw, operand, at.shape().channels, &mut y.as_mut())
        };
        run().map_err(failed)
    }

    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut CudaBuffer) -> Result<(), TrainError> {
        let Some(draw) = self.draw(at) else { return Ok(()) };
        let Self { gpu, pool, .. } = self;
        let mut run = || {
            let dy = dy.unique(gpu, pool)?;
            elementwise::dropout_backward(gpu, &draw, at.shape().channels, &mut dy.as_mut())
        };
        run().map_err(failed)
    }

    fn l2_normalize(&mut self, at: Site<'_>, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<(), TrainError> {
        let Self { gpu, pool, .. } = self;
        let mut run = || {
            let converted = pool.converted(gpu, x.values()?, Element::F32)?;
            let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
            let y = y.room(gpu, pool, Element::F32)?;
            rows::l2_normalize(gpu, x, at.shape().channels, &mut y.as_mut())?;
            pool.recycle(converted);
            Ok(())
        };
        run().map_err(failed)
    }

    fn l2_normalize_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<(), TrainError> {
        let Self { gpu, pool, .. } = self;
        let mut run = || {
            let element = x.memory()?.element();
            let converted = pool.converted(gpu, x.values()?, Element::F32)?;
            let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
            dy.convert(gpu, pool, Element::F32)?;
            rows::l2_normalize_backward(gpu, x, at.shape().channels, &mut dy.unique(gpu, pool)?.as_mut())?;
            pool.recycle(converted);
            dy.convert(gpu, pool, element)
        };
        run().map_err(failed)
    }

    fn mask(&mut self, at: Site<'_>, values: &mut CudaBuffer) -> Result<(), TrainError> {
        let Self { gpu, pool, mask, .. } = self;
        let mask = mask.as_ref().ok_or(TrainError::NoMask)?.view(at);
        let mut run = || {
            let values = values.unique(gpu, pool)?;
            elementwise::mask(gpu, &mask, at.shape().channels, &mut values.as_mut())
        };
        run().map_err(failed)
    }

    fn fill_masked(&mut self, at: Site<'_>, values: &mut CudaBuffer) -> Result<(), TrainError> {
        let Op::FillMasked { token } = &at.node().op else { return Ok(()) };
        let Self { gpu, pool, mask, parameters, .. } = self;
        let mask = mask.as_ref().ok_or(TrainError::NoMask)?.view(at);
        let mut run = || {
            let token = parameters.as_slice().slice(token.indices())?;
            elementwise::fill_masked(gpu, &mask, token, &mut values.unique(gpu, pool)?.as_mut())
        };
        run().map_err(failed)
    }

    fn fill_masked_backward(&mut self, at: Site<'_>, dy: &mut CudaBuffer) -> Result<(), TrainError> {
        let Op::FillMasked { token } = &at.node().op else { return Ok(()) };
        let Self { gpu, pool, mask, gradients, accumulate, .. } = self;
        let mask = mask.as_ref().ok_or(TrainError::NoMask)?.inverse(at);
        let mut run = || {
            let from = dy.values()?;
            let mut hidden = pool.take(gpu, from.element(), from.len())?;
            hidden.as_mut().copy_from(gpu.stream(), from)?;
            elementwise::mask(gpu, &mask, at.shape().channels, &mut hidden.as_mut())?;
            let mut sums = gradients.as_mut().slice(token.indices())?;
            elementwise::column_sums(gpu, hidden.as_slice(), &mut sums, *accumulate)?;
            pool.recycle(Some(hidden));
            Ok(())
        };
        run().map_err(failed)?;
        self.mask(at, dy)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<(), TrainError> {
        self.step(table, update).map_err(failed)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>, TrainError> {
        let Some((_, table)) = &self.table else { return Ok(None) };
        let device = self.device.as_cuda_device()?;
        let mut norm = device.alloc_zeros::<f32>(1)?;
        let found = table.norm().map_err(failed)?;
        SliceMut::of(&mut norm).copy_from(self.gpu.stream(), found).map_err(failed)?;
        let storage = CudaStorage::wrap_cuda_slice(norm, device.clone());
        Ok(Some(Tensor::from_storage(Storage::Cuda(storage), (), BackpropOp::none(), false)))
    }

    fn state(&mut self) -> Result<State, TrainError> {
        let stream = self.gpu.stream();
        let parameters = self.parameters.as_slice().to_host(stream).map_err(failed)?;
        Ok(State { parameters, buffers: self.buffers.as_slice().to_host(stream).map_err(failed)? })
    }

    fn load_state(&mut self, state: &State) -> Result<(), TrainError> {
        expect_eq("parameters of a state", self.parameters.len(), state.parameters.len())?;
        expect_eq("buffers of a state", self.buffers.len(), state.buffers.len())?;
        let stream = Arc::clone(self.gpu.stream());
        self.parameters.as_mut().copy_from_host(&stream, &state.parameters).map_err(failed)?;
        self.buffers.as_mut().copy_from_host(&stream, &state.buffers).map_err(failed)?;
        self.refresh().map_err(failed)
    }

    fn gradients(&mut self) -> Result<Vec<f32>, TrainError> {
        self.gradients.as_slice().to_host(self.gpu.stream()).map_err(failed)
    }

    fn optimizer_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        let stream = self.gpu.stream();
        self.slots.iter().map(|slot| slot.as_slice().to_host(stream).map_err(failed)).collect()
    }

    fn load_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError> {
        let stream = self.gpu.stream();
        let slots = slots.iter().map(|slot| Buffer::from_host(stream, slot));
        self.slots = slots.collect::<Result<_, _>>().map_err(failed)?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.pool.bytes + self.gpu.scratch_bytes()
    }
}
