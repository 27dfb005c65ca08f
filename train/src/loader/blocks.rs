//! The pixel buffers of batches, which are recycled between the workers and the step.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::LoaderError;

/// Memory that a batch of pixels can lie in: a vector, or what a device can copy from faster.
pub trait HostBytes: AsRef<[u8]> + AsMut<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync> HostBytes for T {}

/// Makes memory of so many bytes.
pub type Allocate<'a> = dyn Fn(usize) -> Result<Box<dyn HostBytes>, LoaderError> + Sync + 'a;

/// Ordinary memory.
///
/// # Errors
/// None.
pub fn ordinary(bytes: usize) -> Result<Box<dyn HostBytes>, LoaderError> {
    Ok(Box::new(vec![0; bytes]))
}

/// The memory that waits for its next use. There is never more of it than the stream had in use at one time.
type Idle = Arc<Mutex<Vec<Box<dyn HostBytes>>>>;

/// Blocks of one size.
pub(super) struct BlockPool<'a> {
    idle: Idle,
    bytes: usize,
    allocate: &'a Allocate<'a>,
}

impl<'a> BlockPool<'a> {
    /// A pool of blocks of `bytes` bytes, as yet without memory.
    pub(super) fn new(bytes: usize, allocate: &'a Allocate<'a>) -> Self {
        Self { idle: Idle::default(), bytes, allocate }
    }

    /// A block that came back, whatever it holds, or a new one.
    pub(super) fn take(&self) -> Result<PixelBlock, LoaderError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = idle.map_or_else(|| (self.allocate)(self.bytes), Ok)?;
        Ok(PixelBlock { memory: Some(memory), home: Arc::clone(&self.idle) })
    }
}

/// The pixels of a batch, RGB8 `[B, S, S, 3]`. Dropping it returns its memory to the loader: copies from it must have
/// finished by then.
pub struct PixelBlock {
    /// Present until the block is dropped.
    memory: Option<Box<dyn HostBytes>>,
    home: Idle,
}

impl Deref for PixelBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| (**memory).as_ref())
    }
}

impl DerefMut for PixelBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |memory| (**memory).as_mut())
    }
}

impl Drop for PixelBlock {
    fn drop(&mut self) {
        let mut idle = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.memory.take());
    }
}

impl fmt::Debug for PixelBlock {
    /// The length only: millions of numbers help nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PixelBlock({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn memory_comes_back_and_is_used_again() {
        let made = AtomicUsize::new(0);
        let allocate = |bytes| {
            made.fetch_add(1, Ordering::Relaxed);
            ordinary(bytes)
        };
        let pool = BlockPool::new(12, &allocate);
        for round in 0..10 {
            let (mut a, b) = (pool.take().unwrap(), pool.take().unwrap());
            assert_eq!((a.len(), b.len()), (12, 12));
            a[3] = round;
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }
}
