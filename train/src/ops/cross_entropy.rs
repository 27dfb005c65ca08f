//! Soft cross-entropy straight from logits and target distributions.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::log_softmax;
use lgd_kernels::rows::{self, Targets};

use super::host::{slice, tensor, wrap};
use super::to_host;

/// Logit of columns that are left out, if log-softmax is composed or rows leave out different columns: its `exp` is 0, and 0
/// times it is 0.
pub(crate) const LEFT_OUT: f32 = -1e30;

/// Mean over the rows of `-Σ_k p log_softmax(z)`: logits `z` and targets `p` `[B, K]`, a scalar (docs/methods.md section 1).
///
/// Columns that are not `active` are left out of the softmax and of the sum. Targets are constants and need not sum to
/// one.
///
/// # Errors
/// If sizes disagree, no column is active, targets require a gradient, or a tensor is not contiguous f32.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor, active: Arc<[bool]>) -> Result<Tensor> {
    if targets.track_op() {
        bail!("soft cross-entropy has no gradient for its targets: detach them");
    }
    let (_, columns) = logits.dims2()?;
    if logits.dims() != targets.dims() || columns != active.len() {
        let (logits, targets, active) = (logits.dims(), targets.dims(), active.len());
        bail!(
            "soft cross-entropy: expected targets of shape {logits:?} and a flag per column, got targets {targets:?} and {active} flags"
        );
    }
    if !active.contains(&true) {
        bail!("soft cross-entropy: no column is active");
    }
    if let Device::Cpu = logits.device() {
        let targets = Owned::Dense(to_host(&targets.to_dtype(DType::F32)?)?);
        return logits.apply_op1(SoftCrossEntropy { targets, active, softmax: OnceLock::new() });
    }
    composed(logits, targets, &active)
}

/// The same loss, composed of Candle's operations.
fn composed(logits: &Tensor, targets: &Tensor, active: &[bool]) -> Result<Tensor> {
    let (rows, columns) = logits.dims2()?;
    let offsets: Vec<f32> = active.iter().map(|&on| if on { 0.0 } else { LEFT_OUT }).collect();
    let logits = logits.broadcast_add(&Tensor::from_vec(offsets, columns, logits.device())?)?;
    let log_softmax = log_softmax(&logits, D::Minus1)?;
    let kept: Vec<f32> = active.iter().map(|&on| f32::from(u8::from(on))).collect();
    let targets = targets.broadcast_mul(&Tensor::from_vec(kept, columns, logits.device())?)?;
    (targets * log_softmax)?.sum_all()? * (-1.0 / real(rows))
}

/// The same loss with targets for `k` columns per row: `indices` `[B, k]` (u32) and their `probabilities` `[B, k]`. The
/// other columns have probability 0.
///
/// # Errors
/// Those of [`soft_cross_entropy`]. On the CPU, also a column that does not exist. Other devices gather without a check:
/// callers check columns where they read them.
pub fn soft_cross_entropy_top_k(logits: &Tensor, indices: &Tensor, probabilities: &Tensor) -> Result<Tensor> {
    let (rows, columns) = logits.dims2()?;
    let (target_rows, k) = indices.dims2()?;
    if target_rows != rows || indices.dims() != probabilities.dims() {
        let (logits, indices, p) = (logits.dims(), indices.dims(), probabilities.dims());
        bail!(
            "soft cross-entropy: expected a row of targets per row of logits {logits:?}, got indices {indices:?} and probabilities {p:?}"
        );
    }
    if let Device::Cpu = logits.device() {
        let indices = indices.flatten_all()?.to_vec1::<u32>()?;
        let targets = Owned::Sparse { indices, probabilities: to_host(probabilities)?, k };
        let active = vec![true; columns].into();
        return logits.apply_op1(SoftCrossEntropy { targets, active, softmax: OnceLock::new() });
    }
    composed_top_k(logits, indices, probabilities)
}

