//! Convolutions, dense and depthwise.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::conv::{self, Conv};
use crate::kernels::conv_weight;
use crate::kernels::depthwise;
use crate::kernels::geometry::{ShapeError, Sliding, Window, expect_eq};

/// Dense convolution: `x` `[B, H, W, C]`, `weight` `[O, C, kh, kw]`, result `[B, H', W', O]`; as `torch.nn.functional.conv2d`.
///
/// # Errors
/// Zero sizes, channels that disagree, a window larger than the padded input, or anything but contiguous f32.
pub fn conv2d(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    x.apply_op2(weight, ConvOp { window, kind: Kind::Dense })
}

/// Depthwise convolution: `x` `[B, H, W, C]`, `weight` `[C, 1, kh, kw]`, result `[B, H', W', C]`.
///
/// # Errors
/// As [`conv2d`].
pub fn depthwise_conv2d(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    x.apply_op2(weight, ConvOp { window, kind: Kind::Depthwise })
}

struct ConvOp {
    window: Window,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Dense,
    Depthwise,
}

/// A checked convolution of either kind.
enum Plan {
    Dense(Conv),
    Depthwise(Sliding),
}

impl ConvOp {
    fn plan(&self, x: &Shape, weight: &Shape) -> Result<Plan> {
        let (out, inner, rows, columns) = weight.dims4()?;
        let sliding = Sliding::new(x.dims4()?, (rows, columns), self.window).map_err(wrap)?;
        let plan = || -> std::result::Result<Plan, ShapeError> {
            match self.kind {
                Kind::Dense => {
                    expect_eq("channels of the convolution's weights", sliding.channels, inner)?;
                    Ok(Plan::Dense(Conv::new(sliding, out)?))
                }
                Kind::Depthwise => {
                    expect_eq("inner channels of the depthwise weights", 1, inner)?;
                    expect_eq("channels of the depthwise weights", sliding.channels, out)?;
                    Ok(Plan::Depthwise(sliding))
                }
            }
        };
        plan().map_err(wrap)
    }
}

impl Plan {
    fn output(&self) -> Shape {
        let (s, channels) = match self {
            Self::Dense(conv) => (&conv.sliding, conv.out_channels),
            Self::Depthwise(s) => (s, s.channels),
        };
        Shape::from((s.batch, s.out_height, s.out_width, channels))
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d-nhwc"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = self.plan(x_layout.shape(), weight_layout.shape())?;
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let y = match &plan {
            Plan::Dense(conv) => conv::forward(conv, x, weight),
            Plan::Depthwise(s) => depthwise::forward(s, x, weight),
        };
        Ok((CpuStorage::F32(y.map_err(wrap)?), plan.output()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let plan = self.plan(x.shape(), weight.shape())?;
        let dy = dy.contiguous()?;
        let (xs, ws, dy) = (host(x)?, host(weight)?, host(&dy)?);
        // The first layer's input needs no gradient: half of that layer's work.
        let dx = x.track_op().then(|| {
            let dx = match &plan {
                Plan::Dense(conv) => conv::backward_data(conv, &dy, &ws),
                Plan::Depthwise(s) => depthwise::backward_data(s, &dy, &ws),
            };
            tensor(dx.map_err(wrap)?, x.shape())
        });
        let dw = weight.track_op().then(|| {
            let dw = match &plan {
                Plan::Dense(conv) => conv_weight::backward_weight(conv, &xs, &dy),
                Plan::Depthwise(s) => depthwise::backward_weight(s, &xs, &dy),
            };
            tensor(dw.map_err(wrap)?, weight.shape())
        });
        Ok((dx.transpose()?, dw.transpose()?))
    }
}
