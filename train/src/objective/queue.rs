//! The queue of the latest teacher embeddings in training, for SEED, CompRess and H-GKD.
//!
//! A ring of `K` entries on the device, filled in the order of training. A checkpoint stores the cache row of each entry, not the
//! embedding: 256 kB instead of 256 MB at K = 65,536 and D = 1,024. Entries that are still random are functions of the
//! seed and their position, and have the row [`NO_ROW`]. A restored queue has every entry at its old position, so sums
//! over the entries give the same bits.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use lgd_kernels::geometry::expect_eq;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::registry::Setup;
use super::{InputError, ReadEmbeddings};
use crate::error::{TrainError, expect_dims};
use crate::ops::{self, LEFT_OUT};
use crate::rng::Stream;

/// Names in the state.
const ROWS: &str = "queue.rows";
const NEXT: &str = "queue.next";
/// Number of embeddings read at a time when a queue is restored.
const CHUNK: usize = 4096;
/// Row of an entry that is still random. No cache has as many rows.
const NO_ROW: u32 = u32::MAX;
/// Key of the random entries among the streams of a seed.
const QUEUE_STREAM: u64 = 0x7175_6575_655F_7263;

/// The queue at the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueFill {
    /// Empty: its entries come with the batches.
    Empty,
    /// Full of random unit vectors, which the batches replace, as published for SEED and CompRess.
    Random,
}

impl fmt::Display for QueueFill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Random => "random",
        })
    }
}

impl FromStr for QueueFill {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "empty" => Ok(Self::Empty),
            "random" => Ok(Self::Random),
            _ => Err(format!("expected empty or random, got {name:?}")),
        }
    }
}

/// A first-in, first-out queue of at most `K` teacher embeddings.
#[derive(Debug)]
pub struct TeacherQueue {
    /// Cache row of each filled entry.
    rows: Vec<u32>,
    /// Position of the next write: the first free entry, or the oldest one.
    next: usize,
    /// `[K, D]`, of which the first `rows.len()` entries are filled.
    entries: Tensor,
    /// Seed of the random entries, if the queue starts with them.
    seed: Option<u64>,
    /// Views per sample: row / views is the number of a row's sample.
    views: u32,
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
        Ok(Self { rows: Vec::new(), next: 0, entries, seed: None, views: 1 })
    }

    /// The queue of a run at its first step, with the configured length but at most the cache's.
    pub(super) fn of_run(setup: &Setup<'_>) -> Result<Self, InputError> {
        let (cache, shared) = (setup.inputs.cache(), &setup.settings.shared);
        let capacity = shared.queue.min(cache.rows());
        let queue = Self::new(capacity, cache.dim(), setup.device)?;
        let queue = queue.with_views(cache.manifest().config.views.into());
        Ok(match shared.queue_fill {
            QueueFill::Empty => queue,
            QueueFill::Random => queue.at_random(setup.seed)?,
        })
    }

    /// The same queue of a cache with `views` rows per sample, at least 1. Default: 1.
    pub fn with_views(self, views: u32) -> Self {
        Self { views: views.max(1), ..self }
    }

    /// The same queue, full of random unit vectors of `seed`, which the next embeddings replace.
    ///
    /// # Errors
    /// If the device fails.
    pub fn at_random(mut self, seed: u64) -> Result<Self, TrainError> {
        self.seed = Some(seed);
        self.fill_at_random(0)?;
        (self.rows, self.next) = (vec![NO_ROW; self.capacity()], 0);
        Ok(self)
    }

    /// Writes the random vectors of the positions from `first` on; nothing without a seed.
    fn fill_at_random(&mut self, first: usize) -> Result<(), TrainError> {
        let Some(seed) = self.seed else { return Ok(()) };
        let (capacity, dim) = self.entries.dims2()?;
        for start in (first..capacity).step_by(CHUNK) {
            let positions = start..capacity.min(start + CHUNK);
            let count = positions.len();
            let vector = |position: usize| {
                let position = u64::try_from(position).unwrap_or(u64::MAX);
                Stream::new(&[seed, QUEUE_STREAM, position]).unit_vector(dim)
            };
            let values: Vec<f32> = positions.into_par_iter().flat_map_iter(vector).collect();
            let values = Tensor::from_vec(values, (count, dim), self.entries.device())?;
            self.entries.slice_set(&values, 0, start)?;
        }
        Ok(())
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

    /// Where the entries of the batch's own samples are, in any view: `[n, filled]`, 0 or a number that leaves the entry
    /// out of a softmax; `None` if there is no such entry. `rows`: cache rows of the `n` rows of a batch.
    ///
    /// # Errors
    /// If the numbers of rows disagree, or the device fails.
    pub fn own_entries(&self, rows: &[u32], n: usize) -> Result<Option<Tensor>, TrainError> {
        expect_eq("cache rows of a batch", n, rows.len())?;
        let mut samples: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, row) in rows.iter().enumerate() {
            samples.entry(row / self.views).or_default().push(at);
        }
        let known = self.rows.iter().enumerate().filter(|(_, row)| **row != NO_ROW);
        let own = known.filter_map(|(entry, row)| Some((entry, samples.get(&(row / self.views))?)));
        let mut offsets = Vec::new();
        for (entry, batch) in own {
            offsets.resize(n * self.filled(), 0.0);
            batch.iter().for_each(|at| offsets[at * self.filled() + entry] = LEFT_OUT);
        }
        let tensor = |offsets| Tensor::from_vec(offsets, (n, self.filled()), self.entries.device());
        Ok((!offsets.is_empty()).then(|| tensor(offsets)).transpose()?)
    }

    /// Similarities of `x` `[n, D]` to the filled entries, plus `own` ([`own_entries`](Self::own_entries)): `[n, filled]`;
    /// `None` if there are none.
    ///
    /// # Errors
    /// If shapes disagree, or the device fails.
    pub fn similarities(&self, x: &Tensor, own: Option<&Tensor>) -> Result<Option<Tensor>, TrainError> {
        let Some(entries) = self.tensor()? else { return Ok(None) };
        let similarities = ops::similarity(x, &entries)?;
        Ok(Some(match own {
            Some(own) => (similarities + own)?,
            None => similarities,
        }))
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
        let known = known(&rows);
        self.fill_at_random(known)?;
        for (chunk, rows) in rows[..known].chunks(CHUNK).enumerate() {
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
        let known = known(&rows);
        let random = rows.len() > known;
        // A queue that starts at random is always full, and its random entries are behind the others.
        let fits = match self.seed {
            None => !random,
            Some(_) => rows.len() == self.capacity() && rows[known..].iter().all(|row| *row == NO_ROW),
        };
        if !fits {
            let range = "rows of the cache, and random entries behind them if the queue starts with those";
            return Err(TrainError::Setting { name: ROWS, value: NO_ROW.into(), range });
        }
        let full = rows.len() == self.capacity() && !random;
        let fits = if full { position < self.capacity() } else { position == known };
        if !fits {
            let range = "the first free entry, or an entry of a queue that is full";
            return Err(TrainError::Setting { name: NEXT, value: next.into(), range });
        }
        Ok((rows, position))
    }
}

/// Number of entries in front of those that are still random.
fn known(rows: &[u32]) -> usize {
    rows.iter().take_while(|row| **row != NO_ROW).count()
}
