//! Distributions of the teacher. They are constants, and each column has a weight, which may be 0.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cross_entropy::LEFT_OUT;
use super::to_host;

/// `p[b,k] ∝ weights[k] exp(logits[b,k])`, each row summing to one: `[B, K]`. Not differentiable.
///
/// A column of weight 0 has probability 0, however large its logit is.
///
/// # Errors
/// If sizes disagree, logits require a gradient, or the device cannot be read.
pub fn softmax(logits: &Tensor, weights: &[f32]) -> Result<Tensor> {
    require_constant(logits, weights)?;
    if let Device::Cpu = logits.device() {
        let mut values = to_host(&logits.to_dtype(DType::F32)?)?;
        let rows = values.par_chunks_exact_mut(weights.len().max(1));
        rows.for_each(|row| softmax_row(row, weights));
        return Tensor::from_vec(values, logits.shape(), &Device::Cpu);
    }
    composed(logits, weights)
}

/// The same, composed of Candle's operations, so that the similarities to a long queue stay on their device.
fn composed(logits: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let offsets = weights.iter().map(|weight| if *weight > 0.0 { weight.ln() } else { LEFT_OUT }).collect();
    let offsets = Tensor::from_vec(offsets, weights.len(), logits.device())?;
    candle_nn::ops::softmax(&logits.broadcast_add(&offsets)?, D::Minus1)
}

fn softmax_row(row: &mut [f32], weights: &[f32]) {
    let active = row.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
    let max = active.map(|(value, _)| *value).fold(f32::MIN, f32::max);
    for (value, weight) in row.iter_mut().zip(weights) {
        *value = if *weight > 0.0 { weight * (*value - max).exp() } else { 0.0 };
    }
    normalize(row);
}

/// `p[b,k] weights[k]`, each row scaled to sum to one: `[B, K]`. Not differentiable.
///
/// If every product in a row is 0, its first column becomes 1.
///
/// # Errors
/// If sizes disagree, distributions require a gradient, or the device cannot be read.
pub fn reweighted(p: &Tensor, weights: &[f32]) -> Result<Tensor> {
    require_constant(p, weights)?;
    if !p.device().is_cpu() {
        // Reading it back would make the host wait for the device.
        return composed_reweighted(p, weights);
    }
    let mut values = to_host(&p.to_dtype(DType::F32)?)?;
    values.par_chunks_exact_mut(weights.len().max(1)).for_each(|row| {
        row.iter_mut().zip(weights).for_each(|(value, weight)| *value *= weight);
        normalize(row);
    });
    Tensor::from_vec(values, p.shape(), p.device())
}

/// The same, composed of Candle's operations.
fn composed_reweighted(p: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let weights = Tensor::new(weights, p.device())?;
    let p = p.broadcast_mul(&weights)?;
    let sum = p.sum_keepdim(D::Minus1)?;
    let empty = sum.eq(0.0)?.to_dtype(DType::F32)?;
    let first = p.narrow(D::Minus1, 0, 1)?;
    let rest = p.narrow(D::Minus1, 1, p.dim(D::Minus1)? - 1)?;
    Tensor::cat(&[&(first + &empty)?, &rest], D::Minus1)?.broadcast_div(&(sum + empty)?)
}

fn require_constant(tensor: &Tensor, weights: &[f32]) -> Result<()> {
    if tensor.track_op() {
        bail!("a teacher's distribution has no gradient: detach it");
    }
    let (_, columns) = tensor.dims2()?;
    if columns != weights.len() {
        bail!(
            "distributions {:?}: expected a weight per column, got {} weights",
            tensor.dims(),
            weights.len()
        );
    }
    Ok(())
}

fn normalize(row: &mut [f32]) {
    let sum: f64 = row.iter().map(|value| f64::from(*value)).sum();
    if sum > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
        row.iter_mut().for_each(|value| *value = (f64::from(*value) / sum) as f32);
    } else if let Some(first) = row.first_mut() {
        *first = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_as_often_as_its_weight_on_every_device() {
        let logits: Vec<f32> = vec![0.5, 80.0, -3.0, 2.0, 1.0, 90.0, 0.0, 0.0];
        let logits = Tensor::from_vec(logits, (2, 4), &Device::Cpu).unwrap();
        let weights = [1.0, 0.0, 40.0, 3.0];
        let p = softmax(&logits, &weights).unwrap().to_vec2::<f32>().unwrap();
        let e = |logit: f64, weight: f64| weight * logit.exp();
        for (p, logits) in p.iter().zip([[0.5, -3.0, 2.0], [1.0, 0.0, 0.0]]) {
            let mass = [e(logits[0], 1.0), e(logits[1], 40.0), e(logits[2], 3.0)];
            let sum: f64 = mass.iter().sum();
            let expected = [mass[0] / sum, 0.0, mass[1] / sum, mass[2] / sum];
            assert!(
                p.iter().zip(expected).all(|(p, e)| (f64::from(*p) - e).abs() < 1e-6),
                "{p:?} {expected:?}"
            );
        }
        let other = composed(&logits, &weights).unwrap().to_vec2::<f32>().unwrap();
        for (a, b) in p.iter().flatten().zip(other.iter().flatten()) {
            assert!((a - b).abs() < 1e-6, "{p:?} {other:?}");
        }
        let again = reweighted(&Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap(), &weights).unwrap();
        let share = |weight: f32| weight / 44.0;
        for (p, expected) in again.to_vec2::<f32>().unwrap()[1].iter().zip(weights.map(share)) {
            assert!((p - expected).abs() < 1e-6);
        }
        let other = composed_reweighted(&Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap(), &weights);
        assert_eq!(other.unwrap().to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn a_row_of_which_nothing_is_left_is_its_first_slot() {
        let p = Tensor::new(&[[0.0_f32, 1.0, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(reweighted(&p, &[1.0, 0.0, 1.0]).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0]]);
        let other = composed_reweighted(&p, &[1.0, 0.0, 1.0]).unwrap();
        assert_eq!(other.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0]]);
        assert!(reweighted(&p, &[1.0, 0.0]).is_err() && softmax(&p, &[1.0]).is_err());
    }
}
