//! Top-1 of a supervised student's own classifier.

use lgd_data::source::ImageSource;

use super::EvalInputs;
use super::classes::class_slots;
use super::features::Features;
use super::matrix::{Matrix, argmax, top1};
use super::report::LabelsReport;
use crate::run::{ClassRecord, RunError};

/// The classifier's output for every label of the test images: by name where both sides have names, else the label itself.
///
/// # Errors
/// [`RunError::MissingInput`] where the run has no classifier; [`RunError::ClassesDiffer`] where classes are missing or too many.
pub(super) fn outputs(inputs: &EvalInputs<'_>) -> Result<Vec<u32>, RunError> {
    let input = "a run that ends in a classifier\nhint: train with --objective supervised, or judge by zero-shot, knn or linear";
    let missing = RunError::MissingInput { of: "labels", input };
    let known = inputs.run.manifest().classes.as_ref().ok_or(missing)?;
    let shown = classes(inputs.test.source);
    let as_they_are = || (0..u32::try_from(known.count).unwrap_or(u32::MAX)).collect();
    let found = match (&known.names, &shown.names) {
        (_, Some(_)) if known.count != shown.count => None,
        (Some(known), Some(shown)) => {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            class_slots(shown, &known).ok()
        }
        // A few images need not show all classes.
        _ => (shown.count <= known.count).then(as_they_are),
    };
    found.ok_or_else(|| RunError::ClassesDiffer { train: words(known), test: words(&shown) })
}

/// The classes of a source: its names, or as many as its largest label asks for.
fn classes(source: &dyn ImageSource) -> ClassRecord {
    let names = source.class_names().map(<[String]>::to_vec);
    let largest = source.samples().iter().filter_map(|sample| sample.label).max();
    let count = largest.map_or(0, |label| usize::try_from(label).unwrap_or(usize::MAX).saturating_add(1));
    ClassRecord { count: names.as_ref().map_or(count, Vec::len), names }
}

/// The student's share of right answers. `outputs`: the classifier's output of each label.
pub(super) fn judge(test: &Features, logits: &Matrix, outputs: &[u32]) -> LabelsReport {
    let predicted: Vec<u32> = logits.iter().map(argmax).collect();
    // Labels were checked against the classes, and outputs has one entry per class.
    let truth = test.labels.iter().filter_map(|&label| outputs.get(usize::try_from(label).ok()?));
    let truth: Vec<u32> = truth.copied().collect();
    LabelsReport { classes: logits.width(), student: top1(&predicted, &truth) }
}

/// The names, or the range of the numbers.
fn words(classes: &ClassRecord) -> String {
    let numbers = || format!("0 to {}", classes.count.saturating_sub(1));
    classes.names.as_ref().map_or_else(numbers, |names| names.join(", "))
}
