//! Nodes and constants of an ONNX graph.
//!
//! Only operations that NNAPI, CoreML and the converters from ONNX share are written, so that a phone's accelerator runs
//! a student in one part. Some functions of ONNX are therefore spelled out: hard sigmoid and hard swish as Add, Clip and
//! Mul, an L2 norm as Mul, a 1x1 Conv and Sqrt, a maximum as Clip, Flatten as Reshape.

use half::f16;
use lgd_kernels::Activation;

use super::Precision;
use super::proto::{
    AttributeProto, F16_DATA, F32_DATA, I64_DATA, INT_ATTRIBUTE, INTS_ATTRIBUTE, NodeProto, TensorProto,
};
use crate::export::ExportError;

/// A value of the ONNX graph: an input, a constant or the output of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub name: String,
    /// Type of its numbers. The first input of a node decides the type of its output.
    pub precision: Precision,
}

/// The nodes and constants so far.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    pub nodes: Vec<NodeProto>,
    pub tensors: Vec<TensorProto>,
}

impl Emitter {
    /// Appends a node whose name is that of its output.
    pub(super) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Named],
        attribute: Vec<AttributeProto>,
    ) -> Named {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| input.name.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
        let precision = inputs.first().map_or(Precision::F32, |input| input.precision);
        Named { name: name.to_owned(), precision }
    }

    /// Adds a constant, once per name.
    pub(super) fn constant(
        &mut self,
        name: &str,
        dims: &[usize],
        values: &[f32],
        precision: Precision,
    ) -> Result<Named, ExportError> {
        let raw = match precision {
            Precision::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Precision::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        };
        self.tensor(name, dims, precision.data_type(), raw)?;
        Ok(Named { name: name.to_owned(), precision })
    }

    /// Adds a constant that is one number.
    fn scalar(&mut self, name: &str, value: f32, precision: Precision) -> Result<Named, ExportError> {
        self.constant(name, &[], &[value], precision)
    }

    fn tensor(
        &mut self,
        name: &str,
        dims: &[usize],
        data_type: i32,
        raw: Vec<u8>,
    ) -> Result<(), ExportError> {
        if !self.tensors.iter().any(|tensor| tensor.name == name) {
            self.tensors.push(TensorProto {
                dims: dims.iter().map(|&dim| number(dim)).collect::<Result<_, _>>()?,
                data_type: Some(data_type),
                name: name.to_owned(),
                raw_data: Some(raw),
            });
        }
        Ok(())
    }

    /// `x` in another precision; `x` itself if it has that one.
    pub(super) fn cast(&mut self, x: &Named, name: &str, precision: Precision) -> Named {
        if x.precision == precision {
            return x.clone();
        }
        self.convert(x, name, precision)
    }

    /// The numbers of `x`, of any type, in `precision`.
    pub(super) fn convert(&mut self, x: &Named, name: &str, precision: Precision) -> Named {
        let to = int("to", i64::from(precision.data_type()));
        Named { precision, ..self.node("Cast", name, &[x], vec![to]) }
    }

    /// The pooled `x` as rows `[batch, width]`; any number of rows without a `batch`.
    pub(super) fn rows(
        &mut self,
        x: &Named,
        name: &str,
        (batch, width): (Option<usize>, usize),
    ) -> Result<Named, ExportError> {
        let rows = batch.map_or(Ok(-1), number)?;
        let shape = format!("rows_of_{width}");
        let raw = [rows, number(width)?].iter().flat_map(|size| size.to_le_bytes()).collect();
        self.tensor(&shape, &[2], I64_DATA, raw)?;
        let shape = Named { name: shape, precision: Precision::F32 };
        Ok(self.node("Reshape", name, &[x, &shape], Vec::new()))
    }

    /// A function of each number of `x`.
    pub(super) fn activation(&mut self, x: Named, activation: Activation) -> Result<Named, ExportError> {
        let name = |what: &str| format!("{}.{what}", x.name);
        Ok(match activation {
            Activation::Identity => x,
            Activation::Relu => self.node("Relu", &name("relu"), &[&x], Vec::new()),
            Activation::Relu6 => self.clip_to_six(&x, &name("relu6"))?,
            Activation::HardSigmoid => self.hard_sigmoid(&x)?,
            Activation::HardSwish => {
                let gate = self.hard_sigmoid(&x)?;
                self.node("Mul", &name("hard_swish"), &[&x, &gate], Vec::new())
            }
            Activation::Sigmoid => self.node("Sigmoid", &name("sigmoid"), &[&x], Vec::new()),
            Activation::Silu => {
                let gate = self.node("Sigmoid", &name("sigmoid"), &[&x], Vec::new());
                self.node("Mul", &name("silu"), &[&x, &gate], Vec::new())
            }
        })
    }

    /// `clip(x + 3, 0, 6) / 6`.
    fn hard_sigmoid(&mut self, x: &Named) -> Result<Named, ExportError> {
        let name = |what: &str| format!("{}.{what}", x.name);
        let three = self.scalar("three", 3.0, x.precision)?;
        let sixth = self.scalar("sixth", 1.0 / 6.0, x.precision)?;
        let sum = self.node("Add", &name("plus_three"), &[x, &three], Vec::new());
        let clipped = self.clip_to_six(&sum, &name("clipped"))?;
        Ok(self.node("Mul", &name("hard_sigmoid"), &[&clipped, &sixth], Vec::new()))
    }

    fn clip_to_six(&mut self, x: &Named, name: &str) -> Result<Named, ExportError> {
        let low = self.scalar("zero", 0.0, x.precision)?;
        let high = self.scalar("six", 6.0, x.precision)?;
        Ok(self.node("Clip", name, &[x, &low, &high], Vec::new()))
    }

    /// `x` `[N, D, 1, 1]` divided by the L2 norm of each row, or by `least` if the norm is smaller.
    pub(super) fn unit(
        &mut self,
        x: &Named,
        dim: usize,
        least: f32,
        name: &str,
    ) -> Result<Named, ExportError> {
        let part = |what: &str| format!("{name}.{what}");
        let ones = self.constant(&part("ones"), &[1, dim, 1, 1], &vec![1.0; dim], x.precision)?;
        let least = self.scalar(&part("least_norm"), least, x.precision)?;
        let squares = self.node("Mul", &part("squares"), &[x, x], Vec::new());
        let sum = self.node("Conv", &part("sum"), &[&squares, &ones], vec![ints("kernel_shape", &[1, 1])]);
        let norm = self.node("Sqrt", &part("norm"), &[&sum], Vec::new());
        let norm = self.node("Clip", &part("norm_or_least"), &[&norm, &least], Vec::new());
        Ok(self.node("Div", name, &[x, &norm], Vec::new()))
    }

    /// The softmax over the rows `[N, C]` of the pooled `x / temperature`.
    pub(super) fn softmax(
        &mut self,
        x: &Named,
        name: &str,
        (batch, width): (Option<usize>, usize),
        temperature: f32,
    ) -> Result<(), ExportError> {
        let factor = self.scalar("inverse_temperature", 1.0 / temperature, x.precision)?;
        let scaled = self.node("Mul", &format!("{name}.scaled"), &[x, &factor], Vec::new());
        let rows = self.rows(&scaled, &format!("{name}.rows"), (batch, width))?;
        self.node("Softmax", name, &[&rows], vec![int("axis", 1)]);
        Ok(())
    }
}

impl Precision {
    /// ONNX's number of the type.
    pub(super) fn data_type(self) -> i32 {
        match self {
            Self::F32 => F32_DATA,
            Self::F16 => F16_DATA,
        }
    }
}

/// An attribute that is one integer.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        kind: Some(INT_ATTRIBUTE),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// An attribute that is a list of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let ints = values.to_vec();
    AttributeProto { name: name.to_owned(), kind: Some(INTS_ATTRIBUTE), ints, ..AttributeProto::default() }
}

/// A size in ONNX's type.
pub(super) fn number(value: usize) -> Result<i64, ExportError> {
    i64::try_from(value).map_err(|_| ExportError::Unexportable { what: format!("a size of {value}") })
}
