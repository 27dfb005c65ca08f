//! Dense layers, and similarities to the rows of a bank.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::activation::{self, Activation};
use crate::kernels::linear::{self, Linear};

/// `activation(x . weight^T + bias)`: `x` `[B, I]`, `weight` `[O, I]`, `bias` `[O]`.
///
/// # Errors
/// Sizes that are zero or disagree, or anything but contiguous f32.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    x.apply_op3(weight, bias, LinearOp { activation })
}

/// Dot products of the rows of `x` `[B, D]` with the rows of `bank` `[C, D]`: `[B, C]`.
///
/// # Errors
/// As [`linear()`].
pub fn similarity(x: &Tensor, bank: &Tensor) -> Result<Tensor> {
    x.apply_op2(bank, Similarity)
}

fn plan(x: &Shape, weight: &Shape) -> Result<Linear> {
    let (batch, inputs) = x.dims2()?;
    let (outputs, weight_inputs) = weight.dims2()?;
    if inputs != weight_inputs {
        bail!("a product of {x:?} with the transpose of {weight:?}");
    }
    Linear::new(batch, inputs, outputs).map_err(wrap)
}

/// Gradients of the input and the weights of a product, where they are wanted.
fn product_gradients(x: &Tensor, weight: &Tensor, dy: &[f32]) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let plan = plan(x.shape(), weight.shape())?;
    let (xs, ws) = (host(x)?, host(weight)?);
    let dx =
        x.track_op().then(|| tensor(plan.backward_data(dy, &ws).map_err(wrap)?, x.shape())).transpose()?;
    let dw = weight
        .track_op()
        .then(|| tensor(plan.backward_weight(&xs, dy).map_err(wrap)?, weight.shape()))
        .transpose()?;
    Ok((dx, dw))
}

struct LinearOp {
    activation: Activation,
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = plan(x_layout.shape(), weight_layout.shape())?;
        let outputs = weight_layout.dims()[0];
        if bias_layout.dims() != [outputs] {
            bail!("a bias of {:?} for {outputs} outputs", bias_layout.dims());
        }
        let mut y = plan.forward(slice(x, x_layout)?, slice(weight, weight_layout)?).map_err(wrap)?;
        linear::add_bias(&mut y, slice(bias, bias_layout)?, self.activation).map_err(wrap)?;
        Ok((CpuStorage::F32(y), Shape::from((x_layout.dims()[0], outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dy = activation::add_backward(self.activation, &host(y)?, &host(&dy)?).map_err(wrap)?;
        let (dx, dw) = product_gradients(x, weight, &dy)?;
        let db = tensor(linear::bias_gradient(&dy, bias.elem_count()), bias.shape())?;
        Ok((dx, dw, Some(db)))
    }
}

struct Similarity;

impl CustomOp2 for Similarity {
    fn name(&self) -> &'static str {
        "similarity"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bank: &CpuStorage,
        bank_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = plan(x_layout.shape(), bank_layout.shape())?;
        let y = plan.forward(slice(x, x_layout)?, slice(bank, bank_layout)?).map_err(wrap)?;
        Ok((CpuStorage::F32(y), Shape::from((x_layout.dims()[0], bank_layout.dims()[0]))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bank: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        product_gradients(x, bank, &host(&dy)?)
    }
}
