//! A finished student as one ONNX file, for ONNX Runtime and converters from ONNX.
//!
//! ```text
//! inference graph (engine/graph.rs), parameters ──► lower.rs, emit.rs: nodes and tensors ──► proto.rs: bytes
//!
//! images [N, 3, S, S], RGB from 0 to 1 ──► embedding     [N, D]  unit vectors in the teacher's space
//!                                      ├─► feature       [N, d]  pooled
//!                                      ├─► logits        [N, C]  instead of an embedding, if the student learned labels
//!                                      ├─► map_04 to map_32  [N, c, S / stride, S / stride]  on request
//!                                      ├─► probabilities [N, C]  softmax of scores / tau_student, or of the logits
//!                                      └─► scores        [N, C]  cosines with the names of a bank
//! ```
//!
//! Outputs are declared in the order of their names. Converters that number outputs keep the declared order or sort the
//! names, as TensorFlow does: both give the same numbers.

mod emit;
mod lower;
mod proto;

use candle_core::Device;
use clap::ValueEnum;
use lgd_data::bank::Bank;
use lgd_data::render::Normalization;
use prost::Message;
use serde::Serialize;
use serde_json::json;

use self::emit::{Named, number};
use self::lower::Lowering;
use self::proto::{
    DimensionProto, DimensionValue, F32_DATA, GraphProto, ModelProto, OperatorSetIdProto,
    StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, U8_DATA, ValueInfoProto,
};
use super::ExportError;
use crate::engine::graph::{Graph, Value};
use crate::error::TrainError;
use crate::run::Run;
use crate::safetensors_file::Metadata;
use crate::student::{Head, Student};

/// Version of ONNX's operators.
const OPSET: i64 = 14;
/// Version of the file format for that operator set.
const IR_VERSION: i64 = 7;

const IMAGES: &str = "images";
const BATCH: &str = "batch";

/// An ONNX file, its inputs and its outputs.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    /// The file.
    pub bytes: Vec<u8>,
    /// Version of the operators.
    pub opset: i64,
    /// `images`.
    pub inputs: Vec<Port>,
    /// `feature`, the head's output, `scores`, `probabilities` and maps, as far as the student has them, sorted by name;
    /// f32.
    pub outputs: Vec<Port>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type: `f32` or `u8`.
    pub dtype: &'static str,
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

/// Type and layout of the input `images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnnxInput {
    /// f32 `[N, 3, S, S]`, RGB from 0 to 1.
    #[default]
    F32Nchw,
    /// u8 `[N, S, S, 3]`, RGB from 0 to 255, as image decoders return it.
    U8Nhwc,
}

/// Type of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: half the file. Inputs and outputs keep their types.
    F16,
}

/// The form of a file, whatever its student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnnxFormat {
    /// Images per call of the model. `None`: any number.
    pub batch: Option<usize>,
    /// Input.
    pub input: OnnxInput,
    /// Type of the weights.
    pub precision: Precision,
    /// Whether the feature maps at strides 4 to 32 are outputs too.
    pub maps: bool,
}

/// What a file holds besides the student.
#[derive(Debug, Clone)]
pub struct OnnxOptions<'a> {
    /// Side of the square input, pixels.
    pub size: usize,
    /// Form of the file.
    pub format: OnnxFormat,
    /// Normalization of RGB from 0 to 1, applied in the graph.
    pub normalization: Normalization,
    /// Text prototypes `[C, D]` and their width D; each becomes a score.
    pub prototypes: Option<(&'a [f32], usize)>,
    /// Divides scores or logits before the softmax that gives the probabilities.
    pub temperature: f32,
    /// Metadata of the file.
    pub metadata: Metadata,
}

impl OnnxOptions<'_> {
    /// A file in the default format without scores and metadata, and a temperature of 1.
    pub fn new(size: usize, normalization: Normalization) -> Self {
        let (format, metadata) = (OnnxFormat::default(), Metadata::new());
        Self { size, format, normalization, prototypes: None, temperature: 1.0, metadata }
    }
}

/// The names of the scores or logits that [`run_to_onnx`] writes for `run`, in order, if they have names.
pub fn names_of(run: &Run, bank: Option<&Bank>) -> Option<Vec<String>> {
    let categories = bank.map(|bank| &bank.manifest().record.categories);
    let of_bank = categories.map(|all| all.iter().map(|category| category.name.clone()).collect());
    of_bank.or_else(|| run.manifest().classes.as_ref()?.names.clone())
}

