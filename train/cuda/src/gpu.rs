//! One device: the stream that everything is issued to, kernels, libraries and scratch memory.
#![expect(unsafe_code, reason = "asks the driver to keep freed memory, and cudarc not to track streams")]

use std::sync::Arc;

use cudarc::cublas::CudaBlas;
use cudarc::driver::{CudaContext, CudaStream, sys};

use crate::conv::Tuning;
use crate::dnn::Dnn;
use crate::error::CudaError;
use crate::launch::Kernels;
use crate::memory::{Buffer, Element, Slice};

/// A GPU and what is loaded on it. Operations take it by unique reference: they share its scratch memory.
pub struct Gpu {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    blas: CudaBlas,
    dnn: Dnn,
    scratch: Option<Buffer>,
    multiprocessors: usize,
}

impl Gpu {
    /// The device of `stream`.
    ///
    /// # Errors
    /// No driver, or cuBLAS or cuDNN not found.
    pub fn new(stream: Arc<CudaStream>, tuning: Tuning) -> Result<Self, CudaError> {
        let context = stream.context();
        keep_freed_memory(context)?;
        // SAFETY: everything of this context goes through one stream, except uploads, which are ordered by events of their own.
        unsafe { context.disable_event_tracking() };
        let count = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self {
            kernels: Kernels::load(&stream)?,
            blas: CudaBlas::new(Arc::clone(&stream))?,
            dnn: Dnn::new(&stream, tuning)?,
            scratch: None,
            multiprocessors: usize::try_from(count).unwrap_or(1),
            stream,
        })
    }

    /// The first device, on its default stream, as Candle's `Device::new_cuda(0)` uses it.
    ///
    /// # Errors
    /// No driver, no GPU, or cuBLAS or cuDNN not found.
    pub fn first(tuning: Tuning) -> Result<Self, CudaError> {
        Self::new(CudaContext::new(0)?.default_stream(), tuning)
    }

    /// Where everything is issued to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits until everything issued so far is done.
    ///
    /// # Errors
    /// An error of something that ran.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        Ok(self.stream.synchronize()?)
    }

    /// Room for `len` values, with arbitrary content.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn alloc(&self, element: Element, len: usize) -> Result<Buffer, CudaError> {
        Buffer::new(&self.stream, element, len)
    }

    /// Bytes of scratch memory held.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.as_ref().map_or(0, Buffer::bytes)
    }

    /// Blocks of a launch that fill the device `waves` times over, at one block per multiprocessor.
    pub(crate) fn blocks(&self, waves: usize) -> usize {
        self.multiprocessors * waves
    }

    pub(crate) fn kernels(&mut self) -> &mut Kernels {
        &mut self.kernels
    }

    pub(crate) fn blas(&self) -> &CudaBlas {
        &self.blas
    }

    pub(crate) fn dnn(&mut self) -> &mut Dnn {
        &mut self.dnn
    }

    /// Address of at least `bytes` of memory for the operation at work; the next operation may overwrite it.
    pub(crate) fn scratch(&mut self, bytes: usize) -> Result<u64, CudaError> {
        if self.scratch.as_ref().is_none_or(|scratch| scratch.len() < bytes) {
            // Freed first: the two together may not fit.
            self.scratch = None;
            self.scratch = Some(Buffer::new(&self.stream, Element::U8, bytes.next_multiple_of(1 << 20))?);
        }
        Ok(self.scratch.as_ref().map_or(0, |scratch| scratch.as_slice().address()))
    }

    /// The first `len` values of the scratch memory, which the next operation but the one that reads them may overwrite.
    pub(crate) fn scratch_slice<'a>(&self, element: Element, len: usize) -> Result<Slice<'a>, CudaError> {
        let scratch = self.scratch.as_ref().map(Buffer::as_slice);
        let bytes = scratch.map_or(0, Slice::len);
        if bytes < len * element.size() {
            crate::error::expect_eq("bytes of scratch memory", len * element.size(), bytes)?;
        }
        Ok(Slice::at(scratch.map_or(0, Slice::address), element, len))
    }
}

/// Without this every wait for the stream would hand freed memory back to the system.
fn keep_freed_memory(context: &Arc<CudaContext>) -> Result<(), CudaError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread()?;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is the context's; the pool is written by the first call and the attribute takes a pointer to a u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result()?;
    }
    Ok(())
}
