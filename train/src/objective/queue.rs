//! The queue of the latest teacher embeddings in training, for SEED and H-GKD.
//!
//! A ring of `K` entries on the device, filled in the order of training. A checkpoint stores the cache row of each entry, not the
//! embedding: 256 kB instead of 256 MB at K = 65,536 and D = 1,024. A restored queue has every entry at its old
//! position, so sums over the entries give the same bits.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::registry::Setup;
use super::{InputError, ReadEmbeddings};
use crate::error::{TrainError, expect_dims};

/// Names in the state.
const ROWS: &str = "queue.rows";
const NEXT: &str = "queue.next";
/// Number of embeddings read at a time when a queue is restored.
const CHUNK: usize = 4096;

/// A first-in, first-out queue of at most `K` teacher embeddings; empty at first.
#[derive(Debug)]
pub struct TeacherQueue {
    /// Cache row of each filled entry.
    rows: Vec<u32>,
    /// Position of the next write: the first free entry, or the oldest one.
    next: usize,
    /// `[K, D]`, of which the first `rows.len()` entries are filled.
    entries: Tensor,
}

impl TeacherQueue {
    /// An empty queue of `capacity` embeddings of width `dim` on `device`.
    ///
    /// # Errors
    /// If the capacity is 0, or memory cannot be allocated.
    pub fn new(capacity: usize, dim: usize, device: &Device) -> Result<Self, TrainError> {
        if capacity == 0 {
            return Err(TrainError::Setting { name: "the queue's length", value: 0.0, range: "at least 1" });
        }
        let entries = Tensor::zeros((capacity, dim), DType::F32, device)?;
        Ok(Self { rows: Vec::new(), next: 0, entries })
    }

    /// The empty queue of a run, with the configured length but at most the cache's.
    pub(super) fn of_run(setup: &Setup<'_>) -> Result<Self, InputError> {
        let cache = setup.inputs.cache();
        let capacity = setup.settings.shared.queue.min(cache.rows());
        Ok(Self::new(capacity, cache.dim(), setup.device)?)
    }

    /// Capacity K, entries.
    pub fn capacity(&self) -> usize {
        self.entries.dims()[0]
    }

    /// Number of filled entries.
    pub fn filled(&self) -> usize {
        self.rows.len()
    }

    /// Appends the embeddings `[n, D]`, on any device, of cache rows `rows`, in that order. The oldest entries are overwritten.
    ///
    /// # Errors
    /// If the shape is wrong, or the device fails.
    pub fn push(&mut self, rows: &[u32], embeddings: &Tensor) -> Result<(), TrainError> {
        expect_dims("embeddings for the queue", embeddings, &[rows.len(), self.entries.dims()[1]])?;
        if rows.is_empty() {
            // A GPU holds no empty tensor.
            return Ok(());
        }
        let embeddings = embeddings.detach().to_device(self.entries.device())?.contiguous()?;
        let mut done = rows.len().saturating_sub(self.capacity());
        while done < rows.len() {
            let count = (self.capacity() - self.next).min(rows.len() - done);
            self.entries.slice_set(&embeddings.narrow(0, done, count)?, 0, self.next)?;
            for &row in &rows[done..done + count] {
                match self.rows.get_mut(self.next) {
                    Some(oldest) => *oldest = row,
                    None => self.rows.push(row),
                }
                self.next = (self.next + 1) % self.capacity();
            }
            done += count;
        }
        Ok(())
    }

    /// The filled entries `[filled, D]`, in no particular order; `None` if there are none. The tensor shares the queue's memory, which the
    /// next [`push`](Self::push) overwrites.
    ///
    /// # Errors
    /// If the device fails.
    pub fn tensor(&self) -> Result<Option<Tensor>, TrainError> {
        let filled = self.filled();
        Ok((filled > 0).then(|| self.entries.narrow(0, 0, filled)).transpose()?)
    }

    /// Cache rows and position, for a checkpoint: `queue.rows` u32 `[filled]`, `queue.next` u32 `[1]`.
    ///
    /// # Errors
    /// If tensors cannot be created.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let rows = Tensor::from_slice(&self.rows, self.filled(), &Device::Cpu)?;
        let next = Tensor::new(&[u32::try_from(self.next).unwrap_or(u32::MAX)], &Device::Cpu)?;
        Ok(BTreeMap::from([(ROWS.to_owned(), rows), (NEXT.to_owned(), next)]))
    }

    /// Restores [`state`](Self::state); `read` returns the embeddings `[n, D]` of the cache rows in it.
    ///
    /// # Errors
    /// If an entry is missing, or does not fit a queue of this length; the queue is then unchanged. If `read` fails or
    /// returns another shape; the queue is then empty.
    pub fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        let (rows, next) = self.saved(state)?;
        // Empty until every entry holds the embedding of its row.
        (self.rows, self.next) = (Vec::new(), 0);
        for (chunk, rows) in rows.chunks(CHUNK).enumerate() {
            let rows: Vec<usize> =
                rows.iter().map(|&row| usize::try_from(row).unwrap_or(usize::MAX)).collect();
            let embeddings = read(&rows)?;
            expect_dims("embeddings for the queue", &embeddings, &[rows.len(), self.entries.dims()[1]])?;
            let embeddings = embeddings.to_device(self.entries.device())?.contiguous()?;
            self.entries.slice_set(&embeddings, 0, chunk * CHUNK)?;
        }
        (self.rows, self.next) = (rows, next);
        Ok(())
    }

    /// The rows and the position in `state`, checked against this queue's length.
    fn saved(&self, state: &BTreeMap<String, Tensor>) -> Result<(Vec<u32>, usize), TrainError> {
        let entry = |name: &str| {
            let tensor = state.get(name).ok_or_else(|| TrainError::MissingState { name: name.to_owned() })?;
            Ok::<_, TrainError>(tensor.to_vec1::<u32>()?)
        };
        let (rows, next) = (entry(ROWS)?, entry(NEXT)?);
        if rows.len() > self.capacity() {
            let (expected, got) = (vec![self.capacity()], vec![rows.len()]);
            let what = format!("{ROWS} of a longer queue");
            return Err(TrainError::Dimensions { what, expected, got });
        }
        let next = next.first().copied().unwrap_or(u32::MAX);
        let position = usize::try_from(next).unwrap_or(usize::MAX);
        let full = rows.len() == self.capacity();
        let fits = if full { position < self.capacity() } else { position == rows.len() };
        if !fits {
            let range = "the first free entry, or an entry of a queue that is full";
            return Err(TrainError::Setting { name: NEXT, value: next.into(), range });
        }
        Ok((rows, position))
    }
}
