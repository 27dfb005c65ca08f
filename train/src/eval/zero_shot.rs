//! Zero-shot: the category whose text prototype is nearest, against labels or against the teacher's.

use lgd_data::bank::Bank;

use super::features::Features;
use super::matrix::{Matrix, argmax, top1};
use super::report::{AgreementReport, ZeroShotReport};
use crate::error::TrainError;

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

/// Evaluates the student, whose embeddings of the test images are `embedding`, and the teacher if its embeddings were
/// given. `truth`: the category of each image.
pub(super) fn judge(
    test: &Features,
    embedding: &Matrix,
    bank: &Bank,
    truth: &[u32],
) -> Result<ZeroShotReport, TrainError> {
    let prototypes = Matrix::new(bank.dim(), bank.tsb().to_vec());
    let student = classify(embedding, &prototypes)?;
    let teacher =
        test.teacher.as_ref().map(|teacher| classify_teacher(teacher, bank, &prototypes)).transpose()?;
    Ok(ZeroShotReport {
        categories: bank.categories(),
        student: top1(&student, truth),
        teacher: teacher.as_ref().map(|teacher| top1(teacher, truth)),
        agreement: teacher.as_ref().map(|teacher| top1(&student, teacher)),
    })
}

/// How often student and teacher choose the same category, over at least one row.
pub(super) fn compare(
    student: &Matrix,
    teacher: &Matrix,
    bank: &Bank,
) -> Result<AgreementReport, TrainError> {
    let prototypes = Matrix::new(bank.dim(), bank.tsb().to_vec());
    let teacher = classify_teacher(teacher, bank, &prototypes)?;
    let student = classify(student, &prototypes)?;
    Ok(AgreementReport { categories: bank.categories(), student: top1(&student, &teacher) })
}

/// [`classify`] for the teacher: its embeddings are centered if the bank is. The student has learned to give centered ones.
fn classify_teacher(teacher: &Matrix, bank: &Bank, prototypes: &Matrix) -> Result<Vec<u32>, TrainError> {
    let Some(center) = bank.center() else { return classify(teacher, prototypes) };
    let mut values = teacher.values().to_vec();
    center.images(&mut values).map_err(|_| TrainError::EqualsMean)?;
    classify(&Matrix::new(bank.dim(), values), prototypes)
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
