//! The image side: one row per category, from labeled images or from a head.

use lgd_data::cache::Cache;
use lgd_data::job::Job;
use rayon::prelude::*;

use super::matrix::Matrix;
use super::{AlignError, ImageTargets};
use crate::error::BankError;
use crate::targets::NORMS;
use crate::tsb::as_units;

/// Rows read at a time.
const CHUNK: usize = 8192;

/// Labeled images: the row of their view 0, and their category as a position among the kept ones.
#[derive(Default)]
pub(super) struct LabeledRows {
    pub(super) rows: Vec<usize>,
    pub(super) categories: Vec<usize>,
}

/// The image side of a bridge.
pub(super) struct Targets {
    /// Categories that have a target, in order.
    pub(super) kept: Vec<usize>,
    /// Their targets, `[kept, D]`.
    pub(super) rows: Matrix,
    /// The labeled images; empty for a head.
    pub(super) images: LabeledRows,
    /// Number of images without a label.
    pub(super) unlabeled: usize,
}

impl Targets {
    /// Reads the image side of `count` categories.
    pub(super) fn of(images: ImageTargets<'_>, count: usize, job: &Job) -> Result<Self, AlignError> {
        match images {
            ImageTargets::Cache { cache, categories } => of_cache(cache, categories, count, job),
            ImageTargets::Head(head) if head.rows() != count => {
                Err(AlignError::HeadRows { path: head.path().to_owned(), rows: head.rows(), names: count })
            }
            ImageTargets::Head(head) => Ok(Self {
                kept: (0..count).collect(),
                rows: Matrix::from_f32(head.values(), head.dim()),
                images: LabeledRows::default(),
                unlabeled: 0,
            }),
        }
    }
}

/// The mean embedding of each category over all views of its images, in f64 and in the order of rows.
fn of_cache(
    cache: &Cache,
    categories: &[Option<u32>],
    count: usize,
    job: &Job,
) -> Result<Targets, AlignError> {
    let (embeddings, views) = (cache.embeddings(), cache.views_per_sample());
    let (rows, dim) = (embeddings.rows(), embeddings.width());
    let labels: Vec<Option<usize>> = categories
        .iter()
        .map(|category| category.and_then(|category| usize::try_from(category).ok()))
        .collect();
    job.begin(as_units(rows));
    let (mut sums, mut counts) = (vec![0.0f64; count * dim], vec![0usize; count]);
    let mut values = Vec::new();
    for start in (0..rows).step_by(CHUNK) {
        if job.interrupted() {
            return Err(BankError::Interrupted.into());
        }
        let end = rows.min(start + CHUNK);
        values.resize((end - start) * dim, 0.0f32);
        values.par_chunks_mut(dim).enumerate().for_each(|(row, out)| embeddings.copy_row(start + row, out));
        for (row, values) in (start..end).zip(values.chunks_exact(dim)) {
            let Some(category) = labels[row / views] else { continue };
            let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            if !NORMS.contains(&norm) {
                return Err(BankError::RowNorm { row, norm }.into());
            }
            counts[category] += 1;
            let sum = &mut sums[category * dim..(category + 1) * dim];
            sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        embeddings.release(start..end);
        job.advance(as_units(end - start));
    }
    let kept: Vec<usize> = (0..count).filter(|&category| counts[category] > 0).collect();
    let means = kept.iter().flat_map(|&category| {
        let count = counts[category] as f64;
        sums[category * dim..(category + 1) * dim].iter().map(move |sum| sum / count)
    });
    let means = Matrix::new(means.collect(), dim);
    let mut images = LabeledRows::default();
    for (sample, category) in labels.iter().enumerate() {
        let place = category.and_then(|category| kept.binary_search(&category).ok());
        if let Some(place) = place {
            images.rows.push(sample * views);
            images.categories.push(place);
        }
    }
    let unlabeled = labels.iter().filter(|label| label.is_none()).count();
    Ok(Targets { kept, rows: means, images, unlabeled })
}
