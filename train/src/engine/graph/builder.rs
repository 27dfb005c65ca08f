//! Builds graphs: one method per operation, which checks shapes and registers parameters under torchvision's names.

use lgd_kernels::conv::Conv;
use lgd_kernels::geometry::{Result, expect_eq, expect_positive};
use lgd_kernels::{Activation, ShapeError, Sliding, Window, linear};

use super::{BatchNorm, Convolution, Dense, Dropout, Graph, Node, Op, Shape, Value};
use crate::engine::parameters::{Initial, Layout, ParameterSpec, Range, Role, Table};

/// Channels, side, stride and groups of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    /// Output channels.
    pub outputs: usize,
    /// Side of the square filter.
    pub side: usize,
    /// Stride, padding, dilation.
    pub window: Window,
    /// TensorFlow's "same" padding ([`Sliding::same`]); the window's padding and dilation are ignored.
    pub same: bool,
    /// Groups.
    pub groups: usize,
    /// Initial weights.
    pub initial: ConvInitial,
}

/// Initial weights of a convolution.
#[derive(Debug, Clone, Copy)]
pub enum ConvInitial {
    /// torchvision's: normal, standard deviation `sqrt(2 / (outputs * side^2))`.
    FanOut,
    /// PyTorch's default: uniform within `1 / sqrt(inputs of a filter)`.
    FanIn,
    /// Normal.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
}

impl ConvSpec {
    /// A dense convolution. Its padding is half the side, so the output has `size / stride` positions.
    pub fn dense(outputs: usize, side: usize, stride: usize) -> Self {
        let window = Window { stride, padding: side / 2, dilation: 1 };
        Self { outputs, side, window, same: false, groups: 1, initial: ConvInitial::FanOut }
    }

    /// One filter per channel.
    pub fn depthwise(channels: usize, side: usize, stride: usize) -> Self {
        Self { groups: channels, ..Self::dense(channels, side, stride) }
    }
}

impl ConvInitial {
    /// Initial weights of filters with `taps` taps from and to this many channels.
    fn weights(self, (inputs, outputs): (usize, usize), taps: usize) -> Initial {
        match self {
            Self::FanOut => Initial::Normal { deviation: (2.0 / real(outputs * taps)).sqrt() },
            Self::FanIn => Initial::Uniform { bound: 1.0 / real(inputs * taps).sqrt() },
            Self::Normal { deviation } => Initial::Normal { deviation },
        }
    }
}

/// Settings of a batch normalization.
#[derive(Debug, Clone, Copy)]
pub struct NormSpec {
    /// Added to the variance.
    pub eps: f32,
    /// Smallest weight of a batch's statistics in the running ones; PyTorch's momentum.
    pub momentum: f32,
    /// Activation after the normalization.
    pub activation: Activation,
    /// Whether the statistics are over visible positions only.
    pub masked: bool,
}

impl NormSpec {
    /// PyTorch's defaults, followed by an activation.
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
    /// A graph over images of `shape`, and the value of the images.
    ///
    /// # Errors
    /// A dimension of zero.
    pub fn new(shape: Shape) -> Result<(Self, Value)> {
        expect_positive("batch", shape.batch)?;
        expect_positive("height", shape.height)?;
        expect_positive("width", shape.width)?;
        expect_positive("channels", shape.channels)?;
        let images = Node { op: Op::Images, inputs: Vec::new(), shape };
        let (nodes, table) = (vec![images], Table::default());
        Ok((Self { nodes, table, images_differentiable: false, sparse: false }, Value(0)))
    }

    /// Returns the graph with these outputs, and its parameters.
    pub fn finish(self, outputs: Vec<Value>) -> (Graph, Table) {
        let Self { nodes, table, images_differentiable, .. } = self;
        (Graph { nodes, outputs, images_differentiable }, table)
    }

    /// Makes the backward pass compute the gradient of the images too.
    pub fn differentiate_images(&mut self) {
        self.images_differentiable = true;
    }

    /// Masks `images` and starts a sparse network (SparK: Tian et al., arXiv 2301.03580), which [`dense`](Self::dense)
    /// ends. It is computed densely: every map is zero at the positions that the run's mask hides; statistics and means
    /// cover only the visible positions.
    ///
    /// An operation that moves values to neighbors or maps zero to another value must be masked again. A convolution
    /// moves values but is not masked itself: the normalization after it takes its statistics over visible positions,
    /// computes each position independently, and is masked. Sums, gates, dropout and the activations of maps keep
    /// zeros.
    pub fn sparse(&mut self, images: Value) -> Value {
        self.sparse = true;
        self.mask(images)
    }

