//! What a device must be able to do: the operations of a graph on its own buffers.
//!
//! The tape decides what is computed, in which order and into which buffer; a backend computes. Buffers come from the backend's
//! pool and go back to it, so that a step after the first allocates nothing.

use candle_core::{Device, Tensor};
use lgd_data::render::Normalization;

use super::graph::{Graph, Node, Shape};
use super::parameters::{State, Table};
use crate::error::TrainError;
use crate::optim::Update;

/// How a student runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics updated, values kept for the backward pass. (seed, step) name every random draw.
    Train {
        /// The run's seed.
        seed: u64,
        /// The optimizer step, counted over the whole run.
        step: u64,
    },
    /// Running statistics, no dropout, nothing kept.
    Inference,
}

/// A batch of images, NHWC, RGB.
#[derive(Debug, Clone, Copy)]
pub enum Images<'a> {
    /// Ready for the student.
    Normalized(&'a [f32]),
    /// As rendered; the backend normalizes: a device after the upload of a quarter of the bytes.
    Pixels {
        /// Bytes.
        rgb: &'a [u8],
        /// Per channel.
        normalization: &'a Normalization,
    },
}

impl Images<'_> {
    /// Scalars.
    pub fn len(&self) -> usize {
        match self {
            Self::Normalized(values) => values.len(),
            Self::Pixels { rgb, .. } => rgb.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A node at work: its number names what the backend keeps for it between forward and backward.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The node's number.
    pub id: usize,
    /// Its graph.
    pub graph: &'a Graph,
}

impl<'a> Site<'a> {
    /// The node.
    pub fn node(self) -> &'a Node {
        &self.graph.nodes()[self.id]
    }

    /// The shape of its value.
    pub fn shape(self) -> Shape {
        self.node().shape
    }

    /// The shape of an input.
    pub fn input(self, at: usize) -> Shape {
        self.graph.node(self.node().inputs[at]).shape
    }
}

/// A value as a node reads it: `buffer`, through the normalization of node `norm` where there is one.
pub struct Reading<'a, T> {
    /// What lies in memory.
    pub buffer: &'a T,
    /// Number of the batch normalization that is still to be applied.
    pub norm: Option<usize>,
}

impl<T> Clone for Reading<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Reading<'_, T> {}

/// Where the gradient of a normalization's input goes.
pub enum Through<'a, T> {
    /// Over the output's gradient.
    InPlace(&'a mut T),
    /// To a buffer of its own, added to it where `accumulate` says so.
    Into {
        /// Gradient of the output.
        dy: &'a T,
        /// Gradient of the input.
        dx: &'a mut T,
        /// Add instead of write.
        accumulate: bool,
    },
}

/// A device's operations. Shapes were checked when the graph was built; errors are the device's.
///
/// In the backward operations `dy` is the gradient of the node's value. Gradients of parameters are written, or added where
/// [`begin_backward`](Self::begin_backward) was told so.
pub trait Backend {
    /// Activations and their gradients on the device.
    type Buffer;

    /// Where objectives compute.
    fn device(&self) -> &Device;

    /// Whether the node reads un-normalized inputs through the normalization, so that it need not be written out.
    fn reads_lazily(&self, node: &Node) -> bool;

    /// Makes room for what the nodes of `graph` keep.
    fn begin_forward(&mut self, graph: &Graph, mode: Mode);

    /// `accumulate`: gradients of parameters are added to those of the last backward pass; otherwise those of parameters that it does
    /// not come by are zero after it.
    fn begin_backward(&mut self, accumulate: bool) -> Result<(), TrainError>;

    /// The mask of a masked graph: per image and cell, whether it is visible; `rows` x `columns` cells. Every image shows something.
    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError>;

