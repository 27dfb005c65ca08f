//! NVIDIA GPUs: kernels of `lgd-cuda` on pooled device memory.
//!
//! Everything is issued to one stream, Candle's own, without waiting for anything but values that the host asks for. Three
//! fusions live here and not in the tape: a residual sum's backward pass also takes the sums of the normalisations before it, and
//! the gradient through a max-pool or a global average reaches a normalisation without being written out.

mod memory;

use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Device, Storage, Tensor};
use lgd_cuda::batch_norm::{self, KEPT, Norm, Operand, Parameters, Running, Through as Into, Upstream};
use lgd_cuda::elementwise::Draw;
use lgd_cuda::host::Uploader;
use lgd_cuda::optimizer::{self, AdamW, Sgd, Vectors};
use lgd_cuda::{
    Buffer, CudaError, Element, Gpu, Slice, SliceMut, Tuning, conv, elementwise, linear, pool, rows,
};
use lgd_kernels::conv::Conv;
use lgd_kernels::geometry::expect_eq;
use lgd_kernels::linear::Linear;
use lgd_kernels::{Activation, ShapeError};

use self::memory::{Content, CudaBuffer, Pool};
use super::backend::{Backend, Images, Mode, Reading, Site, Through};
use super::graph::{BatchNorm, Graph, Node, Op, Value};
use super::parameters::{Range, State, Table};
use crate::error::TrainError;
use crate::optim::{Group, Rule, Update};
use crate::rng::Stream;

/// Batches of pixels that may be on their way to the device.
const UPLOADS: usize = 2;

/// What a node keeps between forward and backward.
#[derive(Default)]
struct Kept {
    /// Of a normalisation: statistics, factors, and those of its gradient.
    norm: Option<Buffer>,
    /// What follows the normalisation.
    activation: Option<Activation>,
    /// Whether the sums of its gradient were taken by the residual sum behind it.
    summed: bool,
    /// Of a max-pool: which taps it took.
    taken: Option<Buffer>,
    /// Of a sum: the normalised summands, and their normalisations.
    summands: Vec<(Arc<Buffer>, usize)>,
}

/// Parameters, their gradients and the optimiser's vectors, flat, f32; pooled memory for everything else.
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

/// A batch's mask on the device.
struct Mask {
    visible: Buffer,
    /// The same the other way round.
    hidden: Buffer,
    /// Visible cells.
    count: usize,
    cells: (usize, usize),
    /// Per image the factor of a mean over visible positions; f32.
    shares: Buffer,
}

impl Mask {
    fn new(gpu: &Gpu, mask: &lgd_kernels::mask::Mask<'_>, shares: &[f32]) -> Result<Self, CudaError> {
        let upload = |shown: bool| {
            let bytes: Vec<u8> = mask.visible.iter().map(|&visible| u8::from(visible == shown)).collect();
            Buffer::from_host(gpu.stream(), &bytes)
        };
        let count = mask.visible.iter().filter(|&&visible| visible).count();
        let (visible, hidden) = (upload(true)?, upload(false)?);
        let shares = Buffer::from_host(gpu.stream(), shares)?;
        Ok(Self { visible, hidden, count, cells: (mask.rows, mask.columns), shares })
    }