    /// Ends the sparse network that [`sparse`](Self::sparse) started.
    pub fn dense(&mut self) {
        self.sparse = false;
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> Shape {
        self.nodes[value.0].shape
    }

    /// Convolution with the parameter `{name}.weight`, torchvision's OIHW. In a sparse network a normalization must
    /// follow.
    ///
    /// # Errors
    /// A window that does not fit, or groups that do not divide the channels.
    pub fn conv(&mut self, x: Value, name: &str, spec: ConvSpec) -> Result<Value> {
        let shape = self.shape(x);
        let sliding = sliding(shape, spec)?;
        let geometry = Conv::new(sliding, spec.outputs, spec.groups)?;
        let inner = shape.channels / geometry.groups;
        let weight = self.table.parameter(ParameterSpec {
            name: format!("{name}.weight"),
            shape: vec![spec.outputs, inner, spec.side, spec.side],
            layout: Layout::Filters,
            role: Role::Weight,
            initial: spec.initial.weights((inner, spec.outputs), spec.side * spec.side),
        })?;
        let out = Shape {
            batch: shape.batch,
            height: sliding.out_height,
            width: sliding.out_width,
            channels: spec.outputs,
        };
        Ok(self.push(Op::Conv(Convolution { weight, geometry }), vec![x], out))
    }

    /// Transposed convolution, as PyTorch's `ConvTranspose2d` without bias: weight `{name}.weight` `[in, out, kh, kw]`, output side
    /// `(side - 1) * stride - 2 * padding + kernel`, PyTorch's initial weights. `same` and `initial` of the specification are ignored.
    ///
    /// # Errors
    /// Padding that leaves no output, groups, or a parameter of that name.
    pub fn conv_transpose(&mut self, x: Value, name: &str, spec: ConvSpec) -> Result<Value> {
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
        let sliding = Sliding::new(out.dims(), (spec.side, spec.side), spec.window)?;
        expect_eq("rows of a transposed convolution", shape.height, sliding.out_height)?;
        expect_eq("columns of a transposed convolution", shape.width, sliding.out_width)?;
        let weight = self.table.parameter(ParameterSpec {
            name: format!("{name}.weight"),
            shape: vec![shape.channels, spec.outputs, spec.side, spec.side],
            layout: Layout::Filters,
            role: Role::Weight,
            initial: Initial::Uniform { bound: 1.0 / real(spec.outputs * spec.side * spec.side).sqrt() },
        })?;
        // The adjoint convolution maps the output back to the input.
        let geometry = Conv::new(sliding, shape.channels, 1)?;
        Ok(self.push(Op::ConvTranspose(Convolution { weight, geometry }), vec![x], out))
    }

    /// Adds the parameter `{name}.bias`; `fan_in` sets its initial range, as PyTorch's convolutions do.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn bias(&mut self, x: Value, name: &str, fan_in: usize) -> Result<Value> {
        let shape = self.shape(x);
        let bias = self.vector(
            format!("{name}.bias"),
            shape.channels,
            Role::Bias,
            Initial::Uniform { bound: 1.0 / real(fan_in).sqrt() },
        )?;
        Ok(self.push(Op::Bias { bias }, vec![x], shape))
    }

