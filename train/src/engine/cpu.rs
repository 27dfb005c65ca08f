//! The CPU: kernels of `lgd-kernels` on pooled buffers.

mod buffer;
mod saved;
mod update;

use candle_core::{Device, Tensor};
use lgd_data::render::{self, PixelLayout};
use lgd_kernels::batch_norm::{self, Normalization};
use lgd_kernels::geometry::{self, expect_eq};
use lgd_kernels::mask::{self, Mask};
use lgd_kernels::{
    Activation, Affine, GradientTarget, Moments, Operand, Sliding, Workspace, conv, depthwise, elementwise,
    linear, pool, rows,
};
use rayon::prelude::*;

use self::buffer::{Buffer, Pool};
use self::saved::{OwnedMask, Saved, norm, operand, scale_parts};
use super::backend::{Backend, FusedOperand, Images, Mode, Site};
use super::graph::{BatchNorm, Convolution, Dense, Dropout, Graph, Op, Shape};
use super::optimizer::{OptimizerState, Update};
use super::parameters::{Range, State, Table};
use crate::error::{Result, TrainError};
use crate::rng::Stream;

/// Pixels that one task normalizes.
const PIXELS_PER_TASK: usize = 16 * 1024;

/// Parameters, their gradients and the optimizer's state, all flat; pooled buffers for everything else.
pub struct CpuBackend {
    state: State,
    gradients: Vec<f32>,
    optimizer: OptimizerState,
    saved: Vec<Saved>,
    mode: Mode,
    accumulate: bool,
    mask: Option<OwnedMask>,
    pool: Pool,
    workspace: Workspace,
}

impl CpuBackend {
    /// A backend with the parameters and buffers of `state`.
    pub fn new(state: State) -> Self {
        Self {
            gradients: vec![0.0; state.parameters.len()],
            state,
            optimizer: OptimizerState::default(),
            saved: Vec::new(),
            mode: Mode::Inference,
            accumulate: false,
            mask: None,
            pool: Pool::default(),
            workspace: Workspace::new(),
        }
    }

    fn owned_mask(&self) -> Result<&OwnedMask> {
        self.mask.as_ref().ok_or(TrainError::NoMask)
    }

    fn mask_view(&self) -> Result<Mask<'_>> {
        self.owned_mask().map(OwnedMask::view)
    }

    /// Rescales means over all positions of each image to means over the visible ones, or gradients of the latter to
    /// gradients of the former.
    fn count_visible(&self, images: usize, means: &mut [f32]) -> Result<()> {
        let shares = &self.owned_mask()?.shares;
        expect_eq("images of the mask", images, shares.len())?;
        scale_parts(means, shares)
    }
}

impl Backend for CpuBackend {
    type Buffer = Buffer;

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn fuses_norm(&self, op: &Op) -> bool {
        match op {
            Op::Conv(_)
            | Op::ConvTranspose(_)
            | Op::Bias { .. }
            | Op::Add { .. }
            | Op::MaxPool { .. }
            | Op::GlobalAveragePool { .. }
            | Op::Scale
            | Op::Dropout(_)
            | Op::Mask
            | Op::FillMasked { .. } => true,
            Op::Images | Op::BatchNorm(_) | Op::Activate { .. } | Op::Linear(_) | Op::L2Normalize => false,
        }
    }

    fn begin_forward(&mut self, graph: &Graph, mode: Mode) {
        self.mode = mode;
        if self.saved.len() < graph.nodes().len() {
            self.saved.resize_with(graph.nodes().len(), Saved::default);
        }
        // A failed forward pass may have left moments that no normalization read.
        self.saved.iter_mut().for_each(|saved| saved.moments.rows = 0);
    }