    fn view(&self, at: Site<'_>) -> batch_norm::Mask<'_> {
        let image = (at.shape().height, at.shape().width);
        batch_norm::Mask { visible: self.visible.as_slice(), count: self.count, cells: self.cells, image }
    }

    /// The mask that shows what this one hides.
    fn inverse(&self, at: Site<'_>) -> batch_norm::Mask<'_> {
        let count = self.hidden.len() - self.count;
        batch_norm::Mask { visible: self.hidden.as_slice(), count, ..self.view(at) }
    }
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

    /// Whether the value goes to one node alone and is a normalisation that is read lazily: nobody else needs its gradient.
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
            Images::Normalised(values) => {
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

    fn convolve(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, kept, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, range)?;
        let converted = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = converted.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let operand = Operand { data, norm: norm(kept, x.norm) };
        let y = y.room(gpu, pool, *element)?;
        match at.node().op {
            // The adjoint of a convolution is its gradient with respect to the input.
            Op::ConvTranspose { .. } => {
                conv::backward_data(gpu, &conv, data, weights, &mut y.as_mut(), false)?
            }
            _ => conv::forward(gpu, &conv, operand, weights, &mut y.as_mut())?,
        }
        pool.recycle(converted);
        Ok(())
    }

    fn convolve_backward_data(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, range)?;
        let converted = pool.converted(gpu, dy.values()?, *element)?;
        let dy = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let transposed = matches!(at.node().op, Op::ConvTranspose { .. });
        let direct = !accumulate || (!transposed && dx.memory()?.element() == *element);
        if direct {
            let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
            if transposed {
                conv::forward(gpu, &conv, Operand::plain(dy), weights, &mut to.as_mut())?;
            } else {
                conv::backward_data(gpu, &conv, dy, weights, &mut to.as_mut(), accumulate)?;
            }
        } else {
            let mut own = pool.take(gpu, *element, dx.len)?;
            if transposed {
                conv::forward(gpu, &conv, Operand::plain(dy), weights, &mut own.as_mut())?;
            } else {
                conv::backward_data(gpu, &conv, dy, weights, &mut own.as_mut(), false)?;
            }
            add_any(gpu, pool, own.as_slice(), dx)?;
            pool.recycle(Some(own));
        }
        pool.recycle(converted);
        Ok(())
    }

    fn convolve_backward_weight(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, kept, element, accumulate, .. } = self;
        let of_x = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = of_x.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let mut dw = self.gradients.as_mut().slice(range.indices())?;
        match at.node().op {
            Op::ConvTranspose { .. } => {
                conv::backward_weight(gpu, &conv, Operand::plain(dy), data, &mut dw, *accumulate)?;
            }
            _ => {
                let operand = Operand { data, norm: norm(kept, x.norm) };
                conv::backward_weight(gpu, &conv, operand, dy, &mut dw, *accumulate)?;
            }
        }
        pool.recycle(of_x);
        pool.recycle(of_dy);
        Ok(())
    }

    fn normalise(&mut self, at: Site<'_>, spec: &BatchNorm, x: &CudaBuffer) -> Result<(), CudaError> {
        let channels = at.shape().channels;
        let Self { gpu, kept, parameters, buffers, mode, .. } = self;
        let site = &mut kept[at.id];
        let mut norm = match site.norm.take().filter(|norm| norm.len() == KEPT * channels) {
            Some(norm) => norm,
            None => gpu.alloc(Element::F32, KEPT * channels)?,
        };
        let parameters = norm_parameters(parameters, spec)?;
        if *mode == Mode::Inference {
            let of = |range: Range| buffers.as_slice().slice(range.indices());
            batch_norm::inference(
                gpu,
                (of(spec.mean)?, of(spec.variance)?),
                &parameters,
                &mut norm.as_mut(),
            )?;
        } else {
            let (mean, variance) = buffers.as_mut().two(spec.mean.indices(), spec.variance.indices())?;
            let running = Some(Running { mean, variance, momentum: spec.momentum });
            let mask = self.mask.as_ref().filter(|_| spec.masked).map(|mask| mask.view(at));
            batch_norm::training(gpu, x.values()?, &parameters, running, mask.as_ref(), &mut norm.as_mut())?;
        }
        site.norm = Some(norm);
        site.activation = Some(spec.activation);
        site.summed = false;
        Ok(())
    }

