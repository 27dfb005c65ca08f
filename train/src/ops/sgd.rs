//! The optimiser's updates, in place.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use super::host::slice;
use crate::kernels::sgd;

/// `velocity = momentum * velocity + gradient + weight_decay * parameter`, in place.
///
/// # Errors
/// Shapes that differ, or anything but contiguous f32.
pub fn accumulate(
    velocity: &Tensor,
    gradient: &Tensor,
    parameter: &Tensor,
    (momentum, weight_decay): (f32, f32),
) -> Result<()> {
    if velocity.shape() != gradient.shape() || velocity.shape() != parameter.shape() {
        let (gradient, parameter) = (gradient.shape(), parameter.shape());
        bail!("a gradient of {gradient:?} for a parameter of {parameter:?}");
    }
    velocity.inplace_op3(gradient, parameter, &Accumulate { momentum, weight_decay })
}

/// `parameter -= lr * velocity`, in place.
///
/// # Errors
/// As [`accumulate`].
pub fn descend(parameter: &Tensor, velocity: &Tensor, lr: f32) -> Result<()> {
    if parameter.shape() != velocity.shape() {
        bail!("a velocity of {:?} for a parameter of {:?}", velocity.shape(), parameter.shape());
    }
    parameter.inplace_op2(velocity, &Descend { lr })
}

struct Accumulate {
    momentum: f32,
    weight_decay: f32,
}

impl InplaceOp3 for Accumulate {
    fn name(&self) -> &'static str {
        "sgd-accumulate"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        parameter: &CpuStorage,
        parameter_layout: &Layout,
    ) -> Result<()> {
        let (gradient, parameter) = (slice(gradient, gradient_layout)?, slice(parameter, parameter_layout)?);
        let velocity = slice_mut(velocity, layout)?;
        sgd::accumulate(velocity, gradient, parameter, self.momentum, self.weight_decay);
        Ok(())
    }
}

struct Descend {
    lr: f32,
}

impl InplaceOp2 for Descend {
    fn name(&self) -> &'static str {
        "sgd-descend"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        velocity: &CpuStorage,
        velocity_layout: &Layout,
    ) -> Result<()> {
        let velocity = slice(velocity, velocity_layout)?;
        sgd::descend(slice_mut(parameter, layout)?, velocity, self.lr);
        Ok(())
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("the optimiser needs contiguous f32 tensors"),
    }
}
