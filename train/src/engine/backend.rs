//! The interface of a device: the operations of a graph on the device's own buffers.
//!
//! The tape decides which operation runs, in which order and into which buffer; a backend computes it. The tape matches
//! a node's [`Op`] once and calls the method of that operation with the operation's payload. Buffers come from the
//! backend's pool and return to it, so only the first step allocates.

use candle_core::{Device, Tensor};
use lgd_data::render::Normalization;
use lgd_kernels::{Activation, GradientTarget, Sliding};

use super::graph::{BatchNorm, Convolution, Dense, Dropout, Graph, Op, Shape, Value};
use super::optimizer::{OptimizerState, Update};
use super::parameters::{Range, State, Table};
use crate::error::Result;
use crate::rng::Stream;

/// How a student runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Uses batch statistics, updates running statistics and saves tensors for the backward pass. Seed and step
    /// determine every random draw. The step determines the batch's weight in the running statistics
    /// ([`BatchNorm::momentum_at`]).
    Train {
        /// Seed of the run.
        seed: u64,
        /// Number of the forward pass, from 0, counted over the whole run.
        step: u64,
    },
    /// Uses running statistics, no dropout, and saves no tensors.
    Inference,
}

/// A batch of images, NHWC, RGB.
#[derive(Debug, Clone, Copy)]
pub enum Images<'a> {
    /// Normalized values, as the student reads them.
    Normalized(&'a [f32]),
    /// Rendered pixels, which the backend normalizes. A GPU normalizes them after the upload, which is a quarter of the
    /// size.
    Pixels {
        /// Red, green and blue of each pixel.
        rgb: &'a [u8],
        /// Mean and standard deviation per channel.
        normalization: &'a Normalization,
    },
}

impl Images<'_> {
    /// Number of scalars.
    pub fn len(&self) -> usize {
        match self {
            Self::Normalized(values) => values.len(),
            Self::Pixels { rgb, .. } => rgb.len(),
        }
    }

    /// Whether there are no scalars.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The place of an operation in its graph.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Number of the node; saved tensors are kept under it.
    pub id: usize,
    /// Values that the node reads, in operand order.
    pub inputs: &'a [Value],
    /// Shape of the first input. For the images, which have no inputs, the shape of the node's value.
    pub input: Shape,
    /// Shape of the node's value.
    pub shape: Shape,
}

impl<'a> Site<'a> {
    /// The place of node `id`.
    pub(super) fn new(graph: &'a Graph, id: usize) -> Self {
        let node = &graph.nodes[id];
        let input = node.inputs.first().map_or(node.shape, |first| graph.node(*first).shape);
        Self { id, inputs: &node.inputs, input, shape: node.shape }
    }
}

/// An operand that is normalized while it is read: `buffer`, through the batch normalization of node `norm` if there is one.
#[derive(Debug)]
pub struct FusedOperand<'a, T> {
    /// Values in memory.
    pub buffer: &'a T,
    /// Number of the batch normalization to apply.
    pub norm: Option<usize>,
}

impl<T> Clone for FusedOperand<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for FusedOperand<'_, T> {}

/// Operations of a device. The graph's builder checked shapes and geometries; a length that does not fit is an error.
/// An operation that succeeds has written its result.
///
/// In backward operations `dy` is the gradient of the node's value. [`begin_backward`](Self::begin_backward) sets
/// whether gradients of parameters are written or added. With `accumulate`, the gradient of an input is added to `dx`.
/// A backward operation fails with [`NothingRan`](crate::error::TrainError::NothingRan) if the forward pass saved
/// nothing for it. A masked operation fails with [`NoMask`](crate::error::TrainError::NoMask) before
/// [`set_mask`](Self::set_mask).
pub trait Backend {
    /// Values and their gradients on the device.
    type Buffer;

    /// The device on which objectives compute.
    fn device(&self) -> &Device;

    /// Whether an operation applies a pending normalization while it reads its input, so that the normalized value is never written.
    fn fuses_norm(&self, op: &Op) -> bool;

