//! The outcome of an evaluation, as JSON. `table.rs` has it as text.

use lgd_data::cache::Reject;
use lgd_data::manifest::ContentHash;
use serde::Serialize;

use super::details::{Details, mean, wilson};
use super::features::Features;
use super::probe::Probe;
use super::{EvalInputs, EvalOptions, LabeledImages, Protocol};
use crate::inference::ImageModel;
use crate::predict::Candidate;

/// Number of the layout of the JSON. It grows when a member is renamed, removed or gets another meaning.
pub const REPORT_SCHEMA: u32 = 2;

/// A set of images, and how they were shown.
#[derive(Clone, Debug, Serialize)]
pub struct ImagesReport {
    /// Their path.
    pub path: String,
    /// Images used.
    pub images: usize,
    /// Images that could not be used.
    pub rejects: Vec<Reject>,
    /// The view shown, in words.
    pub view: String,
}

/// Percentages of images whose category is right.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroShotReport {
    /// Categories to choose from.
    pub categories: usize,
    /// The student's, 0 to 100.
    pub student: f64,
    /// The teacher's, if its embeddings and a bank were given.
    pub teacher: Option<f64>,
    /// How often both choose the same category.
    pub agreement: Option<f64>,
    /// The student's other figures.
    #[serde(flatten)]
    pub details: Details,
}

/// Percentage of images for which student and teacher choose the same category.
#[derive(Clone, Debug, Serialize)]
pub struct AgreementReport {
    /// Categories to choose from.
    pub categories: usize,
    /// How often the student chooses as the teacher does, 0 to 100.
    pub student: f64,
}

/// Percentage of images that the student's own classifier gets right.
#[derive(Clone, Debug, Serialize)]
pub struct LabelsReport {
    /// Classes to choose from.
    pub classes: usize,
    /// The student's, 0 to 100.
    pub student: f64,
    /// The student's other figures.
    #[serde(flatten)]
    pub details: Details,
}

/// Percentages of images that the neighbors' vote gets right.
#[derive(Clone, Debug, Serialize)]
pub struct KnnReport {
    /// Neighbors that voted.
    pub neighbors: usize,
    /// Temperature of the votes.
    pub temperature: f32,
    /// On the student's pooled features, 0 to 100.
    pub student: f64,
    /// On the teacher's embeddings, if both caches were given.
    pub teacher: Option<f64>,
    /// The student's other figures.
    #[serde(flatten)]
    pub details: Details,
}

/// The probes on one share of the labels, one per seed.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// Share of the training labels.
    pub fraction: f64,
    /// Labels in that share.
    pub labels: usize,
    /// Percentage right on the test images, 0 to 100; the mean over the seeds.
    pub student: f64,
    /// Standard deviation over the seeds (with n - 1); none for one seed.
    pub deviation: Option<f64>,
    /// 95% confidence interval of the mean over the test images, in percent.
    pub interval: [f64; 2],
    /// Each seed's probe.
    pub seeds: Vec<SeedReport>,
}

/// The probe of one seed.
#[derive(Clone, Debug, Serialize)]
pub struct SeedReport {
    /// Seed of subset, order and initial weights.
    pub seed: u64,
    /// Percentage right on the test images, 0 to 100.
    pub student: f64,
    /// Learning rate chosen, before the factor batch / 256.
    pub learning_rate: f32,
    /// L2 penalty chosen.
    pub l2: f32,
    /// Percentage right on the held-out labels that both were chosen on.
    pub held_out: Option<f64>,
}

impl SeedReport {
    pub(super) fn new(seed: u64, probe: &Probe, student: f64) -> Self {
        let Probe { learning_rate, l2, held_out, .. } = *probe;
        Self { seed, student, learning_rate, l2, held_out }
    }
}

