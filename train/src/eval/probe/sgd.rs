//! SGD with momentum for linear classifiers, several settings at once.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::ProbeSettings;
use crate::error::TrainError;
use crate::rng::Stream;

const WEIGHTS: u64 = u64::from_le_bytes(*b"probe w.");
const ORDER: u64 = u64::from_le_bytes(*b"probe o.");
/// Batch size that learning rates refer to.
const REFERENCE_BATCH: f32 = 256.0;
/// Values that one task updates.
const CHUNK: usize = 4096;

/// Scaled features `[N, d]` and a label below `classes` for each row.
pub(super) struct Examples<'a> {
    pub(super) features: Tensor,
    pub(super) labels: &'a [u32],
    pub(super) classes: usize,
}

/// A linear classifier: logits = x W + b.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    /// `[d, classes]`.
    pub(super) weight: Vec<f32>,
    /// `[classes]`.
    pub(super) bias: Vec<f32>,
}

/// How one of several classifiers is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting {
    /// Learning rate, before the factor batch / 256.
    pub(super) learning_rate: f32,
    /// L2 penalty: the multiple of the weights that is added to their gradients, as SGD's weight decay in PyTorch.
    pub(super) l2: f32,
}

/// Trains one classifier for each of `chosen` on the rows `rows`, all from the same weights and on the
/// same batches. The classifiers are columns of one matrix `[d, settings x classes]`. A product that is too thin for a
/// GEMM with one classifier is worth one with several, and the features are gathered once. The classifiers do not
/// influence each other.
///
/// Initial weights are N(0, deviation), biases 0. The last batch of an epoch may be smaller. Biases are not penalized.
pub(super) fn fit(
    examples: &Examples<'_>,
    rows: &[usize],
    chosen: &[Setting],
    settings: &ProbeSettings,
) -> Result<Vec<Classifier>, TrainError> {
    let d = examples.features.dim(1)?;
    let classes = examples.classes;
    let columns = chosen.len() * classes;
    let batch = settings.batch.clamp(1, rows.len().max(1));
    let mut state = State::new(d, classes, chosen.len(), settings);
    for epoch in 0..settings.epochs {
        let factor = decay(epoch, settings.epochs) * batch_share(batch);
        let steps: Vec<Setting> = chosen
            .iter()
            .map(|setting| Setting { learning_rate: setting.learning_rate * factor, ..*setting })
            .collect();
        let order = Stream::new(&[ORDER, settings.seed, u64::from(epoch)]).permutation(rows.len());
        for places in order.chunks(batch) {
            let drawn: Vec<usize> = places.iter().map(|&place| rows[place]).collect();
            let index: Vec<u32> = drawn.iter().map(|&row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
            let index = Tensor::from_vec(index, drawn.len(), &Device::Cpu)?;
            let features = examples.features.index_select(&index, 0)?;
            let weight = Tensor::from_slice(&state.weight, (d, columns), &Device::Cpu)?;
            let mut values = features.matmul(&weight)?.flatten_all()?.to_vec1::<f32>()?;
            let labels: Vec<u32> = drawn.iter().map(|&row| examples.labels[row]).collect();
            logit_gradients(&mut values, &labels, &state.bias, classes);
            let bias_gradient = column_sums(&values, columns);
            let gradient = Tensor::from_vec(values, (drawn.len(), columns), &Device::Cpu)?;
            let gradient = features.t()?.matmul(&gradient)?.flatten_all()?.to_vec1::<f32>()?;
            state.descend(&gradient, &bias_gradient, &steps, settings.momentum);
        }
    }
    Ok(state.classifiers())
}

/// Factor of the learning rate: 1, then 1/10 after 60% of the epochs, then 1/100 after 80%.
fn decay(epoch: u32, epochs: u32) -> f32 {
    let done = u64::from(epoch) * 10;
    match u64::from(epochs) {
        epochs if done >= epochs * 8 => 0.01,
        epochs if done >= epochs * 6 => 0.1,
        _ => 1.0,
    }
}

fn batch_share(batch: usize) -> f32 {
    u16::try_from(batch).map_or(f32::from(u16::MAX), f32::from) / REFERENCE_BATCH
}

/// In place: logits without bias become the gradient of the mean cross-entropy, (softmax - one-hot) / B, per classifier.
fn logit_gradients(values: &mut [f32], labels: &[u32], bias: &[f32], classes: usize) {
    let rows = labels.len();
    #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^24")]
    let share = 1.0 / rows as f32;
    values.par_chunks_exact_mut(bias.len()).zip(labels).for_each(|(row, &label)| {
        let label = usize::try_from(label).unwrap_or(usize::MAX);
        for (logits, bias) in row.chunks_exact_mut(classes).zip(bias.chunks_exact(classes)) {
            logits.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
            let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut mass = 0.0;
            for logit in logits.iter_mut() {
                *logit = (*logit - peak).exp();
                mass += *logit;
            }
            logits.iter_mut().for_each(|value| *value *= share / mass);
            if let Some(value) = logits.get_mut(label) {
                *value -= share;
            }
        }
    });
}

fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// Weights, biases and their velocities; columns are classifier-major.
struct State {
    classes: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    weight_velocity: Vec<f32>,
    bias_velocity: Vec<f32>,
}

impl State {
    fn new(d: usize, classes: usize, rates: usize, settings: &ProbeSettings) -> Self {
        let mut stream = Stream::new(&[WEIGHTS, settings.seed]);
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
        let initial: Vec<f32> =
            (0..d * classes).map(|_| (stream.normal() * settings.deviation) as f32).collect();
        let rows = initial.chunks_exact(classes.max(1));
        let weight: Vec<f32> = rows.flat_map(|row| row.repeat(rates)).collect();
        let bias = vec![0.0; rates * classes];
        let (weight_velocity, bias_velocity) = (vec![0.0; weight.len()], bias.clone());
        Self { classes, weight, bias, weight_velocity, bias_velocity }
    }

    /// v = momentum v + g + l2 w; w -= lr v, with each classifier's own learning rate and penalty; biases without penalty.
    fn descend(&mut self, gradient: &[f32], bias_gradient: &[f32], steps: &[Setting], momentum: f32) {
        let (classes, columns) = (self.classes, self.bias.len());
        let update =
            |first: usize, weight: &mut [f32], velocity: &mut [f32], gradient: &[f32], penalty: f32| {
                for (offset, ((weight, velocity), gradient)) in
                    weight.iter_mut().zip(velocity).zip(gradient).enumerate()
                {
                    let Setting { learning_rate, l2 } = steps[(first + offset) % columns / classes];
                    *velocity = momentum * *velocity + gradient + penalty * l2 * *weight;
                    *weight -= learning_rate * *velocity;
                }
            };
        update(0, &mut self.bias, &mut self.bias_velocity, bias_gradient, 0.0);
        let chunks = self.weight.par_chunks_mut(CHUNK).zip(self.weight_velocity.par_chunks_mut(CHUNK));
        chunks.zip(gradient.par_chunks(CHUNK)).enumerate().for_each(
            |(chunk, ((weight, velocity), gradient))| {
                update(chunk * CHUNK, weight, velocity, gradient, 1.0);
            },
        );
    }

    fn classifiers(self) -> Vec<Classifier> {
        let (classes, columns) = (self.classes, self.bias.len());
        let each = self.bias.chunks_exact(classes.max(1)).enumerate();
        each.map(|(number, bias)| {
            let from = number * classes;
            let rows = self.weight.chunks_exact(columns);
            let weight = rows.flat_map(|row| row[from..from + classes].iter().copied()).collect();
            Classifier { weight, bias: bias.to_vec() }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_at_60_and_80_percent() {
        let rates: Vec<f32> = [0, 59, 60, 79, 80, 99].into_iter().map(|epoch| decay(epoch, 100)).collect();
        assert_eq!(rates, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
    }

    #[test]
    fn gradients_are_softmax_minus_one_hot_over_the_batch() {
        // Two classifiers of two classes; logits (0, ln 3) with biases (0, 0), and (0, 0) with biases (ln 3, 0).
        let ln3 = 3f32.ln();
        let mut values = vec![0.0, ln3, 0.0, 0.0, 0.0, ln3, 0.0, 0.0];
        logit_gradients(&mut values, &[1, 0], &[0.0, 0.0, ln3, 0.0], 2);
        let expected = [0.125, -0.125, 0.375, -0.375, -0.375, 0.375, -0.125, 0.125];
        assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
    }

    #[test]
    fn classifiers_side_by_side_are_those_trained_alone() {
        let mut stream = Stream::new(&[1]);
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let values: Vec<f32> = (0..40 * 6).map(|_| stream.normal() as f32).collect();
        let features = Tensor::from_vec(values, (40, 6), &Device::Cpu).unwrap();
        let labels: Vec<u32> = (0..40).map(|row| row % 3).collect();
        let examples = Examples { features, labels: &labels, classes: 3 };
        let rows: Vec<usize> = (0..40).collect();
        let settings = ProbeSettings { epochs: 5, batch: 16, ..ProbeSettings::default() };
        let both = [(0.1, 0.0), (1.0, 0.01)].map(|(learning_rate, l2)| Setting { learning_rate, l2 });
        let together = fit(&examples, &rows, &both, &settings).unwrap();
        for (setting, classifier) in both.into_iter().zip(together) {
            let alone = fit(&examples, &rows, &[setting], &settings).unwrap().remove(0);
            let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // A product of another width may be summed in another order.
            assert!(far(&classifier.weight, &alone.weight) < 1e-5, "{setting:?}");
            assert!(far(&classifier.bias, &alone.bias) < 1e-5, "{setting:?}");
        }
    }
}
