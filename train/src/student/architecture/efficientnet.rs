//! EfficientNet-B0, as in torchvision (Tan and Le, arXiv 1905.11946).

use lgd_kernels::{Activation, ShapeError};

use super::blocks::{FeatureMaps, LastMap, conv_norm_group, last_conv_norm_group, squeeze_excite};
use super::{Backbone, Regularization};
use crate::engine::graph::{Builder, ConvSpec, LinearKind, NormSpec, Value};
use crate::rng::Stream;
use crate::student::head;

pub(super) const EFFICIENTNET_B0: Backbone = Backbone {
    name: "efficientnet_b0",
    feature_dim: 1280,
    strides: &[2, 4, 8, 16, 32],
    regularization: Regularization { dropout: 0.2, stochastic_depth: 0.2 },
    features,
    classifier: |builder, pooled, classes, dropout| {
        let kind = LinearKind::ClassifierUniform;
        head::dropped_linear(builder, pooled, ("classifier.1", kind), classes, dropout)
    },
};

/// A stage: expansion, side of the depthwise filter, first stride, output channels, blocks.
type Row = (usize, usize, usize, usize, usize);

const STAGES: [Row; 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

const SILU: Activation = Activation::Silu;

/// The last map before each downsampling, and the last map. `stochastic_depth`: probability of dropping the last block.
/// Earlier blocks have proportionally smaller probabilities.
fn features(
    builder: &mut Builder,
    images: Value,
    last: LastMap,
    stochastic_depth: f32,
) -> Result<FeatureMaps, ShapeError> {
    let norm = NormSpec::new(SILU);
    let mut x = conv_norm_group(builder, images, "features.0", ConvSpec::dense(32, 3, 2), norm)?;
    let mut maps = Vec::new();
    let total: usize = STAGES.iter().map(|stage| stage.4).sum();
    let mut done = 0;
    for (number, (expansion, side, first_stride, outputs, count)) in (1..).zip(STAGES) {
        for position in 0..count {
            let stride = if position == 0 { first_stride } else { 1 };
            if stride == 2 {
                maps.push(x);
            }
            let name = format!("features.{number}.{position}");
            let drop = stochastic_depth * share(done, total);
            x = mb_conv(builder, x, &name, (expansion, side, stride, outputs), drop)?;
            done += 1;
        }
    }
    let outputs = 4 * builder.shape(x).channels;
    let name = format!("features.{}", STAGES.len() + 1);
    last_conv_norm_group(builder, x, &name, (ConvSpec::dense(outputs, 1, 1), norm), (maps, last))
}

fn mb_conv(
    builder: &mut Builder,
    x: Value,
    name: &str,
    (expansion, side, stride, outputs): (usize, usize, usize, usize),
    drop: f32,
) -> Result<Value, ShapeError> {
    let inputs = builder.shape(x).channels;
    let hidden = inputs * expansion;
    let norm = NormSpec::new(SILU);
    let mut layers = (0..).map(|layer| format!("{name}.block.{layer}"));
    let mut next = || layers.next().unwrap_or_default();
    let mut y = x;
    if expansion != 1 {
        y = conv_norm_group(builder, y, &next(), ConvSpec::dense(hidden, 1, 1), norm)?;
    }
    y = conv_norm_group(builder, y, &next(), ConvSpec::depthwise(hidden, side, stride), norm)?;
    y = squeeze_excite(builder, y, &next(), (inputs / 4).max(1), (SILU, Activation::Sigmoid))?;
    let identity = NormSpec::new(Activation::Identity);
    y = conv_norm_group(builder, y, &next(), ConvSpec::dense(outputs, 1, 1), identity)?;
    if stride != 1 || inputs != outputs {
        return Ok(y);
    }
    let y = builder.drop_images(y, Stream::named(0, name).next_u64(), drop);
    builder.add(y, x, Activation::Identity)
}

#[expect(clippy::cast_precision_loss, reason = "sixteen blocks")]
fn share(done: usize, total: usize) -> f32 {
    done as f32 / total as f32
}
