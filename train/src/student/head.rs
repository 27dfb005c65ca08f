//! Heads: LGD's projection, and the linear layer of torchvision's classifiers.

use lgd_kernels::{Activation, ShapeError};

use crate::engine::graph::{Builder, LinearKind, Value};

/// Key of the dropout masks among the streams of a seed.
pub(super) const DROPOUT_STREAM: u64 = 0x6472_6F70_6F75_7400;

/// Linear(d, d), ReLU, Linear(d, D), L2 normalization (docs/methods.md section 1): parameters `head.0` and `head.2`, as in a PyTorch
/// `Sequential`. `last`: kind of the second layer.
pub(super) fn projection(
    builder: &mut Builder,
    pooled: Value,
    (dim, last): (usize, LinearKind),
    dropout: f32,
) -> Result<Value, ShapeError> {
    let width = builder.shape(pooled).channels;
    let x = builder.dropout(pooled, DROPOUT_STREAM, dropout);
    let hidden = builder.linear(x, "head.0", width, LinearKind::Dense)?;
    let hidden = builder.activate(hidden, Activation::Relu);
    let embedding = builder.linear(hidden, "head.2", dim, last)?;
    builder.l2_normalize(embedding)
}

/// Dropout, then the linear layer `name` of `classes` outputs.
pub(super) fn dropped_linear(
    builder: &mut Builder,
    pooled: Value,
    (name, kind): (&str, LinearKind),
    classes: usize,
    dropout: f32,
) -> Result<Value, ShapeError> {
    let x = builder.dropout(pooled, DROPOUT_STREAM, dropout);
    builder.linear(x, name, classes, kind)
}
