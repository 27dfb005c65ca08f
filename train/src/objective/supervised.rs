//! Cross-entropy with labels: the baseline for distillation.

use candle_core::Tensor;

use super::registry::{Declared, Setup};
use super::{
    Input, InputError, Loss, Objective, ObjectiveError, ObjectiveSpec, TargetBatch, TargetColumns,
    WantedOutputs,
};
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::student::StudentOutput;

impl Declared for Supervised {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "supervised",
        about: "cross-entropy with the labels; no teacher; cannot be combined",
        needs: &[Input::Labels],
        flags: &[],
        outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "the usual baseline",
    };

    fn build(_setup: &Setup<'_>) -> Result<Self, InputError> {
        Ok(Self)
    }
}

/// The supervised objective.
pub struct Supervised;

impl Objective for Supervised {
    fn columns(&self) -> TargetColumns {
        TargetColumns { label: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (logits, labels) = (output.embedding()?, targets.label()?);
        let (batch, classes) = logits.dims2()?;
        let outside = |label: &&u32| usize::try_from(**label).map_or(true, |label| label >= classes);
        if let Some(&label) = labels.iter().find(outside) {
            return Err(ObjectiveError::Label { label, classes }.into());
        }
        let indices = Tensor::from_slice(labels, (labels.len(), 1), logits.device())?;
        expect_dims("labels", &indices, &[batch, 1])?;
        let certain = Tensor::ones((batch, 1), logits.dtype(), logits.device())?;
        let total = ops::soft_cross_entropy_top_k(logits, &indices, &certain)?;
        Ok(Loss { parts: vec![("supervised", total.detach())], total })
    }
}
