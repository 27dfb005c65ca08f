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
use lgd_kernels::geometry::expect_positive;

pub use self::architecture::{Architecture, Regularization};
use self::config::Purpose;
pub use self::config::{Extras, Head, StudentConfig};
pub use self::decoder::{DECODER, DecoderConfig, LEAST_CELLS};
pub use self::error::{StudentError, UnknownArchitecture};
pub use self::output::StudentOutput;
#[cfg(feature = "cuda")]
use crate::engine::CudaBackend;
use crate::engine::graph::{Graph, Shape, Value};
use crate::engine::parameters::{Entry, State, Table};
use crate::engine::{CpuBackend, Engine, Program, Tape};
pub use crate::engine::{Images, Mode};
use crate::error::TrainError;
use crate::load_report::{LoadReport, ShapeMismatch};
use crate::optim::Update;
use crate::safetensors_file::{self, Metadata};

/// A backbone, its head, their parameters, and the device that holds them.
pub struct Student {
    config: StudentConfig,
    table: Table,
    engine: Box<dyn Engine>,
    programs: HashMap<(Shape, Purpose), Arc<Program>>,
    variables: Option<Vec<Var>>,
}

impl Student {
    /// Creates a student with torchvision's initial weights. On a GPU it computes in bf16.
    ///
    /// # Errors
    /// If a head has no outputs, a decoder does not fit, or the device is unavailable.
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

    /// Creates a student on the engine that `make` creates from torchvision's initial weights.
    ///
    /// # Errors
    /// If a head has no outputs, a decoder does not fit, or `make` fails.
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

    /// The layers on the pooled feature.
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

    /// Names, shapes and positions of parameters and buffers.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Number of trainable values in the finished student, which has no decoder.
    pub fn encoder_parameter_count(&self) -> usize {
        let kept = self.table.parameters().iter().filter(|entry| !entry.spec.name.starts_with(DECODER));
        kept.map(|entry| entry.spec.shape.iter().product::<usize>()).sum()
    }

    /// The engine, for updates and optimizer state.
    pub fn engine(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// Number of mask cells along an image's side of `size` pixels: the positions of the coarsest map.
    pub fn mask_cells(size: usize) -> usize {
        size / decoder::COARSEST
    }

    /// Sets the mask of the next training batches of a student with a decoder: whether each cell of each image is
    /// visible. `cells`: rows and columns.
    ///
    /// # Errors
    /// If the cells do not fill the images, or an image has no visible cell. If the mask has another number of images
    /// than the batch, [`forward`](Self::forward) fails.
    pub fn set_mask(&mut self, visible: &[bool], cells: (usize, usize)) -> Result<(), TrainError> {
        let images = visible.chunks((cells.0 * cells.1).max(1));
        let least = images.map(|image| image.iter().filter(|visible| **visible).count()).min();
        expect_positive("visible cells of an image", least.unwrap_or(0))?;
        self.engine.set_mask(visible, cells.0, cells.1)
    }

    /// Computes the pooled feature and the embedding of `images` `[B, H, W, 3]` and, in training, the outputs in
    /// [`Extras`].
    ///
    /// In training, [`backward`](Self::backward) can differentiate the result, and the running statistics are updated.
    /// Neither holds in inference.
    ///
    /// # Errors
    /// If the images do not have the length of the shape or are too small for the backbone. If the student trains on
    /// masked images, and the mask is missing or does not fit.
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

    /// Computes the gradients of all parameters of `loss`, which must come from the output of the last
    /// [`forward`](Self::forward). With `accumulate`, they are added to those of the last call.
    ///
    /// # Errors
    /// If there was no forward pass in training since the last call, or the device fails.
    pub fn backward(&mut self, loss: &Tensor, accumulate: bool) -> Result<(), TrainError> {
        let variables = self.variables.take().ok_or(TrainError::NothingRan)?;
        let mut gradients = loss.backward()?;
        let gradients: Vec<_> = variables.iter().map(|variable| gradients.remove(variable)).collect();
        self.engine.backward(&gradients, accumulate)
    }

    /// Updates the parameters: one step of the optimizer with the gradients of the last backward passes.
    ///
    /// # Errors
    /// If the update was created for another student, or the device fails.
    pub fn update(&mut self, update: &Update) -> Result<(), TrainError> {
        self.engine.update(&self.table, update)
    }

    /// The graph for inference on an image of `size` x `size` pixels and, if `maps` are wanted, the feature maps at
    /// strides 4 to 32 with their strides. Its parameters have the positions of [`table`](Self::table).
    pub(crate) fn inference_graph(
        &self,
        size: usize,
        maps: bool,
    ) -> Result<(Graph, Vec<(usize, Value)>), TrainError> {
        let shape = Shape { batch: 1, height: size, width: size, channels: 3 };
        let purpose = if maps { Purpose::Maps } else { Purpose::Inference };
        let (graph, _) = self.config.graph(shape, purpose)?;
        let strides = if maps { self.config.map_strides() } else { Vec::new() };
        let first = graph.outputs().len() - strides.len();
        let maps = strides.into_iter().zip(graph.outputs()[first..].iter().copied()).collect();
        Ok((graph, maps))
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
    /// If the device cannot be read.
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

    /// [`tensors`](Self::tensors) without those of the decoder: the finished student.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn encoder_tensors(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut tensors = self.tensors()?;
        tensors.retain(|name, _| !name.starts_with(DECODER));
        Ok(tensors)
    }

    /// The gradients of the last backward passes by name, in torchvision's shapes, on the CPU.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn gradients(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let flat = self.engine.gradients()?;
        let tensor = |entry: &Entry| {
            let values = entry.spec.read(&flat[entry.range.indices()]);
            Ok((entry.spec.name.clone(), Tensor::from_vec(values, &entry.spec.shape[..], &Device::Cpu)?))
        };
        self.table.parameters().iter().map(tensor).collect()
    }

    /// Copies every tensor whose name and shape match, and reports the rest. Values of any float type are converted to
    /// f32.
    ///
    /// Ignores `num_batches_tracked`, which torchvision stores and nothing here uses.
    ///
    /// # Errors
    /// If a tensor cannot be converted, or the device cannot be written.
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

    /// Calls [`load`](Self::load) on the tensors of a safetensors file.
    ///
    /// # Errors
    /// If the bytes are not a safetensors file, or a tensor's type cannot be converted.
    pub fn load_safetensors(&mut self, bytes: &[u8]) -> Result<LoadReport, TrainError> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        self.load(&tensors.into_iter().collect())
    }

    /// [`encoder_tensors`](Self::encoder_tensors) as the bytes of a safetensors file (f32, sorted by name, with
    /// `metadata` in the header).
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn to_safetensors(&mut self, metadata: &Metadata) -> Result<Vec<u8>, TrainError> {
        safetensors_file::to_bytes(&self.encoder_tensors()?, metadata)
    }
}
