//! Figures beside top-1: per class, its mean, top-5, confusion, confidence interval and calibration.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::predict::Candidate;

/// Candidates that are kept per image.
pub(super) const KEPT: usize = 5;

/// Bins of the calibration error (Guo et al. 2017, arXiv 1706.04599, section 2).
const BINS: usize = 15;

/// The 97.5% quantile of the normal distribution: two-sided 95%.
const Z: f64 = 1.959_963_984_540_054;

/// A class, and how often it was recognized.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// Its name, or its number as text.
    pub name: String,
    /// Test images of the class; 0 if it was only predicted.
    pub images: u32,
    /// Those that were recognized.
    pub right: u32,
    /// Percentage recognized; none without an image.
    pub accuracy: Option<f64>,
}

/// Figures beside top-1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Details {
    /// 95% confidence interval of top-1 over the test images, in percent ([`wilson`]).
    pub interval: [f64; 2],
    /// Mean of the accuracies of the classes with a test image, in percent.
    pub mean_per_class: f64,
    /// Percentage whose class is among the five most probable names. None for at most five names, and without
    /// probabilities.
    pub top5: Option<f64>,
    /// Expected calibration error of the most probable name, 0 to 1: the mean distance of probability and accuracy over 15
    /// equal bins of the probability. None without probabilities.
    pub ece: Option<f64>,
    /// The classes that are a test image's or were predicted, in the order of their numbers.
    pub per_class: Vec<ClassReport>,
    /// `[class, predicted class, images]` with numbers of `per_class`; pairs without an image are left out.
    pub confusion: Vec<[u32; 3]>,
}

impl Details {
    /// Compares predicted with true classes, which `word` names.
    pub(super) fn new(predicted: &[u32], truth: &[u32], word: impl Fn(u32) -> String) -> Self {
        let mut pairs: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for (&truth, &predicted) in truth.iter().zip(predicted) {
            *pairs.entry((truth, predicted)).or_default() += 1;
        }
        let occurring: BTreeSet<u32> = truth.iter().chain(predicted).copied().collect();
        let number: BTreeMap<u32, u32> = occurring.iter().copied().zip(0..).collect();
        let of_class = |class: u32| {
            let images = pairs.range((class, 0)..=(class, u32::MAX)).map(|(_, count)| count).sum();
            let right = pairs.get(&(class, class)).copied().unwrap_or(0);
            let accuracy = (images > 0).then(|| 100.0 * f64::from(right) / f64::from(images));
            ClassReport { name: word(class), images, right, accuracy }
        };
        let per_class: Vec<ClassReport> = occurring.iter().map(|&class| of_class(class)).collect();
        let right = per_class.iter().map(|class| class.right).sum();
        let images = per_class.iter().map(|class| class.images).sum();
        let accuracies: Vec<f64> = per_class.iter().filter_map(|class| class.accuracy).collect();
        let entry = |(&(truth, predicted), &count): (&(u32, u32), &u32)| {
            Some([*number.get(&truth)?, *number.get(&predicted)?, count])
        };
        Self {
            interval: wilson(right, images),
            mean_per_class: mean(&accuracies),
            top5: None,
            ece: None,
            confusion: pairs.iter().filter_map(entry).collect(),
            per_class,
        }
    }

    /// The same from the most probable names of each image, which also give top-5 and calibration. `names`: how many there
    /// are.
    pub(super) fn of_candidates(
        top: &[Vec<Candidate>],
        truth: &[u32],
        names: usize,
        word: impl Fn(u32) -> String,
    ) -> Self {
        let among = |(top, truth): (&Vec<Candidate>, &u32)| top.iter().any(|one| one.category == *truth);
        let five = top.iter().zip(truth).filter(|pair| among(*pair)).count();
        Self {
            top5: (names > KEPT).then(|| percent(five, truth.len())),
            ece: Some(calibration_error(top, truth)),
            ..Self::new(&first(top), truth, word)
        }
    }
}

