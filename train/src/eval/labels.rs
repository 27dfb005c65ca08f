//! Top-1 of a supervised student's own classifier.

use super::classes::{Classes, LabelMap, borrowed, labels_of, shown};
use super::details::{Details, first};
use super::report::LabelsReport;
use super::zero_shot::name;
use super::{EvalError, EvalInput, EvalInputs, Protocol};
use crate::inference::{ImageModel, top1};
use crate::loader::labels::ClassRecord;
use crate::predict::{Candidate, Classifier};

/// Maps each label of the test images to an output of the classifier. The test images need not show all classes. Names
/// are matched with names, and a number is its own output. Names and numbers are never matched, because the order of
/// names does not say which numbers they stand for.
///
/// # Errors
/// [`EvalError::MissingInput`] if the student has no classifier; [`EvalError::NamedClasses`] and [`EvalError::NumberedClasses`] if one side has
/// names and the other numbers; [`EvalError::UnknownClasses`] if the student was not trained on one of the classes, or its name is
/// ambiguous.
pub(super) fn outputs(model: &dyn ImageModel, inputs: &EvalInputs<'_>) -> Result<LabelMap, EvalError> {
    let missing = EvalError::MissingInput { protocol: Protocol::Labels, input: EvalInput::Classifier };
    let known = model.card().classes.as_ref().ok_or(missing)?;
    let (source, images) = (inputs.test.source, || inputs.test.images.to_owned());
    let (labels, classes) = (labels_of(source), Classes::of(source.class_names()));
    let Some(mut found) = classes.labels_in(&labels, &Classes::of(known.names.as_deref())) else {
        return Err(match source.class_names() {
            // Without a label there is nothing to match, and the error for missing labels follows.
            _ if labels.is_empty() => return Ok(LabelMap::default()),
            Some(names) if matches!(classes, Classes::Names(_)) => EvalError::NamedClasses {
                images: images(),
                classes: shown(&borrowed(names)),
                known: words(known),
            },
            _ => EvalError::NumberedClasses { images: images(), known: words(known) },
        });
    };
    for (_, output) in &mut found {
        *output = output.filter(|output| known.is_trained(*output));
    }
    LabelMap::complete(found, &classes).map_err(|classes| EvalError::UnknownClasses {
        images: images(),
        classes: shown(&borrowed(&classes)),
        known: words(known),
    })
}

/// Evaluates the classifier, whose most probable classes are `top`. `truth`: the classifier's output for each image.
pub(super) fn judge(top: &[Vec<Candidate>], classifier: &Classifier, truth: &[u32]) -> LabelsReport {
    let names = classifier.categories().names();
    LabelsReport {
        classes: names.len(),
        student: top1(&first(top), truth),
        details: Details::of_candidates(top, truth, names.len(), |class| name(&names, class)),
    }
}

/// The class names, or the range of the class numbers.
fn words(classes: &ClassRecord) -> String {
    let numbers = || format!("0 to {}", classes.count.saturating_sub(1));
    classes.names.as_ref().map_or_else(numbers, |names| shown(&borrowed(names)).join(", "))
}
