//! The Visual Semantics Bank in training: fixed (`mean`), or moving with the batches (`ema`). docs/methods.md section 1.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::rng::Stream;

/// Key of the bank's initial rows among the streams of a seed.
const BANK_STREAM: u64 = 0x7673_625F_726F_7773;

/// Source of the rows of the visual bank.
#[derive(Debug, Clone)]
pub enum VisualBank {
    /// Fixed rows, the mean teacher embedding of each pseudo-category.
    Mean {
        /// `[C, D]`.
        vsb: Tensor,
    },
    /// The paper's online form.
    Ema {
        /// Share of a row that each update keeps; the paper's is 0.999.
        momentum: f32,
        /// Seed of the initial rows, which are random unit vectors.
        seed: u64,
    },
}

/// The rows of the online bank, and which categories have been seen.
pub(super) struct EmaBank {
    momentum: f32,
    categories: usize,
    dim: usize,
    /// `[C, D]`.
    rows: Vec<f32>,
    seen: Vec<bool>,
}

impl EmaBank {
    /// Random unit vectors, none seen.
    pub(super) fn new(
        momentum: f32,
        seed: u64,
        (categories, dim): (usize, usize),
    ) -> Result<Self, TrainError> {
        if !(0.0..=1.0).contains(&momentum) {
            let value = momentum.into();
            return Err(TrainError::Setting { name: "the visual bank's momentum", value, range: "0 to 1" });
        }
        let mut rows = Vec::with_capacity(categories * dim);
        for (category, _) in (0u64..).zip(0..categories) {
            let mut stream = Stream::new(&[seed, BANK_STREAM, category]);
            rows.extend(stream.unit_vector(dim));
        }
        Ok(Self { momentum, categories, dim, rows, seen: vec![false; categories] })
    }

    /// The current rows, `[C, D]`.
    pub(super) fn tensor(&self) -> Result<Tensor, TrainError> {
        Ok(Tensor::from_slice(&self.rows, (self.categories, self.dim), &candle_core::Device::Cpu)?)
    }

    /// Updates the row of every category present, with `z = mean(t)` over the category's rows of the batch. The first
    /// time, the row becomes `z`; later, `momentum * row + (1 - momentum) * z`. `z` is not normalized.
    pub(super) fn update(&mut self, embeddings: &Tensor, pseudo_category: &[u32]) -> Result<(), TrainError> {
        expect_dims("teacher embeddings", embeddings, &[pseudo_category.len(), self.dim])?;
        let embeddings = ops::to_host(embeddings)?;
        let mut sums: BTreeMap<usize, (Vec<f64>, u32)> = BTreeMap::new();
        for (&category, embedding) in pseudo_category.iter().zip(embeddings.chunks_exact(self.dim)) {
            let category = self.index(category)?;
            let (sum, count) = sums.entry(category).or_insert_with(|| (vec![0.0; self.dim], 0));
            sum.iter_mut().zip(embedding).for_each(|(sum, v)| *sum += f64::from(*v));
            *count += 1;
        }
        for (category, (sum, count)) in sums {
            let row = &mut self.rows[category * self.dim..][..self.dim];
            let keep = if self.seen[category] { f64::from(self.momentum) } else { 0.0 };
            for (row, sum) in row.iter_mut().zip(sum) {
                *row = single(keep * f64::from(*row) + (1.0 - keep) * sum / f64::from(count));
            }
            self.seen[category] = true;
        }
        Ok(())
    }

    /// Rows, and whether each category was seen, for a checkpoint.
    pub(super) fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let seen: Vec<f32> = self.seen.iter().map(|&seen| f32::from(u8::from(seen))).collect();
        let seen = Tensor::from_vec(seen, self.categories, &candle_core::Device::Cpu)?;
        Ok(BTreeMap::from([(ROWS.to_owned(), self.tensor()?), (SEEN.to_owned(), seen)]))
    }

    /// Restores [`state`](Self::state).
    pub(super) fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        let entry =
            |name: &str| state.get(name).ok_or_else(|| TrainError::MissingState { name: name.to_owned() });
        let (rows, seen) = (entry(ROWS)?, entry(SEEN)?);
        expect_dims(ROWS, rows, &[self.categories, self.dim])?;
        expect_dims(SEEN, seen, &[self.categories])?;
        let (rows, seen) = (ops::to_host(rows)?, ops::to_host(seen)?);
        self.rows = rows;
        self.seen = seen.iter().map(|&seen| seen != 0.0).collect();
        Ok(())
    }

    fn index(&self, category: u32) -> Result<usize, TrainError> {
        let index = usize::try_from(category).ok().filter(|&index| index < self.categories);
        index.ok_or(TrainError::Setting {
            name: "a pseudo-category",
            value: category.into(),
            range: "below the number of categories",
        })
    }
}

/// Names of the state's entries.
const ROWS: &str = "visual_bank.rows";
const SEEN: &str = "visual_bank.seen";

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