    /// Batch normalization with the parameters `{name}.weight` and `.bias` and the buffers `.running_mean` and
    /// `.running_var`. In a sparse network it is always masked, regardless of `spec`.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn batch_norm(&mut self, x: Value, name: &str, spec: NormSpec) -> Result<Value> {
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
    /// Different shapes, or an activation whose derivative cannot be read off its value.
    pub fn add(&mut self, a: Value, b: Value, activation: Activation) -> Result<Value> {
        let (shape, other) = (self.shape(a), self.shape(b));
        expect_eq("channels of the second summand", shape.channels, other.channels)?;
        expect_eq("rows of the second summand", shape.height, other.height)?;
        expect_eq("columns of the second summand", shape.width, other.width)?;
        if !activation.has_derivative_of_value() {
            return Err(ShapeError::Derivative { activation });
        }
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
    pub fn max_pool(&mut self, x: Value, side: usize, window: Window) -> Result<Value> {
        let shape = self.shape(x);
        let s = Sliding::new(shape.dims(), (side, side), window)?;
        // More padding could leave a window without a pixel.
        expect_eq("most padding of a pool", window.padding.min(side / 2), window.padding)?;
        let out = Shape { height: s.out_height, width: s.out_width, ..shape };
        let y = self.push(Op::MaxPool { sliding: s }, vec![x], out);
        Ok(self.masked_if_sparse(y))
    }

    /// Mean over the positions of each image; in a sparse network, over the visible ones.
    pub fn global_average_pool(&mut self, x: Value) -> Value {
        self.push(Op::GlobalAveragePool { masked: self.sparse }, vec![x], self.shape(x).pooled())
    }

    /// Dense layer on a pooled value: `{name}.weight` `[O, I]` (or `[O, I, 1, 1]` if torchvision has a 1x1 convolution)
    /// and `{name}.bias`.
    ///
    /// # Errors
    /// An input with positions, or no outputs.
    pub fn linear(&mut self, x: Value, name: &str, outputs: usize, kind: LinearKind) -> Result<Value> {
        let shape = self.shape(x);
        expect_eq("positions of a dense layer's input", 1, shape.pixels())?;
        expect_positive("outputs of a dense layer", outputs)?;
        let inputs = shape.channels;
        let geometry = linear::Linear::new(shape.batch, inputs, outputs)?;
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
            LinearKind::Pointwise(initial) => {
                let bias = match initial {
                    ConvInitial::FanIn => Initial::Uniform { bound },
                    ConvInitial::FanOut | ConvInitial::Normal { .. } => Initial::Constant(0.0),
                };
                (vec![outputs, inputs, 1, 1], initial.weights((inputs, outputs), 1), bias)
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
        Ok(self.push(Op::Linear(Dense { weight, bias, geometry }), vec![x], shape.with_channels(outputs)))
    }

    /// `x` times `gate`, one factor per image and channel.
    ///
    /// # Errors
    /// A gate of another batch or other channels.
    pub fn scale(&mut self, x: Value, gate: Value) -> Result<Value> {
        let shape = self.shape(x);
        expect_eq("positions of the gate", 1, self.shape(gate).pixels())?;
        expect_eq("channels of the gate", shape.channels, self.shape(gate).channels)?;
        Ok(self.push(Op::Scale, vec![x, gate], shape))
    }

    /// Dropout of single values; `stream` names its random numbers. A rate of 0 adds no node.
    pub fn dropout(&mut self, x: Value, stream: u64, rate: f32) -> Value {
        self.drop(x, stream, rate, false)
    }

    /// Stochastic depth: dropout of whole images.
    pub fn drop_images(&mut self, x: Value, stream: u64, rate: f32) -> Value {
        self.drop(x, stream, rate, true)
    }

    fn drop(&mut self, x: Value, stream: u64, rate: f32, per_image: bool) -> Value {
        if rate <= 0.0 {
            return x;
        }
        self.push(Op::Dropout(Dropout { rate, per_image, stream }), vec![x], self.shape(x))
    }

    /// Rows of a pooled value divided by their L2 norm.
    ///
    /// # Errors
    /// An input with positions.
    pub fn l2_normalize(&mut self, x: Value) -> Result<Value> {
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

    /// The vector parameter `{name}` at the hidden positions of the run's mask.
    ///
    /// # Errors
    /// A parameter of that name exists.
    pub fn fill_masked(&mut self, x: Value, name: &str) -> Result<Value> {
        let shape = self.shape(x);
        // SparK's standard deviation. Like SparK's mask tokens, the vector has the role of a bias, not of a weight.
        let initial = Initial::Normal { deviation: 0.02 };
        let token = self.vector(name.to_owned(), shape.channels, Role::Bias, initial)?;
        Ok(self.push(Op::FillMasked { token }, vec![x], shape))
    }

    fn vector(&mut self, name: String, len: usize, role: Role, initial: Initial) -> Result<Range> {
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

/// Kind of a dense layer: selects the shape of its weights and their initial values.
#[derive(Debug, Clone, Copy)]
pub enum LinearKind {
    /// PyTorch's `Linear` with its default initialization.
    Dense,
    /// A `Linear` with normal weights and no initial bias.
    Classifier {
        /// Standard deviation of the weights.
        deviation: f64,
    },
    /// A `Linear` with weights uniform within `1 / sqrt(outputs)` and no initial bias, as in EfficientNet.
    ClassifierUniform,
    /// A 1x1 convolution with bias on pooled values, as in squeeze-and-excitation. The bias starts at 0; with
    /// [`ConvInitial::FanIn`], uniform within `1 / sqrt(inputs)`.
    Pointwise(ConvInitial),
}

fn sliding(shape: Shape, spec: ConvSpec) -> Result<Sliding> {
    if spec.same {
        return Sliding::same(shape.dims(), spec.side, spec.window.stride);
    }
    Sliding::new(shape.dims(), (spec.side, spec.side), spec.window)
}

#[expect(clippy::cast_precision_loss, reason = "fans are far below 2^53")]
fn real(value: usize) -> f64 {
    value as f64
}