/// The most probable name of each image.
pub(super) fn first(top: &[Vec<Candidate>]) -> Vec<u32> {
    top.iter().map(|top| top.first().map_or(0, |first| first.category)).collect()
}

/// The Wilson score interval at 95% of a share of `right` in `count`, in percent (Wilson 1927, JASA 22, 209-212).
pub fn wilson(right: u32, count: u32) -> [f64; 2] {
    if count == 0 {
        return [0.0, 100.0];
    }
    let n = f64::from(count);
    let share = f64::from(right) / n;
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let (center, scale) = (share + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    [-1.0, 1.0].map(|sign| (100.0 * (center + sign * spread) / scale).clamp(0.0, 100.0))
}

fn calibration_error(top: &[Vec<Candidate>], truth: &[u32]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (top, &truth) in top.iter().zip(truth) {
        let Some(first) = top.first() else { continue };
        let confidence = f64::from(first.probability);
        let right = if first.category == truth { 1.0 } else { 0.0 };
        let (sum, hits) = &mut bins[bin(confidence)];
        *sum += confidence;
        *hits += right;
    }
    let apart: f64 = bins.iter().map(|(sum, hits): &(f64, f64)| (sum - hits).abs()).sum();
    apart / count(truth.len()).max(1.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number from 0 to 15")]
fn bin(confidence: f64) -> usize {
    ((confidence.clamp(0.0, 1.0) * count(BINS)) as usize).min(BINS - 1)
}

fn percent(some: usize, all: usize) -> f64 {
    100.0 * count(some) / count(all).max(1.0)
}

/// The mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values.len()).max(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(candidates: &[(u32, f32)]) -> Vec<Candidate> {
        candidates.iter().map(|&(category, probability)| Candidate { category, probability }).collect()
    }

    /// SciPy 1.17.1: `binomtest(right, count).proportion_ci(0.95, "wilson")`, in percent.
    #[test]
    fn intervals_are_wilsons() {
        for (right, count, expected) in [
            (0, 10, [0.0, 27.753_280]),
            (5, 10, [23.659_309, 76.340_691]),
            (381, 1000, [35.141_031, 41.150_045]),
            (10, 10, [72.246_721, 100.0]),
        ] {
            let got = wilson(right, count);
            assert!(got.iter().zip(expected).all(|(got, one)| (got - one).abs() < 1e-5), "{right}: {got:?}");
        }
        assert_eq!(wilson(0, 0), [0.0, 100.0]);
    }

    #[test]
    fn classes_and_confusion_are_counted() {
        let details = Details::new(&[7, 7, 3, 9], &[7, 3, 3, 3], |class| format!("class {class}"));
        let rows: Vec<_> = details.per_class.iter().map(|one| (&*one.name, one.images, one.right)).collect();
        assert_eq!(rows, [("class 3", 3, 1), ("class 7", 1, 1), ("class 9", 0, 0)]);
        assert_eq!(details.per_class[2].accuracy, None);
        assert!((details.mean_per_class - (100.0 / 3.0 + 100.0) / 2.0).abs() < 1e-9);
        assert_eq!(details.confusion, [[0, 0, 1], [0, 1, 1], [0, 2, 1], [1, 1, 1]]);
    }

    #[test]
    fn top_5_and_calibration_come_from_the_candidates() {
        // Bins of a fifteenth: 0.9 is right once of twice, 0.5 is wrong.
        let all = [top(&[(0, 0.9), (1, 0.1)]), top(&[(2, 0.9), (0, 0.1)]), top(&[(3, 0.5), (4, 0.5)])];
        let details = Details::of_candidates(&all, &[0, 0, 0], 6, |class| class.to_string());
        assert!((details.top5.unwrap() - 200.0 / 3.0).abs() < 1e-9);
        let expected = ((1.8_f64 - 1.0).abs() + 0.5) / 3.0;
        assert!((details.ece.unwrap() - expected).abs() < 1e-6);
        assert_eq!(Details::of_candidates(&all, &[0, 0, 0], 5, |class| class.to_string()).top5, None);
    }
}