    fn normalise_backward(
        &mut self,
        at: Site<'_>,
        spec: &BatchNorm,
        x: &CudaBuffer,
        through: Through<'_, CudaBuffer>,
    ) -> Result<(), CudaError> {
        let counted = self.mask.as_ref().filter(|_| spec.masked).map(|mask| mask.view(at).positions());
        let accumulate = self.accumulate;
        let Self { gpu, pool, kept, gradients, .. } = self;
        let mut own = kept[at.id].norm.take().ok_or_else(nothing_ran)?;
        let summed = kept[at.id].summed;
        let x = x.values()?;
        let (dgamma, dbeta) = gradients.as_mut().two(spec.scale.indices(), spec.shift.indices())?;
        let activation = spec.activation;
        let mut site =
            batch_norm::Site { x, kept: own.as_mut(), activation, dgamma, dbeta, accumulate, counted };
        match through {
            Through::InPlace(dy) if matches!(dy.content, Content::Memory(_)) => {
                dy.convert(gpu, pool, x.element())?;
                let mut dy = dy.unique(gpu, pool)?.as_mut();
                if !summed {
                    batch_norm::backward_sums(gpu, &mut site, &Upstream::Dense(dy.as_slice()))?;
                }
                batch_norm::backward_input(gpu, &site, Into::InPlace(&mut dy))?;
            }
            Through::InPlace(dy) => {
                let content = std::mem::replace(&mut dy.content, Content::Nothing);
                let dx = dy.room(gpu, pool, x.element())?;
                let upstream = upstream(at.graph, kept, &content)?;
                let through = Into::Into { upstream, dx: &mut dx.as_mut(), accumulate: false };
                batch_norm::backward(gpu, &mut site, through)?;
                pool.give(content);
            }
            Through::Into { dy, dx, accumulate } => {
                let converted = match &dy.content {
                    Content::Memory(memory) => pool.converted(gpu, memory.as_slice(), x.element())?,
                    _ => None,
                };
                let upstream = match &converted {
                    Some(converted) => Upstream::Dense(converted.as_slice()),
                    None => upstream(at.graph, kept, &dy.content)?,
                };
                if accumulate {
                    dx.convert(gpu, pool, x.element())?;
                }
                let mut dx =
                    if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, x.element())? }
                        .as_mut();
                if !summed {
                    batch_norm::backward_sums(gpu, &mut site, &upstream)?;
                }
                batch_norm::backward_input(gpu, &site, Into::Into { upstream, dx: &mut dx, accumulate })?;
                pool.recycle(converted);
            }
        }
        kept[at.id].norm = Some(own);
        Ok(())
    }

    fn write_out(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let Self { gpu, pool, kept, .. } = self;
        let data = x.buffer.values()?;
        let y = y.room(gpu, pool, data.element())?;
        if x.norm.is_none() {
            return y.as_mut().copy_from(gpu.stream(), data);
        }
        let operand = Operand { data, norm: norm(kept, x.norm) };
        batch_norm::materialise(gpu, operand, at.shape().channels, &mut y.as_mut())
    }

    fn sum(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        [a, b]: [Reading<'_, CudaBuffer>; 2],
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let channels = at.shape().channels;
        let alone = [0, 1].map(|input| self.feeds_alone(at.graph, at.node().inputs[input]));
        let Self { gpu, pool, kept, mode, .. } = self;
        let element = a.buffer.values()?.element();
        let converted = pool.converted(gpu, b.buffer.values()?, element)?;
        let to = y.room(gpu, pool, element)?;
        let first = Operand { data: a.buffer.values()?, norm: norm(kept, a.norm) };
        let data = converted.as_ref().map_or(b.buffer.values()?, Buffer::as_slice);
        let second = Operand { data, norm: norm(kept, b.norm) };
        batch_norm::add(gpu, first, second, activation, channels, &mut to.as_mut())?;
        // The backward pass of an activated sum takes the sums of its normalised summands along; a plain one hands its gradient on.
        if *mode != Mode::Inference && activation != Activation::Identity && converted.is_none() {
            for (reading, alone) in [a, b].into_iter().zip(alone) {
                let Some(id) = reading.norm.filter(|_| alone) else { continue };
                if kept[id].activation == Some(Activation::Identity) {
                    let memory = Arc::clone(reading.buffer.memory()?);
                    kept[at.id].summands.push((memory, id));
                }
            }
        }
        pool.recycle(converted);
        Ok(())
    }

    fn sum_backward(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        y: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let accumulate = self.accumulate;
        let Self { gpu, pool, kept, gradients, .. } = self;
        let y = y.values()?;
        dy.convert(gpu, pool, y.element())?;
        let mut dy = dy.unique(gpu, pool)?.as_mut();
        let summands = std::mem::take(&mut kept[at.id].summands);
        let mut owned = Vec::new();
        for (memory, id) in summands {
            let Op::BatchNorm(spec) = &at.graph.nodes()[id].op else { continue };
            owned.push((memory, id, spec, kept[id].norm.take().ok_or_else(nothing_ran)?));
        }
        match owned.as_mut_slice() {
            [] => elementwise::activate_backward(gpu, activation, y, &mut dy)?,
            [(x, _, spec, norm)] => {
                let (dgamma, dbeta) = gradients.as_mut().two(spec.scale.indices(), spec.shift.indices())?;
                let mut site = norm_site((x, norm), (dgamma, dbeta), accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut site, None)?;
            }
            [(x1, _, spec1, norm1), (x2, _, spec2, norm2), ..] => {
                // Both summands' parameters lie in one vector: the earlier ones are split off.
                let ranges = [spec1.scale, spec1.shift, spec2.scale, spec2.shift];
                let [dgamma1, dbeta1, dgamma2, dbeta2] = four(gradients, ranges)?;
                let mut first = norm_site((x1, norm1), (dgamma1, dbeta1), accumulate);
                let mut second = norm_site((x2, norm2), (dgamma2, dbeta2), accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut first, Some(&mut second))?;
            }
        }
        for (memory, id, _, norm) in owned {
            kept[id].norm = Some(norm);
            kept[id].summed = true;
            pool.release(memory);
        }
        Ok(())
    }

    fn pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let Op::MaxPool { sliding } = &at.node().op else { return Ok(()) };
        if !accumulate
            && self.feeds_alone(at.graph, at.node().inputs[0])
            && dy.values()?.element() == self.element
        {
            self.pool.give(std::mem::replace(&mut dx.content, Content::Nothing));
            dx.content = Content::Pooled { node: at.id, dy: Arc::clone(dy.memory()?) };
            return Ok(());
        }
        let Self { gpu, pool, kept, .. } = self;
        let taken = kept[at.id].taken.as_ref().ok_or_else(nothing_ran)?.as_slice();
        let dy = dy.values()?;
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, dy.element())? };
        pool::max_pool_backward(gpu, sliding, dy, taken, &mut to.as_mut(), accumulate)
    }

    /// Means over all positions of each image, f32, as those over the visible ones, or the gradients of the latter as those of the
    /// former; nothing where the pool is not masked.
    fn count_visible(&mut self, at: Site<'_>, means: Slice<'_>) -> Result<Option<Buffer>, TrainError> {
        let Op::GlobalAveragePool { masked: true } = at.node().op else { return Ok(None) };
        let Self { gpu, pool, mask, .. } = self;
        let shares = &mask.as_ref().ok_or(TrainError::NoMask)?.shares;
        expect_eq("images of the mask", at.shape().batch, shares.len())?;
        let mut scale = || {
            let mut scaled = pool.take(gpu, Element::F32, means.len())?;
            // An image's means as the pixels of one channel.
            elementwise::scale(gpu, Operand::plain(means), shares.as_slice(), 1, &mut scaled.as_mut())?;
            Ok(scaled)
        };
        scale().map(Some).map_err(failed)
    }

    fn spread(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let shape = at.input(0);
        if !accumulate
            && self.feeds_alone(at.graph, at.node().inputs[0])
            && dy.values()?.element() == Element::F32
        {
            self.pool.give(std::mem::replace(&mut dx.content, Content::Nothing));
            dx.content = Content::Averaged(Arc::clone(dy.memory()?));
            return Ok(());
        }
        let Self { gpu, pool, element, .. } = self;
        let converted = pool.converted(gpu, dy.values()?, Element::F32)?;
        let dy = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
        pool::global_average_backward(gpu, dy, shape.pixels(), shape.channels, &mut to.as_mut(), accumulate)?;
        pool.recycle(converted);
        Ok(())
    }

    fn dense(&mut self, at: Site<'_>, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<(), CudaError> {
        let Op::Linear { weight, bias } = at.node().op else { return Ok(()) };
        let l = Linear::new(at.shape().batch, at.input(0).channels, at.shape().channels)?;
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, weight)?;
        let bias = self.parameters.as_slice().slice(bias.indices())?;
        let converted = pool.converted(gpu, x.values()?, *element)?;
        let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
        let y = y.room(gpu, pool, Element::F32)?;
        linear::forward(gpu, &l, x, weights, Some(bias), &mut y.as_mut())?;
        pool.recycle(converted);
        Ok(())
    }

    fn dense_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        dy: &CudaBuffer,
        dx: Option<(&mut CudaBuffer, bool)>,
    ) -> Result<(), CudaError> {
        let Op::Linear { weight, bias } = at.node().op else { return Ok(()) };
        let l = Linear::new(at.shape().batch, at.input(0).channels, at.shape().channels)?;
        let Self { gpu, pool, element, accumulate, gradients, .. } = self;
        let weights = weights(&self.copy, &self.parameters, weight)?;
        let (mut dw, mut db) = gradients.as_mut().two(weight.indices(), bias.indices())?;
        elementwise::column_sums(gpu, dy.values()?, &mut db, *accumulate)?;
        let of_x = pool.converted(gpu, x.values()?, *element)?;
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let input = of_x.as_ref().map_or(x.values()?, Buffer::as_slice);
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        linear::backward_weight(gpu, &l, input, dy, &mut dw, *accumulate)?;
        if let Some((dx, accumulate)) = dx {
            // The gradient of a value has the value's own element.
            let of = x.memory()?.element();
            if of == Element::F32 {
                let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, of)? };
                linear::backward_data(gpu, &l, dy, weights, &mut to.as_mut(), accumulate)?;
            } else {
                let mut own = pool.take(gpu, Element::F32, dx.len)?;
                linear::backward_data(gpu, &l, dy, weights, &mut own.as_mut(), false)?;
                if accumulate {
                    add_any(gpu, pool, own.as_slice(), dx)?;
                } else {
                    elementwise::narrow(gpu, own.as_slice(), &mut dx.room(gpu, pool, of)?.as_mut())?;
                }
                pool.recycle(Some(own));
            }
        }
        pool.recycle(of_x);
        pool.recycle(of_dy);
        Ok(())
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

    fn step(&mut self, table: &Table, update: &Update) -> Result<(), CudaError> {
        let stream = Arc::clone(self.gpu.stream());
        let own = update.rule.slots().len();
        while self.slots.len() < own {
            self.slots.push(Buffer::zeros(&stream, Element::F32, table.parameter_len())?);
        }
        if update.ema.is_some() && self.slots.len() == own {
            for of in [&self.parameters, &self.buffers] {
                let mut average = self.gpu.alloc(Element::F32, of.len())?;
                average.as_mut().copy_from(&stream, of.as_slice())?;
                self.slots.push(average);
            }
        }
        if self.table.as_ref().is_none_or(|(groups, _)| *groups != update.groups) {
            let tensor = |group: &Group| optimizer::Tensor {
                start: group.range.start,
                len: group.range.len,
                decay: group.weight_decay,
                adapted: group.adapted,
            };
            let tensors: Vec<_> = update.groups.iter().map(tensor).collect();
            let made = optimizer::Table::new(&stream, &tensors, table.parameter_len())?;
            self.table = Some((update.groups.clone(), made));
        }
        let Self { gpu, parameters, copy, buffers, gradients, slots, table: Some((_, table)), .. } = self
        else {
            return Ok(());
        };
        if let Some(limit) = update.clip {
            optimizer::clip(gpu, table, gradients.as_slice(), 1.0, limit)?;
        }
        let vectors = Vectors {
            gradients: gradients.as_slice(),
            parameters: parameters.as_mut(),
            copy: copy.as_mut().map(Buffer::as_mut),
            clipped: update.clip.is_some(),
        };
        let rate = update.lr;
        match (update.rule, &mut slots[..own]) {
            (Rule::Sgd { momentum, nesterov }, [velocity]) => {
                let step = Sgd { rate, momentum, nesterov, trust: None };
                optimizer::sgd(gpu, table, &step, &vectors, &velocity.as_mut())?;
            }
            (Rule::Lars { momentum, trust }, [velocity]) => {
                let step = Sgd { rate, momentum, nesterov: false, trust: Some(trust) };
                optimizer::sgd(gpu, table, &step, &vectors, &velocity.as_mut())?;
            }
            (Rule::Adamw { beta1, beta2, eps }, [first, second]) => {
                let betas = (beta1, beta2);
                let correction = lgd_kernels::optimizer::AdamWStep::correction(betas, update.step);
                let step = AdamW { rate, betas, eps, correction };
                optimizer::adamw(gpu, table, &step, &vectors, (&first.as_mut(), &second.as_mut()))?;
            }
            _ => return Err(nothing_ran()),
        }
        if let (Some(decay), [of_parameters, of_buffers]) = (update.ema, &mut slots[own..]) {
            optimizer::ema(gpu, decay, parameters.as_slice(), &mut of_parameters.as_mut())?;
            optimizer::ema(gpu, decay, buffers.as_slice(), &mut of_buffers.as_mut())?;
        }
        Ok(())
    }
}

