//! An ONNX Runtime session: opens a model on a device and describes its inputs and outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::ordinary;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, ValueType};

use crate::device::{Precision, Slot};
use crate::error::{Cause, ExtractError};
use crate::lfs::refuse_pointer_file;
use crate::runtime::Runtime;
use crate::stop::{StoppableOptions, register_load, stopped};
use crate::teacher::OnnxFile;

/// An input or output of a model. A dimension that is not fixed is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub name: String,
    pub element: Option<TensorElementType>,
    pub shape: Vec<Option<usize>>,
    /// Names of the dimensions that are not fixed; empty for fixed and unnamed ones.
    pub symbols: Vec<String>,
}

impl Port {
    fn new(outlet: &Outlet) -> Self {
        let dimensions = outlet.dtype().tensor_shape().map_or(&[][..], |shape| &**shape);
        let symbols = match outlet.dtype() {
            ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.to_vec(),
            _ => Vec::new(),
        };
        Self {
            name: outlet.name().to_owned(),
            element: outlet.dtype().tensor_type(),
            shape: dimensions.iter().map(|&size| usize::try_from(size).ok()).collect(),
            symbols,
        }
    }

    /// Whether axis 0 of both ports has the same name, so that they always have as many rows.
    pub(crate) fn shares_batch(&self, other: &Self) -> bool {
        let (one, other) = (self.symbols.first(), other.symbols.first());
        one.is_some_and(|symbol| !symbol.is_empty()) && one == other
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<String> = self
            .shape
            .iter()
            .map(|size| size.map_or_else(|| "?".to_owned(), |size| size.to_string()))
            .collect();
        match self.element {
            Some(element) => write!(f, "{}: {element}[{}]", self.name, sizes.join(", ")),
            None => write!(f, "{}: not a tensor", self.name),
        }
    }
}

