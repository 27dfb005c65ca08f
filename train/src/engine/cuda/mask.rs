//! Which cells of a batch's images are visible.

use lgd_cuda::{Buffer, CudaError, Gpu, batch_norm};

use crate::engine::backend::Site;

/// A batch's mask on the device.
pub(super) struct Mask {
    visible: Buffer,
    /// The same the other way round.
    hidden: Buffer,
    /// Visible cells.
    count: usize,
    cells: (usize, usize),
    /// Per image the factor of a mean over visible positions; f32.
    pub(super) shares: Buffer,
}

impl Mask {
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

    pub(super) fn view(&self, at: Site<'_>) -> batch_norm::Mask<'_> {
        let image = (at.shape().height, at.shape().width);
        batch_norm::Mask { visible: self.visible.as_slice(), count: self.count, cells: self.cells, image }
    }

    /// The mask that shows what this one hides.
    pub(super) fn inverse(&self, at: Site<'_>) -> batch_norm::Mask<'_> {
        let count = self.hidden.len() - self.count;
        batch_norm::Mask { visible: self.hidden.as_slice(), count, ..self.view(at) }
    }
}
