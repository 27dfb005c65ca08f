//! Host slices of tensors.

use std::ops::Deref;

use candle_core::{CpuStorage, Device, Error, Layout, Result, Shape, Storage, Tensor, bail};

use lgd_kernels::ShapeError;

/// The values of a contiguous f32 CPU storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("expected a contiguous tensor, got {layout:?}"),
        _ => bail!("expected f32 values"),
    }
}

/// A contiguous f32 CPU tensor, locked for reading by the guard `G`.
pub(crate) struct Host<G> {
    storage: G,
    start: usize,
    end: usize,
}

/// Locks `tensor` for reading.
pub(crate) fn host(tensor: &Tensor) -> Result<Host<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(values) = &*storage else { bail!("the operation runs on the CPU only") };
    let len = slice(values, layout)?.len();
    let start = layout.start_offset();
    Ok(Host { storage, start, end: start + len })
}

impl<G: Deref<Target = Storage>> Deref for Host<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.end],
            // `host` accepts nothing else.
            _ => &[],
        }
    }
}

/// A CPU tensor that owns `values`.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Converts a kernel's error to Candle's.
pub(super) fn wrap(error: ShapeError) -> Error {
    Error::wrap(error)
}
