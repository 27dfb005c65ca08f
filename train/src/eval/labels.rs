//! Top-1 of a supervised student's own classifier.

use super::classes::{borrowed, categories_of_classes, numbers_as_categories, shown};
use super::features::Features;
use super::matrix::{Matrix, argmax, top1};
use super::report::LabelsReport;
use super::{EvalError, EvalInput, EvalInputs, Protocol};
use crate::loader::labels::ClassRecord;

/// Maps each label of the test images to an output of the classifier. The test images need not show all classes. Names
/// are matched with names, and a number is its own output. Names and numbers are never matched, because the order of
/// names does not say which numbers they stand for.
///
/// # Errors
/// [`EvalError::MissingInput`] if the run has no classifier; [`EvalError::NamedClasses`] and [`EvalError::NumberedClasses`] if one side has
/// names and the other numbers; [`EvalError::UnknownClasses`] if the student was not trained on one of the classes, or its name is
/// ambiguous.
pub(super) fn outputs(inputs: &EvalInputs<'_>) -> Result<Vec<u32>, EvalError> {
    let missing = EvalError::MissingInput { protocol: Protocol::Labels, input: EvalInput::Classifier };
    let known = inputs.run.manifest().classes.as_ref().ok_or(missing)?;
    let (source, images) = (inputs.test.source, || inputs.test.images.to_owned());
    let outputs = match (&known.names, source.class_names()) {
        (Some(names), Some(classes)) => categories_of_classes(classes, &borrowed(names)),
        (None, Some(classes)) => {
            let (images, classes) = (images(), shown(&borrowed(classes)));
            return Err(EvalError::NamedClasses { images, classes, known: words(known) });
        }
        (Some(_), None) if source.samples().iter().any(|sample| sample.label.is_some()) => {
            return Err(EvalError::NumberedClasses { images: images(), known: words(known) });
        }
        (_, None) => numbers_as_categories(source, known.count),
    };
    outputs.map_err(|classes| EvalError::UnknownClasses {
        images: images(),
        classes: shown(&borrowed(&classes)),
        known: words(known),
    })
}

/// Evaluates the classifier. `outputs`: the classifier's output for each label.
pub(super) fn judge(test: &Features, logits: &Matrix, outputs: &[u32]) -> LabelsReport {
    let predicted: Vec<u32> = logits.iter().map(argmax).collect();
    // Labels were checked against the classes, and outputs has one entry per class.
    let truth = test.labels.iter().filter_map(|&label| outputs.get(usize::try_from(label).ok()?));
    let truth: Vec<u32> = truth.copied().collect();
    LabelsReport { classes: logits.width(), student: top1(&predicted, &truth) }
}

/// The class names, or the range of the class numbers.
fn words(classes: &ClassRecord) -> String {
    let numbers = || format!("0 to {}", classes.count.saturating_sub(1));
    classes.names.as_ref().map_or_else(numbers, |names| shown(&borrowed(names)).join(", "))
}
