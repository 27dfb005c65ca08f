//! One device: its stream, kernels, libraries and scratch memory.
#![expect(unsafe_code, reason = "asks the driver to keep freed memory, and cudarc not to track streams")]

use std::sync::Arc;

use cudarc::cublas::CudaBlas;
use cudarc::cublas::result::CublasError;
use cudarc::driver::{CudaContext, CudaStream, sys};

use crate::conv::Tuning;
use crate::dnn::Dnn;
use crate::error::{CudaError, Result};
use crate::launch::Kernels;
use crate::memory::{Buffer, Element};

/// Environment variable of a debug switch. If it is set, neither scratch memory nor a pool that checks
/// [`Gpu::reuses_memory`] reuses memory. A tool that poisons freed and new memory then finds every read of a value that
/// no kernel wrote.
pub const FRESH_MEMORY: &str = "LGD_CUDA_FRESH_MEMORY";

/// A GPU with its stream, kernels and libraries. Operations take it by unique reference, because they share its scratch memory.
pub struct Gpu {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    blas: CudaBlas,
    dnn: Dnn,
    scratch: Option<Buffer>,
    fresh_memory: bool,
    multiprocessors: usize,
}

impl Gpu {
    /// The device of `stream`.
    ///
    /// # Errors
    /// No driver, or cuBLAS or cuDNN not found.
    pub fn new(stream: Arc<CudaStream>, tuning: Tuning) -> Result<Self> {
        let context = stream.context();
        keep_freed_memory(context)?;
        // SAFETY: all work of this context goes through one stream, except uploads, which have their own events for
        // ordering.
        unsafe { context.disable_event_tracking() };
        let count = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self {
            kernels: Kernels::load(&stream)?,
            blas: CudaBlas::new(Arc::clone(&stream)).map_err(no_blas)?,
            dnn: Dnn::new(&stream, tuning)?,
            scratch: None,
            fresh_memory: std::env::var_os(FRESH_MEMORY).is_some(),
            multiprocessors: usize::try_from(count).unwrap_or(1),
            stream,
        })
    }

    /// The first device, on its default stream, as Candle's `Device::new_cuda(0)` uses it.
    ///
    /// # Errors
    /// No driver, no GPU, or cuBLAS or cuDNN not found.
    pub fn first(tuning: Tuning) -> Result<Self> {
        Self::new(CudaContext::new(0)?.default_stream(), tuning)
    }

    /// The stream that runs all work.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits until all work issued so far is done.
    ///
    /// # Errors
    /// An error of that work.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    /// Allocates a buffer of `len` values with arbitrary content.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn alloc(&self, element: Element, len: usize) -> Result<Buffer> {
        Buffer::new(&self.stream, element, len)
    }

    /// Bytes of scratch memory.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.as_ref().map_or(0, Buffer::bytes)
    }

    /// Number of blocks that fill the device `waves` times over, at one block per multiprocessor.
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

    /// Whether freed memory is reused; see [`FRESH_MEMORY`].
    pub fn reuses_memory(&self) -> bool {
        !self.fresh_memory
    }

    /// Address of at least `bytes` of scratch memory for the operation in progress; the next operation overwrites it.
    pub(crate) fn scratch(&mut self, bytes: usize) -> Result<u64> {
        let scratch = self.lend_scratch(bytes)?;
        let address = scratch.as_slice().address();
        self.restore_scratch(scratch);
        Ok(address)
    }

    /// Takes out the scratch memory, at least `bytes` of it, so that slices can borrow from it while operations run
    /// that do not use it. Return it with [`restore_scratch`](Self::restore_scratch).
    pub(crate) fn lend_scratch(&mut self, bytes: usize) -> Result<Buffer> {
        match self.scratch.take() {
            Some(scratch) if scratch.len() >= bytes && self.reuses_memory() => Ok(scratch),
            previous => {
                // Freed first, because both together may not fit.
                drop(previous);
                let rounded = if self.reuses_memory() { bytes.next_multiple_of(1 << 20) } else { bytes };
                Buffer::new(&self.stream, Element::U8, rounded)
            }
        }
    }

    /// Restores the scratch memory.
    pub(crate) fn restore_scratch(&mut self, scratch: Buffer) {
        self.scratch = Some(scratch);
    }
}

fn no_blas(error: CublasError) -> CudaError {
    CudaError::Library { library: "cuBLAS 13 or 12", reason: error.to_string() }
}

/// Keeps freed memory in the driver's pool; by default every wait for the stream returns it to the system.
fn keep_freed_memory(context: &Arc<CudaContext>) -> Result<()> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread()?;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device belongs to the context. The first call writes the pool, and the attribute takes a pointer to a
    // u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result()?;
    }
    Ok(())
}
