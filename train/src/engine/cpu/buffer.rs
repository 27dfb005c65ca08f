//! Buffers of the CPU and the pool that recycles them.

use std::ops::{Deref, DerefMut};

/// A pooled buffer. Values beyond its length are kept, so shrinking and growing it costs nothing.
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

/// A pool of free buffers.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<Buffer>,
    /// Bytes of all buffers, free or in use.
    pub(super) bytes: usize,
}

impl Pool {
    /// The smallest free buffer that holds `len` values and is at most twice as large, else a new one. The content is arbitrary.
    pub(super) fn take(&mut self, len: usize) -> Buffer {
        let fits = |(_, size): &(usize, usize)| *size >= len && *size / 2 <= len;
        let sizes = self.free.iter().map(|buffer| buffer.values.len()).enumerate();
        match sizes.filter(fits).min_by_key(|(_, size)| *size) {
            Some((at, _)) => Buffer { len, ..self.free.swap_remove(at) },
            None => {
                self.bytes += len * size_of::<f32>();
                Buffer { values: vec![0.0; len], len }
            }
        }
    }

    /// Returns a buffer to the pool.
    pub(super) fn give(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// Returns a temporary buffer to the pool, if there is one.
    pub(super) fn recycle(&mut self, temporary: Option<Buffer>) {
        self.free.extend(temporary);
    }
}
