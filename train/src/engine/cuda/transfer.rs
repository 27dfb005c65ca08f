//! Values between the host, Candle's tensors and the tape's buffers.

use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Storage, Tensor};
use lgd_cuda::host::Uploader;
use lgd_cuda::{Buffer, Element, Slice, SliceMut, elementwise};
use lgd_kernels::geometry::expect_eq;

use super::CudaBackend;
use super::memory::CudaBuffer;
use crate::engine::backend::Images;
use crate::error::{Result, TrainError};

/// Batches of pixels that may be in upload at once.
const UPLOADS: usize = 2;

impl CudaBackend {
    pub(super) fn load_images(&mut self, images: Images<'_>, to: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, uploader, element, .. } = self;
        let stream = Arc::clone(gpu.stream());
        match images {
            Images::Normalized(values) => {
                let on = Buffer::from_host(&stream, values)?;
                let y = &mut to.room(gpu, pool, *element)?.as_mut();
                match element {
                    Element::F32 => y.copy_from(&stream, on.as_slice())?,
                    _ => elementwise::narrow(gpu, on.as_slice(), y)?,
                }
            }
            Images::Pixels { rgb, normalization } => {
                let ready = match uploader.take() {
                    Some((len, ready)) if len == rgb.len() => ready,
                    _ => Uploader::new(&stream, rgb.len(), UPLOADS)?,
                };
                let (_, uploader) = uploader.insert((rgb.len(), ready));
                uploader.upload(rgb)?;
                let statistics = (normalization.mean, normalization.std);
                let y = &mut to.room(gpu, pool, *element)?.as_mut();
                uploader.receive(|rgb| elementwise::images(gpu, rgb, statistics, y))?;
            }
        }
        Ok(())
    }

    /// A value as an f32 tensor of Candle's.
    pub(super) fn download(&mut self, from: &CudaBuffer, shape: &[usize]) -> Result<Tensor> {
        let device = self.device.as_cuda_device()?;
        let mut values = device.alloc_zeros::<f32>(from.len)?;
        let (from, to) = (from.values()?, &mut SliceMut::of(&mut values));
        match from.element() {
            Element::F32 => to.copy_from(self.gpu.stream(), from)?,
            _ => elementwise::widen(&mut self.gpu, from, to, false)?,
        }
        let storage = CudaStorage::wrap_cuda_slice(values, device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    /// Loads a gradient from a tensor of Candle's.
    pub(super) fn load(&mut self, from: &Tensor, to: &mut CudaBuffer) -> Result<()> {
        let from = from.to_device(&self.device)?.to_dtype(DType::F32)?.contiguous()?;
        expect_eq("values of an output's gradient", to.len, from.elem_count())?;
        let (storage, layout) = from.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return Err(TrainError::NothingRan) };
        let start = layout.start_offset();
        let Self { gpu, pool, .. } = self;
        let values = Slice::of(storage.as_cuda_slice::<f32>()?).slice(start..start + to.len)?;
        Ok(to.room(gpu, pool, Element::F32)?.as_mut().copy_from(gpu.stream(), values)?)
    }

    /// The norm of the gradients that the last update clipped, as a scalar tensor.
    pub(super) fn clipped_norm(&mut self) -> Result<Option<Tensor>> {
        let Some((_, tensors)) = &self.tensors else { return Ok(None) };
        let device = self.device.as_cuda_device()?;
        let mut norm = device.alloc_zeros::<f32>(1)?;
        SliceMut::of(&mut norm).copy_from(self.gpu.stream(), tensors.norm()?)?;
        let storage = CudaStorage::wrap_cuda_slice(norm, device.clone());
        Ok(Some(Tensor::from_storage(Storage::Cuda(storage), (), BackpropOp::none(), false)))
    }
}
