//! Parameters and buffers by name, their initial values, and their exchange as safetensors.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use candle_core::{DType, Device, Tensor, Var};
use serde::Serialize;

use crate::error::TrainError;
use crate::rng::Stream;

/// Everything a student learns (parameters) and everything it merely tracks (buffers: BN running statistics), by name.
///
/// Both are sorted by name (bytewise): the order of optimiser state, checkpoints and gradient exchange.
#[derive(Debug, Default)]
pub struct ParameterSet {
    parameters: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
}

impl ParameterSet {
    /// The trainable parameters, sorted by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.parameters.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The running statistics, sorted by name.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.buffers.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Number of trainable scalars.
    pub fn parameter_count(&self) -> usize {
        self.parameters.values().map(|var| var.elem_count()).sum()
    }

    /// Parameters and buffers together, by name: views, not copies.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.all().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Parameters and buffers as the bytes of a safetensors file (f32, sorted by name, with `metadata` in the header).
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn to_safetensors(&self, metadata: HashMap<String, String>) -> Result<Vec<u8>, TrainError> {
        Ok(safetensors::serialize(self.tensors(), Some(metadata))?)
    }

    /// Copies every tensor whose name and shape fit; reports the rest. Values of any float type are converted to f32.
    ///
    /// `num_batches_tracked`, which torchvision stores and nothing here uses, is passed over in silence.
    ///
    /// # Errors
    /// A tensor that cannot be converted or copied.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>) -> Result<LoadReport, TrainError> {
        let mut report = LoadReport::default();
        for (name, var) in self.all() {
            match tensors.get(name) {
                None => report.missing.push(name.clone()),
                Some(tensor) if tensor.dims() != var.dims() => report.mismatched.push(ShapeMismatch {
                    name: name.clone(),
                    expected: var.dims().to_vec(),
                    got: tensor.dims().to_vec(),
                }),
                Some(tensor) => {
                    var.set(&tensor.to_dtype(DType::F32)?.to_device(var.device())?.contiguous()?)?;
                    report.applied.push(name.clone());
                }
            }
        }
        let known = |name: &&String| self.parameters.contains_key(*name) || self.buffers.contains_key(*name);
        let unused = tensors.keys().filter(|name| !known(name) && !name.ends_with("num_batches_tracked"));
        report.unused = unused.cloned().collect();
        Ok(report)
    }

    /// [`load`](Self::load) from the bytes of a safetensors file.
    ///
    /// # Errors
    /// Bytes that are no safetensors file, or a tensor type that cannot be converted.
    pub fn load_safetensors(&self, bytes: &[u8]) -> Result<LoadReport, TrainError> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        self.load(&tensors.into_iter().collect())
    }

    fn all(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.parameters.iter().chain(&self.buffers)
    }
}

/// What became of a file's tensors and a student's parameters.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Loaded.
    pub applied: Vec<String>,
    /// The student has it, the file does not: the value was left as it was.
    pub missing: Vec<String>,
    /// The file has it, the student does not.
    pub unused: Vec<String>,
    /// Both have it, with different shapes: the value was left as it was.
    pub mismatched: Vec<ShapeMismatch>,
}

/// A tensor whose shape in the file is not the student's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShapeMismatch {
    /// Name.
    pub name: String,
    /// The student's shape.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub got: Vec<usize>,
}

impl LoadReport {
    /// Whether every parameter and buffer was loaded, as a checkpoint must.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty()
    }
}

/// Names that a report in words shows of each kind; its fields have them all.
const NAMED: usize = 5;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [&self.missing, &self.unused].map(Vec::len);
        write!(f, "{} applied, {} missing, {} unused", self.applied.len(), counts[0], counts[1])?;
        write!(f, ", {} of another shape", self.mismatched.len())?;
        for (what, names) in [("missing", &self.missing), ("unused", &self.unused)] {
            if !names.is_empty() {
                let more = if names.len() > NAMED { ", ..." } else { "" };
                write!(f, "\n{what}: {}{more}", names[..names.len().min(NAMED)].join(", "))?;
            }
        }
        for ShapeMismatch { name, expected, got } in &self.mismatched {
            write!(f, "\n{name}: expected {expected:?}, the file has {got:?}")?;
        }
        Ok(())
    }
}

/// Creates parameters with their initial values; each value depends on (seed, name) alone.
pub(crate) struct Initializer<'a> {
    seed: u64,
    device: &'a Device,
    set: ParameterSet,
}

impl<'a> Initializer<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed, device, set: ParameterSet::default() }
    }

    pub(crate) fn finish(self) -> ParameterSet {
        self.set
    }

    /// Convolution weights `[O, I, kh, kw]`: normal with variance `2 / (O * kh * kw)`, torchvision's `kaiming_normal_` with
    /// `mode="fan_out"`.
    pub(crate) fn conv_weight(&mut self, name: String, shape: [usize; 4]) -> Result<Var, TrainError> {
        let deviation = (2.0 / real(shape[0] * shape[2] * shape[3])).sqrt();
        self.random(name, &shape, |stream| stream.normal() * deviation)
    }

    /// A value of a dense layer with `inputs` inputs: uniform within `1 / sqrt(inputs)`, PyTorch's default of `Linear` for
    /// weights and biases.
    pub(crate) fn linear_value(
        &mut self,
        name: String,
        shape: &[usize],
        inputs: usize,
    ) -> Result<Var, TrainError> {
        let bound = 1.0 / real(inputs).sqrt();
        self.random(name, shape, |stream| (2.0 * stream.uniform() - 1.0) * bound)
    }

    /// A vector of one value.
    pub(crate) fn constant(&mut self, name: String, len: usize, value: f32) -> Result<Var, TrainError> {
        let var = Var::from_tensor(&Tensor::full(value, len, self.device)?)?;
        self.set.parameters.insert(name, var.clone());
        Ok(var)
    }

    /// A buffer of one value.
    pub(crate) fn buffer(&mut self, name: String, len: usize, value: f32) -> Result<Var, TrainError> {
        let var = Var::from_tensor(&Tensor::full(value, len, self.device)?)?;
        self.set.buffers.insert(name, var.clone());
        Ok(var)
    }

    fn random(
        &mut self,
        name: String,
        shape: &[usize],
        draw: impl Fn(&mut Stream) -> f64,
    ) -> Result<Var, TrainError> {
        let mut stream = Stream::named(self.seed, &name);
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(&mut stream) as f32).collect();
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, self.device)?)?;
        self.set.parameters.insert(name, var.clone());
        Ok(var)
    }
}

#[expect(clippy::cast_precision_loss, reason = "fans are far below 2^53")]
fn real(value: usize) -> f64 {
    value as f64
}
