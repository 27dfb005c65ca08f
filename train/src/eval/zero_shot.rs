//! Zero-shot: the category whose text prototype is nearest, against labels or against the teacher's.

use lgd_data::bank::Bank;

use super::EvalError;
use super::details::{Details, KEPT, first};
use super::features::Features;
use super::report::{AgreementReport, ZeroShotReport};
use crate::error::TrainError;
use crate::inference::{Matrix, argmax, top1};
use crate::predict::{Candidate, Classifier};

/// Predicts the category of each row of `embeddings` (`[N, D]`): argmax of its products with `prototypes` (`[C, D]`),
/// the first one in a tie (docs/methods.md section 1, "Evaluation").
///
/// # Errors
/// If the widths differ.
pub fn classify(embeddings: &Matrix, prototypes: &Matrix) -> Result<Vec<u32>, TrainError> {
    let mut predicted = Vec::with_capacity(embeddings.rows());
    let right = prototypes.tensor()?.t()?.contiguous()?;
    embeddings.for_each_product(&right, |row| predicted.push(argmax(row)))?;
    Ok(predicted)
}

/// The most probable names of each test image.
pub(super) fn candidates(test: &Features, classifier: &Classifier) -> Result<Vec<Vec<Candidate>>, EvalError> {
    let mut top = Vec::with_capacity(test.positions.len());
    if let Some(outputs) = test.output(classifier.output()) {
        classifier.for_each_row(outputs, |row| top.push(row.top(KEPT)))?;
    }
    Ok(top)
}

/// Evaluates the student, whose most probable names are `top`, and the teacher if its embeddings and a bank were given.
/// `truth`: the category of each image.
pub(super) fn judge(
    test: &Features,
    top: &[Vec<Candidate>],
    (classifier, bank): (&Classifier, Option<&Bank>),
    truth: &[u32],
) -> Result<ZeroShotReport, EvalError> {
    let names = classifier.categories().names();
    let student = first(top);
    let teacher = test.teacher.as_ref().zip(bank);
    let teacher = teacher.map(|(teacher, bank)| classify_teacher(teacher, bank)).transpose()?;
    Ok(ZeroShotReport {
        categories: names.len(),
        student: top1(&student, truth),
        teacher: teacher.as_ref().map(|teacher| top1(teacher, truth)),
        agreement: teacher.as_ref().map(|teacher| top1(&student, teacher)),
        details: Details::of_candidates(top, truth, names.len(), |category| name(&names, category)),
    })
}

/// How often student and teacher choose the same category, over at least one row.
pub(super) fn compare(
    top: &[Vec<Candidate>],
    teacher: &Matrix,
    bank: &Bank,
) -> Result<AgreementReport, EvalError> {
    let teacher = classify_teacher(teacher, bank)?;
    Ok(AgreementReport { categories: bank.categories(), student: top1(&first(top), &teacher) })
}

/// The name with this number.
pub(super) fn name(names: &[&str], category: u32) -> String {
    let name = usize::try_from(category).ok().and_then(|at| names.get(at));
    name.map_or_else(|| category.to_string(), |name| (*name).to_owned())
}

/// [`classify`] for the teacher: its embeddings are centered if the bank is. The student has learned to give centered ones.
fn classify_teacher(teacher: &Matrix, bank: &Bank) -> Result<Vec<u32>, TrainError> {
    let prototypes = Matrix::new(bank.dim(), bank.tsb().to_vec());
    let Some(center) = bank.center() else { return classify(teacher, &prototypes) };
    let mut values = teacher.values().to_vec();
    center.images(&mut values).map_err(|_| TrainError::EqualsMean)?;
    classify(&Matrix::new(bank.dim(), values), &prototypes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_prototype_wins() {
        let prototypes = Matrix::new(2, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0]);
        let embeddings = Matrix::new(2, vec![0.1, 0.9, -0.8, 0.1, 0.7, 0.7]);
        assert_eq!(classify(&embeddings, &prototypes).unwrap(), [1, 2, 0]);
    }
}
