//! Saved tensors of the CPU, by node, and the mask of a batch.

use lgd_kernels::batch_norm::Normalization;
use lgd_kernels::geometry::{self, expect_eq};
use lgd_kernels::mask::Mask;
use lgd_kernels::{Moments, Operand};

use super::Buffer;
use crate::engine::backend::FusedOperand;
use crate::error::{Result, TrainError};

/// Tensors that a node saves in the forward pass for the backward pass. The next step reuses their memory.
#[derive(Default)]
pub(super) struct Saved {
    /// Of a normalization: the moments that the convolution before it computed; no rows if it computed none.
    pub(super) moments: Moments,
    /// Of a normalization: statistics and factors.
    pub(super) norm: Option<Normalization>,
    /// Of a max-pool: the position of each largest value in its window.
    pub(super) argmax: Vec<u8>,
    /// Of a dropout: the factor of each value or image.
    pub(super) factors: Vec<f32>,
}

/// The mask of a batch.
pub(super) struct OwnedMask {
    /// Per image and cell, whether it is visible.
    visible: Vec<bool>,
    rows: usize,
    columns: usize,
    /// [`Mask::shares`], one per image.
    pub(super) shares: Vec<f32>,
}

impl OwnedMask {
    pub(super) fn new(visible: &[bool], rows: usize, columns: usize) -> geometry::Result<Self> {
        let shares = Mask { visible, rows, columns }.shares()?;
        Ok(Self { visible: visible.to_vec(), rows, columns, shares })
    }

    pub(super) fn view(&self) -> Mask<'_> {
        Mask { visible: &self.visible, rows: self.rows, columns: self.columns }
    }
}

/// The saved normalization of node `id`.
pub(super) fn norm(saved: &[Saved], id: usize) -> Result<&Normalization> {
    saved.get(id).and_then(|saved| saved.norm.as_ref()).ok_or(TrainError::NothingRan)
}

/// An operand for a kernel, which applies the pending normalization while it reads.
pub(super) fn operand<'a>(saved: &'a [Saved], x: FusedOperand<'a, Buffer>) -> Result<Operand<'a>> {
    let norm = x.norm.map(|id| norm(saved, id)).transpose()?;
    Ok(Operand { data: x.buffer, norm: norm.map(Normalization::affine) })
}

/// Splits `values` into as many equal parts as there are `factors`, and multiplies each part by its factor.
pub(super) fn scale_parts(values: &mut [f32], factors: &[f32]) -> Result<()> {
    if factors.is_empty() {
        return Err(TrainError::NothingRan);
    }
    let per = values.len() / factors.len();
    expect_eq("values in equal parts", per * factors.len(), values.len())?;
    for (values, factor) in values.chunks_exact_mut(per.max(1)).zip(factors) {
        values.iter_mut().for_each(|value| *value *= factor);
    }
    Ok(())
}
