//! Students: backbones with torchvision's structure and names, and what stands on them.

mod blocks;
mod efficientnet;
mod head;
mod mobilenet_v2;
mod mobilenet_v3;
mod resnet;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lgd_kernels::ShapeError;
use lgd_kernels::geometry::expect_positive;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::engine::CudaBackend;
use crate::engine::graph::{Builder, Graph, Shape, Value};
use crate::engine::parameters::{Entry, State, Table};
use crate::engine::{CpuBackend, Engine, Program, Tape};
pub use crate::engine::{Images, Mode};
use crate::error::TrainError;
use crate::optim::Update;
use crate::params::{LoadReport, ShapeMismatch};

/// The backbones there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// torchvision's `resnet18`.
    #[serde(rename = "resnet18")]
    ResNet18,
    /// torchvision's `resnet34`.
    #[serde(rename = "resnet34")]
    ResNet34,
    /// torchvision's `resnet50`.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// torchvision's `mobilenet_v2`.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// torchvision's `mobilenet_v3_large`.
    #[serde(rename = "mobilenet_v3_large")]
    MobileNetV3Large,
    /// torchvision's `efficientnet_b0`.
    #[serde(rename = "efficientnet_b0")]
    EfficientNetB0,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 6] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::MobileNetV2,
        Self::MobileNetV3Large,
        Self::EfficientNetB0,
    ];

    /// torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::MobileNetV2 => "mobilenet_v2",
            Self::MobileNetV3Large => "mobilenet_v3_large",
            Self::EfficientNetB0 => "efficientnet_b0",
        }
    }

    /// Width `d` of the pooled feature.
    pub fn feature_dim(self) -> usize {
        match self {
            Self::ResNet18 | Self::ResNet34 => 512,
            Self::ResNet50 => 2048,
            Self::MobileNetV3Large => 960,
            Self::MobileNetV2 | Self::EfficientNetB0 => 1280,
        }
    }

    /// What torchvision drops out in training.
    fn regularisation(self) -> Regularisation {
        match self {
            Self::ResNet18 | Self::ResNet34 | Self::ResNet50 => Regularisation::NONE,
            Self::MobileNetV2 | Self::MobileNetV3Large => {
                Regularisation { dropout: 0.2, stochastic_depth: 0.0 }
            }
            Self::EfficientNetB0 => Regularisation { dropout: 0.2, stochastic_depth: 0.2 },
        }
    }

    /// Feature maps at ascending strides.
    fn features(
        self,
        builder: &mut Builder,
        images: Value,
        stochastic_depth: f32,
    ) -> Result<Vec<Value>, ShapeError> {
        match self {
            Self::ResNet18 => resnet::features(builder, images, resnet::Block::Basic, [2, 2, 2, 2]),
            Self::ResNet34 => resnet::features(builder, images, resnet::Block::Basic, [3, 4, 6, 3]),
            Self::ResNet50 => resnet::features(builder, images, resnet::Block::Bottleneck, [3, 4, 6, 3]),
            Self::MobileNetV2 => mobilenet_v2::features(builder, images),
            Self::MobileNetV3Large => mobilenet_v3::features(builder, images),
            Self::EfficientNetB0 => efficientnet::features(builder, images, stochastic_depth),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = TrainError;

    fn from_str(name: &str) -> Result<Self, TrainError> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        found.ok_or_else(|| TrainError::UnknownArchitecture { name: name.to_owned() })
    }
}

/// What is dropped at random in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularisation {
    /// Probability of a value of the pooled feature.
    pub dropout: f32,
    /// Probability of the last residual block, for each image.
    pub stochastic_depth: f32,
}

impl Regularisation {
    /// Nothing.
    pub const NONE: Self = Self { dropout: 0.0, stochastic_depth: 0.0 };
}

/// What stands on the pooled feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    None,
    /// LGD's projection to a unit vector in the teacher's space.
    Projection {
        /// Dimensions of the teacher's embeddings.
        dim: usize,
    },
    /// torchvision's classifier, under its names.
    Classifier {
        /// Classes.
        classes: usize,
    },
}

