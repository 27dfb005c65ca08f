//! The linear probe: a linear classifier on frozen features.
//!
//! In docs/methods.md section 1, the classifier is trained with SGD at a learning rate of 30 x batch/256 for 100 epochs
//! (x 0.1 at 60 and 80) on features of freshly cropped and flipped images. Here the features of one plain view are
//! computed once, without augmentation, so a probe takes seconds. Features of different students differ in scale.
//! Therefore:
//!
//! - Features are standardized by the mean and standard deviation of all training features, which needs no labels, and
//!   divided by sqrt(d). A row then has a mean square norm of 1, and a learning rate means the same at every width.
//! - Learning rate and L2 penalty are chosen from [`ProbeSettings`] on a held-out tenth of the *training* labels: every
//!   learning rate without a penalty, and every penalty with the larger learning rates, because a penalized classifier
//!   may converge. Then the classifier is trained again on all labels. The test images are used once, at the end.

mod sgd;
mod split;

use candle_core::Device;

use super::numbering::Numbering;
use crate::error::TrainError;
use crate::inference::{Matrix, argmax, top1};
use sgd::{Classifier, Examples, Setting, fit};
use split::{hold_out, stratified};

/// Settings of the probe. Defaults follow docs/methods.md section 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSettings {
    /// Passes over the labeled features; the learning rate falls to a tenth after 60% and again after 80% of them.
    pub epochs: u32,
    /// Largest number of rows per step.
    pub batch: usize,
    /// Momentum of SGD.
    pub momentum: f32,
    /// Standard deviation of the initial weights.
    pub deviation: f64,
    /// Candidate learning rates, each multiplied by batch / 256.
    pub learning_rates: Vec<f32>,
    /// Candidate L2 penalties: multiples of the weights that are added to their gradients, biases excepted.
    pub l2: Vec<f32>,
    /// Seed of subsets, order and initial weights.
    pub seed: u64,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        let learning_rates = vec![0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
        let l2 = vec![0.0, 1e-5, 1e-4, 1e-3];
        Self { epochs: 100, batch: 256, momentum: 0.9, deviation: 0.01, learning_rates, l2, seed: 0 }
    }
}

/// A trained classifier, and how it was trained.
#[derive(Clone, Debug)]
pub struct Probe {
    scaler: Scaler,
    classifier: Classifier,
    numbering: Numbering,
    /// Number of labels that it was trained on.
    pub labels: usize,
    /// The learning rate chosen, before the factor batch / 256.
    pub learning_rate: f32,
    /// The L2 penalty chosen.
    pub l2: f32,
    /// Percentage right on the held-out labels with both; `None` if there were too few labels to hold any
    /// out.
    pub held_out: Option<f64>,
}

impl Probe {
    /// Predicts the label of each row of raw features.
    ///
    /// # Errors
    /// If the width is not that of the training features.
    pub fn classify(&self, features: &Matrix) -> Result<Vec<u32>, TrainError> {
        let numbers = self.classifier.classify(&self.scaler.apply(features))?;
        Ok(numbers.into_iter().map(|number| self.numbering.label(number)).collect())
    }

    /// The weights `[d, classes]` and biases `[classes]`, for scaled features. Each distinct label is a class, in
    /// ascending order.
    pub fn weights(&self) -> (&[f32], &[f32]) {
        (&self.classifier.weight, &self.classifier.bias)
    }
}

/// Trains a probe on a `fraction` of the labels: the same fraction of every class, and at least one label of each.
///
/// # Errors
/// If a matrix product fails.
pub fn linear_probe(
    (features, labels): (&Matrix, &[u32]),
    fraction: f64,
    settings: &ProbeSettings,
) -> Result<Probe, TrainError> {
    let scaler = Scaler::of(features);
    let scaled = scaler.apply(features);
    let numbering = Numbering::of(labels);
    let numbers = numbering.numbers(labels);
    let subset = stratified(labels, fraction, settings.seed);
    let examples = Examples { features: scaled.tensor()?, labels: &numbers, classes: numbering.len() };
    let (setting, held_out) = choose(&examples, &scaled, &subset, settings)?;
    let classifier = fit(&examples, &subset, &[setting], settings)?.remove(0);
    let Setting { learning_rate, l2 } = setting;
    Ok(Probe { scaler, classifier, numbering, labels: subset.len(), learning_rate, l2, held_out })
}

