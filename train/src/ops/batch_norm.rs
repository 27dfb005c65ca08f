//! Batch normalisation fused with an activation.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::activation::Activation;
use crate::kernels::batch_norm::{self, BatchStatistics};

/// Added to the variance, as in torchvision.
const EPS: f32 = 1e-5;

/// Training: normalises `x` `[.., C]` by its own statistics over all leading axes, then `* scale + shift` (`[C]`), then the
/// activation. Returns the statistics too, for the running ones.
///
/// # Errors
/// Sizes that disagree, no rows, or anything but contiguous f32 on the CPU.
pub fn batch_norm_train(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Arc<OnceLock<BatchStatistics>>)> {
    let statistics = Arc::new(OnceLock::new());
    let y = x.apply_op3(scale, shift, BatchNorm { activation, statistics: Arc::clone(&statistics) })?;
    Ok((y, statistics))
}

/// Inference: the same with running statistics (`[C]`). No gradient is defined: asking for one is an error.
///
/// # Errors
/// As [`batch_norm_train`].
pub fn batch_norm_inference(
    x: &Tensor,
    (scale, shift): (&Tensor, &Tensor),
    (mean, variance): (&Tensor, &Tensor),
    activation: Activation,
) -> Result<Tensor> {
    let running = (host(mean)?.to_vec(), host(variance)?.to_vec());
    x.apply_op3(scale, shift, BatchNormInference { activation, running })
}

/// Copies the running statistics, updated by one batch's, back into `mean` and `variance`.
///
/// # Errors
/// Anything but contiguous f32 on the CPU.
pub fn update_running(
    statistics: &OnceLock<BatchStatistics>,
    momentum: f32,
    mean: &candle_core::Var,
    variance: &candle_core::Var,
) -> Result<()> {
    let Some(statistics) = statistics.get() else { bail!("batch statistics are missing") };
    let mut running = (host(mean)?.to_vec(), host(variance)?.to_vec());
    batch_norm::update_running(statistics, momentum, &mut running.0, &mut running.1);
    mean.set(&tensor(running.0, mean.shape())?)?;
    variance.set(&tensor(running.1, variance.shape())?)
}

struct BatchNorm {
    activation: Activation,
    /// Set once, by the forward pass of the one application this value is made for.
    statistics: Arc<OnceLock<BatchStatistics>>,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        check_channels(x_layout, scale_layout)?;
        let (x, scale, shift) =
            (slice(x, x_layout)?, slice(scale, scale_layout)?, slice(shift, shift_layout)?);
        let (y, statistics) = batch_norm::forward(x, scale, shift, EPS, self.activation).map_err(wrap)?;
        if self.statistics.set(statistics).is_err() {
            bail!("a batch normalisation was applied twice");
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(statistics) = self.statistics.get() else { bail!("batch statistics are missing") };
        let dy = dy.contiguous()?;
        let inputs = (host(x)?, host(y)?, host(&dy)?);
        let inputs = (&*inputs.0, &*inputs.1, &*inputs.2);
        let gradients =
            batch_norm::backward(inputs, &host(scale)?, statistics, self.activation).map_err(wrap)?;
        Ok((
            Some(tensor(gradients.input, x.shape())?),
            Some(tensor(gradients.scale, scale.shape())?),
            Some(tensor(gradients.shift, shift.shape())?),
        ))
    }
}

struct BatchNormInference {
    activation: Activation,
    running: (Vec<f32>, Vec<f32>),
}

impl CustomOp3 for BatchNormInference {
    fn name(&self) -> &'static str {
        "batch-norm-inference"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        check_channels(x_layout, scale_layout)?;
        let affine = (slice(scale, scale_layout)?, slice(shift, shift_layout)?);
        let running = (&self.running.0[..], &self.running.1[..]);
        let y = batch_norm::inference(slice(x, x_layout)?, affine, running, EPS, self.activation)
            .map_err(wrap)?;
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}

fn check_channels(x: &Layout, scale: &Layout) -> Result<()> {
    if x.dims().last() != scale.dims().last() || scale.dims().len() != 1 {
        bail!("batch normalisation of {:?} with a scale of {:?}", x.dims(), scale.dims());
    }
    Ok(())
}
