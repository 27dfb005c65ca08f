//! ResNets, as in torchvision (He et al., arXiv 1512.03385, but with a bottleneck's stride in the 3x3 convolution).

use lgd_kernels::{Activation, ShapeError, Window};

use super::blocks::{FeatureMaps, LastMap, conv_norm};
use super::{Backbone, Regularization};
use crate::engine::graph::{Builder, ConvSpec, LinearKind, NormSpec, Value};
use crate::student::head;

pub(super) const RESNET18: Backbone = Backbone {
    name: "resnet18",
    feature_dim: 512,
    features: |builder, images, last, _| features(builder, images, last, Block::Basic, [2, 2, 2, 2]),
    ..RESNET50
};

pub(super) const RESNET34: Backbone = Backbone {
    name: "resnet34",
    feature_dim: 512,
    features: |builder, images, last, _| features(builder, images, last, Block::Basic, [3, 4, 6, 3]),
    ..RESNET50
};

pub(super) const RESNET50: Backbone = Backbone {
    name: "resnet50",
    feature_dim: 2048,
    strides: &[4, 8, 16, 32],
    regularization: Regularization::NONE,
    features: |builder, images, last, _| features(builder, images, last, Block::Bottleneck, [3, 4, 6, 3]),
    neck: None,
    projection: LinearKind::Dense,
    classifier: |builder, pooled, classes, dropout| {
        head::dropped_linear(builder, pooled, ("fc", LinearKind::Dense), classes, dropout)
    },
};

/// The residual block that a stage repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// Convolutions 1x1, 3x3 and 1x1; the last one has four times the channels.
    Bottleneck,
}

/// The last map of each stage.
fn features(
    builder: &mut Builder,
    images: Value,
    last: LastMap,
    block: Block,
    depths: [usize; 4],
) -> Result<FeatureMaps, ShapeError> {
    let relu = NormSpec::new(Activation::Relu);
    let x = conv_norm(builder, images, ("conv1", "bn1"), ConvSpec::dense(64, 7, 2), relu)?;
    let mut x = builder.max_pool(x, 3, Window { stride: 2, padding: 1, dilation: 1 })?;
    let (mut maps, mut raw) = (Vec::new(), None);
    for (stage, (width, depth)) in [64, 128, 256, 512].into_iter().zip(depths).enumerate() {
        for number in 0..depth {
            let stride = if stage > 0 && number == 0 { 2 } else { 1 };
            let name = format!("layer{}.{number}", stage + 1);
            let split = last == LastMap::Split && stage == 3 && number + 1 == depth;
            let activation = if split { Activation::Identity } else { Activation::Relu };
            x = residual(builder, x, &name, block, (width, stride, activation))?;
            if split {
                raw = Some(x);
                x = builder.activate(x, Activation::Relu);
            }
        }
        maps.push(x);
    }
    Ok(FeatureMaps { maps, raw })
}

/// A block plus its shortcut, then the activation. The shortcut is projected if the shape changes.
fn residual(
    builder: &mut Builder,
    x: Value,
    name: &str,
    block: Block,
    (width, stride, activation): (usize, usize, Activation),
) -> Result<Value, ShapeError> {
    let (convs, outputs) = match block {
        Block::Basic => (vec![ConvSpec::dense(width, 3, stride), ConvSpec::dense(width, 3, 1)], width),
        Block::Bottleneck => {
            let first = [ConvSpec::dense(width, 1, 1), ConvSpec::dense(width, 3, stride)];
            (first.into_iter().chain([ConvSpec::dense(4 * width, 1, 1)]).collect(), 4 * width)
        }
    };
    let last = convs.len();
    let mut y = x;
    for (number, spec) in (1..).zip(convs) {
        let inner = if number == last { Activation::Identity } else { Activation::Relu };
        let names = (format!("{name}.conv{number}"), format!("{name}.bn{number}"));
        y = conv_norm(builder, y, (&names.0, &names.1), spec, NormSpec::new(inner))?;
    }
    let shortcut = if stride != 1 || builder.shape(x).channels != outputs {
        let names = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        let spec = ConvSpec::dense(outputs, 1, stride);
        conv_norm(builder, x, (&names.0, &names.1), spec, NormSpec::new(Activation::Identity))?
    } else {
        x
    };
    builder.add(y, shortcut, activation)
}