/// The setting that is right most often on held-out labels. Ties go to the smaller loss, then to the earlier setting.
fn choose(
    examples: &Examples<'_>,
    scaled: &Matrix,
    subset: &[usize],
    settings: &ProbeSettings,
) -> Result<(Setting, Option<f64>), TrainError> {
    let candidates = candidates(settings);
    let rates = &settings.learning_rates;
    let middle = Setting {
        learning_rate: rates.get(rates.len() / 2).copied().unwrap_or(1.0),
        l2: settings.l2.first().copied().unwrap_or(0.0),
    };
    let (kept, held) = hold_out(examples.labels, subset);
    if held.is_empty() || candidates.len() < 2 {
        return Ok((middle, None));
    }
    let truth: Vec<u32> = held.iter().map(|&row| examples.labels[row]).collect();
    let rows: Vec<f32> = held.iter().flat_map(|&row| scaled.row(row).iter().copied()).collect();
    let rows = Matrix::new(scaled.width(), rows);
    let mut best: Option<(f64, f64, Setting)> = None;
    for (&setting, classifier) in candidates.iter().zip(fit(examples, &kept, &candidates, settings)?) {
        let (accuracy, loss) = classifier.score(&rows, &truth)?;
        if best.is_none_or(|(top, least, _)| accuracy > top || (accuracy == top && loss < least)) {
            best = Some((accuracy, loss, setting));
        }
    }
    Ok(best.map_or((middle, None), |(accuracy, _, setting)| (setting, Some(accuracy))))
}

/// Every learning rate with the first penalty, and the larger half of them with each other one.
fn candidates(settings: &ProbeSettings) -> Vec<Setting> {
    let (rates, l2) = (&settings.learning_rates, &settings.l2);
    let all = rates.iter().map(|&learning_rate| (learning_rate, l2.first().copied().unwrap_or(0.0)));
    let larger =
        l2.iter().skip(1).flat_map(|&l2| rates[rates.len() / 2..].iter().map(move |&rate| (rate, l2)));
    all.chain(larger).map(|(learning_rate, l2)| Setting { learning_rate, l2 }).collect()
}

/// Standardization by training statistics, divided by sqrt(d).
#[derive(Clone, Debug)]
struct Scaler {
    mean: Vec<f64>,
    factor: Vec<f64>,
}

impl Scaler {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn of(features: &Matrix) -> Self {
        let (n, d) = (features.rows().max(1) as f64, features.width());
        let mut mean = vec![0.0; d];
        for row in features.iter() {
            mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        mean.iter_mut().for_each(|sum| *sum /= n);
        let mut factor = vec![0.0; d];
        for row in features.iter() {
            let squares = row.iter().zip(&mean).map(|(&value, mean)| (f64::from(value) - mean).powi(2));
            factor.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
        let scale = |sum: f64| {
            let deviation = (sum / n).sqrt();
            // A constant feature carries no information.
            if deviation > 1e-12 { 1.0 / (deviation * (d as f64).sqrt()) } else { 0.0 }
        };
        factor.iter_mut().for_each(|sum| *sum = scale(*sum));
        Self { mean, factor }
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    fn apply(&self, features: &Matrix) -> Matrix {
        let scale =
            |((&value, mean), factor): ((&f32, &f64), &f64)| ((f64::from(value) - mean) * factor) as f32;
        let rows = features.iter().flat_map(|row| row.iter().zip(&self.mean).zip(&self.factor).map(scale));
        Matrix::new(features.width(), rows.collect())
    }
}

impl Classifier {
    fn classify(&self, scaled: &Matrix) -> Result<Vec<u32>, TrainError> {
        let mut predicted = Vec::with_capacity(scaled.rows());
        self.for_each_logits(scaled, |logits| predicted.push(argmax(logits)))?;
        Ok(predicted)
    }

    /// Percentage right and mean cross-entropy, which is infinite for a diverged classifier.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn score(&self, scaled: &Matrix, truth: &[u32]) -> Result<(f64, f64), TrainError> {
        let (mut predicted, mut loss) = (Vec::with_capacity(truth.len()), 0.0);
        self.for_each_logits(scaled, |logits| {
            let label =
                truth.get(predicted.len()).and_then(|&label| logits.get(usize::try_from(label).ok()?));
            let peak = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mass: f64 = logits.iter().map(|&logit| (f64::from(logit) - peak).exp()).sum();
            loss += mass.ln() + peak - label.map_or(f64::NEG_INFINITY, |&logit| f64::from(logit));
            predicted.push(argmax(logits));
        })?;
        let loss = loss / truth.len().max(1) as f64;
        Ok((top1(&predicted, truth), if loss.is_finite() { loss } else { f64::INFINITY }))
    }

    fn for_each_logits(&self, scaled: &Matrix, mut visit: impl FnMut(&[f32])) -> Result<(), TrainError> {
        let shape = (scaled.width(), self.bias.len());
        let weight = candle_core::Tensor::from_slice(&self.weight, shape, &Device::Cpu)?;
        let mut logits = vec![0.0; self.bias.len()];
        scaled.for_each_product(&weight, |row| {
            logits.iter_mut().zip(row).zip(&self.bias).for_each(|((out, value), bias)| *out = value + bias);
            visit(&logits);
        })
    }
}
