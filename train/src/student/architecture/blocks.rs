//! Layers shared by several backbones.

use lgd_kernels::{Activation, ShapeError};

use crate::engine::graph::{Builder, ConvInitial, ConvSpec, LinearKind, NormSpec, Value};

/// Standard deviation of the initial weights of dense layers in MobileNets: torchvision's, and LGD's.
pub(super) const DEVIATION: f64 = 0.01;

/// A dense layer of a MobileNet.
pub(super) const NORMAL: LinearKind = LinearKind::Classifier { deviation: DEVIATION };

/// Whether the last map is also needed before its activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::student) enum LastMap {
    /// No. The activation is part of the map's normalization.
    Activated,
    /// Yes. The activation is a node of its own.
    Split,
}

/// Feature maps of a backbone.
pub(in crate::student) struct FeatureMaps {
    /// Maps at ascending strides.
    pub maps: Vec<Value>,
    /// The last map before its activation, for [`LastMap::Split`].
    pub raw: Option<Value>,
}

/// Convolution `{conv}`, batch normalization `{norm}` and its activation.
pub(super) fn conv_norm(
    builder: &mut Builder,
    x: Value,
    (conv, norm): (&str, &str),
    spec: ConvSpec,
    norm_spec: NormSpec,
) -> Result<Value, ShapeError> {
    let y = builder.conv(x, conv, spec)?;
    builder.batch_norm(y, norm, norm_spec)
}

/// torchvision's `Conv2dNormActivation`: convolution `{name}.0`, normalization `{name}.1`.
pub(super) fn conv_norm_group(
    builder: &mut Builder,
    x: Value,
    name: &str,
    spec: ConvSpec,
    norm_spec: NormSpec,
) -> Result<Value, ShapeError> {
    conv_norm(builder, x, (&format!("{name}.0"), &format!("{name}.1")), spec, norm_spec)
}

/// The last map, a [`conv_norm_group`] of `x`, appended to the other `maps`.
pub(super) fn last_conv_norm_group(
    builder: &mut Builder,
    x: Value,
    name: &str,
    (spec, norm_spec): (ConvSpec, NormSpec),
    (mut maps, last): (Vec<Value>, LastMap),
) -> Result<FeatureMaps, ShapeError> {
    let activation = norm_spec.activation;
    let first = if last == LastMap::Split { Activation::Identity } else { activation };
    let map = conv_norm_group(builder, x, name, spec, NormSpec { activation: first, ..norm_spec })?;
    let (map, raw) = match last {
        LastMap::Activated => (map, None),
        LastMap::Split => (builder.activate(map, activation), Some(map)),
    };
    maps.push(map);
    Ok(FeatureMaps { maps, raw })
}

/// Squeeze-and-excitation (Hu et al., arXiv 1709.01507) with torchvision's `{name}.fc1` and `{name}.fc2`:
/// `x * gate(fc2(inner(fc1(mean(x)))))`.
pub(super) fn squeeze_excite(
    builder: &mut Builder,
    x: Value,
    name: &str,
    (squeezed, initial): (usize, ConvInitial),
    (inner, gate): (Activation, Activation),
) -> Result<Value, ShapeError> {
    let channels = builder.shape(x).channels;
    let pooled = builder.global_average_pool(x);
    let hidden = builder.linear(pooled, &format!("{name}.fc1"), squeezed, LinearKind::Pointwise(initial))?;
    let hidden = builder.activate(hidden, inner);
    let logits = builder.linear(hidden, &format!("{name}.fc2"), channels, LinearKind::Pointwise(initial))?;
    let gates = builder.activate(logits, gate);
    builder.scale(x, gates)
}

/// The multiple of 8 nearest to `channels`, at least 8 and at most a tenth smaller (torchvision's `_make_divisible`).
pub(super) fn divisible_by_8(channels: usize) -> usize {
    let rounded = ((channels + 4) / 8 * 8).max(8);
    if 10 * rounded < 9 * channels { rounded + 8 } else { rounded }
}