/// The same loss, composed of Candle's operations.
fn composed_top_k(logits: &Tensor, indices: &Tensor, probabilities: &Tensor) -> Result<Tensor> {
    let picked = log_softmax(logits, D::Minus1)?.gather(indices, D::Minus1)?;
    (probabilities * picked)?.sum_all()? * (-1.0 / real(logits.dim(0)?))
}

/// Targets on the host.
enum Owned {
    Dense(Vec<f32>),
    Sparse { indices: Vec<u32>, probabilities: Vec<f32>, k: usize },
}

impl Owned {
    fn view(&self) -> Targets<'_> {
        match self {
            Self::Dense(p) => Targets::Dense(p),
            Self::Sparse { indices, probabilities, k } => Targets::Sparse { indices, probabilities, k: *k },
        }
    }
}

struct SoftCrossEntropy {
    targets: Owned,
    active: Arc<[bool]>,
    /// Set once, by the forward pass of the one application that this value is created for.
    softmax: OnceLock<Vec<f32>>,
}

impl CustomOp1 for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft-cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = slice(logits, layout)?;
        let mut softmax = vec![0.0; logits.len()];
        let loss = rows::cross_entropy_forward(logits, self.targets.view(), &self.active, &mut softmax);
        if self.softmax.set(softmax).is_err() {
            bail!("soft cross-entropy: the operation was applied twice");
        }
        Ok((CpuStorage::F32(vec![loss.map_err(wrap)?]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let Some(softmax) = self.softmax.get() else {
            bail!("soft cross-entropy: the backward pass ran before the forward pass")
        };
        let dloss = dloss.to_scalar::<f32>()?;
        let mut gradient = vec![0.0; softmax.len()];
        rows::cross_entropy_backward(softmax, self.targets.view(), &self.active, dloss, &mut gradient)
            .map_err(wrap)?;
        tensor(gradient, logits.shape()).map(Some)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^53 rows")]
fn real(rows: usize) -> f64 {
    rows as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// The loss, and its gradient with respect to the logits.
    fn differentiate(loss: impl Fn(&Tensor) -> Result<Tensor>, logits: &Tensor) -> (f32, Vec<f32>) {
        let logits = Var::from_tensor(logits).unwrap();
        let loss = loss(&logits).unwrap();
        let gradients = loss.backward().unwrap();
        (loss.to_scalar().unwrap(), to_host(gradients.get(&logits).unwrap()).unwrap())
    }

    #[track_caller]
    fn agree(a: (f32, Vec<f32>), b: (f32, Vec<f32>)) {
        let close = |a: &f32, b: &f32| (a - b).abs() < 1e-6;
        assert!(close(&a.0, &b.0) && a.1.iter().zip(&b.1).all(|(a, b)| close(a, b)), "{a:?} {b:?}");
        assert!(a.1.iter().any(|value| value.abs() > 0.01), "{a:?}");
    }

    /// Candle's log-softmax differentiates the maximum of a row. That gradient is wrong if two logits share the
    /// maximum, but its two parts cancel. Targets that do not sum to one must not change this.
    #[test]
    fn ties_and_unnormalized_targets_have_the_same_gradient_on_every_device() {
        let cpu = &Device::Cpu;
        let logits = Tensor::new(&[[2.0_f32, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]], cpu).unwrap();
        let targets = Tensor::new(&[[0.5_f32, 0.1, 0.3, 0.4], [0.0, 1.0, 0.2, 0.0]], cpu).unwrap();
        for active in [[true; 4], [true, true, false, true], [false, true, true, true]] {
            let ours = differentiate(|x| soft_cross_entropy(x, &targets, active.into()), &logits);
            agree(ours, differentiate(|x| composed(x, &targets, &active), &logits));
        }
        let indices = Tensor::new(&[[1_u32, 2], [3, 0]], cpu).unwrap();
        let p = Tensor::new(&[[0.7_f32, 0.2], [0.6, 0.4]], cpu).unwrap();
        let ours = differentiate(|x| soft_cross_entropy_top_k(x, &indices, &p), &logits);
        agree(ours, differentiate(|x| composed_top_k(x, &indices, &p), &logits));
    }
}