    /// A buffer of `len` values with arbitrary content.
    fn take(&mut self, len: usize) -> Result<Self::Buffer, TrainError>;
    /// Takes a buffer back.
    fn give(&mut self, buffer: Self::Buffer);
    /// `to = from`.
    fn copy(&mut self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<(), TrainError>;
    /// `to += from`.
    fn add_into(&mut self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<(), TrainError>;
    /// Loads the images.
    fn images(&mut self, images: Images<'_>, to: &mut Self::Buffer) -> Result<(), TrainError>;
    /// A value as an f32 tensor of `shape` for an objective.
    fn to_tensor(&mut self, from: &Self::Buffer, shape: &[usize]) -> Result<Tensor, TrainError>;
    /// A gradient from an objective.
    fn load_tensor(&mut self, from: &Tensor, to: &mut Self::Buffer) -> Result<(), TrainError>;

    /// Convolution, depthwise too. May take the moments of `y` for the batch normalization `norm` that follows.
    fn conv(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
        norm: Option<usize>,
    ) -> Result<(), TrainError>;
    /// Gradient of the input.
    fn conv_backward_data(
        &mut self,
        at: Site<'_>,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError>;
    /// Gradient of the weights.
    fn conv_backward_weight(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        dy: &Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Statistics and final form of a batch normalization of `x`; running statistics move in training.
    fn batch_norm(&mut self, at: Site<'_>, x: &Self::Buffer) -> Result<(), TrainError>;
    /// Gradients of a batch normalization and its activation.
    fn batch_norm_backward(
        &mut self,
        at: Site<'_>,
        x: &Self::Buffer,
        through: Through<'_, Self::Buffer>,
    ) -> Result<(), TrainError>;
    /// Writes a normalized value out.
    fn materialize(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// `x + bias`.
    fn bias(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Gradient of the bias.
    fn bias_backward(&mut self, at: Site<'_>, dy: &Self::Buffer) -> Result<(), TrainError>;
    /// `activation(a + b)`.
    fn add(
        &mut self,
        at: Site<'_>,
        a: Reading<'_, Self::Buffer>,
        b: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// `dy` becomes the gradient of either summand.
    fn add_backward(
        &mut self,
        at: Site<'_>,
        y: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// An activation.
    fn activate(&mut self, at: Site<'_>, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<(), TrainError>;
    /// `dy` becomes the gradient of the input.
    fn activate_backward(
        &mut self,
        at: Site<'_>,
        x: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Max-pool.
    fn max_pool(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Its gradient.
    fn max_pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError>;
    /// Global average pool, over visible positions where it is masked.
    fn average(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Its gradient.
    fn average_backward(
        &mut self,
        at: Site<'_>,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), TrainError>;
    /// Dense layer.
    fn linear(&mut self, at: Site<'_>, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<(), TrainError>;
    /// Gradients of a dense layer: of its parameters, and of its input where `dx` is given.
    fn linear_backward(
        &mut self,
        at: Site<'_>,
        x: &Self::Buffer,
        dy: &Self::Buffer,
        dx: Option<(&mut Self::Buffer, bool)>,
    ) -> Result<(), TrainError>;
    /// `x` times the gate.
    fn scale(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        gate: &Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// `dy` becomes the gradient of `x`; `dgate` that of the gate.
    fn scale_backward(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        gate: &Self::Buffer,
        dy: &mut Self::Buffer,
        dgate: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Dropout of this run's (seed, step), in training only.
    fn dropout(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// The same draw applied to `dy`.
    fn dropout_backward(&mut self, at: Site<'_>, dy: &mut Self::Buffer) -> Result<(), TrainError>;
    /// Rows divided by their norm.
    fn l2_normalize(
        &mut self,
        at: Site<'_>,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// `dy` becomes the gradient of the input.
    fn l2_normalize_backward(
        &mut self,
        at: Site<'_>,
        x: &Self::Buffer,
        dy: &mut Self::Buffer,
    ) -> Result<(), TrainError>;
    /// Zero at hidden positions, in place: of a value or of a gradient.
    fn mask(&mut self, at: Site<'_>, values: &mut Self::Buffer) -> Result<(), TrainError>;
    /// The node's token at hidden positions, in place.
    fn fill_masked(&mut self, at: Site<'_>, values: &mut Self::Buffer) -> Result<(), TrainError>;
    /// Gradient of the token; `dy` becomes the gradient of the input.
    fn fill_masked_backward(&mut self, at: Site<'_>, dy: &mut Self::Buffer) -> Result<(), TrainError>;

    /// One step of the optimizer on all parameters, by the gradients of the last backward passes.
    fn update(&mut self, table: &Table, update: &Update) -> Result<(), TrainError>;
    /// The norm of the gradients that the last update clipped, a scalar, on a device that leaves it to others to see whether it is finite.
    fn unchecked_norm(&mut self) -> Result<Option<Tensor>, TrainError>;
    /// Parameters and buffers.
    fn state(&mut self) -> Result<State, TrainError>;
    /// Puts parameters and buffers back.
    fn load_state(&mut self, state: &State) -> Result<(), TrainError>;
    /// The gradients of the parameters, flat.
    fn gradients(&mut self) -> Result<Vec<f32>, TrainError>;
    /// The optimizer's vectors, flat, in the order of [`Update::slots`].
    fn optimizer_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError>;
    /// Puts the optimizer's vectors back.
    fn load_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError>;
    /// Bytes of buffers held.
    fn bytes(&self) -> usize;
}
