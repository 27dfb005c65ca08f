//! MobileNetV2 of width 1, as in torchvision (Sandler et al., arXiv 1801.04381).

use lgd_kernels::{Activation, ShapeError};

use super::blocks::{FeatureMaps, LastMap, NORMAL, conv_norm, conv_norm_group, last_conv_norm_group};
use super::{Backbone, Regularization};
use crate::engine::graph::{Builder, ConvSpec, NormSpec, Value};
use crate::student::head;

pub(super) const MOBILENET_V2: Backbone = Backbone {
    name: "mobilenet_v2",
    feature_dim: 1280,
    strides: &[2, 4, 8, 16, 32],
    regularization: Regularization { dropout: 0.2, stochastic_depth: 0.0 },
    features: |builder, images, last, _| features(builder, images, last),
    neck: None,
    projection: NORMAL,
    classifier: |builder, pooled, classes, dropout| {
        head::dropped_linear(builder, pooled, ("classifier.1", NORMAL), classes, dropout)
    },
};

/// Expansion, output channels, blocks and first stride of each group of blocks.
const GROUPS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// The last map before each downsampling, and the last map.
fn features(builder: &mut Builder, images: Value, last: LastMap) -> Result<FeatureMaps, ShapeError> {
    let relu6 = NormSpec::new(Activation::Relu6);
    let mut x = conv_norm_group(builder, images, "features.0", ConvSpec::dense(32, 3, 2), relu6)?;
    let mut maps = Vec::new();
    let mut number = 1;
    for (expansion, outputs, count, first_stride) in GROUPS {
        for position in 0..count {
            let stride = if position == 0 { first_stride } else { 1 };
            if stride == 2 {
                maps.push(x);
            }
            x = inverted_residual(
                builder,
                x,
                &format!("features.{number}.conv"),
                expansion,
                (outputs, stride),
            )?;
            number += 1;
        }
    }
    let name = format!("features.{number}");
    last_conv_norm_group(builder, x, &name, (ConvSpec::dense(1280, 1, 1), relu6), (maps, last))
}

/// Expansion (if any), depthwise convolution and projection, plus the input if the shape is unchanged.
fn inverted_residual(
    builder: &mut Builder,
    x: Value,
    name: &str,
    expansion: usize,
    (outputs, stride): (usize, usize),
) -> Result<Value, ShapeError> {
    let inputs = builder.shape(x).channels;
    let hidden = inputs * expansion;
    let relu6 = NormSpec::new(Activation::Relu6);
    let mut layer = 0;
    let mut y = x;
    if expansion != 1 {
        y = conv_norm_group(builder, y, &format!("{name}.{layer}"), ConvSpec::dense(hidden, 1, 1), relu6)?;
        layer += 1;
    }
    let depthwise = ConvSpec::depthwise(hidden, 3, stride);
    y = conv_norm_group(builder, y, &format!("{name}.{layer}"), depthwise, relu6)?;
    // In torchvision, the projection's convolution and normalization have no group of their own.
    let (conv, norm) = (format!("{name}.{}", layer + 1), format!("{name}.{}", layer + 2));
    let identity = NormSpec::new(Activation::Identity);
    y = conv_norm(builder, y, (&conv, &norm), ConvSpec::dense(outputs, 1, 1), identity)?;
    if stride == 1 && inputs == outputs { builder.add(y, x, Activation::Identity) } else { Ok(y) }
}
