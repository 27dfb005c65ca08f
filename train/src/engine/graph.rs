//! A student as a static graph: what is computed, in which shapes, from which parameters.
//!
//! A graph is built for one batch shape; building it is cheap and touches no numbers. Every shape is checked here, so that the
//! backends meet valid ones only.

use lgd_kernels::geometry::{expect_eq, expect_positive};
use lgd_kernels::{Activation, ShapeError, Sliding, Window};

use super::parameters::{Initial, Layout, ParameterSpec, Range, Role, Table};

/// A batch of NHWC values; dense layers have a height and width of 1.
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
    /// Scalars.
    pub fn len(self) -> usize {
        self.rows() * self.channels
    }

    /// Whether there is nothing in it; a graph has no such values.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Positions over the whole batch.
    pub fn rows(self) -> usize {
        self.batch * self.height * self.width
    }

    /// Positions of one image.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// The same positions with other channels.
    fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// One position per image.
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

/// What a node computes from its inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The images.
    Images,
    /// Convolution without bias; one filter per channel where `groups` is the number of channels.
    Conv {
        /// OHWI.
        weight: Range,
        /// Input positions and window.
        sliding: Sliding,
        /// Groups of channels that see only each other.
        groups: usize,
    },
    /// Transposed convolution: the adjoint of the convolution `sliding`, whose input has this node's output shape.
    ConvTranspose {
        /// As the adjoint's OHWI: `[in][kh][kw][out]`.
        weight: Range,
        /// The adjoint's geometry.
        sliding: Sliding,
    },
    /// `x + bias`, per channel.
    Bias {
        /// `[C]`.
        bias: Range,
    },
    /// Batch normalization and an activation.
    BatchNorm(BatchNorm),
    /// `activation(a + b)`.
    Add {
        /// Identity, ReLU or ReLU6.
        activation: Activation,
    },
    /// An activation on its own.
    Activate {
        /// Which.
        activation: Activation,
    },
    /// Largest value of each window.
    MaxPool {
        /// Input positions and window.
        sliding: Sliding,
    },
    /// Mean over the positions of each image.
    GlobalAveragePool {
        /// Over the positions that the run's mask shows; the input is zero at the others.
        masked: bool,
    },
    /// `x . weight^T + bias` on pooled values.
    Linear {
        /// `[O][I]`.
        weight: Range,
        /// `[O]`.
        bias: Range,
    },
    /// First input times the second, one factor per image and channel: squeeze-and-excitation's last step.
    Scale,
    /// Zero with the given probability, scaled up otherwise; nothing in inference.
    Dropout {
        /// Probability.
        rate: f32,
        /// One draw for each image (stochastic depth), not for each value.
        per_image: bool,
        /// Names the stream of random numbers.
        stream: u64,
    },
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
    /// Whether the node learns something itself.
    pub fn has_parameters(&self) -> bool {
        matches!(
            self,
            Self::Conv { .. }
                | Self::ConvTranspose { .. }
                | Self::Bias { .. }
                | Self::BatchNorm(_)
                | Self::Linear { .. }
                | Self::FillMasked { .. }
        )
    }
}

/// Parameters and settings of a batch normalization.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// `[C]`.
    pub scale: Range,
    /// `[C]`.
    pub shift: Range,
    /// Running mean, `[C]`.
    pub mean: Range,
    /// Running variance, `[C]`.
    pub variance: Range,
    /// Added to the variance.
    pub eps: f32,
    /// Share of a batch's statistics that enters the running ones.
    pub momentum: f32,
    /// What follows.
    pub activation: Activation,
    /// Statistics over the positions that the run's mask shows. The gradient that comes back must be zero at the others: an
    /// [`Op::Mask`] or [`Op::FillMasked`] follows.
    pub masked: bool,
}

/// A node and the shape of its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From what.
    pub inputs: Vec<Value>,
    /// The value's shape.
    pub shape: Shape,
}

/// A finished graph: nodes in an order in which inputs come first.
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

/// Channels, side, stride and groups of a convolution; padded to keep `size / stride` unless told otherwise.
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    /// Output channels.
    pub outputs: usize,
    /// Side of the square filter.
    pub side: usize,
    /// Stride, padding, dilation.
    pub window: Window,
    /// Groups.
    pub groups: usize,
    /// Deviation of the initial weights; torchvision's for what a normalization or a ReLU follows, unless given.
    pub deviation: Option<f64>,
}

impl ConvSpec {
    /// A dense convolution.
    pub fn dense(outputs: usize, side: usize, stride: usize) -> Self {
        let window = Window { stride, padding: side / 2, dilation: 1 };
        Self { outputs, side, window, groups: 1, deviation: None }
    }

