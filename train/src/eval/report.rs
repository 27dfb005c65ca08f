//! The outcome of an evaluation, as JSON and as a table.

use std::fmt::Write;

use lgd_data::cache::Reject;
use lgd_data::manifest::ContentHash;
use serde::Serialize;

use super::features::Features;
use super::probe::Probe;
use super::{EvalInputs, LabeledImages};
use crate::student::Architecture;

/// Rejects that the table lists; the JSON lists all of them.
const NAMED: usize = 5;

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
    /// The teacher's, if its embeddings were given.
    pub teacher: Option<f64>,
    /// How often both choose the same category.
    pub agreement: Option<f64>,
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
}

/// One probe.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// Share of the training labels.
    pub fraction: f64,
    /// Labels in that share.
    pub labels: usize,
    /// Learning rate chosen, before the factor batch / 256.
    pub learning_rate: f32,
    /// Percentage right on the held-out labels that the learning rate was chosen on.
    pub held_out: Option<f64>,
    /// Percentage right on the test images, 0 to 100.
    pub student: f64,
}

impl ProbeReport {
    pub(super) fn new(fraction: f64, probe: &Probe, student: f64) -> Self {
        let Probe { labels, learning_rate, held_out, .. } = *probe;
        Self { fraction, labels, learning_rate, held_out, student }
    }
}

/// The results of an evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// Hash of the run's manifest.
    pub run: ContentHash,
    /// The student.
    pub student: Architecture,
    /// Epochs after which its weights were taken.
    pub epochs: u32,
    /// Hash of the bank's manifest, if one was used.
    pub bank: Option<ContentHash>,
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
}

impl EvalReport {
    pub(super) fn new(inputs: &EvalInputs<'_>, test: &Features, train: Option<&Features>) -> Self {
        let manifest = inputs.run.manifest();
        Self {
            run: inputs.run.hash(),
            student: manifest.config.student,
            epochs: inputs.run.epochs(),
            bank: inputs.bank.map(lgd_data::bank::Bank::hash),
            notes: Vec::new(),
            test: images_report(&inputs.test, test),
            train: inputs.train.as_ref().zip(train).map(|(images, features)| images_report(images, features)),
            zero_shot: None,
            agreement: None,
            labels: None,
            knn: None,
            linear: Vec::new(),
            images_per_second: 0.0,
            seconds: 0.0,
        }
    }

    /// Images that could not be used, over both sets.
    pub fn rejected(&self) -> usize {
        self.test.rejects.len() + self.train.as_ref().map_or(0, |train| train.rejects.len())
    }

    /// A plain-text table. Percentages have one decimal; the teacher's are shown if known.
    pub fn to_table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{text}");
        };
        line(format!("{} after {} epochs", self.student, self.epochs));
        for (name, images) in [("test", Some(&self.test)), ("train", self.train.as_ref())] {
            let Some(images) = images else { continue };
            let rejects = if images.rejects.is_empty() {
                String::new()
            } else {
                format!(", {} rejected", images.rejects.len())
            };
            line(format!("{name:<6}{} images{rejects} · {} · {}", images.images, images.view, images.path));
            for reject in images.rejects.iter().take(NAMED) {
                line(format!("      {}: {} ({})", reject.key, reject.reason, reject.detail));
            }
        }
        line(String::new());
        line(row("top-1, %", "student", "teacher", ""));
        if let Some(ZeroShotReport { categories, student, teacher, agreement }) = &self.zero_shot {
            let agreement =
                agreement.map_or(String::new(), |share| format!(", same choice as the teacher {share:.1}"));
            line(row(
                "zero-shot",
                &percent(Some(*student)),
                &percent(*teacher),
                &format!("{categories} categories{agreement}"),
            ));
        }
        if let Some(AgreementReport { categories, student }) = &self.agreement {
            let note = format!("{categories} categories, same choice as the teacher");
            line(row("agreement", &percent(Some(*student)), "-", &note));
        }
        if let Some(LabelsReport { classes, student }) = &self.labels {
            line(row("labels", &percent(Some(*student)), "-", &format!("{classes} classes")));
        }
        if let Some(KnnReport { neighbors, temperature, student, teacher }) = &self.knn {
            let note = format!("k = {neighbors}, temperature {temperature}");
            line(row("kNN", &percent(Some(*student)), &percent(*teacher), &note));
        }
        for ProbeReport { fraction, labels, learning_rate, student, .. } in &self.linear {
            let name = format!("linear probe, {}% of labels", fraction * 100.0);
            line(row(&name, &percent(Some(*student)), "-", &format!("{labels} labels, lr {learning_rate}")));
        }
        line(String::new());
        line(format!("{:.1} s, {:.0} images/s", self.seconds, self.images_per_second));
        out
    }
}

fn images_report(images: &LabeledImages<'_>, features: &Features) -> ImagesReport {
    ImagesReport {
        path: images.images.display().to_string(),
        images: features.pooled.rows(),
        rejects: features.rejects.clone(),
        view: features.view.clone(),
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

fn row(name: &str, student: &str, teacher: &str, note: &str) -> String {
    format!("{name:<28}{student:>8}{teacher:>9}  {note}").trim_end().to_owned()
}
