//! The sum of two branches, fused with an activation.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::activation::{self, Activation};

/// `activation(a + b)`, element by element; both of one shape.
///
/// # Errors
/// Shapes that differ, or anything but contiguous f32.
pub fn add(a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    a.apply_op2(b, Add { activation })
}

struct Add {
    activation: Activation,
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add-activation"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if a_layout.shape() != b_layout.shape() {
            bail!("cannot add {:?} and {:?}", a_layout.shape(), b_layout.shape());
        }
        let y = activation::add(self.activation, slice(a, a_layout)?, slice(b, b_layout)?).map_err(wrap)?;
        Ok((CpuStorage::F32(y), a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _a: &Tensor,
        _b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.activation == Activation::Identity {
            return Ok((Some(dy.clone()), Some(dy.clone())));
        }
        let dy = dy.contiguous()?;
        let gradient = activation::add_backward(self.activation, &host(y)?, &host(&dy)?).map_err(wrap)?;
        let gradient = tensor(gradient, y.shape())?;
        Ok((Some(gradient.clone()), Some(gradient)))
    }
}
