//! Dense and grouped convolutions: shapes, and the choice of algorithm for each pass.

mod direct;
mod winograd;

use crate::geometry::{Result, Sliding, expect_eq, expect_positive};
use crate::moments::Moments;
use crate::operand::Operand;
use crate::workspace::Workspace;

/// A convolution: NHWC input and output, OHWI weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Input, window and output positions.
    pub sliding: Sliding,
    /// Output channels.
    pub out_channels: usize,
    /// Groups of channels; each group is convolved on its own.
    pub groups: usize,
}

impl Conv {
    /// A convolution of `out_channels` filters over `sliding`, in `groups`.
    ///
    /// # Errors
    /// No filters, no groups, or groups that do not divide the channels.
    pub fn new(sliding: Sliding, out_channels: usize, groups: usize) -> Result<Self> {
        expect_positive("output channels", out_channels)?;
        expect_positive("groups", groups)?;
        expect_eq("input channels in whole groups", sliding.channels / groups * groups, sliding.channels)?;
        expect_eq("output channels in whole groups", out_channels / groups * groups, out_channels)?;
        Ok(Self { sliding, out_channels, groups })
    }

    /// Whether there is one filter per channel: such convolutions have kernels of their own ([`crate::depthwise`]).
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.sliding.channels && self.groups == self.out_channels
    }

    /// Number of scalars of the output.
    pub fn out_len(&self) -> usize {
        self.sliding.out_pixels() * self.out_channels
    }

    /// Number of scalars of the weights.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.sliding.channels / self.groups * self.sliding.taps()
    }
}

/// `y[b, i, j, o] = Σ x[b, i*s + r*d - p, j*s + q*d - p, c] * w[o, r, q, c]`; `moments` receives the moments of `y` per
/// channel.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn forward(
    conv: &Conv,
    x: Operand<'_>,
    weights: &[f32],
    y: &mut [f32],
    moments: Option<&mut Moments>,
    workspace: &mut Workspace,
) -> Result<()> {
    expect_eq("convolution input", conv.sliding.in_len(), x.data.len())?;
    expect_eq("convolution weights", conv.weight_len(), weights.len())?;
    expect_eq("convolution output", conv.out_len(), y.len())?;
    if winograd::wins(conv) {
        winograd::forward(conv, x, weights, y, moments, workspace);
    } else {
        direct::forward(conv, x, weights, y, moments, workspace);
    }
    Ok(())
}

/// The gradient of the input, NHWC, from the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_data(
    conv: &Conv,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) -> Result<()> {
    expect_eq("convolution output gradient", conv.out_len(), dy.len())?;
    expect_eq("convolution weights", conv.weight_len(), weights.len())?;
    expect_eq("convolution input gradient", conv.sliding.in_len(), dx.len())?;
    if winograd::wins(conv) {
        winograd::backward_data(conv, dy, weights, dx, accumulate, workspace);
    } else {
        direct::backward_data(conv, dy, weights, dx, accumulate, workspace);
    }
    Ok(())
}

/// The gradient of the weights, OHWI, from the input and the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_weight(
    conv: &Conv,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) -> Result<()> {
    expect_eq("convolution input", conv.sliding.in_len(), x.data.len())?;
    expect_eq("convolution output gradient", conv.out_len(), dy.len())?;
    expect_eq("convolution weight gradient", conv.weight_len(), dw.len())?;
    if winograd::wins(conv) {
        winograd::backward_weight(conv, x, dy, dw, accumulate, workspace);
    } else {
        direct::backward_weight(conv, x, dy, dw, accumulate, workspace);
    }
    Ok(())
}
