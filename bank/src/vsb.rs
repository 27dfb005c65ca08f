//! The visual semantics bank by Language-Guided Knowledge Aggregation, in its `mean` form (docs/methods.md section
//! 1): the prototype of category c is the mean embedding of the views whose pseudo-category is c.

use rayon::prelude::*;

use crate::tsb::rounded;

/// Sums and counts by pseudo-category over some of the rows.
///
/// Sums are f64. A cached embedding is a unit vector in f16: each of its values is a multiple of 2^-24 and at most 1,
/// so every sum of up to 2^29 of them is *exact* in f64. Any partition of the rows, added in any order, therefore
/// gives the same bits. For embeddings of full f32 precision the sums run in row order.
#[derive(Clone, Debug, PartialEq)]
pub struct VsbPartial {
    dim: usize,
    counts: Vec<u64>,
    sums: Vec<f64>,
}

impl VsbPartial {
    /// No rows yet, for `categories` categories of width `dim`.
    pub fn new(categories: usize, dim: usize) -> Self {
        Self { dim, counts: vec![0; categories], sums: vec![0.0; categories * dim] }
    }

    /// Adds rows (`[pseudo_category.len(), D]`) to the sums of their pseudo-categories, in row order. Rows with an
    /// out-of-range pseudo-category are skipped.
    pub fn add(&mut self, rows: &[f32], pseudo_category: &[i32]) {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); self.counts.len()];
        for (row, &category) in pseudo_category.iter().enumerate() {
            if let Some(list) = usize::try_from(category).ok().and_then(|category| members.get_mut(category))
            {
                list.push(row);
            }
        }
        let dim = self.dim;
        let sums = self.sums.par_chunks_mut(dim).zip(&mut self.counts);
        sums.zip(&members).for_each(|((sums, count), members)| {
            for &row in members {
                *count += 1;
                for (sum, &value) in sums.iter_mut().zip(&rows[row * dim..(row + 1) * dim]) {
                    *sum += f64::from(value);
                }
            }
        });
    }

    /// Rows per category, `[C]`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The bank, `[C, D]`: means, not normalized again. Categories without views have zero rows.
    pub fn vsb(&self) -> Vec<f32> {
        let rows = self.sums.chunks_exact(self.dim).zip(&self.counts);
        rows.flat_map(|(sums, &count)| {
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
            let count = count.max(1) as f64;
            sums.iter().map(move |sum| rounded(sum / count))
        })
        .collect()
    }
}
