//! Saved tensors of the GPU, by node, and the mask of a batch.

use std::sync::Arc;

use lgd_cuda::elementwise::Draw;
use lgd_cuda::{Buffer, CudaError, Gpu, Mask, Norm, Operand};
use lgd_kernels::Sliding;

use super::memory::CudaBuffer;
use crate::engine::backend::FusedOperand;
use crate::engine::graph::{BatchNorm, Shape};
use crate::error::{Result, TrainError};

/// Tensors that a node saves in the forward pass for the backward pass. The next step reuses their memory.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) norm: Option<SavedNorm>,
    pub(super) pool: Option<SavedPool>,
    /// Of a dropout.
    pub(super) draw: Option<Draw>,
    /// Of a residual sum: the summands whose gradient sums its backward pass also computes.
    pub(super) summands: Vec<Summand>,
}

/// A batch normalization.
pub(super) struct SavedNorm {
    pub(super) spec: BatchNorm,
    /// Statistics and factors, `[SAVED][C]`.
    pub(super) values: Buffer,
    /// Whether the residual sum after it already computed the sums of its gradient.
    pub(super) summed: bool,
}

impl SavedNorm {
    /// The normalization as kernels apply it.
    fn view(&self) -> Norm<'_> {
        Norm { saved: self.values.as_slice(), activation: self.spec.activation }
    }
}

/// A max-pool.
pub(super) struct SavedPool {
    pub(super) sliding: Sliding,
    /// The position of each largest value in its window, as bytes.
    pub(super) argmax: Buffer,
}

/// A normalized summand of a residual sum.
pub(super) struct Summand {
    /// Input of the normalization.
    pub(super) x: Arc<Buffer>,
    /// Node of the normalization.
    pub(super) norm: usize,
}

/// The normalization that node `id` saved.
pub(super) fn norm(saved: &[Saved], id: usize) -> Result<Norm<'_>> {
    let norm = saved.get(id).and_then(|saved| saved.norm.as_ref());
    Ok(norm.ok_or(TrainError::NothingRan)?.view())
}

/// An operand for a kernel, which applies the pending normalization while it reads.
pub(super) fn operand<'a>(saved: &'a [Saved], x: FusedOperand<'a, CudaBuffer>) -> Result<Operand<'a>> {
    let norm = x.norm.map(|id| norm(saved, id)).transpose()?;
    Ok(Operand { data: x.buffer.values()?, norm })
}

/// The mask of a batch on the device.
pub(super) struct OwnedMask {
    visible: Buffer,
    /// The inverse of `visible`.
    hidden: Buffer,
    /// Visible cells.
    count: usize,
    cells: (usize, usize),
    /// Per image, the factor that turns a mean over all positions into one over visible positions; f32.
    pub(super) shares: Buffer,
}

impl OwnedMask {
    pub(super) fn new(
        gpu: &Gpu,
        mask: &lgd_kernels::mask::Mask<'_>,
        shares: &[f32],
    ) -> Result<Self, CudaError> {
        let upload = |shown: bool| {
            let bytes: Vec<u8> = mask.visible.iter().map(|&visible| u8::from(visible == shown)).collect();
            Buffer::from_host(gpu.stream(), &bytes)
        };
        let count = mask.visible.iter().filter(|&&visible| visible).count();
        let (visible, hidden) = (upload(true)?, upload(false)?);
        let shares = Buffer::from_host(gpu.stream(), shares)?;
        Ok(Self { visible, hidden, count, cells: (mask.rows, mask.columns), shares })
    }

    /// The mask over values of `shape`.
    pub(super) fn view(&self, shape: Shape) -> Mask<'_> {
        let image = (shape.height, shape.width);
        Mask { visible: self.visible.as_slice(), count: self.count, cells: self.cells, image }
    }

    /// The mask that shows the positions that this one hides.
    pub(super) fn inverse(&self, shape: Shape) -> Mask<'_> {
        let count = self.hidden.len() - self.count;
        Mask { visible: self.hidden.as_slice(), count, ..self.view(shape) }
    }
}