/// A node's convolution and its weights.
fn geometry(at: Site<'_>) -> Result<Option<(Conv, Range)>, ShapeError> {
    match &at.node().op {
        Op::Conv { weight, sliding, groups } => {
            Ok(Some((Conv::new(*sliding, at.shape().channels, *groups)?, *weight)))
        }
        // The adjoint convolution leads back to the input.
        Op::ConvTranspose { weight, sliding } => {
            Ok(Some((Conv::new(*sliding, at.input(0).channels, 1)?, *weight)))
        }
        _ => Ok(None),
    }
}

/// Weights as layers read them.
fn weights<'a>(
    copy: &'a Option<Buffer>,
    parameters: &'a Buffer,
    range: Range,
) -> Result<Slice<'a>, CudaError> {
    copy.as_ref().unwrap_or(parameters).as_slice().slice(range.indices())
}

/// The normalisation of node `id`, as consumers of its value apply it.
fn norm(kept: &[Kept], id: Option<usize>) -> Option<Norm<'_>> {
    let kept = kept.get(id?)?;
    Some(Norm { kept: kept.norm.as_ref()?.as_slice(), activation: kept.activation? })
}

fn norm_parameters<'a>(parameters: &'a Buffer, spec: &BatchNorm) -> Result<Parameters<'a>, CudaError> {
    let of = |range: Range| parameters.as_slice().slice(range.indices());
    Ok(Parameters { gamma: of(spec.scale)?, beta: of(spec.shift)?, eps: spec.eps })
}

