//! KDEP (arXiv 2203.05180): docs/methods.md section 2.
//!
//! `L = mean over batch and dimensions of (x - f(y))^2`. x is the student's pooled feature before its last activation.
//! f(y) is the teacher's feature, projected to the width of x and scaled, as the KDEP bank holds it.

use super::registry::{Declared, Setup};
use super::{Input, InputError, Loss, Objective, ObjectiveSpec, TargetBatch, TargetColumns, WantedOutputs};
use crate::error::{TrainError, expect_dims};
use crate::student::StudentOutput;

impl Declared for Kdep {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "kdep",
        about: "predicts the teacher's pooled feature, projected to the student's width; use weight 20 for a supervised teacher",
        needs: &[Input::Features],
        flags: &["--bank"],
        outputs: WantedOutputs { raw_pooled: true, ..WantedOutputs::NONE },
        default_weight: 3.0,
        source: "KDEP, arXiv 2203.05180",
    };

    /// Fails unless targets are as wide as the student's pooled feature.
    fn check(setup: &Setup<'_>) -> Result<(), InputError> {
        let (bank, student) = (setup.inputs.features()?, setup.student);
        let (got, expected) = (bank.dim(), student.feature_dim());
        if got == expected {
            return Ok(());
        }
        let features = bank.manifest().record.features;
        Err(InputError::TargetWidth { bank: bank.dir().to_owned(), student, got, expected, features })
    }

    fn build(_setup: &Setup<'_>) -> Result<Self, InputError> {
        Ok(Self)
    }
}

/// The KDEP objective.
pub struct Kdep;

impl Objective for Kdep {
    fn columns(&self) -> TargetColumns {
        TargetColumns { kdep: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (x, y) = (output.raw_pooled()?, targets.kdep()?);
        expect_dims("KDEP targets", y, x.dims())?;
        let total = (x - y)?.sqr()?.mean_all()?;
        Ok(Loss { parts: vec![("kdep", total.detach())], total })
    }
}
