//! Page-locked host memory, and copies to the device that overlap with computation.
#![expect(unsafe_code, reason = "page-locked memory, and copies on a second stream ordered by events")]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use crate::error::{CudaError, Result, expect_eq};
use crate::memory::{Buffer, Element, Slice};

/// Host bytes that a copy engine reads directly.
struct Pinned {
    pointer: *mut u8,
    len: usize,
}

// SAFETY: it owns its memory, and lends it by Rust's borrowing rules.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(len: usize) -> Result<Self> {
        // SAFETY: a plain allocation, initialized below before anything reads it.
        let pointer = unsafe { result::malloc_host(len.max(1), 0) }?.cast::<u8>();
        // SAFETY: `len` bytes were just allocated at `pointer`.
        unsafe { std::ptr::write_bytes(pointer, 0, len) };
        Ok(Self { pointer, len })
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `malloc_host`; the uploader waits for copies before it drops. A failure has no remedy.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// One batch in upload: the host's bytes, the device's bytes, and the events that order them.
struct Slot {
    host: Pinned,
    device: Buffer,
    /// The copy to the device.
    copied: CudaEvent,
    /// The last reader on the computing stream.
    read: CudaEvent,
}

/// Copies batches of bytes to the device on a separate stream: the next batch is copied during the computation on the
/// current one.
///
/// Call [`upload`](Self::upload) as soon as the next batch is known, then [`receive`](Self::receive) in the same order.
pub struct Uploader {
    compute: Arc<CudaStream>,
    copy: CopyStream,
    slots: Vec<Slot>,
    uploaded: usize,
    received: usize,
}

/// A stream that cudarc does not track. For tracked streams cudarc records events around every use of every buffer.
struct CopyStream {
    raw: sys::CUstream,
    stream: Arc<CudaStream>,
}

// SAFETY: streams may be used from any thread.
unsafe impl Send for CopyStream {}

impl CopyStream {
    fn new(compute: &Arc<CudaStream>) -> Result<Self> {
        compute.context().bind_to_thread()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        // SAFETY: the stream was just created in this context, and outlives the wrapper: both fields drop together.
        let stream = unsafe { compute.context().wrap_borrowed_stream(raw) };
        Ok(Self { raw, stream })
    }
}

impl Drop for CopyStream {
    fn drop(&mut self) {
        // A failure has no remedy.
        let _ = self.stream.synchronize();
        // SAFETY: created by `new`; all work on it is done.
        let _ = unsafe { result::stream::destroy(self.raw) };
    }
}

impl Uploader {
    /// An uploader for batches of `bytes` bytes, with at most `depth` uploads in flight.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(compute: &Arc<CudaStream>, bytes: usize, depth: usize) -> Result<Self> {
        let copy = CopyStream::new(compute)?;
        let slot = || {
            Ok::<_, CudaError>(Slot {
                host: Pinned::new(bytes)?,
                device: Buffer::new(compute, Element::U8, bytes)?,
                copied: copy.stream.record_event(None)?,
                read: compute.record_event(None)?,
            })
        };
        let slots = (0..depth.max(1)).map(|_| slot()).collect::<Result<_, _>>()?;
        Ok(Self { compute: Arc::clone(compute), copy, slots, uploaded: 0, received: 0 })
    }

    /// Starts to copy a batch; waits only if all slots are in use.
    ///
    /// # Errors
    /// Another length, more uploads than slots without a [`receive`](Self::receive), or an error of the device.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<()> {
        let depth = self.slots.len();
        if self.uploaded - self.received >= depth {
            expect_eq("batches under way", depth - 1, self.uploaded - self.received)?;
        }
        let slot = &mut self.slots[self.uploaded % depth];
        expect_eq("bytes of a batch", slot.host.len, bytes.len())?;
        // The host's bytes may be overwritten after their last copy, the device's bytes after their last reader.
        slot.copied.synchronize()?;
        slot.host.as_mut().copy_from_slice(bytes);
        self.copy.stream.wait(&slot.read)?;
        self.compute.context().bind_to_thread()?;
        let address = slot.device.as_slice().address();
        // SAFETY: both sides hold `bytes.len()` bytes, and neither is accessed before `copied` has happened.
        unsafe { result::memcpy_htod_async(address, slot.host.as_slice(), self.copy.raw) }?;
        slot.copied.record(&self.copy.stream)?;
        self.uploaded += 1;
        Ok(())
    }

    /// Passes the oldest batch in flight to `read`, which issues work on the computing stream. That work waits for the
    /// copy.
    ///
    /// # Errors
    /// No batch in flight, an error of `read`, or an error of the device.
    pub fn receive<T>(&mut self, read: impl FnOnce(Slice<'_>) -> Result<T>) -> Result<T> {
        if self.uploaded == self.received {
            expect_eq("batches under way", 1, 0)?;
        }
        let slot = &self.slots[self.received % self.slots.len()];
        self.compute.wait(&slot.copied)?;
        let result = read(slot.device.as_slice());
        slot.read.record(&self.compute)?;
        self.received += 1;
        result
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // Host memory must not be freed during a copy. A failure has no remedy.
        let _ = self.copy.stream.synchronize();
    }
}