    /// One filter per channel.
    pub fn depthwise(channels: usize, side: usize, stride: usize) -> Self {
        Self { groups: channels, ..Self::dense(channels, side, stride) }
    }
}

/// Settings of a batch normalization besides its name.
#[derive(Debug, Clone, Copy)]
pub struct NormSpec {
    /// Added to the variance.
    pub eps: f32,
    /// Share of a batch's statistics that enters the running ones.
    pub momentum: f32,
    /// What follows.
    pub activation: Activation,
    /// Statistics over visible positions only.
    pub masked: bool,
}

impl NormSpec {
    /// PyTorch's defaults with an activation.
    pub fn new(activation: Activation) -> Self {
        Self { eps: 1e-5, momentum: 0.1, activation, masked: false }
    }
}

/// Builds a graph and the table of its parameters.
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    table: Table,
    images_differentiable: bool,
    sparse: bool,
}

impl Builder {
    /// A graph over images of `shape`; their value comes first.
    ///
    /// # Errors
    /// A dimension of zero.
    pub fn new(shape: Shape) -> Result<(Self, Value), ShapeError> {
        expect_positive("batch", shape.batch)?;
        expect_positive("height", shape.height)?;
        expect_positive("width", shape.width)?;
        expect_positive("channels", shape.channels)?;
        let images = Node { op: Op::Images, inputs: Vec::new(), shape };
        let (nodes, table) = (vec![images], Table::default());
        Ok((Self { nodes, table, images_differentiable: false, sparse: false }, Value(0)))
    }

    /// The graph whose `outputs` can be read, and the parameters it uses.
    pub fn finish(self, outputs: Vec<Value>) -> (Graph, Table) {
        let Self { nodes, table, images_differentiable, .. } = self;
        (Graph { nodes, outputs, images_differentiable }, table)
    }

    /// Asks for the gradient of the images too.
    pub fn differentiate_images(&mut self) {
        self.images_differentiable = true;
    }

    /// `images` without their hidden positions; what is built from here on until [`dense`](Self::dense) is a sparse network
    /// (SparK: Tian et al., arXiv 2301.03580), computed densely: every map is zero at the positions that the run's mask hides, and
    /// statistics and means are those of the others.
    ///
    /// What spreads a value to its neighbors or shifts zero must be masked again. A convolution does the former, but the
    /// normalization behind it reads visible positions only for its statistics, treats every position by itself otherwise, and is
    /// masked. Sums, gates, dropout and the activations of maps leave zero at zero.
    pub fn sparse(&mut self, images: Value) -> Value {
        self.sparse = true;
        self.mask(images)
    }

    /// Ends what [`sparse`](Self::sparse) began.
    pub fn dense(&mut self) {
        self.sparse = false;
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> Shape {
        self.nodes[value.0].shape
    }

    /// Convolution with the parameter `{name}.weight`, torchvision's OIHW. In a sparse network a normalization must follow.
    ///
    /// # Errors
    /// A window that does not fit, or groups that do not divide the channels.
    pub fn conv(&mut self, x: Value, name: &str, spec: ConvSpec) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        let sliding = sliding(shape, spec)?;
        let conv = lgd_kernels::conv::Conv::new(sliding, spec.outputs, spec.groups)?;
        let inner = shape.channels / conv.groups;
        let weight = self.table.parameter(ParameterSpec {
            name: format!("{name}.weight"),
            shape: vec![spec.outputs, inner, spec.side, spec.side],
            layout: Layout::Filters,
            role: Role::Weight,
            initial: Initial::Normal {
                deviation: spec
                    .deviation
                    .unwrap_or_else(|| (2.0 / real(spec.outputs * spec.side * spec.side)).sqrt()),
            },
        })?;
        let out = Shape {
            batch: shape.batch,
            height: sliding.out_height,
            width: sliding.out_width,
            channels: spec.outputs,
        };
        Ok(self.push(Op::Conv { weight, sliding, groups: spec.groups }, vec![x], out))
    }

