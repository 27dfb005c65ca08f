//! Turns a row of logits into its stored distribution: a softmax at the teacher's temperature in f32, stored whole or
//! as its K largest entries, rounded to f16.
//!
//! Stored top-K probabilities are not renormalized: they sum to the captured mass, not to 1. In f16, probabilities
//! below 2^-25 round to 0 and those below 2^-14 keep fewer than 11 bits. A distribution's sum therefore has a
//! relative error of up to 2^-12; readers correct it by dividing by the sum.

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::bank::{CapturedMass, Distribution, Storage};

use crate::kernel::{Isa, exp_nonpositive, first_maximum};
use crate::options::{Temperature, TopK};
use crate::top_k::Selector;

/// Largest number of categories for which distributions are stored whole.
const DENSE_CATEGORIES: usize = 256;

/// Storage of the distributions over `categories` categories.
pub(crate) fn storage(categories: usize, top_k: TopK) -> Storage {
    if categories <= DENSE_CATEGORIES || top_k == TopK::ALL {
        Storage::Dense
    } else {
        Storage::TopK { k: top_k.get().min(categories) }
    }
}

/// A softmax over `slots` slots, and how it is stored.
#[derive(Debug)]
pub(crate) struct Softmax {
    /// Number of slots.
    pub(crate) slots: usize,
    /// Dense or top K.
    pub(crate) storage: Storage,
    /// Temperature tau_t.
    pub(crate) temperature: Temperature,
    /// Masked slots: their probability is 0.
    pub(crate) masked: Vec<usize>,
    /// Instruction set of the kernels.
    pub(crate) isa: Isa,
}

/// Winning slot and captured mass of one row's distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSummary {
    /// Slot of the largest logit; the lowest one on a tie.
    pub(crate) first: i32,
    /// Sum of the stored probabilities before rounding to f16; 1 if all are stored.
    pub(crate) mass: f64,
}

/// Buffers that one thread reuses from row to row.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    selector: Selector,
    probability: Vec<f32>,
}

impl Softmax {
    /// Entries stored per row.
    pub(crate) fn width(&self) -> usize {
        match self.storage {
            Storage::Dense => self.slots,
            Storage::TopK { k } => k,
        }
    }

    /// Writes one row's stored distribution. `logits` has at least `slots` values, and masked ones are overwritten;
    /// `index` is empty for dense storage.
    pub(crate) fn row(
        &self,
        logits: &mut [f32],
        scratch: &mut Scratch,
        index: &mut [i32],
        probability: &mut [f16],
    ) -> RowSummary {
        let logits = &mut logits[..self.slots];
        for &slot in &self.masked {
            logits[slot] = f32::NEG_INFINITY;
        }
        let (first, largest) = first_maximum(logits, self.isa);
        let inverse_temperature = self.temperature.get().recip();
        scratch.probability.resize(self.width(), 0.0);
        let sum = self.isa.sum_exp(logits, largest, inverse_temperature);
        let mass = match self.storage {
            Storage::Dense => {
                self.isa.exponentials(logits, largest, inverse_temperature, &mut scratch.probability);
                scratch.probability.iter_mut().for_each(|p| *p /= sum);
                1.0
            }
            Storage::TopK { .. } => {
                scratch.selector.select(logits, self.isa, index);
                for (p, &slot) in scratch.probability.iter_mut().zip(&*index) {
                    let logit = usize::try_from(slot).ok().and_then(|slot| logits.get(slot)).copied();
                    let logit = logit.unwrap_or(f32::NEG_INFINITY);
                    *p = exp_nonpositive((logit - largest) * inverse_temperature) / sum;
                }
                scratch.probability.iter().map(|&p| f64::from(p)).sum::<f64>().min(1.0)
            }
        };
        probability.convert_from_f32_slice(&scratch.probability);
        RowSummary { first: i32::try_from(first).unwrap_or(i32::MAX), mass }
    }
}

/// Stored distributions of many rows.
#[derive(Debug)]
pub(crate) struct DistributionBuffer {
    width: usize,
    /// `[rows, width]`; empty for dense storage.
    pub(crate) index: Vec<i32>,
    /// `[rows, width]`.
    pub(crate) probability: Vec<f16>,
}

/// The part of a [`DistributionBuffer`] that one block of rows fills.
#[derive(Debug)]
pub(crate) struct DistributionBlock<'a> {
    width: usize,
    index: &'a mut [i32],
    probability: &'a mut [f16],
}

impl DistributionBuffer {
    /// Allocates space for `rows` rows.
    pub(crate) fn new(softmax: &Softmax, rows: usize) -> Self {
        let width = softmax.width();
        let indexed = if softmax.storage == Storage::Dense { 0 } else { rows * width };
        Self { width, index: vec![0; indexed], probability: vec![f16::ZERO; rows * width] }
    }

    /// Sets the number of rows.
    pub(crate) fn resize(&mut self, rows: usize) {
        if !self.index.is_empty() {
            self.index.resize(rows * self.width, 0);
        }
        self.probability.resize(rows * self.width, f16::ZERO);
    }

    /// Splits the buffer into blocks of `rows` rows (the last may be shorter).
    pub(crate) fn blocks(&mut self, rows: usize) -> Vec<DistributionBlock<'_>> {
        let (size, width) = (rows * self.width, self.width);
        // Dense storage has no indices: every block gets an empty slice.
        let mut indices = self.index.chunks_mut(size);
        let probabilities = self.probability.chunks_mut(size);
        probabilities
            .map(|probability| DistributionBlock {
                width,
                index: indices.next().unwrap_or_default(),
                probability,
            })
            .collect()
    }

    /// The buffer in the form that the bank's writer takes.
    pub(crate) fn stored(&self) -> Distribution<'_> {
        if self.index.is_empty() {
            return Distribution::Dense(&self.probability);
        }
        Distribution::TopK { index: &self.index, probability: &self.probability }
    }
}

impl DistributionBlock<'_> {
    /// Entries of one row: indices (empty for dense storage) and probabilities.
    pub(crate) fn row(&mut self, row: usize) -> (&mut [i32], &mut [f16]) {
        let range = row * self.width..(row + 1) * self.width;
        let index = if self.index.is_empty() { &mut [][..] } else { &mut self.index[range.clone()] };
        (index, &mut self.probability[range])
    }
}

/// Mean and minimum of the captured mass over many rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MassTally {
    sum: f64,
    min: f64,
    rows: u32,
}

impl MassTally {
    /// A tally of no rows.
    pub(crate) const EMPTY: Self = Self { sum: 0.0, min: 1.0, rows: 0 };

    /// Adds one row.
    pub(crate) fn add(&mut self, mass: f64) {
        self.sum += mass;
        self.min = self.min.min(mass);
        self.rows = self.rows.saturating_add(1);
    }

    /// Adds the rows of another tally.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.rows = self.rows.saturating_add(other.rows);
    }

    /// Mean and minimum.
    pub(crate) fn finish(self) -> CapturedMass {
        CapturedMass { mean: self.sum / f64::from(self.rows.max(1)), min: self.min }
    }
}
