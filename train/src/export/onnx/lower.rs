//! Lowers a student's inference graph to the nodes and tensors of an ONNX graph.
//!
//! Values are NCHW. A pooled value stays `[N, C, 1, 1]`, on which a dense layer is a 1x1 convolution, until it becomes
//! an output. Batch normalizations are folded into the convolutions before them, in f64. Weights under torchvision's
//! names therefore include both.
//!
//! In f16, the normalization of the input and everything from the embedding's norm on stay in f32: a sum of squares can
//! exceed f16's largest number.

use lgd_data::render::Normalization;
use lgd_kernels::Sliding;

use super::emit::{Emitter, Named, int, ints, number};
use super::proto::AttributeProto;
use super::{OnnxInput, Precision};
use crate::engine::graph::{BatchNorm, Convolution, Dense, Graph, Node, Op, Value};
use crate::engine::parameters::{Entry, Range, State, Table};
use crate::export::ExportError;

/// Smallest norm that embeddings are divided by, as in `lgd_kernels::rows`.
const MIN_NORM: f32 = 1e-12;

/// The largest value of an 8-bit pixel.
const WHITE: f32 = 255.0;

/// An ONNX graph under construction.
pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    table: &'a Table,
    state: &'a State,
    precision: Precision,
    batch: Option<usize>,
    /// The ONNX value that holds each graph node's result, by node number.
    values: Vec<Option<Named>>,
    pub(super) emitter: Emitter,
}