    /// Prepares for a forward pass over `graph`; drops what an unfinished pass saved.
    fn begin_forward(&mut self, graph: &Graph, mode: Mode);

    /// Prepares for a backward pass. With `accumulate`, gradients of parameters are added to those of the last pass; otherwise gradients of
    /// parameters that this pass does not reach are zeroed.
    fn begin_backward(&mut self, accumulate: bool) -> Result<()>;

    /// Sets the mask of masked graphs: per image and cell, whether it is visible; `rows` x `columns` cells per image.
    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<()>;

    /// Takes a buffer of `len` values with arbitrary content.
    fn take(&mut self, len: usize) -> Result<Self::Buffer>;
    /// Returns a buffer to the pool.
    fn give(&mut self, buffer: Self::Buffer);
    /// `to = from`.
    fn copy(&mut self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<()>;
    /// `to += from`.
    fn add_into(&mut self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<()>;
    /// Loads the images.
    fn images(&mut self, images: Images<'_>, to: &mut Self::Buffer) -> Result<()>;
    /// A value as an f32 tensor of `shape`, for an objective.
    fn to_tensor(&mut self, from: &Self::Buffer, shape: &[usize]) -> Result<Tensor>;
    /// Loads a gradient from an objective.
    fn load_tensor(&mut self, from: &Tensor, to: &mut Self::Buffer) -> Result<()>;

    /// `y` = convolution of `x`. The backend may compute the moments of `y` here for the batch normalization `norm`,
    /// the only reader of `y`.
    fn conv(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
        norm: Option<usize>,
    ) -> Result<()>;
    /// Gradient of the input of [`conv`](Self::conv).
    fn conv_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<()>;
    /// Gradient of the weights of [`conv`](Self::conv).
    fn conv_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Self::Buffer>,
        dy: &Self::Buffer,
    ) -> Result<()>;
    /// `y` = transposed convolution of `x`: the adjoint of `conv`.
    fn conv_transpose(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Gradient of the input of [`conv_transpose`](Self::conv_transpose).
    fn conv_transpose_backward_data(
        &mut self,
        conv: &Convolution,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<()>;
    /// Gradient of the weights of [`conv_transpose`](Self::conv_transpose).
    fn conv_transpose_backward_weight(
        &mut self,
        conv: &Convolution,
        x: FusedOperand<'_, Self::Buffer>,
        dy: &Self::Buffer,
    ) -> Result<()>;
    /// Computes and saves the statistics and per-channel factors of a batch normalization of `x`; updates running
    /// statistics in training.
    fn batch_norm(&mut self, at: Site<'_>, norm: &BatchNorm, x: &Self::Buffer) -> Result<()>;
    /// Gradients of the parameters and the input of a batch normalization with its activation.
    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        norm: &BatchNorm,
        x: &Self::Buffer,
        target: GradientTarget<&Self::Buffer, &mut Self::Buffer>,
    ) -> Result<()>;
    /// Writes `x`, with `channels` channels, to `y`, and applies its pending normalization.
    fn materialize(
        &mut self,
        channels: usize,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// `y = x + bias`, per channel.
    fn bias(&mut self, bias: Range, x: FusedOperand<'_, Self::Buffer>, y: &mut Self::Buffer) -> Result<()>;
    /// Gradient of the bias.
    fn bias_backward(&mut self, bias: Range, dy: &Self::Buffer) -> Result<()>;
    /// `y = activation(a + b)`.
    fn add(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        a: FusedOperand<'_, Self::Buffer>,
        b: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Replaces `dy` by the gradient of either summand of [`add`](Self::add).
    fn add_backward(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        y: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<()>;
    /// `y = activation(x)`.
    fn activate(&mut self, activation: Activation, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<()>;
    /// Replaces `dy` by the gradient of the input of [`activate`](Self::activate).
    fn activate_backward(
        &mut self,
        activation: Activation,
        x: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<()>;
    /// `y` = largest value of each window; saves the position of each.
    fn max_pool(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Gradient of the input of [`max_pool`](Self::max_pool).
    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<()>;
    /// `y` = mean over the positions of each image; over the visible ones if `masked`.
    fn global_average(
        &mut self,
        at: Site<'_>,
        masked: bool,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Gradient of the input of [`global_average`](Self::global_average).
    fn global_average_backward(
        &mut self,
        at: Site<'_>,
        masked: bool,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<()>;
    /// `y = x . weight^T + bias`.
    fn linear(&mut self, layer: &Dense, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<()>;
    /// Gradients of the parameters of a dense layer. If `dx` is given, also the gradient of the input, added to the
    /// buffer if the flag is set.
    fn linear_backward(
        &mut self,
        layer: &Dense,
        x: &Self::Buffer,
        dy: &Self::Buffer,
        dx: Option<(&mut Self::Buffer, bool)>,
    ) -> Result<()>;
    /// `y` = `x`, of `shape`, times `gate`, one factor per image and channel.
    fn scale(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, Self::Buffer>,
        gate: &Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Replaces `dy` by the gradient of `x` of [`scale`](Self::scale); writes the gate's gradient to `dgate`.
    fn scale_backward(
        &mut self,
        shape: Shape,
        x: FusedOperand<'_, Self::Buffer>,
        gate: &Self::Buffer,
        dy: &mut Self::Buffer,
        dgate: &mut Self::Buffer,
    ) -> Result<()>;
    /// `y` = `x` after dropout with a draw from `numbers`; saves the draw.
    fn dropout(
        &mut self,
        at: Site<'_>,
        dropout: &Dropout,
        numbers: Stream,
        x: FusedOperand<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Applies the saved draw of [`dropout`](Self::dropout) to `dy`.
    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut Self::Buffer) -> Result<()>;
    /// `y` = rows of `columns` values, each divided by its L2 norm.
    fn l2_normalize(&mut self, columns: usize, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<()>;
    /// Replaces `dy` by the gradient of the input of [`l2_normalize`](Self::l2_normalize).
    fn l2_normalize_backward(
        &mut self,
        columns: usize,
        x: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<()>;
    /// Zeroes the hidden positions of a value or a gradient of `shape`, in place.
    fn mask(&mut self, shape: Shape, values: &mut Self::Buffer) -> Result<()>;
    /// Writes the parameter `token` to the hidden positions of a value of `shape`, in place.
    fn fill_masked(&mut self, shape: Shape, token: Range, values: &mut Self::Buffer) -> Result<()>;
    /// Gradient of the token of [`fill_masked`](Self::fill_masked); replaces `dy` by the gradient of the input.
    fn fill_masked_backward(&mut self, shape: Shape, token: Range, dy: &mut Self::Buffer) -> Result<()>;

    /// Runs one optimizer step on all parameters, with the gradients of the last backward passes.
    fn update(&mut self, table: &Table, update: &Update) -> Result<()>;
    /// Scalar norm of the gradients that the last update clipped, on a device whose updates do not check that it is
    /// finite.
    fn unchecked_norm(&mut self) -> Result<Option<Tensor>>;
    /// Parameters and buffers, on the host.
    fn state(&mut self) -> Result<State>;
    /// Loads parameters and buffers; fails if a length differs.
    fn load_state(&mut self, state: &State) -> Result<()>;
    /// The running statistics, if training passes can be undone on this device: they are the only state that a pass changes.
    fn running(&self) -> Option<Vec<f32>> {
        None
    }
    /// Replaces the running statistics by those of [`running`](Self::running).
    fn restore_running(&mut self, _running: Vec<f32>) {}
    /// Gradients of the parameters, flat, on the host.
    fn gradients(&mut self) -> Result<Vec<f32>>;
    /// The optimizer's state, on the host.
    fn optimizer_state(&mut self) -> Result<OptimizerState>;
    /// Loads the optimizer's state; the next [`update`](Self::update) checks it.
    fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()>;
    /// Bytes of all buffers that the backend holds.
    fn bytes(&self) -> usize;
}
