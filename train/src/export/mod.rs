//! A finished student as one ONNX file, for ONNX Runtime and converters from ONNX.
//!
//! ```text
//! inference graph (engine/graph.rs), parameters ──► lower.rs: nodes and tensors ──► proto.rs: bytes
//!
//! images [N, 3, S, S], RGB from 0 to 1 ──► feature   [N, d]  pooled
//!                                      ├─► embedding [N, D]  unit vectors in the teacher's space
//!                                      ├─► scores    [N, C]  cosines with the names of a bank
//!                                      └─► logits    [N, C]  instead of both, if the student learned labels
//! ```

mod lower;
mod proto;

use candle_core::Device;
use lgd_data::bank::Bank;
use lgd_data::render::Normalization;
use prost::Message;
use serde::Serialize;
use thiserror::Error;

use self::lower::{Lowering, number};
use self::proto::{
    DimensionProto, DimensionValue, FLOAT_DATA, GraphProto, ModelProto, OperatorSetIdProto,
    StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::error::{FailureKind, TrainError};
use crate::run::{Run, RunError};
use crate::student::{Head, Student};

/// Version of ONNX's operators. HardSwish needs 14; from 18 on, ReduceL2 takes its axes as an input.
const OPSET: i64 = 14;
/// Version of the file format for that operator set.
const IR_VERSION: i64 = 7;

const IMAGES: &str = "images";
const BATCH: &str = "batch";

/// Why a student cannot be exported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The run, its student or the bank cannot be used.
    #[error(transparent)]
    Run(Box<RunError>),
    /// Scores were requested, but the student has no embedding.
    #[error("a score for every name needs a run whose student ends in an embedding")]
    NoEmbedding,
    /// The graph has a part that ONNX cannot represent.
    #[error("{what} cannot be exported")]
    Unexportable {
        /// The part.
        what: String,
    },
}

impl ExportError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Run(error) => error.kind(),
            Self::NoEmbedding => FailureKind::Usage,
            Self::Unexportable { .. } => FailureKind::Other,
        }
    }
}

impl From<RunError> for ExportError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<TrainError> for ExportError {
    fn from(error: TrainError) -> Self {
        RunError::from(error).into()
    }
}

/// An ONNX file, its inputs and its outputs.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    /// The file.
    pub bytes: Vec<u8>,
    /// Version of the operators.
    pub opset: i64,
    /// `images`, `[N, 3, S, S]`, f32.
    pub inputs: Vec<Port>,
    /// `feature`, the head's output, and `scores`, `[N, ...]`, f32.
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
    /// Any size; the dimension has this name in the file.
    Free(&'static str),
    /// Exactly this size.
    Fixed(usize),
}

/// What a file holds besides the student.
#[derive(Debug, Clone, Copy)]
pub struct OnnxOptions<'a> {
    /// Side of the square input, pixels.
    pub size: usize,
    /// Images per call of the model. `None`: any number.
    pub batch: Option<usize>,
    /// Normalization of RGB from 0 to 1, applied in the graph.
    pub normalization: Normalization,
    /// Text prototypes `[C, D]` and their width D; each becomes a score.
    pub prototypes: Option<(&'a [f32], usize)>,
    /// Keys and values of the file's metadata.
    pub metadata: &'a [(&'a str, String)],
}

/// The names of the scores or logits that [`run_to_onnx`] writes for `run`, in order, if they have names.
pub fn names_of(run: &Run, bank: Option<&Bank>) -> Option<Vec<String>> {
    let categories = bank.map(|bank| &bank.manifest().record.categories);
    let of_bank = categories.map(|all| all.iter().map(|category| category.name.clone()).collect());
    of_bank.or_else(|| run.manifest().classes.as_ref()?.names.clone())
}