    fn begin_backward(&mut self, accumulate: bool) -> Result<()> {
        self.accumulate = accumulate;
        if !accumulate {
            // The pass does not reach parameters that no differentiated output depends on: clear their old gradients.
            self.gradients.fill(0.0);
        }
        Ok(())
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<()> {
        self.mask = Some(OwnedMask::new(visible, rows, columns)?);
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<Buffer> {
        Ok(self.pool.take(len))
    }

    fn give(&mut self, buffer: Buffer) {
        self.pool.give(buffer);
    }

    fn copy(&mut self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        Ok(elementwise::materialize(Operand::plain(from), 1, to)?)
    }

    fn add_into(&mut self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        Ok(elementwise::add_into(from, to)?)
    }

    fn images(&mut self, images: Images<'_>, to: &mut Buffer) -> Result<()> {
        match images {
            Images::Normalized(values) => Ok(elementwise::materialize(Operand::plain(values), 1, to)?),
            Images::Pixels { rgb, normalization } => normalize_pixels(rgb, normalization, to),
        }
    }

    fn to_tensor(&mut self, from: &Buffer, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_slice(from, shape, &Device::Cpu)?)
    }

    fn load_tensor(&mut self, from: &Tensor, to: &mut Buffer) -> Result<()> {
        let values = crate::ops::to_host(&from.contiguous()?)?;
        expect_eq("values of an output's gradient", to.len(), values.len())?;
        to.copy_from_slice(&values);
        Ok(())
    }

    fn conv(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
        norm: Option<usize>,
    ) -> Result<()> {
        let mut moments = norm.map(|id| std::mem::take(&mut self.saved[id].moments));
        let weights = &self.state.parameters[conv.weight.indices()];
        let (input, geometry) = (operand(&self.saved, x)?, &conv.geometry);
        if geometry.is_depthwise() {
            depthwise::forward(&geometry.sliding, input, weights, y, moments.as_mut())?;
        } else {
            conv::forward(geometry, input, weights, y, moments.as_mut(), &mut self.workspace)?;
        }
        if let Some((id, moments)) = norm.zip(moments) {
            self.saved[id].moments = moments;
        }
        Ok(())
    }

    fn conv_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<()> {
        let weights = &self.state.parameters[conv.weight.indices()];
        let geometry = &conv.geometry;
        if geometry.is_depthwise() {
            return Ok(depthwise::backward_data(&geometry.sliding, dy, weights, dx, accumulate)?);
        }
        Ok(conv::backward_data(geometry, dy, weights, dx, accumulate, &mut self.workspace)?)
    }

    fn conv_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Buffer>,
        dy: &Buffer,
    ) -> Result<()> {
        let dw = &mut self.gradients[conv.weight.indices()];
        let (input, geometry) = (operand(&self.saved, x)?, &conv.geometry);
        if geometry.is_depthwise() {
            return Ok(depthwise::backward_weight(&geometry.sliding, input, dy, dw, self.accumulate)?);
        }
        Ok(conv::backward_weight(geometry, input, dy, dw, self.accumulate, &mut self.workspace)?)
    }

    fn conv_transpose(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        let weights = &self.state.parameters[conv.weight.indices()];
        let input = operand(&self.saved, x)?;
        let plain = materialized(&mut self.pool, input, conv.geometry.out_channels)?;
        // The adjoint of a convolution is the gradient of its input.
        let dy = plain.as_deref().unwrap_or(input.data);
        conv::backward_data(&conv.geometry, dy, weights, y, false, &mut self.workspace)?;
        self.pool.recycle(plain);
        Ok(())
    }

    fn conv_transpose_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<()> {
        let weights = &self.state.parameters[conv.weight.indices()];
        let (dy, workspace) = (Operand::plain(dy), &mut self.workspace);
        if !accumulate {
            return Ok(conv::forward(&conv.geometry, dy, weights, dx, None, workspace)?);
        }
        let mut own = self.pool.take(dx.len());
        conv::forward(&conv.geometry, dy, weights, &mut own, None, workspace)?;
        elementwise::add_into(&own, dx)?;
        self.pool.give(own);
        Ok(())
    }

