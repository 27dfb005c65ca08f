//! Weighted k nearest neighbors on frozen features.

use lgd_data::job::Job;
use rayon::prelude::*;

use super::details::Details;
use super::features::Features;
use super::numbering::Numbering;
use super::report::KnnReport;
use crate::error::TrainError;
use crate::inference::{Matrix, argmax, top1};

/// Settings of the vote; the defaults are the usual ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnSettings {
    /// Neighbors that vote.
    pub neighbors: usize,
    /// A neighbor of cosine similarity s votes with exp(s / temperature).
    pub temperature: f32,
}

impl Default for KnnSettings {
    fn default() -> Self {
        Self { neighbors: 20, temperature: 0.07 }
    }
}

/// Predicts the class of each test row by a weighted vote (Wu et al. 2018, arXiv 1805.01978, section 3.4): the `k`
/// training rows of largest cosine similarity s vote for their labels with weight exp(s / T). If rows are equally
/// similar, the earlier one counts as nearer. If classes have equal votes, the smaller label wins.
///
/// # Errors
/// If the widths differ.
pub fn nearest_neighbors(
    (train, labels): (&Matrix, &[u32]),
    test: &Matrix,
    settings: KnnSettings,
) -> Result<Vec<u32>, TrainError> {
    predict((&train.normalized(), labels), &test.normalized(), settings, |_| None, |_| ())
}

/// Like [`nearest_neighbors`] of `rows` among `rows` themselves, where no row votes for itself.
///
/// # Errors
/// If a matrix product fails.
pub fn leave_one_out(
    (rows, labels): (&Matrix, &[u32]),
    settings: KnnSettings,
) -> Result<Vec<u32>, TrainError> {
    let rows = rows.normalized();
    predict((&rows, labels), &rows, settings, Some, |_| ())
}

/// Predicts the class of each row of `test`. Both matrices have unit rows. `own`: the training row that must not vote for a
/// test row. `progress` receives the number of test rows done since its last call.
fn predict(
    (train, labels): (&Matrix, &[u32]),
    test: &Matrix,
    settings: KnnSettings,
    own: impl Fn(usize) -> Option<usize> + Sync,
    progress: impl Fn(usize),
) -> Result<Vec<u32>, TrainError> {
    let numbering = Numbering::of(labels);
    let (numbers, classes) = (numbering.numbers(labels), numbering.len());
    let right = train.tensor()?.t()?.contiguous()?;
    let mut predicted = Vec::with_capacity(test.rows());
    test.for_each_block(&right, |block| {
        let first = predicted.len();
        let rows = block.par_chunks_exact(train.rows().max(1)).enumerate();
        let class = |(row, similarities)| {
            let nearest = nearest(similarities, settings.neighbors, own(first + row));
            numbering.label(vote(nearest, &numbers, classes, settings.temperature))
        };
        predicted.par_extend(rows.map(class));
        progress(predicted.len() - first);
    })?;
    Ok(predicted)
}

fn vote(nearest: Vec<(f32, usize)>, labels: &[u32], classes: usize, temperature: f32) -> u32 {
    let mut votes = vec![0.0; classes];
    for (similarity, index) in nearest {
        if let Some(vote) = usize::try_from(labels[index]).ok().and_then(|label| votes.get_mut(label)) {
            // Relative to the largest possible similarity, so that no temperature makes the exponential overflow.
            *vote += ((similarity - 1.0) / temperature).exp();
        }
    }
    argmax(&votes)
}

/// The `k` largest values and their positions, largest first, without the position `except`. Of equal values, the earlier
/// comes first.
fn nearest(similarities: &[f32], k: usize, except: Option<usize>) -> Vec<(f32, usize)> {
    let mut nearest: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
    for (index, &similarity) in similarities.iter().enumerate() {
        let full = nearest.len() == k;
        // Most rows end here: they are not larger than the last of a full list.
        if (full && nearest.last().is_none_or(|(last, _)| similarity <= *last)) || except == Some(index) {
            continue;
        }
        let position = nearest.partition_point(|(other, _)| *other >= similarity);
        nearest.insert(position, (similarity, index));
        nearest.truncate(k);
    }
    nearest
}

