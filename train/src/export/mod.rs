//! A finished student as one ONNX file, for ONNX Runtime and what converts from it.
//!
//! ```text
//! inference graph (engine/graph.rs), parameters ──► lower.rs: nodes and tensors ──► proto.rs: bytes
//!
//! images [batch, 3, S, S], RGB from 0 to 1 ──► feature   [batch, d]  pooled
//!                                          ├─► embedding [batch, D]  unit vectors in the teacher's space
//!                                          ├─► scores    [batch, C]  cosines with the names of a bank
//!                                          └─► logits    [batch, C]  instead of both, of a student that learnt labels
//! ```

mod lower;
mod proto;

use lgd_data::bank::Bank;
use lgd_data::render::Normalization;
use prost::Message;
use serde::Serialize;

use self::lower::{Lowering, number};
use self::proto::{
    DimensionProto, DimensionValue, FLOAT, GraphProto, ModelProto, OperatorSetIdProto,
    StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::error::TrainError;
use crate::run::{Run, RunError};
use crate::student::{Head, Student};

/// The version of ONNX's operators; the first in which all that students need have their last form is 14, and mobile runtimes lag.
const OPSET: i64 = 17;
/// The version of the file format that came with it.
const IR_VERSION: i64 = 8;

const IMAGES: &str = "images";
const BATCH: &str = "batch";

/// An ONNX file and what goes in and out.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    /// The file.
    pub bytes: Vec<u8>,
    /// What describes it.
    pub signature: Signature,
}

/// Inputs and outputs of an ONNX file, all f32.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Signature {
    /// Version of the operators.
    pub opset: i64,
    /// `images`, `[batch, 3, S, S]`.
    pub inputs: Vec<Port>,
    /// `feature`, and what the head makes.
    pub outputs: Vec<Port>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// Its dimensions.
    pub shape: Vec<Dimension>,
}

/// A dimension of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dimension {
    /// Whatever the caller gives.
    Free(&'static str),
    /// As many.
    Fixed(usize),
}

/// What a file says beside the student.
#[derive(Debug, Clone, Copy)]
pub struct OnnxOptions<'a> {
    /// Side of the square input, pixels.
    pub size: usize,
    /// What RGB from 0 to 1 is normalised by, in the graph.
    pub normalization: Normalization,
    /// Text prototypes `[C, D]`, unit rows; each becomes a score.
    pub prototypes: Option<&'a [f32]>,
    /// Keys and values for whoever opens the file.
    pub metadata: &'a [(&'a str, String)],
}

/// The finished student of `run`, with a score for every name of `bank` where there is one. The file's metadata tell the names of scores
/// or logits as a JSON list, how images are resized, and the hashes of run and bank.
///
/// # Errors
/// [`RunError::MissingInput`] for a bank beside a student without an embedding; [`RunError::Artefact`] where the bank is of another text
/// encoder or width, or the weights are unreadable.
pub fn run_to_onnx(run: &Run, bank: Option<&Bank>) -> Result<OnnxModel, RunError> {
    let manifest = run.manifest();
    if let Some(bank) = bank {
        if !matches!(manifest.head(), Head::Projection { .. }) {
            let input = "a run whose student ends in an embedding\nhint: export this one without --bank";
            return Err(RunError::MissingInput { of: "a score for every name", input });
        }
        run.require_space_of(bank)?;
    }
    let format = manifest.input_format();
    let named = bank.map(|bank| bank.manifest().record.categories.iter().map(|it| it.name.clone()).collect());
    let names: Option<Vec<String>> =
        named.or_else(|| manifest.classes.as_ref().and_then(|classes| classes.names.clone()));
    let mut metadata = vec![
        ("run", run.hash().to_string()),
        ("student", manifest.config.student.to_string()),
        ("teacher", manifest.teacher.name.clone()),
        ("resize", serde_json::to_string(&format.resample).unwrap_or_default().replace('"', "")),
    ];
    metadata.extend(bank.map(|bank| ("bank", bank.hash().to_string())));
    metadata.extend(names.map(|names| ("names", serde_json::Value::from(names).to_string())));
    let options = OnnxOptions {
        size: usize::try_from(format.size).unwrap_or(usize::MAX),
        normalization: format.normalization,
        prototypes: bank.map(Bank::tsb),
        metadata: &metadata,
    };
    let mut student = run.student(&candle_core::Device::Cpu)?;
    Ok(to_onnx(&mut student, &options)?)
}

