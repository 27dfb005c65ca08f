//! Cross-validation over categories: what a bridge makes of names that it was not fitted to.
//!
//! Category i is held out in fold i mod 5. A fold centers by the means of the categories that it is fitted to.

use lgd_data::align::{Accuracy, HeldOut};
use lgd_data::column::MappedColumn;
use lgd_data::job::Job;
use rayon::prelude::*;

use super::matrix::{Matrix, dot};
use super::ridge::Ridge;
use super::targets::LabeledRows;
use super::{AlignError, Candidate, Pairs, RidgePenalty};
use crate::center::mean_embedding;
use crate::error::BankError;
use crate::tsb::{as_units, rounded};

/// Number of folds.
pub(super) const FOLDS: usize = 5;

/// Images that one task classifies.
const BLOCK: usize = 256;

/// Blocks between two looks at the job.
const BLOCKS: usize = 64;

/// A bridge that was fitted without every fifth category.
pub(super) struct Fold {
    number: usize,
    /// Categories that were held out.
    held: Vec<usize>,
    ridge: Ridge,
    /// Coordinates of all categories, `[C, k]`.
    coordinates: Matrix,
    /// Centered unit targets of the held-out categories, `[held, D]`.
    targets: Matrix,
}

impl Fold {
    /// Fits all folds.
    pub(super) fn all(pairs: &Pairs<'_>) -> Result<Vec<Self>, AlignError> {
        (0..FOLDS).into_par_iter().map(|number| Self::fit(pairs, number)).collect()
    }

    fn fit(pairs: &Pairs<'_>, number: usize) -> Result<Self, AlignError> {
        let (held, kept): (Vec<usize>, Vec<usize>) =
            (0..pairs.names.len()).partition(|category| category % FOLDS == number);
        let source_mean = pairs.source.select(&kept).mean();
        let target_mean = pairs.target.select(&kept).mean();
        let source = pairs.centered(&pairs.source, &source_mean, "the text prototype")?;
        let target = pairs.centered(&pairs.target, &target_mean, "the image target")?;
        let ridge = Ridge::fit(&source.select(&kept), &target.select(&kept))?;
        let coordinates = ridge.coordinates(&source);
        Ok(Self { number, targets: target.select(&held), held, ridge, coordinates })
    }

    /// Bridged unit prototypes of the held-out categories, `[held, D]`.
    fn held_prototypes(&self, ridge: f64) -> Matrix {
        self.ridge.predict(&self.coordinates.select(&self.held), ridge).units()
    }
}

/// The mean cosine between the bridged prototypes and the targets of all categories, each in the fold that held it
/// out.
pub(super) fn score(folds: &[Fold], ridge: RidgePenalty) -> Candidate {
    let ridge = ridge.get();
    let cosines = folds.iter().map(|fold| {
        let prototypes = fold.held_prototypes(ridge);
        prototypes.rows().zip(fold.targets.rows()).map(|(a, b)| dot(a, b)).sum::<f64>()
    });
    let count: usize = folds.iter().map(|fold| fold.held.len()).sum();
    Candidate { ridge, cosine: cosines.sum::<f64>() / count as f64 }
}

/// Numbers of right decisions.
#[derive(Clone, Copy, Default)]
struct Tally {
    decisions: usize,
    /// Among held-out and among all categories.
    plain: [usize; 2],
    centered: [usize; 2],
    /// Sum of the chances among held-out categories.
    chance: f64,
}