/// Evaluates the student on pooled features (the rows), and the teacher on embeddings if both sets have them. `truth`: the
/// training label of each test image; `word` names labels. `job` counts the images.
pub(super) fn judge(
    (train, train_rows): (&Features, &Matrix),
    (test, test_rows): (&Features, &Matrix),
    (truth, word): (&[u32], &dyn Fn(u32) -> String),
    settings: KnnSettings,
    job: &Job,
) -> Result<KnnReport, TrainError> {
    let teacher = train.teacher.as_ref().zip(test.teacher.as_ref());
    let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    let models = if teacher.is_some() { 2 } else { 1 };
    job.begin_stage("kNN", "images", models * count(test_rows.rows()));
    let vote = |train_rows: &Matrix, test_rows: &Matrix| {
        let (train_rows, test_rows) = (train_rows.normalized(), test_rows.normalized());
        let progress = |rows| job.advance(count(rows));
        predict((&train_rows, &train.labels), &test_rows, settings, |_| None, progress)
    };
    let predicted = vote(train_rows, test_rows)?;
    let teacher = teacher.map(|(train, test)| vote(train, test)).transpose()?;
    Ok(KnnReport {
        neighbors: settings.neighbors,
        temperature: settings.temperature,
        student: top1(&predicted, truth),
        teacher: teacher.map(|teacher| top1(&teacher, truth)),
        details: Details::new(&predicted, truth, word),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_earlier_ones_win_ties() {
        let values = [0.1, 0.9, 0.5, 0.9, 0.7];
        assert_eq!(nearest(&values, 3, None), [(0.9, 1), (0.9, 3), (0.7, 4)]);
        assert_eq!(nearest(&values, 3, Some(1)), [(0.9, 3), (0.7, 4), (0.5, 2)]);
        assert_eq!(nearest(&[0.2], 3, None), [(0.2, 0)]);
    }

    #[test]
    fn no_row_votes_for_itself() {
        // Each row is nearest to itself, then to a row of the other label.
        let rows = Matrix::new(2, vec![1.0, 0.0, 1.0, 0.1, 0.0, 1.0, 0.1, 1.0]);
        let settings = KnnSettings { neighbors: 1, ..KnnSettings::default() };
        let labels = [0, 1, 0, 1];
        assert_eq!(nearest_neighbors((&rows, &labels), &rows, settings).unwrap(), labels);
        assert_eq!(leave_one_out((&rows, &labels), settings).unwrap(), [1, 0, 1, 0]);
    }

    #[test]
    fn one_near_neighbor_outweighs_two_far_ones_at_a_low_temperature() {
        // Cosines with the test row (1, 0): 1.0 for label 1, 0.6 twice for label 0.
        let train = Matrix::new(2, vec![0.6, 0.8, 0.6, -0.8, 2.0, 0.0]);
        let test = Matrix::new(2, vec![5.0, 0.0]);
        let ask = |temperature| {
            let settings = KnnSettings { neighbors: 3, temperature };
            nearest_neighbors((&train, &[0, 0, 1]), &test, settings).unwrap()
        };
        // exp(-0.4 / 0.07) * 2 = 0.0066 < 1, but exp(-0.4 / 10) * 2 = 1.92 > 1.
        assert_eq!(ask(0.07), [1]);
        assert_eq!(ask(10.0), [0]);
    }

    #[test]
    fn labels_need_no_place_for_every_number_below_them() {
        let train = Matrix::new(2, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0]);
        let test = Matrix::new(2, vec![-2.0, 0.1, 0.1, 3.0]);
        let settings = KnnSettings { neighbors: 1, ..KnnSettings::default() };
        let labels = [5, 2_000_000, u32::MAX];
        assert_eq!(nearest_neighbors((&train, &labels), &test, settings).unwrap(), [u32::MAX, 2_000_000]);
    }
}
