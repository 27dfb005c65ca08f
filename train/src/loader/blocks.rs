//! The memory of batches, which is recycled between the workers and the step.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Free blocks: at most as many as the stream had in use at one time.
type Idle = Arc<Mutex<Vec<Vec<u8>>>>;

/// Blocks of one size.
pub(super) struct BlockPool {
    idle: Idle,
    bytes: usize,
}

impl BlockPool {
    /// An empty pool of blocks of `bytes` bytes. Nothing is allocated yet.
    pub(super) fn new(bytes: usize) -> Self {
        Self { idle: Idle::default(), bytes }
    }

    /// A recycled block with its old content, or a new one.
    pub(super) fn take(&self) -> PixelBlock {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = idle.unwrap_or_else(|| vec![0; self.bytes]);
        PixelBlock { memory, home: Arc::clone(&self.idle) }
    }
}

/// The pixels of a batch, RGB8 `[B, S, S, 3]`. Dropping it returns its memory to the loader.
pub struct PixelBlock {
    memory: Vec<u8>,
    home: Idle,
}

impl Deref for PixelBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for PixelBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for PixelBlock {
    fn drop(&mut self) {
        let mut idle = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(std::mem::take(&mut self.memory));
    }
}

impl fmt::Debug for PixelBlock {
    /// Prints the length, not millions of numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PixelBlock({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn memory_is_recycled() {
        let pool = BlockPool::new(12);
        let mut addresses = BTreeSet::new();
        for round in 0..10 {
            let (mut a, b) = (pool.take(), pool.take());
            assert_eq!((a.len(), b.len()), (12, 12));
            a[3] = round;
            addresses.extend([a.as_ptr(), b.as_ptr()]);
        }
        assert_eq!(addresses.len(), 2);
    }
}
