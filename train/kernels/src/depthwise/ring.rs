//! The latest rows of an image in a thread's cache, in the order in which the inner loops read them.
//!
//! A row is held as `[block][column][lane]`: a block is one vector of channels, and the columns have zeros on both
//! sides. In this order every load is a whole aligned vector, and neighboring columns of a block are neighbors in
//! memory.

use pulp::{Simd, WithSimd};

use crate::elementwise::Values;
use crate::simd;

/// Values that are read at a time.
const PIECE: usize = 1024;

/// The shape of a held row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Channels.
    pub(super) channels: usize,
    /// Columns of the image.
    pub(super) width: usize,
    /// Zero columns in front of them.
    pub(super) left: usize,
    /// All columns, with the zeros on both sides.
    pub(super) padded: usize,
}

impl Row {
    /// Number of vectors of channels; the last may be partly used.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(simd::lanes())
    }

    /// Number of scalars of a held row.
    fn len(&self) -> usize {
        self.blocks() * self.padded * simd::lanes()
    }

    /// Scalars that a ring of `slots` rows needs.
    pub(super) fn ring_len(&self, slots: usize) -> usize {
        (slots + 1) * self.len() + self.piece() * self.channels
    }

    /// Pixels that are read at a time.
    fn piece(&self) -> usize {
        (PIECE / self.channels).clamp(1, self.width)
    }
}

/// A few held rows, and a row of zeros.
pub(super) struct Ring<'a> {
    shape: Row,
    len: usize,
    /// The number of the row in each slot.
    held: Vec<usize>,
    zeros: &'a mut [f32],
    slots: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl<'a> Ring<'a> {
    /// A ring in `memory` of [`Row::ring_len`] scalars that holds no rows yet.
    pub(super) fn new(shape: Row, slots: usize, memory: &'a mut [f32]) -> Self {
        let len = shape.len();
        let (zeros, memory) = memory.split_at_mut(len);
        let (slots_memory, scratch) = memory.split_at_mut(slots * len);
        zeros.fill(0.0);
        let lanes = simd::lanes();
        for columns in slots_memory.chunks_exact_mut(shape.padded * lanes) {
            columns[..shape.left * lanes].fill(0.0);
            columns[(shape.left + shape.width) * lanes..].fill(0.0);
        }
        Self { shape, len, held: vec![usize::MAX; slots], zeros, slots: slots_memory, scratch }
    }

    /// Reads row `number`, which starts at `number * width * channels` of `source`, unless it is held.
    pub(super) fn hold(&mut self, number: usize, source: &Values<'_>) {
        let slot = number % self.held.len();
        if self.held[slot] == number {
            return;
        }
        self.held[slot] = number;
        let Row { channels, width, left, padded } = self.shape;
        let piece = self.shape.piece();
        for first in (0..width).step_by(piece) {
            let count = piece.min(width - first);
            let at = (number * width + first) * channels;
            let values = source.read(at, &mut self.scratch[..count * channels]);
            let row = &mut self.slots[slot * self.len..][..self.len];
            simd::dispatch(Spread { values, channels, padded, first: left + first, row });
        }
    }

    /// The held row `number`, or the zeros.
    pub(super) fn row(&self, number: Option<usize>) -> &[f32] {
        match number {
            None => self.zeros,
            Some(number) => &self.slots[number % self.held.len() * self.len..][..self.len],
        }
    }
}

/// Copies pixels to a held row, from column `first` on.
struct Spread<'a> {
    values: &'a [f32],
    channels: usize,
    padded: usize,
    first: usize,
    row: &'a mut [f32],
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { values, channels, padded, first, row } = self;
        let (row, _) = S::as_mut_simd_f32s(row);
        for (column, pixel) in (first..).zip(values.chunks_exact(channels)) {
            let (vectors, rest) = S::as_simd_f32s(pixel);
            let mut at = column;
            for vector in vectors {
                row[at] = *vector;
                at += padded;
            }
            if !rest.is_empty() {
                row[at] = simd.partial_load_f32s(rest);
            }
        }
    }
}
