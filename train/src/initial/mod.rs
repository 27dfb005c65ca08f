//! Initial weights from files of other tools: safetensors, and what `torch.save` writes, read without running anything in it.
//!
//! A file fits if it has every tensor of the student's backbone, in its shape, and no other tensor among the backbone's.
//! Heads may be missing or left out: those of a pretraining have other classes.

mod names;
mod pickle;
mod torch;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;

use self::names::Renamed;
pub(crate) use self::names::timm_name;
use self::torch::LEGACY;
use crate::error::TrainError;
use crate::load_report::LoadReport;
use crate::run::InitialWeightsError;
use crate::student::{Architecture, DECODER, Head, Student, StudentConfig};

/// Why the tensors of a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsFault {
    /// The file is of another kind.
    #[error("the file is {what}\nhint: {hint}")]
    Kind {
        /// What it is.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The file is damaged, or has values of a kind that is not read.
    #[error(
        "cannot read the weights: {0}\nhint: save them again, with torch.save(model.state_dict(), FILE) or as safetensors"
    )]
    Damaged(String),
    /// A layer's values are of a type that is not read.
    #[error(
        "{name} holds values of {got}, expected f16, bf16, f32 or f64\n\
         hint: give the float weights of a model that is not quantized"
    )]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        got: String,
    },
    /// A whole model was saved, which only its own code can read.
    #[error(
        "the file holds an object of {class}; lgd runs no code from files\n\
         hint: load it with the code that saved it, then save its tensors: torch.save(model.state_dict(), FILE), or as safetensors"
    )]
    Object {
        /// Python's name of the class or function.
        class: String,
    },
    /// An entry of the state dictionary is no plain tensor.
    #[error(
        "only {class} can build the entry {name}; lgd runs no code from files\n\
         hint: save plain tensors of a model that is not quantized: torch.save(model.state_dict(), FILE), or as safetensors"
    )]
    Entry {
        /// The entry.
        name: String,
        /// Python's name of the class or function.
        class: String,
    },
    /// A program of TorchScript.
    #[error(
        "the file is a TorchScript archive, expected a state dictionary\n\
         hint: save its tensors: torch.save(torch.jit.load(FILE).state_dict(), OTHER), or as safetensors"
    )]
    Script,
    /// No dictionary of tensors is found.
    #[error(
        "the file has no tensors; its entries are {keys}\nhint: save the state dictionary alone: torch.save(model.state_dict(), FILE)"
    )]
    NoState {
        /// Keys of the dictionary.
        keys: String,
    },
    /// Several networks, none of which is the obvious one.
    #[error(
        "the file holds several networks: {keys}\nhint: save the state dictionary of one of them: torch.save(checkpoint[KEY], FILE)"
    )]
    SeveralStates {
        /// Their keys.
        keys: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

/// First bytes of files of other kinds.
const KINDS: [(&[u8], &str, &str); 5] = [
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "run `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", "save the weights of a PyTorch model as safetensors"),
    (b"\x1f\x8b", "a gzip file", "decompress it with gunzip"),
    (b"<", "a web page", "download the file itself"),
    (b"\x08", "an ONNX file", "save the PyTorch weights that it was exported from as safetensors"),
];

/// Loads the weights in the bytes of a file into a student, whose head may be another.
///
/// # Errors
/// If the file cannot be read or does not fit.
pub fn load(student: &mut Student, bytes: &[u8]) -> Result<LoadReport, InitialWeightsError> {
    let (tensors, mut notes) = read(bytes)?;
    let architecture = student.architecture();
    let table = student.table().clone();
    let entries = table.parameters().iter().chain(table.buffers());
    let wanted: Vec<(&str, &[usize])> =
        entries.map(|entry| (entry.spec.name.as_str(), &entry.spec.shape[..])).collect();
    let other = || {
        let fits = |other: &Architecture| *other != architecture && backbone_fits(*other, &tensors);
        Architecture::ALL.into_iter().find(fits)
    };
    let renamed = names::rename(architecture, &wanted, tensors.clone());
    notes.extend(renamed.notes.iter().cloned());
    let mut report = student.load(&renamed.tensors)?;
    if let Some(difference) = difference(&report, &renamed, &wanted) {
        return Err(InitialWeightsError::Foreign {
            architecture,
            difference,
            other: other(),
            notes: notes.join(", "),
        });
    }
    for name in &report.applied {
        let values = values(&renamed.tensors[name])?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(InitialWeightsError::NotFinite { name: name.clone() });
        }
        if name.ends_with("running_var") && values.iter().any(|value| *value < 0.0) {
            return Err(InitialWeightsError::NegativeVariance { name: name.clone() });
        }
    }
    report.notes = notes;
    Ok(report)
}

