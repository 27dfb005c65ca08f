//! A finished student as one ONNX file, for ONNX Runtime and what converts from it.
//!
//! ```text
//! inference graph (engine/graph.rs), parameters ──► lower.rs: nodes and tensors ──► proto.rs: bytes
//!
//! images [N, 3, S, S], RGB from 0 to 1 ──► feature   [N, d]  pooled
//!                                      ├─► embedding [N, D]  unit vectors in the teacher's space
//!                                      ├─► scores    [N, C]  cosines with the names of a bank
//!                                      └─► logits    [N, C]  instead of both, of a student that learned labels
//! ```

mod lower;
mod proto;

use candle_core::Device;
use lgd_data::bank::Bank;
use lgd_data::render::Normalization;
use prost::Message;
use serde::Serialize;

use self::lower::{Lowering, number};
use self::proto::{
    DimensionProto, DimensionValue, FLOAT_DATA, GraphProto, ModelProto, OperatorSetIdProto,
    StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::error::TrainError;
use crate::run::{Run, RunError};
use crate::student::{Head, Student};

/// The version of ONNX's operators, the lowest that does: HardSwish needs 14, and from 18 on ReduceL2 takes its axes as an input.
const OPSET: i64 = 14;
/// The version of the file format that came with it.
const IR_VERSION: i64 = 7;

const IMAGES: &str = "images";
const BATCH: &str = "batch";

/// An ONNX file and what is in it.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    /// The file.
    pub bytes: Vec<u8>,
    /// Version of the operators.
    pub opset: i64,
    /// `images`, `[N, 3, S, S]`, f32.
    pub inputs: Vec<Port>,
    /// `feature`, what the head makes, and `scores`, `[N, ...]`, f32.
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
    /// Whatever the caller gives, by the name that it has in the file.
    Free(&'static str),
    /// Always this.
    Fixed(usize),
}

/// What a file says beside the student.
#[derive(Debug, Clone, Copy)]
pub struct OnnxOptions<'a> {
    /// Side of the square input, pixels.
    pub size: usize,
    /// Images of a run; `None` = any number.
    pub batch: Option<usize>,
    /// What RGB from 0 to 1 is normalized by, in the graph.
    pub normalization: Normalization,
    /// Text prototypes `[C, D]` and their width D; each becomes a score.
    pub prototypes: Option<(&'a [f32], usize)>,
    /// Keys and values for whoever opens the file.
    pub metadata: &'a [(&'a str, String)],
}

/// The names of the scores or logits that [`run_to_onnx`] makes of `run`, in their order, where they have names.
pub fn names_of(run: &Run, bank: Option<&Bank>) -> Option<Vec<String>> {
    let categories = bank.map(|bank| &bank.manifest().record.categories);
    let of_bank = categories.map(|all| all.iter().map(|category| category.name.clone()).collect());
    of_bank.or_else(|| run.manifest().classes.as_ref()?.names.clone())
}

/// The finished student of `run`, with a score for every name of `bank` where there is one. `batch`: images of a run of the file, `None` for
/// any number. Metadata: [`names_of`] as a JSON list (`names`), the filter that images are resized with (`resize`), architecture and teacher
/// (`student`, `teacher`), and the hashes of the manifests of run and bank (`run`, `bank`).
///
/// # Errors
/// [`RunError::MissingInput`] for a bank beside a student without an embedding; [`RunError::Artifact`] where the bank is of another text
/// encoder or width, or the weights are unreadable.
pub fn run_to_onnx(run: &Run, bank: Option<&Bank>, batch: Option<usize>) -> Result<OnnxModel, RunError> {
    let manifest = run.manifest();
    if let Some(bank) = bank {
        if !matches!(manifest.head(), Head::Projection { .. }) {
            let input = "a run whose student ends in an embedding\nhint: export this one without --bank";
            return Err(RunError::MissingInput { of: "a score for every name", input });
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
    Ok(to_onnx(&mut student, &options)?)
}

/// A student as an ONNX file.
///
/// # Errors
/// [`TrainError::Dimensions`] for prototypes of another width than the embedding's, [`TrainError::MissingOutput`] for prototypes beside no
/// embedding; a side that the backbone cannot see; a device that cannot be read.
pub fn to_onnx(student: &mut Student, options: &OnnxOptions<'_>) -> Result<OnnxModel, TrainError> {
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
            return Err(TrainError::MissingOutput { output: "embedding" });
        };
        let rows = prototypes.len() / width.max(1);
        if width != dim || prototypes.len() != rows * dim {
            let (what, expected) = ("prototypes".to_owned(), vec![rows, dim]);
            return Err(TrainError::Dimensions { what, expected, got: vec![rows, width] });
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
    let tensor = TensorTypeProto { elem_type: Some(FLOAT_DATA), shape: Some(TensorShapeProto { dim }) };
    Ok(ValueInfoProto { name: port.name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) })
}
