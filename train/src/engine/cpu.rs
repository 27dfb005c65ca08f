//! The CPU: kernels of `lgd-kernels` on pooled buffers.

use std::ops::{Deref, DerefMut};

use candle_core::{Device, Tensor};
use lgd_data::render::{self, PixelLayout};
use lgd_kernels::batch_norm::{self, Normalization, Upstream};
use lgd_kernels::conv::{self, Conv};
use lgd_kernels::geometry::expect_eq;
use lgd_kernels::mask::{self, Mask};
use lgd_kernels::{
    Activation, Affine, Moments, Operand, ShapeError, Sliding, Workspace, depthwise, elementwise, linear,
    pool, rows,
};

use rayon::prelude::*;

use super::backend::{Backend, Images, Mode, Reading, Site, Through};
use super::graph::{BatchNorm, Graph, Node, Op};
use super::parameters::{Range, State, Table};
use crate::error::TrainError;
use crate::optim::Update;
use crate::rng::Stream;

/// Pixels that one task normalizes.
const PIXELS_PER_TASK: usize = 16 * 1024;

/// What a node keeps between forward and backward.
#[derive(Default)]
struct Kept {
    moments: Moments,
    norm: Option<Normalization>,
    argmax: Vec<u8>,
    factors: Vec<f32>,
}

/// Parameters, their gradients and the optimizer's vectors, all flat; pooled buffers for everything else.
pub struct CpuBackend {
    state: State,
    gradients: Vec<f32>,
    slots: Vec<Vec<f32>>,
    kept: Vec<Kept>,
    mode: Mode,
    accumulate: bool,
    mask: Option<OwnedMask>,
    pool: Pool,
    workspace: Workspace,
}

/// A batch's mask: per image and cell, whether it is visible; and per image [`Mask::shares`].
struct OwnedMask {
    visible: Vec<bool>,
    rows: usize,
    columns: usize,
    shares: Vec<f32>,
}

impl OwnedMask {
    fn view(&self) -> Mask<'_> {
        Mask { visible: &self.visible, rows: self.rows, columns: self.columns }
    }
}

/// A pooled buffer. What lies behind its length is kept: shrinking and growing it again costs nothing.
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

/// Buffers that wait for their next use.
#[derive(Default)]
struct Pool {
    free: Vec<Buffer>,
    bytes: usize,
}

impl Pool {
    /// The smallest free buffer that holds `len` values without being more than twice as large, else a new one.
    fn take(&mut self, len: usize) -> Buffer {
        let fits = |(_, size): &(usize, usize)| *size >= len && *size / 2 <= len;
        let sizes = self.free.iter().map(|buffer| buffer.values.len()).enumerate();
        match sizes.filter(fits).min_by_key(|(_, size)| *size) {
            Some((at, _)) => Buffer { len, ..self.free.swap_remove(at) },
            None => {
                self.bytes += len * size_of::<f32>();
                Buffer { values: vec![0.0; len], len }
            }
        }
    }

    fn give(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }
}

impl CpuBackend {
    /// A backend that starts from `state`.
    pub fn new(state: State) -> Self {
        Self {
            gradients: vec![0.0; state.parameters.len()],
            state,
            slots: Vec::new(),
            kept: Vec::new(),
            mode: Mode::Inference,
            accumulate: false,
            mask: None,
            pool: Pool::default(),
            workspace: Workspace::new(),
        }
    }

    fn draw(&mut self, at: Site<'_>) {
        let (Op::Dropout { rate, per_image, stream }, Mode::Train { seed, step }) =
            (&at.node().op, self.mode)
        else {
            return;
        };
        let shape = at.shape();
        let count = if *per_image { shape.batch } else { shape.len() };
        let mut numbers = Stream::new(&[seed, *stream, step]);
        let keep = 1.0 / (1.0 - rate);
        let factors = &mut self.kept[at.id].factors;
        factors.clear();
        factors.extend((0..count).map(|_| if numbers.uniform() < f64::from(*rate) { 0.0 } else { keep }));
    }

