//! L2 normalisation and soft cross-entropy.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::host::{host, slice, tensor, wrap};
use crate::kernels::rows;

/// Rows of `x` `[B, K]` divided by their L2 norm (at least 1e-12); as `torch.nn.functional.normalize`.
///
/// # Errors
/// Zero sizes, or anything but contiguous f32.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Normalize)
}

/// Mean over the rows of `-Σ_k p log_softmax(z)`: logits `z` and targets `p` `[B, K]`, a scalar (METHODS.md section 1).
///
/// Columns that are not `active` are left out of the softmax and of the sum. Targets are constants and need not sum to one.
///
/// # Errors
/// Sizes that disagree, no active column, targets that want a gradient, or anything but contiguous f32.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor, active: Arc<[bool]>) -> Result<Tensor> {
    if targets.track_op() {
        bail!("soft cross-entropy does not differentiate its targets: detach them");
    }
    logits.apply_op2(targets, SoftCrossEntropy { active, softmax: OnceLock::new() })
}

struct Normalize;

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "l2-normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, columns) = layout.shape().dims2()?;
        let y = rows::normalize_forward(slice(x, layout)?, columns).map_err(wrap)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, columns) = x.dims2()?;
        let dy = dy.contiguous()?;
        let dx = rows::normalize_backward(&host(x)?, &host(&dy)?, columns).map_err(wrap)?;
        tensor(dx, x.shape()).map(Some)
    }
}

struct SoftCrossEntropy {
    active: Arc<[bool]>,
    /// Set once, by the forward pass of the one application this value is made for.
    softmax: OnceLock<Vec<f32>>,
}

impl CustomOp2 for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, columns) = logits_layout.shape().dims2()?;
        if logits_layout.shape() != targets_layout.shape() || columns != self.active.len() {
            let (logits, targets, active) = (logits_layout.dims(), targets_layout.dims(), self.active.len());
            bail!("soft cross-entropy of logits {logits:?} and targets {targets:?} with {active} columns");
        }
        let (logits, targets) = (slice(logits, logits_layout)?, slice(targets, targets_layout)?);
        let (loss, softmax) = rows::cross_entropy_forward(logits, targets, &self.active).map_err(wrap)?;
        if self.softmax.set(softmax).is_err() {
            bail!("a soft cross-entropy was applied twice");
        }
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(softmax) = self.softmax.get() else { bail!("a softmax is missing") };
        let dloss = dloss.to_scalar::<f32>()?;
        let gradient =
            rows::cross_entropy_backward(softmax, &host(targets)?, &self.active, dloss).map_err(wrap)?;
        Ok((Some(tensor(gradient, logits.shape())?), None))
    }
}