impl ProbeReport {
    /// The report of at least one seed. `images`: test images.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts of images, far below 2^32"
    )]
    pub(super) fn new(fraction: f64, labels: usize, images: usize, seeds: Vec<SeedReport>) -> Self {
        let figures: Vec<f64> = seeds.iter().map(|seed| seed.student).collect();
        let student = mean(&figures);
        let squares: f64 = figures.iter().map(|figure| (figure - student).powi(2)).sum();
        let deviation = (figures.len() > 1).then(|| (squares / (figures.len() - 1) as f64).sqrt());
        let right = (student / 100.0 * images as f64).round() as u32;
        let interval = wilson(right, u32::try_from(images).unwrap_or(u32::MAX));
        Self { fraction, labels, student, deviation, interval, seeds }
    }
}

/// The names that a student chose for the test images, by the first protocol that has probabilities.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// The protocol.
    pub protocol: Protocol,
    /// The names.
    pub names: Vec<String>,
    /// Each image: its key, its class in words if labels were needed, and its most probable names.
    pub rows: Vec<(String, Option<String>, Vec<Candidate>)>,
}

/// The results of an evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// Version of the program.
    pub version: &'static str,
    /// The run folder, or the exported file.
    pub model: String,
    /// Hash of the run's manifest; none for an exported file.
    pub run: Option<ContentHash>,
    /// Hash of the exported file; none for a run.
    pub onnx: Option<ContentHash>,
    /// The student's architecture, if known.
    pub student: Option<String>,
    /// Epochs it was trained, if known.
    pub epochs: Option<u32>,
    /// Hash of the bank's manifest, if one was used.
    pub bank: Option<ContentHash>,
    /// First seed of the probes.
    pub seed: u64,
    /// Assumptions, one sentence each.
    pub notes: Vec<String>,
    /// The images classified.
    pub test: ImagesReport,
    /// The images whose labels were known.
    pub train: Option<ImagesReport>,
    /// Zero-shot, if chosen.
    pub zero_shot: Option<ZeroShotReport>,
    /// Agreement with the teacher, if chosen.
    pub agreement: Option<AgreementReport>,
    /// The student's own classifier, if chosen.
    pub labels: Option<LabelsReport>,
    /// Nearest neighbors, if chosen.
    pub knn: Option<KnnReport>,
    /// The probes, if chosen; one for each fraction.
    pub linear: Vec<ProbeReport>,
    /// Images per second through reading, rendering and the student.
    pub images_per_second: f64,
    /// Total seconds.
    pub seconds: f64,
    /// The predicted names of every image, if a protocol has probabilities. Not part of the JSON.
    #[serde(skip)]
    pub predictions: Option<Predictions>,
}

impl EvalReport {
    pub(super) fn new(
        model: &dyn ImageModel,
        inputs: &EvalInputs<'_>,
        options: &EvalOptions,
        test: &Features,
        train: Option<&Features>,
    ) -> Self {
        let card = model.card();
        let is_run = model.run().is_some();
        Self {
            schema: REPORT_SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: card.path.display().to_string(),
            run: is_run.then_some(card.hash),
            onnx: (!is_run).then_some(card.hash),
            student: card.student.clone(),
            epochs: card.epochs,
            bank: inputs.bank.map(lgd_data::bank::Bank::hash),
            seed: options.probe.seed,
            notes: card.notes.clone(),
            test: images_report(&inputs.test, test),
            train: inputs.train.as_ref().zip(train).map(|(images, features)| images_report(images, features)),
            zero_shot: None,
            agreement: None,
            labels: None,
            knn: None,
            linear: Vec::new(),
            images_per_second: 0.0,
            seconds: 0.0,
            predictions: None,
        }
    }

    /// Images that could not be used, over both sets.
    pub fn rejected(&self) -> usize {
        self.test.rejects.len() + self.train.as_ref().map_or(0, |train| train.rejects.len())
    }
}

fn images_report(images: &LabeledImages<'_>, features: &Features) -> ImagesReport {
    ImagesReport {
        path: images.images.display().to_string(),
        images: features.positions.len(),
        rejects: features.rejects.clone(),
        view: features.view.clone(),
    }
}