/// A student as an ONNX file.
///
/// # Errors
/// [`TrainError::Unexportable`] for prototypes of another width than the embedding's or beside no embedding; a side that the backbone
/// cannot see; a device that cannot be read.
pub fn to_onnx(student: &mut Student, options: &OnnxOptions<'_>) -> Result<OnnxModel, TrainError> {
    let head = student.head();
    let state = student.engine().state()?;
    let graph = student.inference_graph(options.size)?;
    let mut lowering = Lowering::new((&graph, student.table(), &state), IMAGES, &options.normalization)?;

    let mut outputs = vec!["feature"];
    outputs.extend(match head {
        Head::None => None,
        Head::Projection { .. } => Some("embedding"),
        Head::Classifier { .. } => Some("logits"),
    });
    let mut ports = Vec::new();
    for (&name, &value) in outputs.iter().zip(graph.outputs()) {
        lowering.output(value, name)?;
        ports.push(Port {
            name,
            shape: vec![
                Dimension::Free(BATCH),
                Dimension::Fixed(graph.nodes()[value.index()].shape.channels),
            ],
        });
    }
    if let Some(prototypes) = options.prototypes {
        let dim = match head {
            Head::Projection { dim } if prototypes.len().is_multiple_of(dim) => dim,
            _ => {
                let what = format!("{} numbers of prototypes beside the head {head:?}", prototypes.len());
                return Err(TrainError::Unexportable { what });
            }
        };
        lowering.scores("embedding", prototypes, dim, "scores")?;
        let shape = vec![Dimension::Free(BATCH), Dimension::Fixed(prototypes.len() / dim)];
        ports.push(Port { name: "scores", shape });
    }
    let side = Dimension::Fixed(options.size);
    let images = Port { name: IMAGES, shape: vec![Dimension::Free(BATCH), Dimension::Fixed(3), side, side] };
    let signature = Signature { opset: OPSET, inputs: vec![images], outputs: ports };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: "lgd".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(GraphProto {
            name: student.architecture().to_string(),
            input: values(&signature.inputs)?,
            output: values(&signature.outputs)?,
            node: lowering.nodes,
            initializer: lowering.tensors,
        }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: options.metadata.iter().map(entry).collect(),
    };
    Ok(OnnxModel { bytes: model.encode_to_vec(), signature })
}

fn entry((key, value): &(&str, String)) -> StringStringEntryProto {
    StringStringEntryProto { key: (*key).to_owned(), value: value.clone() }
}

fn values(ports: &[Port]) -> Result<Vec<ValueInfoProto>, TrainError> {
    ports.iter().map(value).collect()
}

fn value(port: &Port) -> Result<ValueInfoProto, TrainError> {
    let dimension = |dimension: &Dimension| -> Result<DimensionProto, TrainError> {
        let value = match *dimension {
            Dimension::Free(name) => DimensionValue::Named(name.to_owned()),
            Dimension::Fixed(size) => DimensionValue::Fixed(number(size)?),
        };
        Ok(DimensionProto { value: Some(value) })
    };
    let dim = port.shape.iter().map(dimension).collect::<Result<_, _>>()?;
    let tensor = TensorTypeProto { elem_type: Some(FLOAT), shape: Some(TensorShapeProto { dim }) };
    Ok(ValueInfoProto { name: port.name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) })
}
