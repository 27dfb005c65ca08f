//! What stands on the pooled feature: LGD's projection, or torchvision's classifier.

use lgd_kernels::{Activation, ShapeError};

use super::{Architecture, mobilenet_v3};
use crate::engine::graph::{Builder, LinearKind, Value};

/// Names the dropout masks among the streams of a seed.
pub(super) const DROPOUT_STREAM: u64 = 0x6472_6F70_6F75_7400;

/// Linear(d, d), ReLU, Linear(d, D), L2 normalization (docs/methods.md section 1): parameters `head.0` and `head.2`, as in a PyTorch
/// `Sequential`.
pub(super) fn projection(
    builder: &mut Builder,
    pooled: Value,
    dim: usize,
    dropout: f32,
) -> Result<Value, ShapeError> {
    let width = builder.shape(pooled).channels;
    let x = builder.dropout(pooled, DROPOUT_STREAM, dropout);
    let hidden = builder.linear(x, "head.0", width, LinearKind::Dense)?;
    let hidden = builder.activate(hidden, Activation::Relu);
    let embedding = builder.linear(hidden, "head.2", dim, LinearKind::Dense)?;
    builder.l2_normalize(embedding)
}

/// torchvision's classifier of the architecture.
pub(super) fn classifier(
    builder: &mut Builder,
    pooled: Value,
    architecture: Architecture,
    classes: usize,
    dropout: f32,
) -> Result<Value, ShapeError> {
    if architecture == Architecture::MobileNetV3Large {
        return mobilenet_v3::classifier(builder, pooled, classes, dropout);
    }
    let x = builder.dropout(pooled, DROPOUT_STREAM, dropout);
    match architecture {
        Architecture::ResNet18 | Architecture::ResNet34 | Architecture::ResNet50 => {
            builder.linear(x, "fc", classes, LinearKind::Dense)
        }
        Architecture::EfficientNetB0 => {
            builder.linear(x, "classifier.1", classes, LinearKind::ClassifierUniform)
        }
        Architecture::MobileNetV2 | Architecture::MobileNetV3Large => {
            builder.linear(x, "classifier.1", classes, LinearKind::Classifier { deviation: 0.01 })
        }
    }
}
