//! Architectures: one [`Backbone`] per name, each declared in the file of its family.
//!
//! To add one, declare a `Backbone` in the file of its family, or in a new file here. Then add its `mod` line and its
//! line in `architectures!` below. The command line, help texts, configuration files and errors read the name from
//! there. Tests compare its outputs and gradients with torchvision's in `tests/numerics/students.rs`.

mod blocks;
mod efficientnet;
mod mobilenet_v2;
mod mobilenet_v3;
mod resnet;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use lgd_kernels::{Activation, ShapeError};
use serde::{Deserialize, Serialize};

pub(super) use self::blocks::{FeatureMaps, LastMap};
use super::UnknownArchitecture;
use crate::engine::graph::{Builder, LinearKind, Value};

/// The definition of an architecture: name, sizes and layers.
pub(super) struct Backbone {
    /// torchvision's name. With `_lgd` at its end: the form in which LGD and SEED published it.
    pub name: &'static str,
    /// Width `d` of the pooled feature.
    pub feature_dim: usize,
    /// Strides of the feature maps, ascending.
    pub strides: &'static [usize],
    /// torchvision's regularization in training.
    pub regularization: Regularization,
    /// Builds the feature maps of images. The number is the stochastic depth, which only EfficientNet uses.
    pub features: fn(&mut Builder, Value, LastMap, f32) -> Result<FeatureMaps, ShapeError>,
    /// The activation of a dense layer `neck.0` from the pooled last map to the pooled feature, if there is one.
    pub neck: Option<Activation>,
    /// Kind of the neck and of the projection's last layer (docs/methods.md section 1).
    pub projection: LinearKind,
    /// Builds the classifier on a pooled feature, for a number of classes and a probability of dropout.
    pub classifier: fn(&mut Builder, Value, usize, f32) -> Result<Value, ShapeError>,
}

/// Defines [`Architecture`] from one line per backbone.
macro_rules! architectures {
    ($($(#[$doc:meta])* $name:ident: $backbone:expr;)+) => {
        /// A backbone by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "&'static str", try_from = "String")]
        pub enum Architecture {
            $($(#[$doc])* $name,)+
        }

        impl Architecture {
            /// Every architecture.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];

            pub(super) fn backbone(self) -> &'static Backbone {
                match self {
                    $(Self::$name => &$backbone,)+
                }
            }
        }
    };
}

architectures! {
    /// torchvision's `resnet18`.
    ResNet18: resnet::RESNET18;
    /// torchvision's `resnet34`.
    ResNet34: resnet::RESNET34;
    /// torchvision's `resnet50`.
    ResNet50: resnet::RESNET50;
    /// torchvision's `mobilenet_v2`.
    MobileNetV2: mobilenet_v2::MOBILENET_V2;
    /// torchvision's `mobilenet_v3_large`.
    MobileNetV3Large: mobilenet_v3::MOBILENET_V3_LARGE;
    /// torchvision's `efficientnet_b0`.
    EfficientNetB0: efficientnet::EFFICIENTNET_B0;
    /// MobileNetV3-Large as LGD and SEED published it.
    MobileNetV3LargeLgd: mobilenet_v3::MOBILENET_V3_LARGE_LGD;
    /// EfficientNet-B0 as LGD and SEED published it.
    EfficientNetB0Lgd: efficientnet::EFFICIENTNET_B0_LGD;
}

impl Architecture {
    /// torchvision's name, for the published forms with `_lgd` at its end.
    pub fn name(self) -> &'static str {
        self.backbone().name
    }

    /// Width `d` of the pooled feature.
    pub fn feature_dim(self) -> usize {
        self.backbone().feature_dim
    }
}

impl ValueEnum for Architecture {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, UnknownArchitecture> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        found.ok_or_else(|| UnknownArchitecture { name: name.to_owned() })
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;

    fn try_from(name: String) -> Result<Self, UnknownArchitecture> {
        name.parse()
    }
}

impl From<Architecture> for &'static str {
    fn from(architecture: Architecture) -> Self {
        architecture.name()
    }
}

/// Probabilities of dropping values in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularization {
    /// Probability for each value of the pooled feature.
    pub dropout: f32,
    /// Probability for the last residual block, per image.
    pub stochastic_depth: f32,
}

impl Regularization {
    /// Nothing is dropped.
    pub const NONE: Self = Self { dropout: 0.0, stochastic_depth: 0.0 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Shape;
    use crate::student::decoder::COARSEST;

    #[test]
    fn backbones_have_the_sizes_that_they_declare() {
        for architecture in Architecture::ALL {
            let Backbone { feature_dim, strides, features, neck, .. } = architecture.backbone();
            let shape = Shape { batch: 1, height: 64, width: 128, channels: 3 };
            let (mut builder, images) = Builder::new(shape).unwrap();
            let maps = features(&mut builder, images, LastMap::Activated, 0.0).unwrap().maps;
            let sides: Vec<_> = maps.iter().map(|&map| builder.shape(map)).collect();
            let found: Vec<_> = sides.iter().map(|map| (64 / map.height, 128 / map.width)).collect();
            assert_eq!(
                found,
                strides.iter().map(|&stride| (stride, stride)).collect::<Vec<_>>(),
                "{architecture}"
            );
            let channels = sides.last().map(|map| map.channels);
            assert_eq!(channels == Some(*feature_dim), neck.is_none(), "{architecture}");
            assert_eq!(strides.last(), Some(&COARSEST), "{architecture}: the mask's cells");
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for architecture in Architecture::ALL {
            let json = serde_json::to_string(&architecture).unwrap();
            assert_eq!(json, format!("\"{architecture}\""));
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        }
        let error = "resnet19".parse::<Architecture>().unwrap_err().to_string();
        let torchvisions = "resnet18, resnet34, resnet50, mobilenet_v2, mobilenet_v3_large, efficientnet_b0";
        let published = "mobilenet_v3_large_lgd, efficientnet_b0_lgd";
        assert!(error.ends_with(&format!("{torchvisions}, {published}")), "{error}");
    }
}