/// A normalised summand on its way back.
fn norm_site<'a>(
    (x, norm): (&'a Buffer, &'a mut Buffer),
    (dgamma, dbeta): (SliceMut<'a>, SliceMut<'a>),
    accumulate: bool,
) -> batch_norm::Site<'a> {
    let (x, kept, activation) = (x.as_slice(), norm.as_mut(), Activation::Identity);
    batch_norm::Site { x, kept, activation, dgamma, dbeta, accumulate, counted: None }
}

/// Four tensors of one vector that do not overlap, in the order asked for.
fn four(flat: &mut Buffer, ranges: [Range; 4]) -> Result<[SliceMut<'_>; 4], CudaError> {
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|&at| ranges[at].start);
    let len = flat.len();
    let mut found = [None, None, None, None];
    let (mut rest, mut start) = (flat.as_mut(), 0);
    for at in order {
        let Range { start: first, len: own } = ranges[at];
        let tail = first + own;
        let (part, after) = rest.two(first - start..tail - start, tail - start..len - start)?;
        found[at] = Some(part);
        (rest, start) = (after, tail);
    }
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return Err(nothing_ran()) };
    Ok([a, b, c, d])
}

/// The gradient of a normalised value as the kernels take it.
fn upstream<'a>(graph: &Graph, kept: &'a [Kept], content: &'a Content) -> Result<Upstream<'a>, CudaError> {
    match content {
        Content::Nothing => Err(nothing_ran()),
        Content::Memory(memory) => Ok(Upstream::Dense(memory.as_slice())),
        Content::Averaged(dy) => Ok(Upstream::Averaged(dy.as_slice())),
        Content::Pooled { node, dy } => {
            let taken = kept[*node].taken.as_ref().ok_or_else(nothing_ran)?.as_slice();
            let Op::MaxPool { sliding } = graph.nodes()[*node].op else { return Err(nothing_ran()) };
            Ok(Upstream::Pooled { dy: dy.as_slice(), taken, sliding })
        }
    }
}