/// The float tensors in the bytes of a file, and the keys that led to them in a checkpoint, in words.
///
/// # Errors
/// If the bytes are neither safetensors nor a state dictionary of `torch.save`, or are damaged.
pub fn read(bytes: &[u8]) -> Result<(BTreeMap<String, Tensor>, Vec<String>), WeightsFault> {
    let state = if bytes.starts_with(b"PK") {
        torch::archive(bytes)?
    } else if bytes.starts_with(LEGACY) {
        torch::legacy(bytes)?
    } else if bytes.get(8) == Some(&b'{') {
        return Ok((safe_tensors(bytes)?, Vec::new()));
    } else if let Some((_, what, hint)) = KINDS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return Err(WeightsFault::Kind { what, hint });
    } else {
        let hint = "save the weights as safetensors, or with torch.save(model.state_dict(), FILE)";
        return Err(WeightsFault::Kind { what: "neither a safetensors file nor one of torch.save", hint });
    };
    let entry = state.keys.join(".");
    let notes = match (entry.is_empty(), state.average) {
        (true, _) => Vec::new(),
        (false, None) => vec![format!("the entry {entry}")],
        (false, Some(average)) => vec![format!("the entry {entry}, not {average}")],
    };
    Ok((state.tensors, notes))
}

fn safe_tensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, WeightsFault> {
    let damaged = |error: &dyn std::fmt::Display| WeightsFault::Damaged(error.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            _ if is_layer(name) => {
                return Err(WeightsFault::Type { name: name.to_owned(), got: format!("{:?}", view.dtype()) });
            }
            // Counters.
            _ => continue,
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu);
        tensors.insert(name.to_owned(), tensor.map_err(|error| damaged(&error))?);
    }
    Ok(tensors)
}

/// Names of tensors that a refusal shows.
const SHOWN: usize = 3;

/// Whether a tensor belongs to a head or a decoder.
fn is_head(name: &str) -> bool {
    ["fc.", "classifier.", "head.", DECODER].iter().any(|start| name.starts_with(start))
}

/// How a file's backbone differs from the student's, if it does.
fn difference(report: &LoadReport, renamed: &Renamed, wanted: &[(&str, &[usize])]) -> Option<String> {
    let backbone: Vec<&str> = wanted.iter().map(|(name, _)| *name).filter(|name| !is_head(name)).collect();
    let missing: Vec<&String> = report.missing.iter().filter(|name| !is_head(name)).collect();
    if let Some(first) = missing.first() {
        let held: Vec<&str> = report.unused.iter().take(SHOWN).map(String::as_str).collect();
        let held = if held.is_empty() { String::new() } else { format!("; it has {}, ...", held.join(", ")) };
        return Some(format!(
            "it lacks {} of the {} tensors of the backbone, such as {first}{held}",
            missing.len(),
            backbone.len()
        ));
    }
    if let Some(first) = report.mismatched.iter().find(|tensor| !is_head(&tensor.name)) {
        return Some(format!("{} has shape {:?}, expected {:?}", first.name, first.got, first.expected));
    }
    let mut modules: BTreeSet<&str> = backbone.iter().filter_map(|name| name.split('.').next()).collect();
    // A student without a neck has another network than one with it.
    modules.insert("neck");
    if renamed.timm {
        modules.extend(["blocks", "conv_stem", "bn1", "bn2"]);
    }
    let inside = |name: &&String| name.split('.').next().is_some_and(|module| modules.contains(module));
    let extra: Vec<&String> = report.unused.iter().filter(inside).collect();
    let first = extra.first()?;
    Some(format!("it has {} tensors in the backbone that the student lacks, such as {first}", extra.len()))
}

/// Whether the tensors are those of another architecture, at least of its backbone.
fn backbone_fits(architecture: Architecture, tensors: &BTreeMap<String, Tensor>) -> bool {
    let Ok(table) = StudentConfig::new(architecture, Head::None, 0).table() else { return false };
    let entries = table.parameters().iter().chain(table.buffers());
    let wanted: Vec<(&str, &[usize])> =
        entries.map(|entry| (entry.spec.name.as_str(), &entry.spec.shape[..])).collect();
    let renamed = names::rename(architecture, &wanted, tensors.clone());
    let fits = |(name, shape): &(&str, &[usize])| {
        renamed.tensors.get(*name).is_some_and(|tensor| tensor.dims() == *shape)
    };
    let known: BTreeSet<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let report = LoadReport {
        unused: renamed
            .tensors
            .keys()
            .filter(|name| !known.contains(name.as_str()) && !is_counter(name))
            .cloned()
            .collect(),
        ..LoadReport::default()
    };
    wanted.iter().all(fits) && difference(&report, &renamed, &wanted).is_none()
}

fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

/// Whether a name is that of a layer's values, which are floats.
fn is_layer(name: &str) -> bool {
    ["weight", "bias", "running_mean", "running_var"].contains(&name.rsplit('.').next().unwrap_or(name))
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
    Ok(tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>())?)
}
