//! What the backbones are built of.

use lgd_kernels::{Activation, ShapeError};

use crate::engine::graph::{Builder, ConvSpec, LinearKind, NormSpec, Value};

/// Convolution `{conv}`, batch normalisation `{norm}` and its activation.
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

/// torchvision's `Conv2dNormActivation`: convolution `{name}.0`, normalisation `{name}.1`.
pub(super) fn conv_norm_group(
    builder: &mut Builder,
    x: Value,
    name: &str,
    spec: ConvSpec,
    norm_spec: NormSpec,
) -> Result<Value, ShapeError> {
    conv_norm(builder, x, (&format!("{name}.0"), &format!("{name}.1")), spec, norm_spec)
}

/// Squeeze-and-excitation (Hu et al., arXiv 1709.01507) with torchvision's `{name}.fc1` and `{name}.fc2`: `x * gate(fc2(inner(fc1(mean(x)))))`.
pub(super) fn squeeze_excite(
    builder: &mut Builder,
    x: Value,
    name: &str,
    squeezed: usize,
    (inner, gate): (Activation, Activation),
) -> Result<Value, ShapeError> {
    let channels = builder.shape(x).channels;
    let pooled = builder.global_average_pool(x);
    let hidden = builder.linear(pooled, &format!("{name}.fc1"), squeezed, LinearKind::Pointwise)?;
    let hidden = builder.activate(hidden, inner);
    let logits = builder.linear(hidden, &format!("{name}.fc2"), channels, LinearKind::Pointwise)?;
    let gates = builder.activate(logits, gate);
    builder.scale(x, gates)
}

/// The multiple of 8 nearest to `channels`, at least 8 and not more than a tenth below (torchvision's `_make_divisible`).
pub(super) fn divisible_by_8(channels: usize) -> usize {
    let rounded = ((channels + 4) / 8 * 8).max(8);
    if 10 * rounded < 9 * channels { rounded + 8 } else { rounded }
}
