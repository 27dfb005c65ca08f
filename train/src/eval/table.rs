//! The outcome of an evaluation as a table of text.

use std::fmt::Write;

use super::details::{ClassReport, Details};
use super::report::{AgreementReport, EvalReport, KnnReport, LabelsReport, ProbeReport, ZeroShotReport};

/// Rejects that the table lists; the JSON lists all of them.
const NAMED: usize = 5;
/// Classes with the lowest accuracy that the table lists.
const HARDEST: usize = 5;

impl EvalReport {
    /// A table of text. Percentages have one decimal; the teacher's are shown if known.
    pub fn to_table(&self) -> String {
        let mut out = self.head();
        out += &row("top-1, %", "student", "95% interval", "teacher", "");
        if let Some(ZeroShotReport { categories, student, teacher, agreement, details }) = &self.zero_shot {
            let note = format!("{categories} categories");
            out += &figure("zero-shot", *student, Some(details.interval), *teacher, &note);
            out += &beside(details, *agreement);
        }
        if let Some(AgreementReport { categories, student }) = &self.agreement {
            let note = format!("{categories} categories, same choice as the teacher");
            out += &figure("agreement", *student, None, None, &note);
        }
        if let Some(LabelsReport { classes, student, details }) = &self.labels {
            out += &figure("labels", *student, Some(details.interval), None, &format!("{classes} classes"));
            out += &beside(details, None);
        }
        if let Some(KnnReport { neighbors, temperature, student, teacher, details }) = &self.knn {
            let note = format!("k = {neighbors}, temperature {temperature}");
            out += &figure("kNN", *student, Some(details.interval), *teacher, &note);
            out += &beside(details, None);
        }
        self.linear.iter().for_each(|probe| out += &probe_row(probe));
        let details = self.zero_shot.as_ref().map(|report| ("zero-shot", &report.details));
        let details = details.or(self.labels.as_ref().map(|report| ("labels", &report.details)));
        let details = details.or(self.knn.as_ref().map(|report| ("kNN", &report.details)));
        if let Some((protocol, details)) = details {
            out += &hardest(protocol, details);
        }
        let _ = writeln!(out, "\n{:.1} s, {:.0} images/s", self.seconds, self.images_per_second);
        out
    }

    /// The student and the images.
    fn head(&self) -> String {
        let mut out = match (&self.student, self.epochs) {
            (Some(student), Some(epochs)) => format!("{student} after {epochs} epochs\n"),
            (Some(student), None) => format!("{student} in {}\n", self.model),
            (None, _) => format!("{}\n", self.model),
        };
        for (name, images) in [("test", Some(&self.test)), ("train", self.train.as_ref())] {
            let Some(images) = images else { continue };
            let rejects = match images.rejects.len() {
                0 => String::new(),
                count => format!(", {count} rejected"),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{name:<6}{} images{rejects} · {} · {}",
                images.images, images.view, images.path
            );
            for reject in images.rejects.iter().take(NAMED) {
                let _ = writeln!(out, "      {}: {} ({})", reject.key, reject.reason, reject.detail);
            }
        }
        out.push('\n');
        out
    }
}

/// The figures of a protocol below its top-1.
fn beside(details: &Details, agreement: Option<f64>) -> String {
    let Details { mean_per_class, top5, ece, .. } = details;
    let figure = |name: &str, value: Option<f64>| {
        value.map_or(String::new(), |value| row(name, &format!("{value:.1}"), "", "", ""))
    };
    let mut out = figure("  mean per class", Some(*mean_per_class));
    out += &figure("  top-5", *top5);
    out += &figure("  same choice as the teacher", agreement);
    if let Some(ece) = ece {
        out += &row("  calibration error, 0 to 1", &format!("{ece:.3}"), "", "", "");
    }
    out
}

fn probe_row(probe: &ProbeReport) -> String {
    let ProbeReport { fraction, labels, student, deviation, interval, seeds } = probe;
    let mut note = format!("{labels} labels");
    match (deviation, &seeds[..]) {
        (Some(deviation), seeds) => {
            let _ = write!(note, ", {} seeds, deviation {deviation:.1}", seeds.len());
        }
        (None, [seed, ..]) => {
            let _ = write!(note, ", lr {}, L2 {}", seed.learning_rate, seed.l2);
        }
        (None, []) => {}
    }
    figure(&format!("linear probe, {}% of labels", fraction * 100.0), *student, Some(*interval), None, &note)
}

/// The classes that are recognized least often, and what they are taken for. Empty for few images per class or if all
/// are recognized.
fn hardest(protocol: &str, details: &Details) -> String {
    let mut classes: Vec<(usize, &ClassReport, f64)> = details
        .per_class
        .iter()
        .enumerate()
        .filter_map(|(number, class)| {
            Some((number, class, class.accuracy.filter(|accuracy| *accuracy < 100.0)?))
        })
        .collect();
    classes.sort_by(|a, b| a.2.total_cmp(&b.2));
    classes.truncate(HARDEST);
    if classes.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "\n{:<28}{:>8}{:>8}  most often taken for\n",
        format!("hardest by {protocol}, %"),
        "right",
        "images"
    );
    for (number, class, accuracy) in classes {
        let wrong = details
            .confusion
            .iter()
            .filter(|[truth, predicted, _]| usize::try_from(*truth) == Ok(number) && truth != predicted);
        // The first of equal ones.
        let most = wrong.rev().max_by_key(|[.., count]| *count).and_then(|[_, predicted, count]| {
            let name = &details.per_class.get(usize::try_from(*predicted).ok()?)?.name;
            Some(format!("{name} ({count})"))
        });
        let _ = writeln!(
            out,
            "  {:<26}{accuracy:>8.1}{:>8}  {}",
            class.name,
            class.images,
            most.unwrap_or_default()
        );
    }
    out
}

fn figure(name: &str, student: f64, interval: Option<[f64; 2]>, teacher: Option<f64>, note: &str) -> String {
    let interval = interval.map_or(String::new(), |[low, high]| format!("{low:.1} - {high:.1}"));
    let teacher = teacher.map_or("-".to_owned(), |teacher| format!("{teacher:.1}"));
    row(name, &format!("{student:.1}"), &interval, &teacher, note)
}

fn row(name: &str, student: &str, interval: &str, teacher: &str, note: &str) -> String {
    let row = format!("{name:<28}{student:>8}{interval:>15}{teacher:>9}  {note}");
    format!("{}\n", row.trim_end())
}