impl<'a> Lowering<'a> {
    /// Lowers all of `graph`. `batch`: images per call; any number without one.
    pub(super) fn new(
        (graph, table, state): (&'a Graph, &'a Table, &'a State),
        (input, format): (&str, OnnxInput),
        normalization: &Normalization,
        (precision, batch): (Precision, Option<usize>),
    ) -> Result<Self, ExportError> {
        let (values, emitter) = (Vec::new(), Emitter::default());
        let mut lowering = Self { graph, table, state, precision, batch, values, emitter };
        let images = lowering.normalized(input, format, normalization)?;
        for (number, node) in graph.nodes().iter().enumerate() {
            let value = match node.op {
                Op::Images => Some(images.clone()),
                // A convolution's result is no ONNX value of its own: the node of its normalization includes it.
                Op::Conv { .. } => None,
                _ => Some(lowering.node(number, node)?),
            };
            lowering.values.push(value);
        }
        Ok(lowering)
    }

    /// Writes a pooled value as rows `[N, C]`, in f32, under the name of an output. Returns the value itself: no output is
    /// also an input, because converters to f16 and ncnn take those for two.
    pub(super) fn output(&mut self, value: Value, name: &str) -> Result<Named, ExportError> {
        let width = self.graph.nodes()[value.index()].shape.channels;
        let value = self.value(value)?;
        let value = self.emitter.cast(&value, &format!("{name}.f32"), Precision::F32);
        self.emitter.rows(&value, name, (self.batch, width))?;
        Ok(value)
    }

    /// Writes a map `[N, C, H, W]`, in f32, under the name of an output.
    pub(super) fn map(&mut self, value: Value, name: &str) -> Result<(), ExportError> {
        let value = self.value(value)?;
        match value.precision {
            Precision::F32 => self.emitter.node("Identity", name, &[&value], Vec::new()),
            Precision::F16 => self.emitter.cast(&value, name, Precision::F32),
        };
        Ok(())
    }

    /// Writes the products of the pooled `value` with each row of `prototypes` `[C, D]` as an output, and returns them.
    /// They are computed as a dense layer, like any other here.
    pub(super) fn scores(
        &mut self,
        value: Value,
        (prototypes, dim): (&[f32], usize),
        name: &str,
    ) -> Result<Named, ExportError> {
        let value = self.value(value)?;
        let rows = prototypes.len() / dim;
        let weight = self.emitter.constant("prototypes", &[rows, dim, 1, 1], prototypes, value.precision)?;
        let pointwise = vec![ints("kernel_shape", &[1, 1])];
        let products = self.emitter.node("Conv", "products", &[&value, &weight], pointwise);
        self.emitter.rows(&products, name, (self.batch, rows))?;
        Ok(products)
    }

    /// The normalized images, NCHW.
    fn normalized(
        &mut self,
        input: &str,
        format: OnnxInput,
        normalization: &Normalization,
    ) -> Result<Named, ExportError> {
        let mut images = Named { name: input.to_owned(), precision: Precision::F32 };
        let mut white = 1.0;
        if format == OnnxInput::U8Nhwc {
            white = WHITE;
            images = self.emitter.convert(&images, "pixels", Precision::F32);
            images = self.emitter.node("Transpose", "nchw", &[&images], vec![ints("perm", &[0, 3, 1, 2])]);
        }
        let mut channels = |name: &str, values: [f32; 3]| {
            self.emitter.constant(name, &[1, 3, 1, 1], &values.map(|value| white * value), Precision::F32)
        };
        let (mean, std) = (channels("mean", normalization.mean)?, channels("std", normalization.std)?);
        let centered = self.emitter.node("Sub", "centered", &[&images, &mean], Vec::new());
        let normalized = self.emitter.node("Div", "normalized", &[&centered, &std], Vec::new());
        Ok(self.emitter.cast(&normalized, "normalized_f16", self.precision))
    }

    fn node(&mut self, number: usize, node: &Node) -> Result<Named, ExportError> {
        let named = |what: &str| format!("{what}_{number}");
        match &node.op {
            Op::BatchNorm(norm) => self.convolution(node, norm),
            Op::Linear(dense) => self.linear(node, dense),
            Op::Add { activation } => {
                let (a, b) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                let sum = self.emitter.node("Add", &named("add"), &[&a, &b], Vec::new());
                self.emitter.activation(sum, *activation)
            }
            Op::Activate { activation } => {
                let x = self.value(node.inputs[0])?;
                self.emitter.activation(x, *activation)
            }
            Op::MaxPool { sliding } => {
                let x = self.value(node.inputs[0])?;
                Ok(self.emitter.node("MaxPool", &named("max_pool"), &[&x], window(sliding)?))
            }
            Op::GlobalAveragePool { masked: false } => {
                let x = self.value(node.inputs[0])?;
                Ok(self.emitter.node("GlobalAveragePool", &named("pool"), &[&x], Vec::new()))
            }
            Op::Scale => {
                let (x, gate) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                Ok(self.emitter.node("Mul", &named("scale"), &[&x, &gate], Vec::new()))
            }
            Op::Dropout { .. } => self.value(node.inputs[0]),
            Op::L2Normalize => {
                let x = self.value(node.inputs[0])?;
                let x = self.emitter.cast(&x, &named("unit.f32"), Precision::F32);
                self.emitter.unit(&x, node.shape.channels, MIN_NORM, &named("unit"))
            }
            Op::Images
            | Op::Conv { .. }
            | Op::ConvTranspose { .. }
            | Op::Bias { .. }
            | Op::GlobalAveragePool { masked: true }
            | Op::Mask
            | Op::FillMasked { .. } => Err(unexpected(&node.op)),
        }
    }

    /// Adds a dense layer, as a 1x1 convolution.
    fn linear(&mut self, node: &Node, dense: &Dense) -> Result<Named, ExportError> {
        let x = self.value(node.inputs[0])?;
        let (name, weight) = (self.layer(dense.weight)?, self.parameter(dense.weight)?);
        let (outputs, bias) = (dense.bias.len, self.parameter(dense.bias)?);
        let dims = [outputs, weight.len() / outputs, 1, 1];
        let weight = self.emitter.constant(&format!("{name}.weight"), &dims, &weight, x.precision)?;
        let bias = self.emitter.constant(&format!("{name}.bias"), &[outputs], &bias, x.precision)?;
        Ok(self.emitter.node("Conv", &name, &[&x, &weight, &bias], vec![ints("kernel_shape", &[1, 1])]))
    }

    /// Adds the convolution before the normalization `norm`, fused with that and its activation.
    fn convolution(&mut self, node: &Node, norm: &BatchNorm) -> Result<Named, ExportError> {
        let conv = &self.graph.nodes()[node.inputs[0].index()];
        let Op::Conv(Convolution { weight, geometry }) = &conv.op else { return Err(unexpected(&conv.op)) };
        let x = self.value(conv.inputs[0])?;
        let name = self.layer(*weight)?;
        let entry = self.entry(*weight)?;
        let (dims, filters) = (entry.spec.shape.clone(), self.parameter(*weight)?);
        let (scale, shift) = (self.parameter(norm.scale)?, self.parameter(norm.shift)?);
        let buffer = |range: Range| &self.state.buffers[range.indices()];
        let (mean, variance) = (buffer(norm.mean), buffer(norm.variance));
        let mut folded = Vec::with_capacity(filters.len());
        let mut biases = Vec::with_capacity(norm.scale.len);
        let per_filter = filters.len() / norm.scale.len;
        for (channel, filter) in filters.chunks_exact(per_filter).enumerate() {
            let deviation = (f64::from(variance[channel]) + f64::from(norm.eps)).sqrt();
            let factor = f64::from(scale[channel]) / deviation;
            folded.extend(filter.iter().map(|&weight| single(f64::from(weight) * factor)));
            biases.push(single(f64::from(shift[channel]) - f64::from(mean[channel]) * factor));
        }
        let weight = self.emitter.constant(&format!("{name}.weight"), &dims, &folded, x.precision)?;
        let bias = self.emitter.constant(&format!("{name}.bias"), &[biases.len()], &biases, x.precision)?;
        let mut attributes = window(&geometry.sliding)?;
        attributes.push(int("group", number(geometry.groups)?));
        let y = self.emitter.node("Conv", &name, &[&x, &weight, &bias], attributes);
        self.emitter.activation(y, norm.activation)
    }

    fn value(&self, value: Value) -> Result<Named, ExportError> {
        let unread = || unexpected(&self.graph.nodes()[value.index()].op);
        self.values.get(value.index()).cloned().flatten().ok_or_else(unread)
    }

    fn entry(&self, range: Range) -> Result<&'a Entry, ExportError> {
        let entry = self.table.parameters().iter().find(|entry| entry.range == range);
        entry.ok_or_else(|| ExportError::Unexportable { what: format!("a parameter at {}", range.start) })
    }

    /// A parameter in torchvision's order.
    fn parameter(&self, range: Range) -> Result<Vec<f32>, ExportError> {
        Ok(self.entry(range)?.spec.read(&self.state.parameters[range.indices()]))
    }

    /// torchvision's name of the layer with the weights at `range`.
    fn layer(&self, range: Range) -> Result<String, ExportError> {
        let name = &self.entry(range)?.spec.name;
        Ok(name.strip_suffix(".weight").unwrap_or(name).to_owned())
    }
}

fn window(sliding: &Sliding) -> Result<Vec<AttributeProto>, ExportError> {
    let (rows, columns) = sliding.kernel;
    let (before, after) = (sliding.window.padding, sliding.padding_after());
    Ok(vec![
        ints("kernel_shape", &[number(rows)?, number(columns)?]),
        ints("strides", &[number(sliding.window.stride)?; 2]),
        ints("pads", &[number(before)?, number(before)?, number(after.0)?, number(after.1)?]),
        ints("dilations", &[number(sliding.window.dilation)?; 2]),
    ])
}

fn unexpected(op: &Op) -> ExportError {
    ExportError::Unexportable { what: format!("{op:?}") }
}

#[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 that is wanted")]
fn single(value: f64) -> f32 {
    value as f32
}