    fn mask_view(&self) -> Result<Mask<'_>, TrainError> {
        self.mask.as_ref().map(OwnedMask::view).ok_or(TrainError::NoMask)
    }

    /// Turns means over all positions of each image into those over the visible ones, or the gradients of the latter into those of
    /// the former.
    fn count_visible(&self, at: Site<'_>, means: &mut [f32]) -> Result<(), TrainError> {
        if let Op::GlobalAveragePool { masked: true } = at.node().op {
            let mask = self.mask.as_ref().ok_or(TrainError::NoMask)?;
            expect_eq("images of the mask", at.shape().batch, mask.shares.len())?;
            scale_parts(means, &mask.shares);
        }
        Ok(())
    }
}

/// Multiplies as many equal parts of `values` as there are `factors` by them.
fn scale_parts(values: &mut [f32], factors: &[f32]) {
    let per = values.len() / factors.len().max(1);
    for (values, factor) in values.chunks_exact_mut(per.max(1)).zip(factors) {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Batch, height, width and channels of a node's value.
fn dims(at: Site<'_>) -> (usize, usize, usize, usize) {
    let shape = at.shape();
    (shape.batch, shape.height, shape.width, shape.channels)
}

/// A node's input for a kernel: normalized while it is read where `reading` says so.
fn operand<'a>(kept: &'a [Kept], reading: Reading<'a, Buffer>) -> Operand<'a> {
    let norm: Option<Affine<'a>> =
        reading.norm.and_then(|id| kept[id].norm.as_ref()).map(Normalization::affine);
    Operand { data: reading.buffer, norm }
}

/// A convolution's geometry: `Ok` for dense and grouped ones, `Err` for one filter per channel.
fn geometry(op: &Op, channels: usize) -> Result<Result<Conv, Sliding>, ShapeError> {
    match op {
        Op::Conv { sliding, groups, .. }
            if *groups == channels && channels == sliding.channels && *groups > 1 =>
        {
            Ok(Err(*sliding))
        }
        Op::Conv { sliding, groups, .. } => Conv::new(*sliding, channels, *groups).map(Ok),
        Op::ConvTranspose { sliding, .. } => Conv::new(*sliding, channels, 1).map(Ok),
        _ => Err(ShapeError::Zero { what: "convolution" }),
    }
}

fn weight(op: &Op) -> Range {
    match op {
        Op::Conv { weight, .. } | Op::ConvTranspose { weight, .. } | Op::Linear { weight, .. } => *weight,
        _ => Range { start: 0, len: 0 },
    }
}

impl Backend for CpuBackend {
    type Buffer = Buffer;

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn reads_lazily(&self, node: &Node) -> bool {
        !matches!(node.op, Op::Linear { .. } | Op::Activate { .. } | Op::L2Normalize)
    }

    fn begin_forward(&mut self, graph: &Graph, mode: Mode) {
        self.mode = mode;
        if self.kept.len() < graph.nodes().len() {
            self.kept.resize_with(graph.nodes().len(), Kept::default);
        }
        // A forward pass that failed half-way may have left moments that no normalization took.
        self.kept.iter_mut().for_each(|kept| kept.moments.rows = 0);
    }

    fn begin_backward(&mut self, accumulate: bool) -> Result<(), TrainError> {
        self.accumulate = accumulate;
        if !accumulate {
            // Parameters that no differentiated output depends on are not visited: theirs must not stay from the last step.
            self.gradients.fill(0.0);
        }
        Ok(())
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError> {
        let shares = Mask { visible, rows, columns }.shares()?;
        self.mask = Some(OwnedMask { visible: visible.to_vec(), rows, columns, shares });
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<Buffer, TrainError> {
        Ok(self.pool.take(len))
    }

    fn give(&mut self, buffer: Buffer) {
        self.pool.give(buffer);
    }

    fn copy(&mut self, from: &Buffer, to: &mut Buffer) -> Result<(), TrainError> {
        Ok(elementwise::materialize(Operand::plain(from), 1, to)?)
    }

    fn add_into(&mut self, from: &Buffer, to: &mut Buffer) -> Result<(), TrainError> {
        Ok(elementwise::add_into(to, from)?)
    }

    fn images(&mut self, images: Images<'_>, to: &mut Buffer) -> Result<(), TrainError> {
        match images {
            Images::Normalized(values) => Ok(elementwise::materialize(Operand::plain(values), 1, to)?),
            Images::Pixels { rgb, normalization } => normalize_pixels(rgb, normalization, to),
        }
    }

    fn to_tensor(&mut self, from: &Buffer, shape: &[usize]) -> Result<Tensor, TrainError> {
        Ok(Tensor::from_slice(from, shape, &Device::Cpu)?)
    }

    fn load_tensor(&mut self, from: &Tensor, to: &mut Buffer) -> Result<(), TrainError> {
        let values = crate::ops::to_host(&from.contiguous()?)?;
        expect_eq("values of an output's gradient", to.len(), values.len())?;
        to.copy_from_slice(&values);
        Ok(())
    }

    fn conv(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Buffer>,
        y: &mut Buffer,
        norm: Option<usize>,
    ) -> Result<(), TrainError> {
        let op = &at.node().op;
        let mut moments = norm.map(|id| std::mem::take(&mut self.kept[id].moments));
        let weights = &self.state.parameters[weight(op).indices()];
        let input = operand(&self.kept, x);
        if let Op::ConvTranspose { .. } = op {
            let Ok(conv) = geometry(op, at.input(0).channels)? else { return Ok(()) };
            // The adjoint of a convolution is its gradient with respect to the input.
            let plain = materialized(&mut self.pool, input, at.input(0).channels)?;
            let dy = plain.as_deref().unwrap_or(input.data);
            conv::backward_data(&conv, dy, weights, y, false, &mut self.workspace)?;
            plain.into_iter().for_each(|buffer| self.pool.give(buffer));
            return Ok(());
        }
        match geometry(op, at.shape().channels)? {
            Ok(conv) => conv::forward(&conv, input, weights, y, moments.as_mut(), &mut self.workspace)?,
            Err(sliding) => depthwise::forward(&sliding, input, weights, y, moments.as_mut())?,
        }
        if let Some((id, moments)) = norm.zip(moments) {
            self.kept[id].moments = moments;
        }
        Ok(())
    }

    fn conv_backward_data(
        &mut self,
        at: Site<'_>,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        let op = &at.node().op;
        let weights = &self.state.parameters[weight(op).indices()];
        if let Op::ConvTranspose { .. } = op {
            let Ok(conv) = geometry(op, at.input(0).channels)? else { return Ok(()) };
            if !accumulate {
                return Ok(conv::forward(&conv, Operand::plain(dy), weights, dx, None, &mut self.workspace)?);
            }
            let mut own = self.pool.take(dx.len());
            conv::forward(&conv, Operand::plain(dy), weights, &mut own, None, &mut self.workspace)?;
            elementwise::add_into(dx, &own)?;
            self.pool.give(own);
            return Ok(());
        }
        match geometry(op, at.shape().channels)? {
            Ok(conv) => conv::backward_data(&conv, dy, weights, dx, accumulate, &mut self.workspace)?,
            Err(sliding) => depthwise::backward_data(&sliding, dy, weights, dx, accumulate)?,
        }
        Ok(())
    }

    fn conv_backward_weight(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Buffer>,
        dy: &Buffer,
    ) -> Result<(), TrainError> {
        let op = &at.node().op;
        let dw = &mut self.gradients[weight(op).indices()];
        let input = operand(&self.kept, x);
        let (accumulate, workspace) = (self.accumulate, &mut self.workspace);
        if let Op::ConvTranspose { .. } = op {
            let Ok(conv) = geometry(op, at.input(0).channels)? else { return Ok(()) };
            let plain = materialized(&mut self.pool, input, at.input(0).channels)?;
            let x = plain.as_deref().unwrap_or(input.data);
            conv::backward_weight(&conv, Operand::plain(dy), x, dw, accumulate, workspace)?;
            plain.into_iter().for_each(|buffer| self.pool.give(buffer));
            return Ok(());
        }
        match geometry(op, at.shape().channels)? {
            Ok(conv) => conv::backward_weight(&conv, input, dy, dw, accumulate, workspace)?,
            Err(sliding) => depthwise::backward_weight(&sliding, input, dy, dw, accumulate)?,
        }
        Ok(())
    }

    fn batch_norm(&mut self, at: Site<'_>, x: &Buffer) -> Result<(), TrainError> {
        let Op::BatchNorm(spec) = &at.node().op else { return Ok(()) };
        let parameters = &self.state.parameters;
        let (gamma, beta) = (&parameters[spec.scale.indices()], &parameters[spec.shift.indices()]);
        let buffers = &mut self.state.buffers;
        if self.mode == Mode::Inference {
            let running = (&buffers[spec.mean.indices()], &buffers[spec.variance.indices()]);
            let norm = Normalization::inference(running, gamma, beta, spec.eps, spec.activation)?;
            self.kept[at.id].norm = Some(norm);
            return Ok(());
        }
        let shape = at.shape();
        let kept = &mut self.kept[at.id];
        if spec.masked {
            let mask = self.mask.as_ref().ok_or(TrainError::NoMask)?;
            kept.moments = Moments::masked(x, &mask.view(), dims(at))?;
        } else if kept.moments.rows == 0 {
            // Nobody took them on the way: the input does not come straight from a convolution.
            kept.moments = Moments::of(x, shape.channels)?;
        }
        let norm = Normalization::training(&kept.moments, gamma, beta, spec.eps, spec.activation)?;
        update_running(&kept.moments, spec, buffers)?;
        kept.moments.rows = 0;
        kept.norm = Some(norm);
        Ok(())
    }

    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        x: &Buffer,
        through: Through<'_, Buffer>,
    ) -> Result<(), TrainError> {
        let Op::BatchNorm(spec) = &at.node().op else { return Ok(()) };
        let norm = self.kept[at.id].norm.as_ref().ok_or(TrainError::NothingRan)?;
        let gamma = &self.state.parameters[spec.scale.indices()];
        let (dgamma, dbeta) = two(&mut self.gradients, spec.scale, spec.shift);
        let upstream = match through {
            Through::InPlace(dy) => Upstream::InPlace(dy),
            Through::Into { dy, dx, accumulate } => Upstream::Into { dy, dx, accumulate },
        };
        Ok(batch_norm::backward(norm, gamma, x, upstream, dgamma, dbeta, self.accumulate)?)
    }

    fn materialize(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<(), TrainError> {
        Ok(elementwise::materialize(operand(&self.kept, x), at.shape().channels, y)?)
    }

    fn bias(&mut self, at: Site<'_>, x: Reading<'_, Buffer>, y: &mut Buffer) -> Result<(), TrainError> {
        let Op::Bias { bias } = &at.node().op else { return Ok(()) };
        let channels = at.shape().channels;
        let input = operand(&self.kept, x);
        let plain = materialized(&mut self.pool, input, channels)?;
        let data = plain.as_deref().unwrap_or(input.data);
        let shift = &self.state.parameters[bias.indices()];
        let ones = vec![1.0; channels];
        let norm = Some(Affine { scale: &ones, shift, activation: Activation::Identity });
        elementwise::materialize(Operand { data, norm }, channels, y)?;
        plain.into_iter().for_each(|buffer| self.pool.give(buffer));
        Ok(())
    }

    fn bias_backward(&mut self, at: Site<'_>, dy: &Buffer) -> Result<(), TrainError> {
        let Op::Bias { bias } = &at.node().op else { return Ok(()) };
        let moments = Moments::of(dy, at.shape().channels)?;
        let rows = real(moments.rows);
        let sums = moments.mean.iter().map(|mean| mean * rows);
        add_sums(&mut self.gradients[bias.indices()], sums, self.accumulate);
        Ok(())
    }

    fn add(
        &mut self,
        at: Site<'_>,
        a: Reading<'_, Buffer>,
        b: Reading<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<(), TrainError> {
        let Op::Add { activation } = &at.node().op else { return Ok(()) };
        let (a, b) = (operand(&self.kept, a), operand(&self.kept, b));
        Ok(elementwise::add(a, b, at.shape().channels, *activation, y)?)
    }

    fn add_backward(&mut self, at: Site<'_>, y: &Buffer, dy: &mut Buffer) -> Result<(), TrainError> {
        let Op::Add { activation } = &at.node().op else { return Ok(()) };
        Ok(elementwise::add_backward(*activation, y, dy)?)
    }

    fn activate(&mut self, at: Site<'_>, x: &Buffer, y: &mut Buffer) -> Result<(), TrainError> {
        Ok(elementwise::activation_forward(activation(at), x, y)?)
    }

    fn activate_backward(&mut self, at: Site<'_>, x: &Buffer, dy: &mut Buffer) -> Result<(), TrainError> {
        Ok(elementwise::activation_backward(activation(at), x, dy)?)
    }

    fn max_pool(&mut self, at: Site<'_>, x: Reading<'_, Buffer>, y: &mut Buffer) -> Result<(), TrainError> {
        let Op::MaxPool { sliding } = &at.node().op else { return Ok(()) };
        let mut argmax = std::mem::take(&mut self.kept[at.id].argmax);
        argmax.resize(y.len(), 0);
        pool::max_pool(sliding, operand(&self.kept, x), y, &mut argmax)?;
        self.kept[at.id].argmax = argmax;
        Ok(())
    }

    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        let Op::MaxPool { sliding } = &at.node().op else { return Ok(()) };
        Ok(pool::max_pool_backward(sliding, &self.kept[at.id].argmax, dy, dx, accumulate)?)
    }

    fn average(&mut self, at: Site<'_>, x: Reading<'_, Buffer>, y: &mut Buffer) -> Result<(), TrainError> {
        let shape = at.input(0);
        pool::global_average(operand(&self.kept, x), shape.pixels(), shape.channels, y)?;
        self.count_visible(at, y)
    }

    fn average_backward(
        &mut self,
        at: Site<'_>,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError> {
        let shape = at.input(0);
        let mut own = self.pool.take(dy.len());
        own.copy_from_slice(dy);
        self.count_visible(at, &mut own)?;
        pool::global_average_backward(&own, shape.pixels(), shape.channels, dx, accumulate)?;
        self.pool.give(own);
        Ok(())
    }

    fn linear(&mut self, at: Site<'_>, x: &Buffer, y: &mut Buffer) -> Result<(), TrainError> {
        let Op::Linear { weight, bias } = &at.node().op else { return Ok(()) };
        let parameters = &self.state.parameters;
        let (weights, bias) = (&parameters[weight.indices()], &parameters[bias.indices()]);
        let output = linear::Output { activation: Activation::Identity, y, sum: None };
        let x = Operand::plain(x);
        Ok(linear::forward(&dense(at)?, x, weights, Some(bias), output, &mut self.workspace)?)
    }

    fn linear_backward(
        &mut self,
        at: Site<'_>,
        x: &Buffer,
        dy: &Buffer,
        dx: Option<(&mut Buffer, bool)>,
    ) -> Result<(), TrainError> {
        let Op::Linear { weight, bias } = &at.node().op else { return Ok(()) };
        let shape = dense(at)?;
        let (dw, db) = two(&mut self.gradients, *weight, *bias);
        let x = Operand::plain(x);
        linear::backward_weight(&shape, x, dy, dw, Some(db), self.accumulate, &mut self.workspace)?;
        if let Some((dx, accumulate)) = dx {
            let weights = &self.state.parameters[weight.indices()];
            linear::backward_data(&shape, dy, weights, dx, accumulate, &mut self.workspace)?;
        }
        Ok(())
    }

    fn scale(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Buffer>,
        gate: &Buffer,
        y: &mut Buffer,
    ) -> Result<(), TrainError> {
        let shape = at.shape();
        Ok(elementwise::scale(operand(&self.kept, x), gate, shape.pixels(), shape.channels, y)?)
    }

    fn scale_backward(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Buffer>,
        gate: &Buffer,
        dy: &mut Buffer,
        dgate: &mut Buffer,
    ) -> Result<(), TrainError> {
        let (pixels, channels) = (at.shape().pixels(), at.shape().channels);
        Ok(elementwise::scale_backward(operand(&self.kept, x), gate, pixels, channels, dy, dgate)?)
    }

    fn dropout(&mut self, at: Site<'_>, x: Reading<'_, Buffer>, y: &mut Buffer) -> Result<(), TrainError> {
        self.draw(at);
        self.materialize(at, x, y)?;
        scale_parts(y, &self.kept[at.id].factors);
        Ok(())
    }

    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut Buffer) -> Result<(), TrainError> {
        scale_parts(dy, &self.kept[at.id].factors);
        Ok(())
    }

    fn l2_normalize(&mut self, at: Site<'_>, x: &Buffer, y: &mut Buffer) -> Result<(), TrainError> {
        Ok(rows::normalize_forward(x, at.shape().channels, y)?)
    }

    fn l2_normalize_backward(&mut self, at: Site<'_>, x: &Buffer, dy: &mut Buffer) -> Result<(), TrainError> {
        let mut dx = self.pool.take(dy.len());
        rows::normalize_backward(x, dy, at.shape().channels, &mut dx)?;
        self.pool.give(std::mem::replace(dy, dx));
        Ok(())
    }

    fn mask(&mut self, at: Site<'_>, values: &mut Buffer) -> Result<(), TrainError> {
        Ok(mask::apply(&self.mask_view()?, dims(at), values)?)
    }

    fn fill_masked(&mut self, at: Site<'_>, values: &mut Buffer) -> Result<(), TrainError> {
        let Op::FillMasked { token } = &at.node().op else { return Ok(()) };
        let token = &self.state.parameters[token.indices()];
        Ok(mask::fill(&self.mask_view()?, dims(at), token, values)?)
    }

    fn fill_masked_backward(&mut self, at: Site<'_>, dy: &mut Buffer) -> Result<(), TrainError> {
        let Op::FillMasked { token } = &at.node().op else { return Ok(()) };
        let sums = mask::hidden_sums(&self.mask_view()?, dims(at), dy)?;
        add_sums(&mut self.gradients[token.indices()], sums, self.accumulate);
        self.mask(at, dy)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<(), TrainError> {
        update.run(table, &mut self.state, &mut self.gradients, &mut self.slots)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>, TrainError> {
        Ok(None)
    }

    fn state(&mut self) -> Result<State, TrainError> {
        Ok(self.state.clone())
    }

    fn load_state(&mut self, state: &State) -> Result<(), TrainError> {
        expect_eq("parameters of a state", self.state.parameters.len(), state.parameters.len())?;
        expect_eq("buffers of a state", self.state.buffers.len(), state.buffers.len())?;
        self.state.parameters.copy_from_slice(&state.parameters);
        self.state.buffers.copy_from_slice(&state.buffers);
        Ok(())
    }

    fn gradients(&mut self) -> Result<Vec<f32>, TrainError> {
        Ok(self.gradients.clone())
    }

    fn optimizer_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        Ok(self.slots.clone())
    }

    fn load_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError> {
        self.slots = slots.to_vec();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.pool.bytes + self.workspace.bytes()
    }
}

fn activation(at: Site<'_>) -> Activation {
    match at.node().op {
        Op::Activate { activation } => activation,
        _ => Activation::Identity,
    }
}

fn update_running(moments: &Moments, spec: &BatchNorm, buffers: &mut [f32]) -> Result<(), ShapeError> {
    let (mean, variance) = two(buffers, spec.mean, spec.variance);
    batch_norm::update_running(moments, spec.momentum, mean, variance)
}

/// Two tensors of one flat vector, the first before the second.
fn two(flat: &mut [f32], first: Range, second: Range) -> (&mut [f32], &mut [f32]) {
    let (head, tail) = flat.split_at_mut(second.start);
    (&mut head[first.indices()], &mut tail[..second.len])
}

/// Sums over a batch as the gradient of a parameter.
fn add_sums(gradient: &mut [f32], sums: impl IntoIterator<Item = f64>, accumulate: bool) {
    for (gradient, sum) in gradient.iter_mut().zip(sums) {
        let before = if accumulate { *gradient } else { 0.0 };
        *gradient = before + single(sum);
    }
}

/// The operand written out, unless it lies in memory as it is.
fn materialized(pool: &mut Pool, x: Operand<'_>, channels: usize) -> Result<Option<Buffer>, ShapeError> {
    if x.norm.is_none() {
        return Ok(None);
    }
    let mut y = pool.take(x.data.len());
    elementwise::materialize(x, channels, &mut y)?;
    Ok(Some(y))
}

/// The shape of a dense layer.
fn dense(at: Site<'_>) -> Result<linear::Linear, ShapeError> {
    linear::Linear::new(at.shape().batch, at.input(0).channels, at.shape().channels)
}

/// Rendered pixels as the student's input, on all threads.
fn normalize_pixels(
    rgb: &[u8],
    normalization: &render::Normalization,
    to: &mut [f32],
) -> Result<(), TrainError> {
    let table = normalization.table();
    let tasks = to.par_chunks_mut(3 * PIXELS_PER_TASK).zip(rgb.par_chunks(3 * PIXELS_PER_TASK));
    Ok(tasks.try_for_each(|(to, rgb)| table.apply(rgb, PixelLayout::Nhwc, to))?)
}

#[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
fn real(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
