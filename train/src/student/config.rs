//! The configuration of a student, and its graphs.

use candle_core::Tensor;
use lgd_kernels::geometry::{expect_eq, expect_positive};

use super::architecture::LastMap;
use super::decoder::{self, DecoderConfig};
use super::output::StudentOutput;
use super::{Architecture, Regularization, head};
use crate::engine::graph::{Builder, Graph, Shape};
use crate::engine::parameters::Table;
use crate::error::TrainError;

/// The layers on the pooled feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// No head, and so no embedding.
    None,
    /// LGD's projection to a unit vector in the teacher's space.
    Projection {
        /// Dimensions of the teacher's embeddings.
        dim: usize,
    },
    /// The architecture's classifier: torchvision's, under its names.
    Classifier {
        /// Classes.
        classes: usize,
    },
}

/// Outputs besides the pooled feature and the head's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The pooled feature before its last activation, which in most backbones is that of the last map (KDEP;
    /// docs/methods.md section 2).
    pub raw_pooled: bool,
    /// The teacher's tokens of a masked view (H-GKD; docs/methods.md section 3). The whole network is then sparse in
    /// training.
    pub decoder: Option<DecoderConfig>,
}

/// The configuration of a student.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StudentConfig {
    /// Backbone.
    pub architecture: Architecture,
    /// Head.
    pub head: Head,
    /// Probabilities of dropping values in training.
    pub regularization: Regularization,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Further outputs.
    pub extras: Extras,
}

/// Stride of the finest feature map that other networks build on.
const LEAST_STRIDE: usize = 4;

/// What a graph is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Every output that objectives read.
    Training,
    /// Pooled feature, head and, if the student has it, raw pooled feature, dense.
    Inference,
    /// The same, then the feature maps from [`LEAST_STRIDE`] on.
    Maps,
}

impl StudentConfig {
    /// A configuration with torchvision's settings.
    pub fn new(architecture: Architecture, head: Head, seed: u64) -> Self {
        let regularization = architecture.backbone().regularization;
        Self { architecture, head, regularization, seed, extras: Extras::default() }
    }

    /// Checks the configuration without building the student.
    ///
    /// # Errors
    /// If a head has no outputs, or a decoder does not fit.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.table().map(drop)
    }

    /// All parameters. Those of the decoder come last.
    pub(crate) fn table(&self) -> Result<Table, TrainError> {
        match self.head {
            Head::None => {}
            Head::Projection { dim } => expect_positive("the embedding's dimension", dim)?,
            Head::Classifier { classes } => expect_positive("classes", classes)?,
        }
        // Only the decoder's parameters depend on the size of the images.
        let (height, width) = self.extras.decoder.map_or((32, 32), |decoder| (decoder.height, decoder.width));
        let shape = Shape { batch: 1, height, width, channels: 3 };
        Ok(self.graph(shape, Purpose::Training)?.1)
    }

    /// The graph for `purpose` and its parameters, at the positions of [`table`](Self::table). Outputs, if the student
    /// has them: pooled feature, the head's output, raw pooled feature, tokens.
    pub(super) fn graph(&self, shape: Shape, purpose: Purpose) -> Result<(Graph, Table), TrainError> {
        let Extras { raw_pooled, decoder } = self.extras(purpose);
        let (mut builder, mut images) = Builder::new(shape)?;
        if let Some(decoder) = decoder {
            decoder.expect_size(shape)?;
            images = builder.sparse(images);
        }
        let depth = self.regularization.stochastic_depth;
        let backbone = self.architecture.backbone();
        // The raw feature is the pool of the last map before its activation, or what enters the activation of a neck.
        let split = raw_pooled && backbone.neck.is_none();
        let last = if split { LastMap::Split } else { LastMap::Activated };
        let features = (backbone.features)(&mut builder, images, last, depth)?;
        let pool = builder.global_average_pool(features.maps[features.maps.len() - 1]);
        let (pooled, linear) = match backbone.neck {
            Some(activation) => {
                let linear = builder.linear(pool, "neck.0", backbone.feature_dim, backbone.projection)?;
                (builder.activate(linear, activation), Some(linear))
            }
            None => (pool, None),
        };
        let dropout = self.regularization.dropout;
        let mut outputs = vec![pooled];
        match self.head {
            Head::None => {}
            Head::Projection { dim } => {
                outputs.push(head::projection(&mut builder, pooled, (dim, backbone.projection), dropout)?);
            }
            Head::Classifier { classes } => {
                outputs.push((backbone.classifier)(&mut builder, pooled, classes, dropout)?);
            }
        }
        if raw_pooled {
            outputs.extend(features.raw.map(|raw| builder.global_average_pool(raw)).or(linear));
        }
        if purpose == Purpose::Maps {
            outputs.extend(features.maps.iter().rev().take(self.map_strides().len()).rev());
        }
        if let Some(decoder) = decoder {
            builder.dense();
            outputs.push(decoder::tokens(&mut builder, (&features.maps[..], backbone.strides), &decoder)?);
        }
        Ok(builder.finish(outputs))
    }

    /// Strides of the maps in a graph for [`Purpose::Maps`], ascending.
    pub(super) fn map_strides(&self) -> Vec<usize> {
        let strides = self.architecture.backbone().strides.iter().copied();
        strides.filter(|stride| *stride >= LEAST_STRIDE).collect()
    }

    /// Assigns names to the outputs of a graph for `purpose`.
    pub(super) fn name(&self, outputs: Vec<Tensor>, purpose: Purpose) -> Result<StudentOutput, TrainError> {
        let Extras { raw_pooled, decoder } = self.extras(purpose);
        let has = [true, self.head != Head::None, raw_pooled, decoder.is_some()];
        expect_eq("outputs of a graph", has.iter().filter(|has| **has).count(), outputs.len())?;
        let mut outputs = outputs.into_iter();
        let [pooled, embedding, raw_pooled, tokens] = has.map(|has| if has { outputs.next() } else { None });
        let pooled = pooled.ok_or(TrainError::NothingRan)?;
        Ok(StudentOutput { pooled, embedding, raw_pooled, tokens })
    }

    fn extras(&self, purpose: Purpose) -> Extras {
        match purpose {
            Purpose::Training => self.extras,
            Purpose::Inference | Purpose::Maps => Extras { decoder: None, ..self.extras },
        }
    }
}
