//! Lowers a student's inference graph to the nodes and tensors of an ONNX graph.
//!
//! Values are NCHW. A pooled value stays `[N, C, 1, 1]`, on which a dense layer is a 1x1 convolution, until it becomes
//! an output. Batch normalizations are folded into the convolutions before them, in f64. Weights under torchvision's
//! names therefore include both.

use lgd_data::render::Normalization;
use lgd_kernels::{Activation, Sliding};

use super::ExportError;
use super::proto::{
    AttributeProto, FLOAT_ATTRIBUTE, FLOAT_DATA, INT_ATTRIBUTE, INTS_ATTRIBUTE, NodeProto, TensorProto,
};
use crate::engine::graph::{BatchNorm, Convolution, Dense, Graph, Node, Op, Value};
use crate::engine::parameters::{Entry, Range, State, Table};

/// Smallest norm that embeddings are divided by, as in `lgd_kernels::rows`.
const MIN_NORM: f32 = 1e-12;

/// An ONNX graph under construction.
pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    table: &'a Table,
    state: &'a State,
    /// The ONNX value that holds each graph node's result, by node number.
    values: Vec<Option<String>>,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) tensors: Vec<TensorProto>,
}

impl<'a> Lowering<'a> {
    /// Lowers all of `graph`, whose images are `input`, RGB from 0 to 1.
    pub(super) fn new(
        (graph, table, state): (&'a Graph, &'a Table, &'a State),
        input: &str,
        normalization: &Normalization,
    ) -> Result<Self, ExportError> {
        let (nodes, tensors) = (Vec::new(), Vec::new());
        let mut lowering = Self { graph, table, state, values: Vec::new(), nodes, tensors };
        let images = lowering.normalized(input, normalization)?;
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

    /// Writes a pooled value as rows `[N, C]` under the name of an output.
    pub(super) fn output(&mut self, value: Value, name: &str) -> Result<(), ExportError> {
        let value = self.value(value)?;
        self.push("Flatten", name, &[&value], vec![int("axis", 1)]);
        Ok(())
    }

    /// Writes the products of the pooled `value` with each row of `prototypes` `[C, D]` as an output. They are computed
    /// as a dense layer, like any other here, so that no output is also an input: converters to f16 fail on those.
    pub(super) fn scores(
        &mut self,
        value: Value,
        (prototypes, dim): (&[f32], usize),
        name: &str,
    ) -> Result<(), ExportError> {
        let value = self.value(value)?;
        let weight = self.tensor("prototypes", &[prototypes.len() / dim, dim, 1, 1], prototypes)?;
        let products = self.push("Conv", "products", &[&value, &weight], vec![ints("kernel_shape", &[1, 1])]);
        self.push("Flatten", name, &[&products], vec![int("axis", 1)]);
        Ok(())
    }

    fn normalized(&mut self, input: &str, normalization: &Normalization) -> Result<String, ExportError> {
        let mean = self.tensor("mean", &[1, 3, 1, 1], &normalization.mean)?;
        let std = self.tensor("std", &[1, 3, 1, 1], &normalization.std)?;
        let centered = self.push("Sub", "centred", &[input, &mean], Vec::new());
        Ok(self.push("Div", "normalized", &[&centered, &std], Vec::new()))
    }

    fn node(&mut self, number: usize, node: &Node) -> Result<String, ExportError> {
        let named = |what: &str| format!("{what}_{number}");
        match &node.op {
            Op::BatchNorm(norm) => self.convolution(node, norm),
            Op::Linear(Dense { weight, bias, .. }) => {
                let x = self.value(node.inputs[0])?;
                let (name, weight) = (self.layer(*weight)?, self.parameter(*weight)?);
                let (outputs, bias) = (bias.len, self.parameter(*bias)?);
                let weight = self.tensor(
                    &format!("{name}.weight"),
                    &[outputs, weight.len() / outputs, 1, 1],
                    &weight,
                )?;
                let bias = self.tensor(&format!("{name}.bias"), &[outputs], &bias)?;
                Ok(self.push("Conv", &name, &[&x, &weight, &bias], vec![ints("kernel_shape", &[1, 1])]))
            }
            Op::Add { activation } => {
                let (a, b) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                let sum = self.push("Add", &named("add"), &[&a, &b], Vec::new());
                self.activation(sum, *activation)
            }
            Op::Activate { activation } => {
                let x = self.value(node.inputs[0])?;
                self.activation(x, *activation)
            }
            Op::MaxPool { sliding } => {
                let x = self.value(node.inputs[0])?;
                Ok(self.push("MaxPool", &named("max_pool"), &[&x], window(sliding)?))
            }
            Op::GlobalAveragePool { masked: false } => {
                let x = self.value(node.inputs[0])?;
                Ok(self.push("GlobalAveragePool", &named("pool"), &[&x], Vec::new()))
            }
            Op::Scale => {
                let (x, gate) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                Ok(self.push("Mul", &named("scale"), &[&x, &gate], Vec::new()))
            }
            Op::Dropout { .. } => self.value(node.inputs[0]),
            Op::L2Normalize => {
                let x = self.value(node.inputs[0])?;
                let least = self.tensor("least_norm", &[], &[MIN_NORM])?;
                let axes = vec![ints("axes", &[1]), int("keepdims", 1)];
                let norm = self.push("ReduceL2", &named("norm"), &[&x], axes);
                let norm = self.push("Max", &named("norm_or_least"), &[&norm, &least], Vec::new());
                Ok(self.push("Div", &named("unit"), &[&x, &norm], Vec::new()))
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

    /// Adds the convolution before the normalization `norm`, fused with that and its activation.
    fn convolution(&mut self, node: &Node, norm: &BatchNorm) -> Result<String, ExportError> {
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
        let weight = self.tensor(&format!("{name}.weight"), &dims, &folded)?;
        let bias = self.tensor(&format!("{name}.bias"), &[biases.len()], &biases)?;
        let mut attributes = window(&geometry.sliding)?;
        attributes.push(int("group", number(geometry.groups)?));
        let y = self.push("Conv", &name, &[&x, &weight, &bias], attributes);
        self.activation(y, norm.activation)
    }

    fn activation(&mut self, x: String, activation: Activation) -> Result<String, ExportError> {
        let name = |what: &str| format!("{x}.{what}");
        Ok(match activation {
            Activation::Identity => x,
            Activation::Relu => self.push("Relu", &name("relu"), &[&x], Vec::new()),
            Activation::Relu6 => {
                let (low, high) = (self.tensor("zero", &[], &[0.0])?, self.tensor("six", &[], &[6.0])?);
                self.push("Clip", &name("relu6"), &[&x, &low, &high], Vec::new())
            }
            Activation::HardSwish => self.push("HardSwish", &name("hard_swish"), &[&x], Vec::new()),
            Activation::HardSigmoid => {
                let line = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
                self.push("HardSigmoid", &name("hard_sigmoid"), &[&x], line)
            }
            Activation::Silu => {
                let gate = self.push("Sigmoid", &name("sigmoid"), &[&x], Vec::new());
                self.push("Mul", &name("silu"), &[&x, &gate], Vec::new())
            }
            Activation::Sigmoid => self.push("Sigmoid", &name("sigmoid"), &[&x], Vec::new()),
        })
    }

    /// Appends a node whose name is that of its output.
    fn push(&mut self, op: &str, name: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
        name.to_owned()
    }

    /// Adds a constant, once per name.
    fn tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<String, ExportError> {
        if !self.tensors.iter().any(|tensor| tensor.name == name) {
            self.tensors.push(TensorProto {
                dims: dims.iter().map(|&dim| number(dim)).collect::<Result<_, _>>()?,
                data_type: Some(FLOAT_DATA),
                name: name.to_owned(),
                raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            });
        }
        Ok(name.to_owned())
    }

    fn value(&self, value: Value) -> Result<String, ExportError> {
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
    Ok(vec![
        ints("kernel_shape", &[number(rows)?, number(columns)?]),
        ints("strides", &[number(sliding.window.stride)?; 2]),
        ints("pads", &[number(sliding.window.padding)?; 4]),
        ints("dilations", &[number(sliding.window.dilation)?; 2]),
    ])
}

fn int(name: &str, value: i64) -> AttributeProto {
    attribute(name, INT_ATTRIBUTE, |attribute| attribute.i = Some(value))
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    attribute(name, INTS_ATTRIBUTE, |attribute| attribute.ints = values.to_vec())
}

fn float(name: &str, value: f32) -> AttributeProto {
    attribute(name, FLOAT_ATTRIBUTE, |attribute| attribute.f = Some(value))
}

fn attribute(name: &str, kind: i32, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute =
        AttributeProto { name: name.to_owned(), kind: Some(kind), ..AttributeProto::default() };
    set(&mut attribute);
    attribute
}

/// A size in ONNX's type.
pub(super) fn number(value: usize) -> Result<i64, ExportError> {
    i64::try_from(value).map_err(|_| ExportError::Unexportable { what: format!("a size of {value}") })
}

fn unexpected(op: &Op) -> ExportError {
    ExportError::Unexportable { what: format!("{op:?}") }
}

#[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 that is wanted")]
fn single(value: f64) -> f32 {
    value as f32
}
