//! The backbones there are.

use std::fmt;
use std::str::FromStr;

use lgd_kernels::ShapeError;
use serde::{Deserialize, Serialize};

use super::blocks::{Features, LastMap};
use super::{efficientnet, mobilenet_v2, mobilenet_v3, resnet};
use crate::engine::graph::{Builder, Value};
use crate::error::TrainError;

/// A backbone.
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
    pub(super) fn regularization(self) -> Regularization {
        match self {
            Self::ResNet18 | Self::ResNet34 | Self::ResNet50 => Regularization::NONE,
            Self::MobileNetV2 | Self::MobileNetV3Large => {
                Regularization { dropout: 0.2, stochastic_depth: 0.0 }
            }
            Self::EfficientNetB0 => Regularization { dropout: 0.2, stochastic_depth: 0.2 },
        }
    }

    /// Feature maps at ascending strides. `stochastic_depth` is used by EfficientNet alone.
    pub(super) fn features(
        self,
        builder: &mut Builder,
        images: Value,
        last: LastMap,
        stochastic_depth: f32,
    ) -> Result<Features, ShapeError> {
        match self {
            Self::ResNet18 => resnet::features(builder, images, last, resnet::Block::Basic, [2, 2, 2, 2]),
            Self::ResNet34 => resnet::features(builder, images, last, resnet::Block::Basic, [3, 4, 6, 3]),
            Self::ResNet50 => {
                resnet::features(builder, images, last, resnet::Block::Bottleneck, [3, 4, 6, 3])
            }
            Self::MobileNetV2 => mobilenet_v2::features(builder, images, last),
            Self::MobileNetV3Large => mobilenet_v3::features(builder, images, last),
            Self::EfficientNetB0 => efficientnet::features(builder, images, last, stochastic_depth),
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
pub struct Regularization {
    /// Probability of a value of the pooled feature.
    pub dropout: f32,
    /// Probability of the last residual block, for each image.
    pub stochastic_depth: f32,
}

impl Regularization {
    /// Nothing.
    pub const NONE: Self = Self { dropout: 0.0, stochastic_depth: 0.0 };
}
