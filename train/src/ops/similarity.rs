//! Similarities to the rows of a bank.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use lgd_kernels::linear::{self, Linear};
use lgd_kernels::{Operand, Workspace};

use super::host::{host, slice, tensor, wrap};

/// Dot products of the rows of `x` `[B, D]` with the rows of `bank` `[C, D]`: `[B, C]`.
///
/// # Errors
/// If sizes are zero or disagree, the bank requires a gradient, or, on the CPU, a tensor is not contiguous f32.
pub fn similarity(x: &Tensor, bank: &Tensor) -> Result<Tensor> {
    if bank.track_op() {
        bail!("similarities have no gradient for their bank: detach it");
    }
    match x.device() {
        Device::Cpu => x.apply_op2(bank, Similarity),
        _ => x.matmul(&bank.t()?),
    }
}

struct Similarity;

fn plan(x: &Shape, bank: &Shape) -> Result<Linear> {
    let (batch, inputs) = x.dims2()?;
    let (rows, dim) = bank.dims2()?;
    if inputs != dim {
        bail!("similarities: expected rows and bank of the same width, got {x:?} and {bank:?}");
    }
    Linear::new(batch, inputs, rows).map_err(wrap)
}

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
        let (x, bank) = (slice(x, x_layout)?, slice(bank, bank_layout)?);
        let mut y = vec![0.0; plan.batch * plan.outputs];
        linear::forward(&plan, Operand::plain(x), bank, None, &mut y, &mut Workspace::new()).map_err(wrap)?;
        Ok((CpuStorage::F32(y), Shape::from((plan.batch, plan.outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bank: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let plan = plan(x.shape(), bank.shape())?;
        let dy = dy.contiguous()?;
        let mut dx = vec![0.0; plan.batch * plan.inputs];
        let (dy, bank) = (host(&dy)?, host(bank)?);
        linear::backward_data(&plan, &dy, &bank, &mut dx, false, &mut Workspace::new()).map_err(wrap)?;
        Ok((Some(tensor(dx, x.shape())?), None))
    }
}
