//! A student as a static graph: its operations, their order, the shape of every value, and the parameters they read.
//!
//! A graph is built for one batch shape by a [`Builder`]; building it is cheap and computes no values. The builder checks every shape and
//! every geometry, and stores the checked geometry in the node, so that no backend has to derive it again.

mod builder;

use lgd_kernels::conv::Conv;
use lgd_kernels::{Activation, Sliding, linear};

pub use self::builder::{Builder, ConvInitial, ConvSpec, LinearKind, NormSpec};
use super::parameters::Range;

/// A batch of NHWC values; the values of dense layers have a height and width of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Number of scalars: batch x height x width x channels.
    pub fn len(self) -> usize {
        self.rows() * self.channels
    }

    /// Whether there are no scalars; no value of a graph is empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Positions over the whole batch: batch x height x width.
    pub fn rows(self) -> usize {
        self.batch * self.height * self.width
    }

    /// Positions of one image: height x width.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Batch, height, width and channels.
    pub fn dims(self) -> (usize, usize, usize, usize) {
        (self.batch, self.height, self.width, self.channels)
    }

    /// The same positions with other channels.
    fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// The same images and channels with one position per image.
    fn pooled(self) -> Self {
        Self { height: 1, width: 1, ..self }
    }
}

/// A value of a graph: the output of the node of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub(super) usize);

impl Value {
    /// The number of the node whose output it is.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The operation of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The batch of images; no inputs.
    Images,
    /// Convolution without bias.
    Conv(Convolution),
    /// Transposed convolution without bias. The geometry is that of its adjoint, the convolution from this node's output to its input; the
    /// weights are the adjoint's OHWI: `[in][kh][kw][out]`.
    ConvTranspose(Convolution),
    /// `x + bias`, per channel.
    Bias {
        /// `[C]`.
        bias: Range,
    },
    /// Batch normalization and an activation.
    BatchNorm(BatchNorm),
    /// `activation(a + b)`.
    Add {
        /// Identity, ReLU or ReLU6: the backward pass computes the derivative from the value.
        activation: Activation,
    },
    /// An activation on its own.
    Activate {
        /// The function.
        activation: Activation,
    },
    /// Largest value of each window.
    MaxPool {
        /// Input positions and window.
        sliding: Sliding,
    },
    /// Mean over the positions of each image.
    GlobalAveragePool {
        /// Whether the mean covers only the visible positions of the run's mask; the input is zero at the hidden ones.
        masked: bool,
    },
    /// `x . weight^T + bias` on pooled values.
    Linear(Dense),
    /// First input times the second, one factor per image and channel: the last step of squeeze-and-excitation.
    Scale,
    /// Zero with the given probability and scaled up otherwise; the identity in inference.
    Dropout(Dropout),
    /// Rows divided by their L2 norm.
    L2Normalize,
    /// Zero at hidden positions of the run's mask.
    Mask,
    /// A learned vector at hidden positions of the run's mask.
    FillMasked {
        /// `[C]`.
        token: Range,
    },
}

impl Op {
    /// Whether the node has parameters of its own.
    pub fn has_parameters(&self) -> bool {
        match self {
            Self::Conv(_)
            | Self::ConvTranspose(_)
            | Self::Bias { .. }
            | Self::BatchNorm(_)
            | Self::Linear(_)
            | Self::FillMasked { .. } => true,
            Self::Images
            | Self::Add { .. }
            | Self::Activate { .. }
            | Self::MaxPool { .. }
            | Self::GlobalAveragePool { .. }
            | Self::Scale
            | Self::Dropout(_)
            | Self::L2Normalize
            | Self::Mask => false,
        }
    }
}

/// Weights and geometry of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// OHWI; one filter per channel if the groups are the channels.
    pub weight: Range,
    /// Input positions, window, filters and groups.
    pub geometry: Conv,
}

/// Parameters and settings of a batch normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Gamma, `[C]`.
    pub scale: Range,
    /// Beta, `[C]`.
    pub shift: Range,
    /// Running mean, `[C]`.
    pub mean: Range,
    /// Running variance, `[C]`.
    pub variance: Range,
    /// Added to the variance.
    pub eps: f32,
    /// Smallest weight of a batch's statistics in the running ones; PyTorch's momentum. See [`momentum_at`](Self::momentum_at).
    pub momentum: f32,
    /// Activation after the normalization.
    pub activation: Activation,
    /// Whether the statistics cover only the visible positions of the run's mask. The gradient of the value must then
    /// be zero at the hidden positions, so an [`Op::Mask`] or [`Op::FillMasked`] follows.
    pub masked: bool,
}

impl BatchNorm {
    /// Weight of the batch's statistics in the running ones at forward pass `step`, from 0: the momentum, or
    /// 1 / (step + 1) if that is larger. So the first batch replaces the initial values, and the running statistics are
    /// the plain mean of the first batches (PyTorch's `momentum=None`) until the momentum forgets faster. With a
    /// constant 0.01, the initial values still count 37% after 100 steps.
    #[expect(clippy::cast_precision_loss, reason = "the quotient matters only in the first steps")]
    pub fn momentum_at(&self, step: u64) -> f32 {
        self.momentum.max(1.0 / (step as f32 + 1.0))
    }
}

/// Parameters and shape of a dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense {
    /// `[O][I]`.
    pub weight: Range,
    /// `[O]`.
    pub bias: Range,
    /// Batch, inputs and outputs.
    pub geometry: linear::Linear,
}

/// Settings of a dropout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of a zero.
    pub rate: f32,
    /// Whether there is one draw per image (stochastic depth) instead of one per value.
    pub per_image: bool,
    /// Identifies the stream of random numbers.
    pub stream: u64,
}

/// A node and the shape of its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Operation.
    pub op: Op,
    /// Inputs, in operand order.
    pub inputs: Vec<Value>,
    /// Shape of the value.
    pub shape: Shape,
}

/// A finished graph: nodes in topological order, inputs first; node 0 is the images.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) outputs: Vec<Value>,
    pub(super) images_differentiable: bool,
}

impl Graph {
    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Values that the caller reads and differentiates.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    pub(super) fn node(&self, value: Value) -> &Node {
        &self.nodes[value.0]
    }
}
