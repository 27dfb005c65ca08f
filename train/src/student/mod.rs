//! Students: backbones with torchvision's structure and names, heads, and the decoder of masked students.

mod architecture;
mod config;
mod decoder;
mod error;
mod head;
mod output;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

pub use self::architecture::{Architecture, Regularization};
use self::config::Purpose;
pub use self::config::{Extras, Head, StudentConfig};
pub use self::decoder::{DECODER, DecoderConfig, LEAST_CELLS};
pub use self::error::{StudentError, UnknownArchitecture};
pub use self::output::StudentOutput;
#[cfg(feature = "cuda")]
use crate::engine::CudaBackend;
use crate::engine::graph::{Graph, Shape};
use crate::engine::parameters::{Entry, State, Table};
use crate::engine::{CpuBackend, Engine, Program, Tape};
pub use crate::engine::{Images, Mode};
use crate::error::TrainError;
use crate::load_report::{LoadReport, ShapeMismatch};
use crate::optim::Update;

/// A backbone, its head, their parameters, and the device they live on.
pub struct Student {
    config: StudentConfig,
    table: Table,
    engine: Box<dyn Engine>,
    programs: HashMap<(Shape, Purpose), Arc<Program>>,
    variables: Option<Vec<Var>>,
}

impl Student {
    /// A student with torchvision's initial weights; on a GPU it computes in bf16.
    ///
    /// # Errors
    /// A head without outputs, a decoder that does not fit, or a device that cannot be had.
    pub fn new(config: StudentConfig, device: &Device) -> Result<Self, TrainError> {
        Self::with_engine(config, |state| match device {
            Device::Cpu => Ok(Box::new(Tape::new(CpuBackend::new(state.clone())))),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                let (element, tuning) = (lgd_cuda::Element::Bf16, lgd_cuda::Tuning::default());
                Ok(Box::new(Tape::new(CudaBackend::new(device.clone(), state, element, tuning)?)))
            }
            _ => {
                let reason = "there is no engine for it".to_owned();
                Err(TrainError::Device { device: format!("{device:?}"), reason })
            }
        })
    }

    /// A student on the engine that `make` makes from torchvision's initial weights.
    ///
    /// # Errors
    /// A head without outputs, a decoder that does not fit, or an error of `make`.
    pub fn with_engine(
        config: StudentConfig,
        make: impl FnOnce(&State) -> Result<Box<dyn Engine>, TrainError>,
    ) -> Result<Self, TrainError> {
        let table = config.table()?;
        let engine = make(&table.initial(config.seed))?;
        Ok(Self { config, table, engine, programs: HashMap::new(), variables: None })
    }

    /// The backbone's architecture.
    pub fn architecture(&self) -> Architecture {
        self.config.architecture
    }

    /// What stands on the pooled feature.
    pub fn head(&self) -> Head {
        self.config.head
    }

    /// Width of the head's output: dimensions `D` of the embedding, or classes; `None` without a head.
    pub fn embedding_dim(&self) -> Option<usize> {
        match self.config.head {
            Head::None => None,
            Head::Projection { dim } => Some(dim),
            Head::Classifier { classes } => Some(classes),
        }
    }

    /// Names, shapes and places of parameters and buffers.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Trainable numbers of the student as it is used: without those of the decoder.
    pub fn encoder_parameter_count(&self) -> usize {
        let kept = self.table.parameters().iter().filter(|entry| !entry.spec.name.starts_with(DECODER));
        kept.map(|entry| entry.spec.shape.iter().product::<usize>()).sum()
    }

    /// The engine that computes, for updates and optimizer state.
    pub fn engine(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// Cells of the mask along an image's side of `size` pixels: the positions of the coarsest map.
    pub fn mask_cells(size: usize) -> usize {
        size / decoder::COARSEST
    }

    /// The mask of the next batches that a student with a decoder trains on: per image and cell, whether it is visible; `cells`: rows
    /// and columns.
    ///
    /// # Errors
    /// Cells that do not fill the images, or an image without a visible one; cells of other images than the batch's are an error of
    /// [`forward`](Self::forward).
    pub fn set_mask(&mut self, visible: &[bool], cells: (usize, usize)) -> Result<(), TrainError> {
        self.engine.set_mask(visible, cells.0, cells.1)
    }

    /// Pooled feature and embedding of `images` `[B, H, W, 3]`, and in training what [`Extras`] name.
    ///
    /// In training the result can be differentiated with [`backward`](Self::backward) and the running statistics move; in
    /// inference neither.
    ///
    /// # Errors
    /// Images of another length than the shape says, or too small for the backbone; no mask, or one that does not fit, where the
    /// student trains on masked images.
    pub fn forward(
        &mut self,
        images: Images<'_>,
        (batch, height, width): (usize, usize, usize),
        mode: Mode,
    ) -> Result<StudentOutput, TrainError> {
        let purpose = if mode == Mode::Inference { Purpose::Inference } else { Purpose::Training };
        let shape = Shape { batch, height, width, channels: 3 };
        let mut outputs = self.run(images, shape, mode, purpose)?;
        if purpose == Purpose::Training {
            let variables: Vec<Var> = outputs.iter().map(Var::from_tensor).collect::<Result<_, _>>()?;
            outputs = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
            self.variables = Some(variables);
        }
        self.config.name(outputs, purpose)
    }

    /// Gradients of all parameters of `loss`, which was made from the output of the last [`forward`](Self::forward); added to those of
    /// the last call where `accumulate` says so.
    ///
    /// # Errors
    /// No forward pass in training since the last call, or an error of the device.
    pub fn backward(&mut self, loss: &Tensor, accumulate: bool) -> Result<(), TrainError> {
        let variables = self.variables.take().ok_or(TrainError::NothingRan)?;
        let mut gradients = loss.backward()?;
        let gradients: Vec<_> = variables.iter().map(|variable| gradients.remove(variable)).collect();
        self.engine.backward(&gradients, accumulate)
    }

    /// One step of the optimizer by the gradients of the last backward passes.
    ///
    /// # Errors
    /// An update made for another student, or an error of the device.
    pub fn update(&mut self, update: &Update) -> Result<(), TrainError> {
        self.engine.update(&self.table, update)
    }

    /// What an image of `size` x `size` pixels goes through in inference; its parameters lie where [`table`](Self::table) says.
    pub(crate) fn inference_graph(&self, size: usize) -> Result<Graph, TrainError> {
        let shape = Shape { batch: 1, height: size, width: size, channels: 3 };
        Ok(self.config.graph(shape, Purpose::Inference)?.0)
    }

    fn run(
        &mut self,
        images: Images<'_>,
        shape: Shape,
        mode: Mode,
        purpose: Purpose,
    ) -> Result<Vec<Tensor>, TrainError> {
        let program = match self.programs.get(&(shape, purpose)) {
            Some(program) => Arc::clone(program),
            None => {
                let (graph, _) = self.config.graph(shape, purpose)?;
                let program = Arc::new(self.engine.plan(graph));
                self.programs.insert((shape, purpose), Arc::clone(&program));
                program
            }
        };
        self.engine.forward(&program, images, mode)?;
        (0..program.graph().outputs().len()).map(|at| self.engine.output(at)).collect()
    }

    /// Parameters and buffers by name, in torchvision's shapes, on the CPU.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn tensors(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let state = self.engine.state()?;
        let tensor = |entry: &Entry, flat: &[f32]| {
            let values = entry.spec.read(&flat[entry.range.indices()]);
            Ok((entry.spec.name.clone(), Tensor::from_vec(values, &entry.spec.shape[..], &Device::Cpu)?))
        };
        let parameters = self.table.parameters().iter().map(|entry| tensor(entry, &state.parameters));
        let buffers = self.table.buffers().iter().map(|entry| tensor(entry, &state.buffers));
        parameters.chain(buffers).collect()
    }

    /// [`tensors`](Self::tensors) without those of the decoder: the student as it is used.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn encoder_tensors(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut tensors = self.tensors()?;
        tensors.retain(|name, _| !name.starts_with(DECODER));
        Ok(tensors)
    }

    /// The gradients of the last backward passes by name, in torchvision's shapes, on the CPU.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn gradients(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let flat = self.engine.gradients()?;
        let tensor = |entry: &Entry| {
            let values = entry.spec.read(&flat[entry.range.indices()]);
            Ok((entry.spec.name.clone(), Tensor::from_vec(values, &entry.spec.shape[..], &Device::Cpu)?))
        };
        self.table.parameters().iter().map(tensor).collect()
    }

    /// Copies every tensor whose name and shape fit; reports the rest. Values of any float type are converted to f32.
    ///
    /// `num_batches_tracked`, which torchvision stores and nothing here uses, is passed over in silence.
    ///
    /// # Errors
    /// A tensor that cannot be converted, or a device that cannot be written.
    pub fn load(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<LoadReport, TrainError> {
        let mut state = self.engine.state()?;
        let mut report = LoadReport::default();
        let parameters = self.table.parameters().iter().map(|entry| (entry, false));
        for (entry, is_buffer) in parameters.chain(self.table.buffers().iter().map(|entry| (entry, true))) {
            let name = &entry.spec.name;
            match tensors.get(name) {
                None => report.missing.push(name.clone()),
                Some(tensor) if tensor.dims() != entry.spec.shape => report.mismatched.push(ShapeMismatch {
                    name: name.clone(),
                    expected: entry.spec.shape.clone(),
                    got: tensor.dims().to_vec(),
                }),
                Some(tensor) => {
                    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                    let flat = if is_buffer { &mut state.buffers } else { &mut state.parameters };
                    entry.spec.write(&values, &mut flat[entry.range.indices()]);
                    report.applied.push(name.clone());
                }
            }
        }
        let unused = tensors
            .keys()
            .filter(|name| self.table.find(name).is_none() && !name.ends_with("num_batches_tracked"));
        report.unused = unused.cloned().collect();
        self.engine.load_state(&state)?;
        Ok(report)
    }

    /// [`load`](Self::load) from the bytes of a safetensors file.
    ///
    /// # Errors
    /// Bytes that are no safetensors file, or a tensor type that cannot be converted.
    pub fn load_safetensors(&mut self, bytes: &[u8]) -> Result<LoadReport, TrainError> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        self.load(&tensors.into_iter().collect())
    }

    /// [`encoder_tensors`](Self::encoder_tensors) as the bytes of a safetensors file (f32, sorted by name, with `metadata` in the header).
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn to_safetensors(&mut self, metadata: HashMap<String, String>) -> Result<Vec<u8>, TrainError> {
        Ok(safetensors::serialize(self.encoder_tensors()?, Some(metadata))?)
    }
}
