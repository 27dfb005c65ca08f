//! Pools.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::geometry::{Sliding, Window};
use crate::kernels::pool;

/// Max-pool of `x` `[B, H, W, C]` with a square window of `side` taps; as `torch.nn.functional.max_pool2d`.
///
/// # Errors
/// Zero sizes, a window larger than the padded input, or anything but contiguous f32.
pub fn max_pool2d(x: &Tensor, side: usize, window: Window) -> Result<Tensor> {
    x.apply_op1(MaxPool { side, window, winners: OnceLock::new() })
}

/// Mean over the positions: `[B, H, W, C]` to `[B, C]`.
///
/// # Errors
/// Zero sizes, or anything but contiguous f32.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(GlobalAverage)
}

struct MaxPool {
    side: usize,
    window: Window,
    /// Set once, by the forward pass of the one application this value is made for.
    winners: OnceLock<Vec<u8>>,
}

impl MaxPool {
    fn sliding(&self, x: &Shape) -> Result<Sliding> {
        Sliding::new(x.dims4()?, (self.side, self.side), self.window).map_err(wrap)
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-nhwc"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = self.sliding(layout.shape())?;
        let (y, winners) = pool::max_forward(&s, slice(x, layout)?).map_err(wrap)?;
        if self.winners.set(winners).is_err() {
            bail!("a max-pool was applied twice");
        }
        Ok((CpuStorage::F32(y), Shape::from((s.batch, s.out_height, s.out_width, s.channels))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Some(winners) = self.winners.get() else { bail!("a max-pool's winners are missing") };
        let dy = dy.contiguous()?;
        let dx = pool::max_backward(&self.sliding(x.shape())?, winners, &host(&dy)?).map_err(wrap)?;
        tensor(dx, x.shape()).map(Some)
    }
}

struct GlobalAverage;

impl CustomOp1 for GlobalAverage {
    fn name(&self) -> &'static str {
        "global-average-pool-nhwc"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let y = pool::average_forward(slice(x, layout)?, height * width, channels).map_err(wrap)?;
        Ok((CpuStorage::F32(y), Shape::from((batch, channels))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = x.dims4()?;
        let dy = dy.contiguous()?;
        let dx = pool::average_backward(&host(&dy)?, height * width, channels).map_err(wrap)?;
        tensor(dx, x.shape()).map(Some)
    }
}
