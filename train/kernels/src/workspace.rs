//! Buffers for packed operands, kept from call to call.

use std::ops::{Deref, DerefMut};

/// Values of a cache line: vectors that straddle two lines load at half the speed.
pub(crate) const LINE: usize = 16;

/// Reusable scratch memory. It grows to the largest requests and does not shrink.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Vec<Buffer>,
}

impl Workspace {
    /// A workspace without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` values of arbitrary content; return them with [`give`](Self::give).
    pub(crate) fn take(&mut self, len: usize) -> Buffer {
        // The smallest buffer that fits. If none fits, the largest grows, so that few buffers serve all calls.
        let by_len = |&i: &usize| self.buffers[i].data.len();
        let all = 0..self.buffers.len();
        let fitting = all.clone().filter(|i| by_len(i) >= len + LINE).min_by_key(by_len);
        let best = fitting.or_else(|| all.max_by_key(by_len));
        let mut buffer = best.map(|i| self.buffers.swap_remove(i)).unwrap_or_default();
        buffer.reserve(len);
        buffer
    }

    /// Returns a buffer to the workspace.
    pub(crate) fn give(&mut self, buffer: Buffer) {
        self.buffers.push(buffer);
    }

    /// Bytes of all buffers in the workspace.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.data.len() * size_of::<f32>()).sum()
    }
}

/// Values that start at a cache line.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Resizes to `len` values of arbitrary content, without touching memory that is already there.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.data.len() < len + LINE {
            // A new vector avoids the copy that growing the old one would make.
            self.data = vec![0.0; len + LINE];
            self.start = self.data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        }
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let mut workspace = Workspace::new();
        for len in [3, 1000, 17, 0, 999] {
            let buffer = workspace.take(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(LINE * size_of::<f32>()), 0);
            workspace.give(buffer);
        }
        assert_eq!(workspace.buffers.len(), 1);
        let (small, large) = (workspace.take(5), workspace.take(2000));
        workspace.give(small);
        workspace.give(large);
        assert_eq!(workspace.buffers.len(), 2);
        assert_eq!(workspace.take(5).data.len(), 1000 + LINE);
    }
}
