//! Top-1 of a supervised student's own classifier.

use super::EvalInputs;
use super::classes::{borrowed, class_slots, plain_slots, shown};
use super::features::Features;
use super::matrix::{Matrix, argmax, top1};
use super::report::LabelsReport;
use crate::run::{ClassRecord, RunError};

/// The classifier's output for every label of the test images, which need not show all classes: by name where both sides have names,
/// the label itself where both have numbers. Names in their order do not say which numbers they stand for, nor the other way round.
///
/// # Errors
/// [`RunError::MissingInput`] where the run has no classifier; [`RunError::NamedClasses`] and [`RunError::NumberedClasses`] where one
/// side has names and the other numbers; [`RunError::UnknownClasses`] where it was not trained on one of the classes, or cannot tell
/// which of its own one is.
pub(super) fn outputs(inputs: &EvalInputs<'_>) -> Result<Vec<u32>, RunError> {
    let input = "a run that ends in a classifier\nhint: train with --objective supervised, or judge by zero-shot, knn or linear";
    let missing = RunError::MissingInput { of: "labels", input };
    let known = inputs.run.manifest().classes.as_ref().ok_or(missing)?;
    let (source, images) = (inputs.test.source, || inputs.test.images.to_owned());
    let slots = match (&known.names, source.class_names()) {
        (Some(names), Some(classes)) => class_slots(classes, &borrowed(names)),
        (None, Some(classes)) => {
            let (images, classes) = (images(), shown(&borrowed(classes)));
            return Err(RunError::NamedClasses { images, classes, known: words(known) });
        }
        (Some(_), None) if source.samples().iter().any(|sample| sample.label.is_some()) => {
            return Err(RunError::NumberedClasses { images: images(), known: words(known) });
        }
        (_, None) => plain_slots(source, known.count),
    };
    slots.map_err(|classes| RunError::UnknownClasses {
        images: images(),
        classes: shown(&borrowed(&classes)),
        known: words(known),
    })
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
    classes.names.as_ref().map_or_else(numbers, |names| shown(&borrowed(names)).join(", "))
}