    /// Transposed convolution, as PyTorch's `ConvTranspose2d` without bias: weight `{name}.weight` `[in, out, kh, kw]`, output side
    /// `(side - 1) * stride - 2 * padding + kernel`.
    ///
    /// # Errors
    /// Padding that leaves nothing.
    pub fn conv_transpose(&mut self, x: Value, name: &str, spec: ConvSpec) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        expect_eq("groups of a transposed convolution", 1, spec.groups)?;
        let Window { stride, padding, dilation } = spec.window;
        let side = |input: usize| {
            ((input - 1) * stride + dilation * (spec.side.max(1) - 1) + 1).saturating_sub(2 * padding)
        };
        let out = Shape {
            batch: shape.batch,
            height: side(shape.height),
            width: side(shape.width),
            channels: spec.outputs,
        };
        let sliding = sliding(out, spec)?;
        expect_eq("rows of a transposed convolution", shape.height, sliding.out_height)?;
        expect_eq("columns of a transposed convolution", shape.width, sliding.out_width)?;
        let weight = self.table.parameter(ParameterSpec {
            name: format!("{name}.weight"),
            shape: vec![shape.channels, spec.outputs, spec.side, spec.side],
            layout: Layout::Filters,
            role: Role::Weight,
            initial: Initial::Uniform { bound: 1.0 / real(spec.outputs * spec.side * spec.side).sqrt() },
        })?;
        Ok(self.push(Op::ConvTranspose { weight, sliding }, vec![x], out))
    }

    /// Adds the parameter `{name}.bias`; `fan_in` sets its initial range, as PyTorch's convolutions do.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn bias(&mut self, x: Value, name: &str, fan_in: usize) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        let bias = self.vector(
            format!("{name}.bias"),
            shape.channels,
            Role::Bias,
            Initial::Uniform { bound: 1.0 / real(fan_in).sqrt() },
        )?;
        Ok(self.push(Op::Bias { bias }, vec![x], shape))
    }

    /// Batch normalization with the parameters `{name}.weight` and `.bias` and the buffers `.running_mean` and `.running_var`; masked in a
    /// sparse network, whatever `spec` says.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn batch_norm(&mut self, x: Value, name: &str, spec: NormSpec) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        let c = shape.channels;
        let norm = BatchNorm {
            scale: self.vector(format!("{name}.weight"), c, Role::NormScale, Initial::Constant(1.0))?,
            shift: self.vector(format!("{name}.bias"), c, Role::NormShift, Initial::Constant(0.0))?,
            mean: self.table.buffer(format!("{name}.running_mean"), c, 0.0)?,
            variance: self.table.buffer(format!("{name}.running_var"), c, 1.0)?,
            eps: spec.eps,
            momentum: spec.momentum,
            activation: spec.activation,
            masked: spec.masked || self.sparse,
        };
        let y = self.push(Op::BatchNorm(norm), vec![x], shape);
        Ok(self.masked_if_sparse(y))
    }

    /// `activation(a + b)`.
    ///
    /// # Errors
    /// Different shapes.
    pub fn add(&mut self, a: Value, b: Value, activation: Activation) -> Result<Value, ShapeError> {
        let (shape, other) = (self.shape(a), self.shape(b));
        expect_eq("channels of the second summand", shape.channels, other.channels)?;
        expect_eq("rows of the second summand", shape.height, other.height)?;
        expect_eq("columns of the second summand", shape.width, other.width)?;
        Ok(self.push(Op::Add { activation }, vec![a, b], shape))
    }

    /// An activation on its own.
    pub fn activate(&mut self, x: Value, activation: Activation) -> Value {
        self.push(Op::Activate { activation }, vec![x], self.shape(x))
    }

    /// Largest value of each window of `side` x `side`.
    ///
    /// # Errors
    /// A window that does not fit.
    pub fn max_pool(&mut self, x: Value, side: usize, window: Window) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        let s = Sliding::new((shape.batch, shape.height, shape.width, shape.channels), (side, side), window)?;
        // More could leave a window without a pixel.
        expect_eq("most padding of a pool", window.padding.min(side / 2), window.padding)?;
        let out = Shape { height: s.out_height, width: s.out_width, ..shape };
        let y = self.push(Op::MaxPool { sliding: s }, vec![x], out);
        Ok(self.masked_if_sparse(y))
    }

    /// Mean over the positions of each image; over the visible ones in a sparse network.
    pub fn global_average_pool(&mut self, x: Value) -> Value {
        self.push(Op::GlobalAveragePool { masked: self.sparse }, vec![x], self.shape(x).pooled())
    }

    /// Dense layer on a pooled value: `{name}.weight` `[O, I]` (or `[O, I, 1, 1]` where torchvision has a 1x1 convolution) and
    /// `{name}.bias`.
    ///
    /// # Errors
    /// An input with positions, or no outputs.
    pub fn linear(
        &mut self,
        x: Value,
        name: &str,
        outputs: usize,
        kind: LinearKind,
    ) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        expect_eq("positions of a dense layer's input", 1, shape.pixels())?;
        expect_positive("outputs of a dense layer", outputs)?;
        let inputs = shape.channels;
        let bound = 1.0 / real(inputs).sqrt();
        let (dims, initial, bias) = match kind {
            LinearKind::Dense => {
                (vec![outputs, inputs], Initial::Uniform { bound }, Initial::Uniform { bound })
            }
            LinearKind::Classifier { deviation } => {
                (vec![outputs, inputs], Initial::Normal { deviation }, Initial::Constant(0.0))
            }
            LinearKind::ClassifierUniform => {
                let bound = 1.0 / real(outputs).sqrt();
                (vec![outputs, inputs], Initial::Uniform { bound }, Initial::Constant(0.0))
            }
            LinearKind::Pointwise => {
                let deviation = (2.0 / real(outputs)).sqrt();
                (vec![outputs, inputs, 1, 1], Initial::Normal { deviation }, Initial::Constant(0.0))
            }
        };
        let weight = self.table.parameter(ParameterSpec {
            name: format!("{name}.weight"),
            shape: dims,
            layout: Layout::AsStored,
            role: Role::Weight,
            initial,
        })?;
        let bias = self.vector(format!("{name}.bias"), outputs, Role::Bias, bias)?;
        Ok(self.push(Op::Linear { weight, bias }, vec![x], shape.with_channels(outputs)))
    }

    /// `x` times `gate`, one factor per image and channel.
    ///
    /// # Errors
    /// A gate of another batch or other channels.
    pub fn scale(&mut self, x: Value, gate: Value) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        expect_eq("positions of the gate", 1, self.shape(gate).pixels())?;
        expect_eq("channels of the gate", shape.channels, self.shape(gate).channels)?;
        Ok(self.push(Op::Scale, vec![x, gate], shape))
    }

    /// Dropout of single values; `stream` names its random numbers. A rate of 0 adds nothing to the graph.
    pub fn dropout(&mut self, x: Value, stream: u64, rate: f32) -> Value {
        self.drop(x, stream, rate, false)
    }

    /// Stochastic depth: whole images are dropped.
    pub fn drop_images(&mut self, x: Value, stream: u64, rate: f32) -> Value {
        self.drop(x, stream, rate, true)
    }

    fn drop(&mut self, x: Value, stream: u64, rate: f32, per_image: bool) -> Value {
        if rate <= 0.0 {
            return x;
        }
        self.push(Op::Dropout { rate, per_image, stream }, vec![x], self.shape(x))
    }

    /// Rows of a pooled value divided by their L2 norm.
    ///
    /// # Errors
    /// An input with positions.
    pub fn l2_normalize(&mut self, x: Value) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        expect_eq("positions of rows to normalize", 1, shape.pixels())?;
        Ok(self.push(Op::L2Normalize, vec![x], shape))
    }

    /// Zero at the hidden positions of the run's mask.
    pub fn mask(&mut self, x: Value) -> Value {
        self.push(Op::Mask, vec![x], self.shape(x))
    }

    fn masked_if_sparse(&mut self, x: Value) -> Value {
        if self.sparse { self.mask(x) } else { x }
    }

    /// The parameter `{name}`, a vector, at the hidden positions of the run's mask.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn fill_masked(&mut self, x: Value, name: &str) -> Result<Value, ShapeError> {
        let shape = self.shape(x);
        // SparK's deviation. Like its mask tokens the vector is no weight that an optimizer would adapt or decay by itself.
        let initial = Initial::Normal { deviation: 0.02 };
        let token = self.vector(name.to_owned(), shape.channels, Role::Bias, initial)?;
        Ok(self.push(Op::FillMasked { token }, vec![x], shape))
    }

    fn vector(
        &mut self,
        name: String,
        len: usize,
        role: Role,
        initial: Initial,
    ) -> Result<Range, ShapeError> {
        self.table.parameter(ParameterSpec {
            name,
            shape: vec![len],
            layout: Layout::AsStored,
            role,
            initial,
        })
    }

    fn push(&mut self, op: Op, inputs: Vec<Value>, shape: Shape) -> Value {
        self.nodes.push(Node { op, inputs, shape });
        Value(self.nodes.len() - 1)
    }
}

/// What a dense layer is in torchvision: decides the shape of its weights and their initial values.
#[derive(Debug, Clone, Copy)]
pub enum LinearKind {
    /// PyTorch's `Linear` with its defaults.
    Dense,
    /// A `Linear` with normal weights and no initial bias.
    Classifier {
        /// Deviation of the weights.
        deviation: f64,
    },
    /// A `Linear` with weights uniform within `1 / sqrt(outputs)` and no initial bias, as in EfficientNet.
    ClassifierUniform,
    /// A 1x1 convolution with bias on pooled values, as squeeze-and-excitation has them.
    Pointwise,
}

fn sliding(shape: Shape, spec: ConvSpec) -> Result<Sliding, ShapeError> {
    let dims = (shape.batch, shape.height, shape.width, shape.channels);
    Sliding::new(dims, (spec.side, spec.side), spec.window)
}

#[expect(clippy::cast_precision_loss, reason = "fans are far below 2^53")]
fn real(value: usize) -> f64 {
    value as f64
}