/// Exports the finished student of `run`, with a score for every name of `bank` if there is one. `batch`: images per
/// call of the model; `None` for any number. Metadata: [`names_of`] as a JSON list (`names`), the filter that images
/// are resized with (`resize`), architecture and teacher (`student`, `teacher`), and the hashes of the manifests of run
/// and bank (`run`, `bank`).
///
/// # Errors
/// [`ExportError::NoEmbedding`] if there is a bank and the student has no embedding; [`ExportError::Run`] if the bank
/// comes from another text encoder or has another width, or the weights are unreadable.
pub fn run_to_onnx(run: &Run, bank: Option<&Bank>, batch: Option<usize>) -> Result<OnnxModel, ExportError> {
    let manifest = run.manifest();
    if let Some(bank) = bank {
        if !matches!(manifest.head(), Head::Projection { .. }) {
            return Err(ExportError::NoEmbedding);
        }
        run.require_space_of(bank)?;
    }
    let format = manifest.input_format();
    let mut metadata = vec![
        ("run", run.hash().to_string()),
        ("student", manifest.config.student.to_string()),
        ("teacher", manifest.teacher.name.clone()),
        ("resize", format.resample.to_string()),
    ];
    metadata.extend(bank.map(|bank| ("bank", bank.hash().to_string())));
    metadata.extend(names_of(run, bank).map(|names| ("names", serde_json::Value::from(names).to_string())));
    let options = OnnxOptions {
        size: usize::try_from(format.size).unwrap_or(usize::MAX),
        batch,
        normalization: format.normalization,
        prototypes: bank.map(|bank| (bank.tsb(), bank.dim())),
        metadata: &metadata,
    };
    let mut student = run.student(&Device::Cpu)?;
    to_onnx(&mut student, &options)
}

/// Exports a student as an ONNX file.
///
/// # Errors
/// [`TrainError::Dimensions`] if the prototypes' width is not the embedding's; [`ExportError::NoEmbedding`] if there
/// are prototypes but no embedding. Also fails if the size is too small for the backbone, or the device cannot be read.
pub fn to_onnx(student: &mut Student, options: &OnnxOptions<'_>) -> Result<OnnxModel, ExportError> {
    let head = student.head();
    let state = student.engine().state()?;
    let graph = student.inference_graph(options.size)?;
    let mut lowering = Lowering::new((&graph, student.table(), &state), IMAGES, &options.normalization)?;

    let batch = options.batch.map_or(Dimension::Free(BATCH), Dimension::Fixed);
    let port = |name, width| Port { name, shape: vec![batch, Dimension::Fixed(width)] };
    let last = match head {
        Head::None => None,
        Head::Projection { .. } => Some("embedding"),
        Head::Classifier { .. } => Some("logits"),
    };
    let mut outputs = Vec::new();
    for (name, &value) in ["feature"].into_iter().chain(last).zip(graph.outputs()) {
        lowering.output(value, name)?;
        outputs.push(port(name, graph.nodes()[value.index()].shape.channels));
    }
    if let Some((prototypes, width)) = options.prototypes {
        let (Head::Projection { dim }, Some(&embedding)) = (head, graph.outputs().get(1)) else {
            return Err(ExportError::NoEmbedding);
        };
        let rows = prototypes.len() / width.max(1);
        if width != dim || prototypes.len() != rows * dim {
            let (what, expected) = ("prototypes".to_owned(), vec![rows, dim]);
            return Err(TrainError::Dimensions { what, expected, got: vec![rows, width] }.into());
        }
        lowering.scores(embedding, (prototypes, dim), "scores")?;
        outputs.push(port("scores", rows));
    }
    let side = Dimension::Fixed(options.size);
    let inputs = vec![Port { name: IMAGES, shape: vec![batch, Dimension::Fixed(3), side, side] }];
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: "lgd".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(GraphProto {
            name: student.architecture().to_string(),
            input: values(&inputs)?,
            output: values(&outputs)?,
            node: lowering.nodes,
            initializer: lowering.tensors,
        }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: options.metadata.iter().map(entry).collect(),
    };
    Ok(OnnxModel { bytes: model.encode_to_vec(), opset: OPSET, inputs, outputs })
}

fn entry((key, value): &(&str, String)) -> StringStringEntryProto {
    StringStringEntryProto { key: (*key).to_owned(), value: value.clone() }
}

fn values(ports: &[Port]) -> Result<Vec<ValueInfoProto>, ExportError> {
    ports.iter().map(value).collect()
}

fn value(port: &Port) -> Result<ValueInfoProto, ExportError> {
    let dimension = |dimension: &Dimension| -> Result<DimensionProto, ExportError> {
        let value = match *dimension {
            Dimension::Free(name) => DimensionValue::Named(name.to_owned()),
            Dimension::Fixed(size) => DimensionValue::Fixed(number(size)?),
        };
        Ok(DimensionProto { value: Some(value) })
    };
    let dim = port.shape.iter().map(dimension).collect::<Result<_, _>>()?;
    let tensor = TensorTypeProto { elem_type: Some(FLOAT_DATA), shape: Some(TensorShapeProto { dim }) };
    Ok(ValueInfoProto { name: port.name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) })
}