/// Exports the finished student of `run`, with a score for every name of `bank` if there is one. `size`: side of the
/// input, pixels; by default that of training. The metadata is that of the run's manifest, with hashes and
/// the bank's names.
///
/// # Errors
/// [`ExportError::NoEmbedding`] if there is a bank and the student has no embedding; [`ExportError::Run`] if the bank
/// comes from another text encoder or has another width, or the weights are unreadable.
pub fn run_to_onnx(
    run: &Run,
    bank: Option<&Bank>,
    size: Option<u32>,
    format: OnnxFormat,
) -> Result<OnnxModel, ExportError> {
    let manifest = run.manifest();
    if let Some(bank) = bank {
        if !matches!(manifest.head(), Head::Projection { .. }) {
            return Err(ExportError::NoEmbedding);
        }
        run.require_space_of(bank)?;
    }
    let size = usize::try_from(size.unwrap_or(manifest.config.size)).unwrap_or(usize::MAX);
    let mut metadata = manifest.metadata(size);
    metadata.insert("lgd.run".to_owned(), run.hash().to_string());
    if let Some(bank) = bank {
        let templates = &bank.manifest().record.templates;
        metadata.insert("lgd.bank".to_owned(), bank.hash().to_string());
        metadata.insert("lgd.template".to_owned(), json!(templates).to_string());
    }
    let names = names_of(run, bank).map(|names| ("lgd.categories".to_owned(), json!(names).to_string()));
    metadata.extend(names);
    let options = OnnxOptions {
        format,
        prototypes: bank.map(|bank| (bank.tsb(), bank.dim())),
        temperature: manifest.score_temperature().unwrap_or(1.0),
        metadata,
        ..OnnxOptions::new(size, manifest.input_format().normalization)
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
    let OnnxFormat { batch, input, precision, maps } = options.format;
    let state = student.engine().state()?;
    let (graph, map_values) = student.inference_graph(options.size, maps)?;
    let parts = (&graph, student.table(), &state);
    let mut lowering = Lowering::new(parts, (IMAGES, input), &options.normalization, (precision, batch))?;
    let outputs = add_outputs(&mut lowering, &graph, student.head(), (&map_values, options))?;
    let (side, batch) =
        (Dimension::Fixed(options.size), batch.map_or(Dimension::Free(BATCH), Dimension::Fixed));
    let (dtype, shape) = match input {
        OnnxInput::F32Nchw => ("f32", vec![batch, Dimension::Fixed(3), side, side]),
        OnnxInput::U8Nhwc => ("u8", vec![batch, side, side, Dimension::Fixed(3)]),
    };
    let inputs = vec![Port { name: IMAGES.to_owned(), dtype, shape }];
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: "lgd".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(GraphProto {
            name: student.architecture().to_string(),
            input: values(&inputs)?,
            output: values(&outputs)?,
            node: lowering.emitter.nodes,
            initializer: lowering.emitter.tensors,
        }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: options.metadata.iter().map(entry).collect(),
    };
    Ok(OnnxModel { bytes: model.encode_to_vec(), opset: OPSET, inputs, outputs })
}

/// Writes every output and describes it.
fn add_outputs(
    lowering: &mut Lowering<'_>,
    graph: &Graph,
    head: Head,
    (maps, options): (&[(usize, Value)], &OnnxOptions<'_>),
) -> Result<Vec<Port>, ExportError> {
    let batch = options.format.batch.map_or(Dimension::Free(BATCH), Dimension::Fixed);
    let port = |name: &str, sizes: &[usize]| {
        let sizes = sizes.iter().map(|&size| Dimension::Fixed(size));
        Port { name: name.to_owned(), dtype: "f32", shape: [batch].into_iter().chain(sizes).collect() }
    };
    let last = match head {
        Head::None => None,
        Head::Projection { .. } => Some("embedding"),
        Head::Classifier { .. } => Some("logits"),
    };
    let mut outputs = Vec::new();
    let mut compared: Option<(Named, usize)> = None;
    for (name, &value) in ["feature"].into_iter().chain(last).zip(graph.outputs()) {
        let (value, width) = (lowering.output(value, name)?, graph.nodes()[value.index()].shape.channels);
        outputs.push(port(name, &[width]));
        compared = (name == "logits").then_some((value, width));
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
        compared = Some((lowering.scores(embedding, (prototypes, dim), "scores")?, rows));
        outputs.push(port("scores", &[rows]));
    }
    if let Some((logits, width)) = compared {
        let shape = (options.format.batch, width);
        lowering.emitter.softmax(&logits, "probabilities", shape, options.temperature)?;
        outputs.push(port("probabilities", &[width]));
    }
    for &(stride, map) in maps {
        let (name, shape) = (format!("map_{stride:02}"), graph.nodes()[map.index()].shape);
        lowering.map(map, &name)?;
        outputs.push(port(&name, &[shape.channels, shape.height, shape.width]));
    }
    outputs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(outputs)
}

fn entry((key, value): (&String, &String)) -> StringStringEntryProto {
    StringStringEntryProto { key: key.clone(), value: value.clone() }
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
    let element = if port.dtype == "u8" { U8_DATA } else { F32_DATA };
    let tensor = TensorTypeProto { elem_type: Some(element), shape: Some(TensorShapeProto { dim }) };
    Ok(ValueInfoProto { name: port.name.clone(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) })
}
