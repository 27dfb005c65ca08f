//! MobileNetV3-Large (Howard et al., arXiv 1905.02244), as in torchvision and as LGD and SEED published it.

use lgd_kernels::{Activation, ShapeError};

use super::blocks::{
    DEVIATION, FeatureMaps, LastMap, NORMAL, conv_norm_group, divisible_by_8, last_conv_norm_group,
    squeeze_excite,
};
use super::{Backbone, Regularization};
use crate::engine::graph::{Builder, ConvInitial, ConvSpec, NormSpec, Value};
use crate::student::head::{DROPOUT_STREAM, dropped_linear};

pub(super) const MOBILENET_V3_LARGE: Backbone = Backbone {
    name: "mobilenet_v3_large",
    feature_dim: 960,
    strides: &[2, 4, 8, 16, 32],
    regularization: Regularization { dropout: 0.2, stochastic_depth: 0.0 },
    features: |builder, images, last, _| features(builder, images, last, &TORCHVISION),
    neck: None,
    projection: NORMAL,
    classifier,
};

pub(super) const MOBILENET_V3_LARGE_LGD: Backbone = Backbone {
    name: "mobilenet_v3_large_lgd",
    feature_dim: 1280,
    features: |builder, images, last, _| features(builder, images, last, &PUBLISHED),
    neck: Some(HS),
    classifier: |builder, pooled, classes, dropout| {
        dropped_linear(builder, pooled, ("fc", NORMAL), classes, dropout)
    },
    ..MOBILENET_V3_LARGE
};

/// What the two forms of the network do differently in their maps.
struct Form {
    /// Normalizations: what is added to the variance, and the momentum.
    eps: f32,
    momentum: f32,
    /// Whether a block's gate comes before the activation of its depthwise convolution.
    gate_first: bool,
    /// Initial weights of squeeze-and-excitation.
    squeeze: ConvInitial,
}

const TORCHVISION: Form = Form { eps: 1e-3, momentum: 0.01, gate_first: false, squeeze: ConvInitial::FanOut };
/// SEED's code (`seed/architectures/mobilenet/mobilenetv3.py`), which LGD uses.
const PUBLISHED: Form = Form {
    eps: 1e-5,
    momentum: 0.1,
    gate_first: true,
    squeeze: ConvInitial::Normal { deviation: DEVIATION },
};

impl Form {
    fn norm(&self, activation: Activation) -> NormSpec {
        NormSpec { eps: self.eps, momentum: self.momentum, ..NormSpec::new(activation) }
    }
}

/// A block: side of the depthwise filter, expanded channels, output channels, squeeze-and-excitation, activation, stride.
type Row = (usize, usize, usize, bool, Activation, usize);

const RE: Activation = Activation::Relu;
const HS: Activation = Activation::HardSwish;

const BLOCKS: [Row; 15] = [
    (3, 16, 16, false, RE, 1),
    (3, 64, 24, false, RE, 2),
    (3, 72, 24, false, RE, 1),
    (5, 72, 40, true, RE, 2),
    (5, 120, 40, true, RE, 1),
    (5, 120, 40, true, RE, 1),
    (3, 240, 80, false, HS, 2),
    (3, 200, 80, false, HS, 1),
    (3, 184, 80, false, HS, 1),
    (3, 184, 80, false, HS, 1),
    (3, 480, 112, true, HS, 1),
    (3, 672, 112, true, HS, 1),
    (5, 672, 160, true, HS, 2),
    (5, 960, 160, true, HS, 1),
    (5, 960, 160, true, HS, 1),
];

/// The last map before each downsampling, and the last map.
fn features(
    builder: &mut Builder,
    images: Value,
    last: LastMap,
    form: &Form,
) -> Result<FeatureMaps, ShapeError> {
    let mut x = conv_norm_group(builder, images, "features.0", ConvSpec::dense(16, 3, 2), form.norm(HS))?;
    let mut maps = Vec::new();
    for (number, row) in (1..).zip(BLOCKS) {
        if row.5 == 2 {
            maps.push(x);
        }
        x = inverted_residual(builder, x, &format!("features.{number}.block"), row, form)?;
    }
    let outputs = 6 * builder.shape(x).channels;
    let name = format!("features.{}", BLOCKS.len() + 1);
    last_conv_norm_group(builder, x, &name, (ConvSpec::dense(outputs, 1, 1), form.norm(HS)), (maps, last))
}

fn inverted_residual(
    builder: &mut Builder,
    x: Value,
    name: &str,
    row: Row,
    form: &Form,
) -> Result<Value, ShapeError> {
    let (side, hidden, outputs, squeeze, activation, stride) = row;
    let inputs = builder.shape(x).channels;
    let mut layers = (0..).map(|layer| format!("{name}.{layer}"));
    let mut next = || layers.next().unwrap_or_default();
    let mut y = x;
    if hidden != inputs {
        y = conv_norm_group(builder, y, &next(), ConvSpec::dense(hidden, 1, 1), form.norm(activation))?;
    }
    let (before, after) = match squeeze && form.gate_first {
        true => (Activation::Identity, activation),
        false => (activation, Activation::Identity),
    };
    y = conv_norm_group(builder, y, &next(), ConvSpec::depthwise(hidden, side, stride), form.norm(before))?;
    if squeeze {
        let gates = (Activation::Relu, Activation::HardSigmoid);
        y = squeeze_excite(builder, y, &next(), (divisible_by_8(hidden / 4), form.squeeze), gates)?;
    }
    if after != Activation::Identity {
        y = builder.activate(y, after);
    }
    y = conv_norm_group(
        builder,
        y,
        &next(),
        ConvSpec::dense(outputs, 1, 1),
        form.norm(Activation::Identity),
    )?;
    if stride == 1 && inputs == outputs { builder.add(y, x, Activation::Identity) } else { Ok(y) }
}

/// torchvision's classifier: a dense layer with hard-swish, dropout, and the logits.
fn classifier(
    builder: &mut Builder,
    pooled: Value,
    classes: usize,
    dropout: f32,
) -> Result<Value, ShapeError> {
    let hidden = builder.linear(pooled, "classifier.0", 1280, NORMAL)?;
    let hidden = builder.activate(hidden, HS);
    let hidden = builder.dropout(hidden, DROPOUT_STREAM, dropout);
    builder.linear(hidden, "classifier.3", classes, NORMAL)
}