/// What a student computes in training besides pooled feature and head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The pooled last feature map before its activation.
    pub raw_pooled: bool,
    /// A decoder that generates the teacher's tokens from a masked view.
    pub decoder: Option<DecoderConfig>,
}

/// The token grid that a decoder generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Rows of tokens.
    pub rows: usize,
    /// Columns of tokens.
    pub columns: usize,
    /// Width of a token.
    pub dim: usize,
}

/// How a student is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StudentConfig {
    /// Backbone.
    pub architecture: Architecture,
    /// Head.
    pub head: Head,
    /// What is dropped in training.
    pub regularisation: Regularisation,
    /// Seed of the initial weights.
    pub seed: u64,
    /// What it computes in training besides.
    pub extras: Extras,
}

impl StudentConfig {
    /// torchvision's settings.
    pub fn new(architecture: Architecture, head: Head, seed: u64) -> Self {
        let regularisation = architecture.regularisation();
        Self { architecture, head, regularisation, seed, extras: Extras::default() }
    }

    fn graph(&self, shape: Shape, maps: bool) -> Result<(Graph, Table), ShapeError> {
        let (mut builder, images) = Builder::new(shape)?;
        let features =
            self.architecture.features(&mut builder, images, self.regularisation.stochastic_depth)?;
        let pooled = builder.global_average_pool(features[features.len() - 1]);
        let dropout = self.regularisation.dropout;
        let top = match self.head {
            Head::None => None,
            Head::Projection { dim } => Some(head::projection(&mut builder, pooled, dim, dropout)?),
            Head::Classifier { classes } => {
                Some(head::classifier(&mut builder, pooled, self.architecture, classes, dropout)?)
            }
        };
        let mut outputs = vec![pooled];
        outputs.extend(top);
        if maps {
            outputs.extend(features);
        }
        Ok(builder.finish(outputs))
    }
}

/// What a student makes of a batch; in training, variables that objectives differentiate.
#[derive(Debug, Clone)]
pub struct StudentOutput {
    /// Globally averaged last feature map, after its activation: `[B, d]`.
    pub pooled: Tensor,
    /// The head's output, where there is a head: L2-normalised embedding in the teacher's space `[B, D]`, or logits `[B, classes]`.
    pub embedding: Option<Tensor>,
    /// The same average before the activation, in training and where asked for: `[B, d]`.
    pub raw_pooled: Option<Tensor>,
    /// The decoder's output, in training and where there is one: `[B, rows, columns, dim]`.
    pub tokens: Option<Tensor>,
}

impl StudentOutput {
    /// The head's output.
    ///
    /// # Errors
    /// [`TrainError::MissingOutput`] where there is no head.
    pub fn embedding(&self) -> Result<&Tensor, TrainError> {
        self.embedding.as_ref().ok_or(TrainError::MissingOutput { output: "embedding" })
    }

    /// The pooled feature before its activation.
    ///
    /// # Errors
    /// [`TrainError::MissingOutput`] where it was not asked for.
    pub fn raw_pooled(&self) -> Result<&Tensor, TrainError> {
        self.raw_pooled.as_ref().ok_or(TrainError::MissingOutput { output: "raw_pooled" })
    }

    /// The decoder's output.
    ///
    /// # Errors
    /// [`TrainError::MissingOutput`] where there is no decoder.
    pub fn tokens(&self) -> Result<&Tensor, TrainError> {
        self.tokens.as_ref().ok_or(TrainError::MissingOutput { output: "tokens" })
    }
}

/// A backbone, its head, their parameters, and the device they live on.
pub struct Student {
    config: StudentConfig,
    table: Table,
    engine: Box<dyn Engine>,
    programs: HashMap<(Shape, bool), Arc<Program>>,
    variables: Option<Vec<Var>>,
}