/// Describes all ports in one line, for messages.
pub(crate) fn describe(ports: &[Port]) -> String {
    if ports.is_empty() {
        "none".to_owned()
    } else {
        ports.iter().map(Port::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// A model opened on one device.
#[derive(Debug)]
pub(crate) struct Model {
    session: Session,
    path: PathBuf,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    file: OnnxFile,
}

impl Model {
    /// Opens `path`. `threads` is the number of threads that one operation is split over; 0 means all cores.
    pub(crate) fn open(
        runtime: &Runtime,
        path: &Path,
        slot: Slot,
        precision: Precision,
        threads: usize,
    ) -> Result<Self, ExtractError> {
        let file = check_files(path)?;
        let failed = |error: ort::Error| ExtractError::ModelLoad {
            path: path.to_owned(),
            device: slot.to_string(),
            hint: load_hint(&error),
            source: one_line(error),
        };
        let providers = slot.providers(precision)?;
        let mut builder = configure(runtime, slot, threads).map_err(failed)?;
        if !providers.is_empty() {
            builder = builder.with_execution_providers(providers).map_err(|error| {
                ExtractError::DeviceUnavailable {
                    device: slot.to_string(),
                    reason: ort::Error::<()>::from(error).into(),
                    hint: "the ONNX Runtime library must be the GPU one, and find CUDA, cuDNN and a driver",
                }
            })?;
        }
        register_load(builder.canceler());
        let loaded = builder.commit_from_file(path);
        if stopped() {
            return Err(ExtractError::Interrupted);
        }
        let session = loaded.map_err(failed)?;
        let inputs = session.inputs().iter().map(Port::new).collect();
        let outputs = session.outputs().iter().map(Port::new).collect();
        Ok(Self { session, path: path.to_owned(), inputs, outputs, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    pub(crate) fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// What the file declares.
    pub(crate) fn file(&self) -> &OnnxFile {
        &self.file
    }

    /// The entries of the file's metadata.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, ExtractError> {
        let failed = |error: ort::Error| ExtractError::inference(&self.path, error);
        let metadata = self.session.metadata().map_err(failed)?;
        let keys = metadata.custom_keys().map_err(failed)?;
        Ok(keys.into_iter().filter_map(|key| Some((key.clone(), metadata.custom(&key)?))).collect())
    }

    pub(crate) fn mismatch(
        &self,
        expected: impl Into<String>,
        got: impl Into<String>,
        hint: impl Into<String>,
    ) -> ExtractError {
        ExtractError::ModelInterface {
            path: self.path.clone(),
            expected: expected.into(),
            got: got.into(),
            hint: hint.into(),
        }
    }

    /// Runs the model once and passes the selected outputs, in the order of the selection, to `take`.
    pub(crate) fn run<T>(
        &mut self,
        inputs: Vec<(&str, SessionInputValue<'_>)>,
        selection: &Selection,
        take: impl FnOnce(&[Tensor<'_>]) -> Result<T, ExtractError>,
    ) -> Result<T, ExtractError> {
        let path = &self.path;
        if stopped() {
            return Err(ExtractError::Interrupted);
        }
        let outputs = self.session.run_with_options(inputs, selection.options.get()).map_err(|error| {
            if stopped() {
                return ExtractError::Interrupted;
            }
            let source = one_line(error);
            ExtractError::Inference { path: path.clone(), hint: run_hint(&source.to_string()), source }
        })?;
        let tensor = |name: &String| {
            let missing = || ExtractError::inference(path, format!("the model returned no output '{name}'"));
            Tensor::new(outputs.get(name).ok_or_else(missing)?, path)
        };
        take(&selection.names.iter().map(tensor).collect::<Result<Vec<_>, _>>()?)
    }
}

/// Reads what the model at `path` declares.
///
/// # Errors
/// [`ExtractError::TeacherFile`] if the model is missing; [`ExtractError::TeacherSetting`] if it or one of the files
/// with its weights is a git-lfs pointer, or such a file is missing or shorter than the model says.
fn check_files(path: &Path) -> Result<OnnxFile, ExtractError> {
    let unreadable = |source| ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" };
    refuse_pointer_file(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = OnnxFile::read(path).map_err(unreadable)?;
    for (location, &needed) in &file.weights {
        let weights = folder.join(location);
        refuse_pointer_file(&weights)?;
        let hint = format!(
            "the exporter wrote {location} together with the model: copy it to {} under this name",
            weights.parent().unwrap_or(folder).display()
        );
        match ordinary::open(&weights).and_then(|file| file.metadata()) {
            Ok(found) if found.len() >= needed => {}
            Ok(found) => {
                let reason = format!(
                    "its external data {} is truncated: expected at least {needed} bytes, got {}",
                    weights.display(),
                    found.len()
                );
                return Err(ExtractError::setting(path, reason, hint));
            }
            Err(error) => {
                let reason = format!("cannot read its external data {}: {error}", weights.display());
                return Err(ExtractError::setting(path, reason, hint));
            }
        }
    }
    Ok(file)
}

/// ONNX Runtime's text in one line.
fn one_line(error: ort::Error) -> Cause {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ").into()
}

/// The remedy for what ONNX Runtime's text says; may be empty.
fn load_hint(error: &ort::Error) -> &'static str {
    let text = error.to_string();
    if text.contains("NOT_IMPLEMENTED") {
        "the model has an operator or element type that this ONNX Runtime does not run, such as bf16: export it in f32 or f16"
    } else if text.contains("opset") || text.contains("ir_version") || text.contains("IR version") {
        "the model is newer than ONNX Runtime: use a newer library, or export the model with an older opset"
    } else if text.contains("INVALID_PROTOBUF") || text.contains("Protobuf parsing failed") {
        "the file is not a whole ONNX model: download or export it again"
    } else {
        ""
    }
}

/// The remedy for what ONNX Runtime's text says of a failed run; may be empty.
fn run_hint(text: &str) -> &'static str {
    if text.contains("running Gather") && text.contains("out of data bounds") {
        "a token id or a position is out of the model's range: the tokenizer belongs to another model, or pad_id or \
         context_length in teacher.toml does not fit"
    } else if ["running Add", "running Reshape", "running Expand", "running Concat"]
        .iter()
        .any(|node| text.contains(node))
    {
        "the model may be fixed to another image size (size in teacher.toml or in the preprocessor's file) or another number \
         of tokens (context_length), or the tokenizer belongs to another model"
    } else {
        ""
    }
}

/// Settings shared by all sessions.
fn configure(runtime: &Runtime, slot: Slot, threads: usize) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // Identical bytes require deterministic kernels.
        .with_deterministic_compute(true)?
        .with_intra_threads(threads)?;
    // Idle threads that spin would take cores from the decoders of the next images.
    Ok(if slot == Slot::Cpu { builder.with_intra_op_spinning(false)? } else { builder })
}

/// The outputs that a run returns. ONNX Runtime computes all outputs of a model, selected or not, so a large output
/// that is rarely used is better exported as a separate model.
pub(crate) struct Selection {
    names: Vec<String>,
    options: Arc<StoppableOptions>,
}

impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selection").finish_non_exhaustive()
    }
}

impl Selection {
    /// Selects the outputs with these names, which may repeat.
    pub(crate) fn of(model: &Model, outputs: &[&str]) -> Result<Self, ExtractError> {
        let options = RunOptions::new().map_err(|error| ExtractError::inference(model.path(), error))?;
        let once = outputs.iter().enumerate().filter(|(at, name)| !outputs[..*at].contains(name));
        let selector = once.fold(OutputSelector::no_default(), |selector, (_, name)| selector.with(*name));
        let names = outputs.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { names, options: StoppableOptions::new(options.with_outputs(selector)) })
    }

    /// Names of the selected outputs.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

/// An output of f32 or f16 elements, with its shape.
pub(crate) struct Tensor<'a> {
    pub shape: Vec<usize>,
    data: Elements<'a>,
}

enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Tensor<'a> {
    fn new(value: &'a DynValue, path: &Path) -> Result<Self, ExtractError> {
        let (shape, data) = if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
            (shape, Elements::F32(data))
        } else {
            let (shape, data) =
                value.try_extract_tensor::<f16>().map_err(|error| ExtractError::inference(path, error))?;
            (shape, Elements::F16(data))
        };
        let shape = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        Ok(Self { shape, data })
    }

    /// A tensor for tests.
    #[cfg(test)]
    pub(crate) fn of(shape: Vec<usize>, data: &'a [f32]) -> Self {
        Self { shape, data: Elements::F32(data) }
    }

    /// The elements as f32, row-major; f16 elements are converted.
    pub(crate) fn to_f32(&self) -> std::borrow::Cow<'a, [f32]> {
        match self.data {
            Elements::F32(data) => data.into(),
            Elements::F16(data) => {
                let mut wide = vec![0.0; data.len()];
                data.convert_to_f32_slice(&mut wide);
                wide.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run_ends_with_its_cause_after_the_remedy() {
        for (cause, remedy) in [
            ("Non-zero status code returned while running Add node. 37 by 145", "another image size"),
            (
                "while running Gather node. indices element out of data bounds, idx=99",
                "belongs to another model",
            ),
        ] {
            let hint = run_hint(cause);
            let error = ExtractError::Inference { path: "model.onnx".into(), hint, source: cause.into() };
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!((lines[0], lines[2]), ("model.onnx: inference failed", cause));
            assert!(lines[1].starts_with("hint: ") && lines[1].contains(remedy), "{text}");
        }
        let text = ExtractError::inference(Path::new("model.onnx"), "a cause").to_string();
        assert_eq!(text, "model.onnx: inference failed: a cause");
    }
}