impl Tally {
    fn count(&mut self, fold: &Fold, truth: usize, plain: &[f64], centered: &[f64]) {
        self.decisions += 1;
        self.chance += 1.0 / fold.held.len() as f64;
        for (right, scores) in [(&mut self.plain, plain), (&mut self.centered, centered)] {
            right[0] += usize::from(is_best(scores, truth, fold.held.iter().copied()));
            right[1] += usize::from(is_best(scores, truth, 0..scores.len()));
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.decisions += other.decisions;
        self.chance += other.chance;
        for (sum, part) in [(&mut self.plain, other.plain), (&mut self.centered, other.centered)] {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        self
    }

    fn finish(self, categories: usize, cosine: f64) -> HeldOut {
        let share = |sum: f64| if self.decisions == 0 { 0.0 } else { sum / self.decisions as f64 };
        let accuracy = |right: [usize; 2]| Accuracy {
            among_held_out: share(right[0] as f64),
            among_all: share(right[1] as f64),
        };
        HeldOut {
            decisions: self.decisions,
            plain: accuracy(self.plain),
            centered: accuracy(self.centered),
            chance: Accuracy { among_held_out: share(self.chance), among_all: 1.0 / categories as f64 },
            cosine,
        }
    }
}

/// Whether the score of `truth` is above all others of `among`. A tie is no decision.
fn is_best(scores: &[f64], truth: usize, mut among: impl Iterator<Item = usize>) -> bool {
    among.all(|other| other == truth || scores[other] < scores[truth])
}

/// Classifies every image by the bridged prototypes of the fold that held out its category.
pub(super) fn classify_images(
    folds: &[Fold],
    embeddings: &MappedColumn<f32>,
    images: &LabeledRows,
    chosen: Candidate,
    job: &Job,
) -> Result<HeldOut, AlignError> {
    let mean = mean_embedding(embeddings)?;
    job.begin(as_units(images.rows.len()));
    let mut tally = Tally::default();
    let mut categories = 0;
    for fold in folds {
        let prototypes = fold.ridge.predict(&fold.coordinates, chosen.ridge).units();
        categories = prototypes.len();
        let classifier = Classifier::new(fold, &prototypes, &mean);
        let of_fold = |category: usize| category % FOLDS == fold.number;
        let pairs = images.rows.iter().copied().zip(images.categories.iter().copied());
        let held: Vec<(usize, usize)> = pairs.filter(|&(_, category)| of_fold(category)).collect();
        for chunk in held.chunks(BLOCK * BLOCKS) {
            if job.interrupted() {
                return Err(BankError::Interrupted.into());
            }
            let blocks: Vec<Tally> =
                chunk.par_chunks(BLOCK).map(|block| classifier.count(embeddings, block)).collect();
            tally = blocks.into_iter().fold(tally, Tally::merge);
            if let (Some(first), Some(last)) = (chunk.first(), chunk.last()) {
                embeddings.release(first.0..last.0 + 1);
            }
            job.advance(as_units(chunk.len()));
        }
    }
    Ok(tally.finish(categories, chosen.cosine))
}

/// Scores of images with a fold's prototypes.
struct Classifier<'a> {
    fold: &'a Fold,
    /// `[C, D]`
    prototypes: Vec<f32>,
    /// Products of the images' mean with the prototypes, `[C]`. Subtracting it from an image subtracts these from its
    /// scores; the length that is left is the same for all of them.
    offsets: Vec<f64>,
}

impl<'a> Classifier<'a> {
    fn new(fold: &'a Fold, prototypes: &Matrix, mean: &[f32]) -> Self {
        let mean: Vec<f64> = mean.iter().map(|&value| value.into()).collect();
        Self {
            fold,
            prototypes: prototypes.values().iter().copied().map(rounded).collect(),
            offsets: prototypes.rows().map(|row| dot(row, &mean)).collect(),
        }
    }

    /// Counts the right decisions for images, given by row and category.
    fn count(&self, embeddings: &MappedColumn<f32>, images: &[(usize, usize)]) -> Tally {
        let (dim, categories) = (embeddings.width(), self.offsets.len());
        let mut rows = vec![0.0; images.len() * dim];
        embeddings.copy_rows(images.iter().map(|&(row, _)| row), &mut rows);
        let mut scores = vec![0.0; images.len() * categories];
        lgd_linalg::project(&self.prototypes, &rows, &mut scores, (dim, categories));
        let mut tally = Tally::default();
        for (scores, &(_, category)) in scores.chunks_exact(categories).zip(images) {
            let plain: Vec<f64> = scores.iter().map(|&score| score.into()).collect();
            let centered: Vec<f64> =
                plain.iter().zip(&self.offsets).map(|(score, offset)| score - offset).collect();
            tally.count(self.fold, category, &plain, &centered);
        }
        tally
    }
}

/// Selects the nearest row of a head for the bridged prototype of every category, in the fold that held it out.
pub(super) fn classify_names(
    folds: &[Fold],
    pairs: &Pairs<'_>,
    chosen: Candidate,
) -> Result<HeldOut, AlignError> {
    let plain = pairs.target.clone().units().transposed();
    let centered = pairs.centered(&pairs.target, &pairs.target.mean(), "the image target")?.transposed();
    let mut tally = Tally::default();
    for fold in folds {
        let prototypes = fold.held_prototypes(chosen.ridge);
        let (plain, centered) = (prototypes.product(&plain), prototypes.product(&centered));
        for ((plain, centered), &category) in plain.rows().zip(centered.rows()).zip(&fold.held) {
            tally.count(fold, category, plain, centered);
        }
    }
    Ok(tally.finish(pairs.names.len(), chosen.cosine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_is_no_decision() {
        let scores = [0.5, 0.7, 0.7, 0.1];
        assert!(!is_best(&scores, 1, 0..4));
        assert!(is_best(&scores, 1, [0, 1, 3].into_iter()));
        assert!(!is_best(&[f64::NAN, 0.0], 0, 0..2));
    }
}
