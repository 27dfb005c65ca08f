//! An ONNX Runtime session: opens a model on a device and describes its inputs and outputs.

use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType};

use crate::device::{Precision, Slot};
use crate::error::ExtractError;
use crate::runtime::Runtime;

/// An input or output of a model. A dimension that is not fixed is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub name: String,
    pub element: Option<TensorElementType>,
    pub shape: Vec<Option<usize>>,
}

impl Port {
    fn new(outlet: &Outlet) -> Self {
        let dimensions = outlet.dtype().tensor_shape().map_or(&[][..], |shape| &**shape);
        Self {
            name: outlet.name().to_owned(),
            element: outlet.dtype().tensor_type(),
            shape: dimensions.iter().map(|&size| usize::try_from(size).ok()).collect(),
        }
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
        if let Err(source) = std::fs::metadata(path) {
            return Err(ExtractError::TeacherFile {
                path: path.to_owned(),
                source,
                hint: "teacher.toml names this model",
            });
        }
        let failed = |error: ort::Error| ExtractError::ModelLoad {
            path: path.to_owned(),
            device: slot.to_string(),
            source: error.into(),
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
        let session = builder.commit_from_file(path).map_err(failed)?;
        let inputs = session.inputs().iter().map(Port::new).collect();
        let outputs = session.outputs().iter().map(Port::new).collect();
        Ok(Self { session, path: path.to_owned(), inputs, outputs })
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
        let outputs = self
            .session
            .run_with_options(inputs, &selection.options)
            .map_err(|error| ExtractError::inference(path, error))?;
        let tensor = |name: &String| {
            let missing = || ExtractError::inference(path, format!("the model gave no output '{name}'"));
            Tensor::new(outputs.get(name).ok_or_else(missing)?, path)
        };
        take(&selection.names.iter().map(tensor).collect::<Result<Vec<_>, _>>()?)
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
    options: RunOptions<HasSelectedOutputs>,
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
        Ok(Self { names, options: options.with_outputs(selector) })
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