impl Student {
    /// A student with torchvision's initial weights; on a GPU it computes in bf16.
    ///
    /// # Errors
    /// A head without outputs, or a device that cannot be had.
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
    /// A head without outputs, or an error of `make`.
    pub fn with_engine(
        config: StudentConfig,
        make: impl FnOnce(&State) -> Result<Box<dyn Engine>, TrainError>,
    ) -> Result<Self, TrainError> {
        match config.head {
            Head::None => {}
            Head::Projection { dim } => expect_positive("the embedding's dimension", dim)?,
            Head::Classifier { classes } => expect_positive("classes", classes)?,
        }
        // The parameters do not depend on the size of the images.
        let (_, table) = config.graph(Shape { batch: 1, height: 32, width: 32, channels: 3 }, false)?;
        let engine = make(&table.initial(config.seed))?;
        Ok(Self { config, table, engine, programs: HashMap::new(), variables: None })
    }

    /// The backbone's architecture.
    pub fn architecture(&self) -> Architecture {
        self.config.architecture
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

    /// The engine that computes, for updates and optimiser state.
    pub fn engine(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// Pooled feature and embedding of `images` `[B, H, W, 3]`.
    ///
    /// In training the result can be differentiated with [`backward`](Self::backward) and the running statistics move; in
    /// inference neither.
    ///
    /// # Errors
    /// Images of another length than the shape says, or too small for the backbone.
    pub fn forward(
        &mut self,
        images: Images<'_>,
        (batch, height, width): (usize, usize, usize),
        mode: Mode,
    ) -> Result<StudentOutput, TrainError> {
        self.run(images, Shape { batch, height, width, channels: 3 }, mode, false)?;
        let heads = usize::from(self.embedding_dim().is_some());
        let outputs: Vec<Tensor> = (0..=heads).map(|at| self.engine.output(at)).collect::<Result<_, _>>()?;
        let outputs = if mode == Mode::Inference {
            outputs
        } else {
            let variables: Vec<Var> = outputs.iter().map(Var::from_tensor).collect::<Result<_, _>>()?;
            let tensors = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
            self.variables = Some(variables);
            tensors
        };
        Ok(StudentOutput {
            pooled: outputs[0].clone(),
            embedding: outputs.get(1).cloned(),
            raw_pooled: None,
            tokens: None,
        })
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

    /// One step of the optimiser by the gradients of the last backward passes.
    ///
    /// # Errors
    /// An update made for another student, or an error of the device.
    pub fn update(&mut self, update: &Update) -> Result<(), TrainError> {
        self.engine.update(&self.table, update)
    }

    /// Feature maps of `images` `[B, H, W, 3]` at ascending strides, NHWC, in inference: ResNets at 4, 8, 16, 32; the others at 2, 4, 8,
    /// 16, 32.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(
        &mut self,
        images: Images<'_>,
        (batch, height, width): (usize, usize, usize),
    ) -> Result<Vec<Tensor>, TrainError> {
        let shape = Shape { batch, height, width, channels: 3 };
        let program = self.run(images, shape, Mode::Inference, true)?;
        let first = 1 + usize::from(self.embedding_dim().is_some());
        (first..program.graph().outputs().len()).map(|at| self.engine.output(at)).collect()
    }

    fn run(
        &mut self,
        images: Images<'_>,
        shape: Shape,
        mode: Mode,
        maps: bool,
    ) -> Result<Arc<Program>, TrainError> {
        let program = match self.programs.get(&(shape, maps)) {
            Some(program) => Arc::clone(program),
            None => {
                let (graph, _) = self.config.graph(shape, maps)?;
                let program = Arc::new(self.engine.plan(graph));
                self.programs.insert((shape, maps), Arc::clone(&program));
                program
            }
        };
        self.engine.forward(&program, images, mode)?;
        Ok(program)
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

    /// Parameters and buffers as the bytes of a safetensors file (f32, sorted by name, with `metadata` in the header).
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn to_safetensors(&mut self, metadata: HashMap<String, String>) -> Result<Vec<u8>, TrainError> {
        Ok(safetensors::serialize(self.tensors()?, Some(metadata))?)
    }
}
