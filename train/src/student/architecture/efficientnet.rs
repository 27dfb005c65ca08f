//! EfficientNet-B0 (Tan and Le, arXiv 1905.11946), as in torchvision and as LGD and SEED published it.

use lgd_kernels::{Activation, ShapeError};

use super::blocks::{FeatureMaps, LastMap, conv_norm_group, last_conv_norm_group, squeeze_excite};
use super::{Backbone, Regularization};
use crate::engine::graph::{Builder, ConvInitial, ConvSpec, LinearKind, NormSpec, Value};
use crate::rng::Stream;
use crate::student::head;

pub(super) const EFFICIENTNET_B0: Backbone = Backbone {
    name: "efficientnet_b0",
    feature_dim: 1280,
    strides: &[2, 4, 8, 16, 32],
    regularization: Regularization { dropout: 0.2, stochastic_depth: 0.2 },
    features: |builder, images, last, depth| features(builder, images, last, (depth, &TORCHVISION)),
    neck: None,
    projection: LinearKind::Dense,
    classifier: |builder, pooled, classes, dropout| {
        let kind = LinearKind::ClassifierUniform;
        head::dropped_linear(builder, pooled, ("classifier.1", kind), classes, dropout)
    },
};

pub(super) const EFFICIENTNET_B0_LGD: Backbone = Backbone {
    name: "efficientnet_b0_lgd",
    features: |builder, images, last, depth| features(builder, images, last, (depth, &PUBLISHED)),
    classifier: |builder, pooled, classes, dropout| {
        head::dropped_linear(builder, pooled, ("fc", LinearKind::Dense), classes, dropout)
    },
    ..EFFICIENTNET_B0
};

/// What the two forms of the network do differently.
struct Form {
    /// Normalizations: what is added to the variance, and the momentum.
    eps: f32,
    momentum: f32,
    /// Whether padding is TensorFlow's "same".
    same: bool,
    /// Initial weights of convolutions and of squeeze-and-excitation.
    initial: ConvInitial,
}

const TORCHVISION: Form = Form { eps: 1e-5, momentum: 0.1, same: false, initial: ConvInitial::FanOut };
/// SEED's code (`seed/architectures/efficientnet/model.py`, which is EfficientNet-PyTorch), which LGD uses.
const PUBLISHED: Form = Form { eps: 1e-3, momentum: 0.01, same: true, initial: ConvInitial::FanIn };

impl Form {
    fn conv(&self, spec: ConvSpec) -> ConvSpec {
        ConvSpec { same: self.same, initial: self.initial, ..spec }
    }

    fn norm(&self, activation: Activation) -> NormSpec {
        NormSpec { eps: self.eps, momentum: self.momentum, ..NormSpec::new(activation) }
    }
}

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
    (stochastic_depth, form): (f32, &Form),
) -> Result<FeatureMaps, ShapeError> {
    let norm = form.norm(SILU);
    let stem = form.conv(ConvSpec::dense(32, 3, 2));
    let mut x = conv_norm_group(builder, images, "features.0", stem, norm)?;
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
            x = mb_conv(builder, x, &name, (expansion, side, stride, outputs), (drop, form))?;
            done += 1;
        }
    }
    let outputs = 4 * builder.shape(x).channels;
    let name = format!("features.{}", STAGES.len() + 1);
    let conv = form.conv(ConvSpec::dense(outputs, 1, 1));
    last_conv_norm_group(builder, x, &name, (conv, norm), (maps, last))
}

fn mb_conv(
    builder: &mut Builder,
    x: Value,
    name: &str,
    (expansion, side, stride, outputs): (usize, usize, usize, usize),
    (drop, form): (f32, &Form),
) -> Result<Value, ShapeError> {
    let inputs = builder.shape(x).channels;
    let hidden = inputs * expansion;
    let norm = form.norm(SILU);
    let mut layers = (0..).map(|layer| format!("{name}.block.{layer}"));
    let mut next = || layers.next().unwrap_or_default();
    let mut y = x;
    if expansion != 1 {
        y = conv_norm_group(builder, y, &next(), form.conv(ConvSpec::dense(hidden, 1, 1)), norm)?;
    }
    let depthwise = form.conv(ConvSpec::depthwise(hidden, side, stride));
    y = conv_norm_group(builder, y, &next(), depthwise, norm)?;
    let squeezed = ((inputs / 4).max(1), form.initial);
    y = squeeze_excite(builder, y, &next(), squeezed, (SILU, Activation::Sigmoid))?;
    let project = form.conv(ConvSpec::dense(outputs, 1, 1));
    y = conv_norm_group(builder, y, &next(), project, form.norm(Activation::Identity))?;
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