/// `to += from`, whatever their elements.
fn add_any(gpu: &mut Gpu, pool: &mut Pool, from: Slice<'_>, to: &mut CudaBuffer) -> Result<(), CudaError> {
    let converted = pool.converted(gpu, from, to.memory()?.element())?;
    let from = converted.as_ref().map_or(from, Buffer::as_slice);
    elementwise::add_into(gpu, from, &mut to.unique(gpu, pool)?.as_mut())?;
    pool.recycle(converted);
    Ok(())
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
            Op::ConvTranspose { .. } | Op::Linear { .. } | Op::Activate { .. } | Op::L2Normalise => false,
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
        self.normalise(at, spec, x).map_err(failed)
    }

    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        through: Through<'_, CudaBuffer>,
    ) -> Result<(), TrainError> {
        let Op::BatchNorm(spec) = &at.node().op else { return Ok(()) };
        self.normalise_backward(at, spec, x, through).map_err(failed)
    }

    fn materialise(
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
        let Some(draw) = self.draw(at) else { return self.materialise(at, x, y) };
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

    fn l2_normalise(&mut self, at: Site<'_>, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<(), TrainError> {
        let Self { gpu, pool, .. } = self;
        let mut run = || {
            let converted = pool.converted(gpu, x.values()?, Element::F32)?;
            let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
            let y = y.room(gpu, pool, Element::F32)?;
            rows::l2_normalise(gpu, x, at.shape().channels, &mut y.as_mut())?;
            pool.recycle(converted);
            Ok(())
        };
        run().map_err(failed)
    }

    fn l2_normalise_backward(
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
            rows::l2_normalise_backward(gpu, x, at.shape().channels, &mut dy.unique(gpu, pool)?.as_mut())?;
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

    fn optimiser_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        let stream = self.gpu.stream();
        self.slots.iter().map(|slot| slot.as_slice().to_host(stream).map_err(failed)).collect()
    }

    fn load_optimiser_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError> {
        let stream = self.gpu.stream();
        let slots = slots.iter().map(|slot| Buffer::from_host(stream, slot));
        self.slots = slots.collect::<Result<_, _>>().map_err(failed)?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.pool.bytes + self.gpu.scratch_bytes()
    }
}
