//! Students: a backbone with torchvision's structure and names, and the projection head of LGD.

mod backbone;
mod head;
mod layers;
mod mobilenet_v2;
mod resnet;

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use self::backbone::Backbone;
use self::head::ProjectionHead;
pub use self::layers::Mode;
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::params::{Initializer, ParameterSet};

/// The backbones there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// torchvision's `resnet18`.
    #[serde(rename = "resnet18")]
    ResNet18,
    /// torchvision's `mobilenet_v2`.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::ResNet18, Self::MobileNetV2];

    /// torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::MobileNetV2 => "mobilenet_v2",
        }
    }

    /// Width `d` of the pooled feature.
    pub fn feature_dim(self) -> usize {
        match self {
            Self::ResNet18 => 512,
            Self::MobileNetV2 => 1280,
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

/// What a student makes of a batch.
#[derive(Debug, Clone)]
pub struct StudentOutput {
    /// Globally averaged last feature map, after its activation: `[B, d]`.
    pub pooled: Tensor,
    /// L2-normalised embedding in the teacher's space: `[B, D]`.
    pub embedding: Tensor,
}

/// A backbone, its head, and their parameters.
pub struct Student {
    architecture: Architecture,
    backbone: Box<dyn Backbone>,
    head: ProjectionHead,
    params: ParameterSet,
}

impl Student {
    /// A student with torchvision's initial weights, drawn from `seed`, for a teacher of `embedding_dim` dimensions.
    ///
    /// # Errors
    /// No dimensions, or a device that refuses the tensors.
    pub fn new(
        architecture: Architecture,
        embedding_dim: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, TrainError> {
        crate::kernels::geometry::expect_positive("the embedding's dimension", embedding_dim)?;
        let mut init = Initializer::new(seed, device);
        let backbone: Box<dyn Backbone> = match architecture {
            Architecture::ResNet18 => Box::new(resnet::ResNet::new_18(&mut init)?),
            Architecture::MobileNetV2 => Box::new(mobilenet_v2::MobileNetV2::new(&mut init)?),
        };
        let dropout = match architecture {
            Architecture::ResNet18 => 0.0,
            Architecture::MobileNetV2 => 0.2,
        };
        let head = ProjectionHead::new(&mut init, architecture.feature_dim(), embedding_dim, dropout)?;
        Ok(Self { architecture, backbone, head, params: init.finish() })
    }

    /// The backbone's architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Dimensions `D` of the embedding.
    pub fn embedding_dim(&self) -> usize {
        self.head.embedding_dim()
    }

    /// Parameters and buffers.
    pub fn params(&self) -> &ParameterSet {
        &self.params
    }

    /// Pooled feature and embedding of `images` `[B, H, W, 3]`, f32, normalised as the teacher's preprocessing says.
    ///
    /// In training the result can be differentiated and the running statistics move; in inference neither.
    ///
    /// # Errors
    /// Images of another shape or type, or too small for the backbone.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<StudentOutput, TrainError> {
        let maps = self.features(images, mode)?;
        let pooled = ops::global_average_pool(&maps[maps.len() - 1])?;
        let embedding = self.head.forward(&pooled, mode)?;
        Ok(StudentOutput { pooled, embedding })
    }

    /// Feature maps of `images` `[B, H, W, 3]` at ascending strides, NHWC: ResNet-18 at 4, 8, 16, 32; MobileNetV2 at 2, 4, 8, 16, 32.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, images: &Tensor, mode: Mode) -> Result<Vec<Tensor>, TrainError> {
        let (batch, height, width, _) = images.dims4()?;
        expect_dims("images", images, &[batch, height, width, 3])?;
        self.backbone.features(images, mode)
    }
}