    fn conv_transpose_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Buffer>,
        dy: &Buffer,
    ) -> Result<()> {
        let dw = &mut self.gradients[conv.weight.indices()];
        let input = operand(&self.saved, x)?;
        let plain = materialized(&mut self.pool, input, conv.geometry.out_channels)?;
        let (x, dy) = (plain.as_deref().unwrap_or(input.data), Operand::plain(dy));
        conv::backward_weight(&conv.geometry, dy, x, dw, self.accumulate, &mut self.workspace)?;
        self.pool.recycle(plain);
        Ok(())
    }

    fn batch_norm(&mut self, at: Site<'_>, norm: &BatchNorm, x: &Buffer) -> Result<()> {
        let parameters = &self.state.parameters;
        let (gamma, beta) = (&parameters[norm.scale.indices()], &parameters[norm.shift.indices()]);
        let buffers = &mut self.state.buffers;
        let Mode::Train { step, .. } = self.mode else {
            let running = (&buffers[norm.mean.indices()], &buffers[norm.variance.indices()]);
            let computed = Normalization::inference(running, gamma, beta, norm.eps, norm.activation)?;
            self.saved[at.id].norm = Some(computed);
            return Ok(());
        };
        let saved = &mut self.saved[at.id];
        if norm.masked {
            let mask = self.mask.as_ref().ok_or(TrainError::NoMask)?;
            saved.moments = Moments::masked(x, &mask.view(), at.shape.dims())?;
        } else if saved.moments.rows == 0 {
            // No convolution before this normalization computed them.
            saved.moments = Moments::of(x, at.shape.channels)?;
        }
        let computed = Normalization::training(&saved.moments, gamma, beta, norm.eps, norm.activation)?;
        let (mean, variance) = two(buffers, norm.mean, norm.variance);
        batch_norm::update_running(&saved.moments, norm.momentum_at(step), mean, variance)?;
        saved.moments.rows = 0;
        saved.norm = Some(computed);
        Ok(())
    }

    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        spec: &BatchNorm,
        x: &Buffer,
        target: GradientTarget<&Buffer, &mut Buffer>,
    ) -> Result<()> {
        let norm = norm(&self.saved, at.id)?;
        let gamma = &self.state.parameters[spec.scale.indices()];
        let (dgamma, dbeta) = two(&mut self.gradients, spec.scale, spec.shift);
        let target = match target {
            GradientTarget::InPlace(dy) => GradientTarget::InPlace(&mut dy[..]),
            GradientTarget::Into { dy, dx, accumulate } => {
                GradientTarget::Into { dy: &dy[..], dx: &mut dx[..], accumulate }
            }
        };
        Ok(batch_norm::backward(norm, gamma, x, target, dgamma, dbeta, self.accumulate)?)
    }

    fn materialize(&mut self, channels: usize, x: FusedOperand<'_, Buffer>, y: &mut Buffer) -> Result<()> {
        Ok(elementwise::materialize(operand(&self.saved, x)?, channels, y)?)
    }

    fn bias(&mut self, bias: Range, x: FusedOperand<'_, Buffer>, y: &mut Buffer) -> Result<()> {
        let channels = bias.len;
        let input = operand(&self.saved, x)?;
        let plain = materialized(&mut self.pool, input, channels)?;
        let data = plain.as_deref().unwrap_or(input.data);
        let shift = &self.state.parameters[bias.indices()];
        let ones = vec![1.0; channels];
        let norm = Some(Affine { scale: &ones, shift, activation: Activation::Identity });
        elementwise::materialize(Operand { data, norm }, channels, y)?;
        self.pool.recycle(plain);
        Ok(())
    }

    fn bias_backward(&mut self, bias: Range, dy: &Buffer) -> Result<()> {
        let moments = Moments::of(dy, bias.len)?;
        let rows = real(moments.rows);
        let sums = moments.mean.iter().map(|mean| mean * rows);
        add_sums(&mut self.gradients[bias.indices()], sums, self.accumulate);
        Ok(())
    }

    fn add(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        a: FusedOperand<'_, Buffer>,
        b: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        let (a, b) = (operand(&self.saved, a)?, operand(&self.saved, b)?);
        Ok(elementwise::add(a, b, at.shape.channels, activation, y)?)
    }

    fn add_backward(
        &mut self,
        _: Site<'_>,
        activation: Activation,
        y: &Buffer,
        dy: &mut Buffer,
    ) -> Result<()> {
        Ok(elementwise::add_backward(activation, y, dy)?)
    }

    fn activate(&mut self, activation: Activation, x: &Buffer, y: &mut Buffer) -> Result<()> {
        Ok(elementwise::activate(activation, x, y)?)
    }

    fn activate_backward(&mut self, activation: Activation, x: &Buffer, dy: &mut Buffer) -> Result<()> {
        Ok(elementwise::activate_backward(activation, x, dy)?)
    }

    fn max_pool(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        x: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        let mut argmax = std::mem::take(&mut self.saved[at.id].argmax);
        argmax.resize(y.len(), 0);
        pool::max_pool(sliding, operand(&self.saved, x)?, y, &mut argmax)?;
        self.saved[at.id].argmax = argmax;
        Ok(())
    }

    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<()> {
        Ok(pool::max_pool_backward(sliding, dy, &self.saved[at.id].argmax, dx, accumulate)?)
    }

    fn global_average(
        &mut self,
        at: Site<'_>,
        masked: bool,
        x: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        pool::global_average(operand(&self.saved, x)?, at.input.pixels(), at.input.channels, y)?;
        if masked { self.count_visible(at.input.batch, y) } else { Ok(()) }
    }

    fn global_average_backward(
        &mut self,
        at: Site<'_>,
        masked: bool,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) -> Result<()> {
        let (pixels, channels) = (at.input.pixels(), at.input.channels);
        if !masked {
            return Ok(pool::global_average_backward(dy, pixels, channels, dx, accumulate)?);
        }
        let mut own = self.pool.take(dy.len());
        own.copy_from_slice(dy);
        self.count_visible(at.input.batch, &mut own)?;
        pool::global_average_backward(&own, pixels, channels, dx, accumulate)?;
        self.pool.give(own);
        Ok(())
    }

    fn linear(&mut self, layer: &Dense, x: &Buffer, y: &mut Buffer) -> Result<()> {
        let parameters = &self.state.parameters;
        let (weights, bias) = (&parameters[layer.weight.indices()], &parameters[layer.bias.indices()]);
        let (x, workspace) = (Operand::plain(x), &mut self.workspace);
        Ok(linear::forward(&layer.geometry, x, weights, Some(bias), y, workspace)?)
    }

    fn linear_backward(
        &mut self,
        layer: &Dense,
        x: &Buffer,
        dy: &Buffer,
        dx: Option<(&mut Buffer, bool)>,
    ) -> Result<()> {
        let (dw, db) = two(&mut self.gradients, layer.weight, layer.bias);
        let (x, workspace) = (Operand::plain(x), &mut self.workspace);
        linear::backward_weight(&layer.geometry, x, dy, dw, Some(db), self.accumulate, workspace)?;
        if let Some((dx, accumulate)) = dx {
            let weights = &self.state.parameters[layer.weight.indices()];
            linear::backward_data(&layer.geometry, dy, weights, dx, accumulate, workspace)?;
        }
        Ok(())
    }

    fn scale(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, Buffer>,
        gate: &Buffer,
        y: &mut Buffer,
    ) -> Result<()> {
        Ok(elementwise::scale(operand(&self.saved, x)?, gate, shape.pixels(), shape.channels, y)?)
    }

    fn scale_backward(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, Buffer>,
        gate: &Buffer,
        dy: &mut Buffer,
        dgate: &mut Buffer,
    ) -> Result<()> {
        let x = operand(&self.saved, x)?;
        Ok(elementwise::scale_backward(x, gate, shape.pixels(), shape.channels, dy, dgate)?)
    }

    fn dropout(
        &mut self,
        at: Site<'_>,
        dropout: &Dropout,
        mut numbers: Stream,
        x: FusedOperand<'_, Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        let count = if dropout.per_image { at.shape.batch } else { at.shape.len() };
        let keep = 1.0 / (1.0 - dropout.rate);
        let rate = f64::from(dropout.rate);
        let factors = &mut self.saved[at.id].factors;
        factors.clear();
        factors.extend((0..count).map(|_| if numbers.uniform() < rate { 0.0 } else { keep }));
        self.materialize(at.shape.channels, x, y)?;
        scale_parts(y, &self.saved[at.id].factors)
    }

    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut Buffer) -> Result<()> {
        scale_parts(dy, &self.saved[at.id].factors)
    }

    fn l2_normalize(&mut self, columns: usize, x: &Buffer, y: &mut Buffer) -> Result<()> {
        Ok(rows::l2_normalize(x, columns, y)?)
    }

    fn l2_normalize_backward(&mut self, columns: usize, x: &Buffer, dy: &mut Buffer) -> Result<()> {
        let mut dx = self.pool.take(dy.len());
        rows::l2_normalize_backward(x, dy, columns, &mut dx)?;
        self.pool.give(std::mem::replace(dy, dx));
        Ok(())
    }

    fn mask(&mut self, shape: Shape, values: &mut Buffer) -> Result<()> {
        Ok(mask::apply(&self.mask_view()?, shape.dims(), values)?)
    }

    fn fill_masked(&mut self, shape: Shape, token: Range, values: &mut Buffer) -> Result<()> {
        let token = &self.state.parameters[token.indices()];
        Ok(mask::fill(&self.mask_view()?, shape.dims(), token, values)?)
    }

    fn fill_masked_backward(&mut self, shape: Shape, token: Range, dy: &mut Buffer) -> Result<()> {
        let sums = mask::hidden_sums(&self.mask_view()?, shape.dims(), dy)?;
        add_sums(&mut self.gradients[token.indices()], sums, self.accumulate);
        self.mask(shape, dy)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<()> {
        update.run(table, &mut self.state, &mut self.gradients, &mut self.optimizer)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn state(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        expect_eq("parameters of a state", self.state.parameters.len(), state.parameters.len())?;
        expect_eq("buffers of a state", self.state.buffers.len(), state.buffers.len())?;
        self.state.parameters.copy_from_slice(&state.parameters);
        self.state.buffers.copy_from_slice(&state.buffers);
        Ok(())
    }

    fn running(&self) -> Option<Vec<f32>> {
        Some(self.state.buffers.clone())
    }

    fn restore_running(&mut self, running: Vec<f32>) {
        self.state.buffers = running;
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        Ok(self.gradients.clone())
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState> {
        Ok(self.optimizer.clone())
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()> {
        self.optimizer = state.clone();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.pool.bytes + self.workspace.bytes()
    }
}

/// Two tensors of one flat vector, the first before the second.
fn two(flat: &mut [f32], first: Range, second: Range) -> (&mut [f32], &mut [f32]) {
    let (head, tail) = flat.split_at_mut(second.start);
    (&mut head[first.indices()], &mut tail[..second.len])
}

/// Writes sums over a batch to the gradient of a parameter, or adds them.
fn add_sums(gradient: &mut [f32], sums: impl IntoIterator<Item = f64>, accumulate: bool) {
    for (gradient, sum) in gradient.iter_mut().zip(sums) {
        let before = if accumulate { *gradient } else { 0.0 };
        *gradient = before + single(sum);
    }
}

/// Writes an operand with a pending normalization to a temporary buffer; none for a plain operand.
fn materialized(pool: &mut Pool, x: Operand<'_>, channels: usize) -> geometry::Result<Option<Buffer>> {
    if x.norm.is_none() {
        return Ok(None);
    }
    let mut y = pool.take(x.data.len());
    elementwise::materialize(x, channels, &mut y)?;
    Ok(Some(y))
}

/// Normalizes rendered pixels, on all threads.
fn normalize_pixels(rgb: &[u8], normalization: &render::Normalization, to: &mut [f32]) -> Result<()> {
    expect_eq("pixel values", to.len(), rgb.len())?;
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
