//! The caption term of GPT4Image (arXiv 2306.00693): docs/methods.md section 4.
//!
//! Symmetric contrast within the batch: with logits `z[i,j] = s_i . c_j / tau` of the students' and the captions' embeddings,
//! `L = (mean_i -log_softmax(z[i,:])[i] + mean_j -log_softmax(z[:,j])[j]) / 2`. A batch that is taken in parts is contrasted part by part:
//! the fewer captions there are to tell apart, the smaller the loss, so that `--batch-parts` makes another objective of this one.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Loss, Objective, ObjectiveSpec, TargetBatch, TargetColumns, WantedOutputs, check_temperature};
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::student::StudentOutput;

/// What is to be known of it.
pub const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "caption",
    about: "contrast of images and their captions' embeddings within the batch",
    needs: &["captions in the cache"],
    flags: &["--tau-caption"],
    outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
    default_weight: 1.0,
    source: "GPT4Image, arXiv 2306.00693",
};

/// The caption objective.
pub struct Caption {
    temperature: f32,
}

impl Caption {
    /// The objective at a temperature.
    ///
    /// # Errors
    /// A temperature out of range.
    pub fn new(temperature: f32) -> Result<Self, TrainError> {
        check_temperature("the captions' temperature", temperature)?;
        Ok(Self { temperature })
    }
}

impl Objective for Caption {
    fn columns(&self) -> TargetColumns {
        TargetColumns { caption: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (s, captions) = (output.embedding()?, targets.caption()?);
        expect_dims("caption embeddings", captions, s.dims())?;
        let batch = s.dims()[0];
        let own = Tensor::eye(batch, DType::F32, s.device())?;
        let all: Arc<[bool]> = vec![true; batch].into();
        let logits = (ops::similarity(s, captions)? / f64::from(self.temperature))?;
        let to_captions = ops::soft_cross_entropy(&logits, &own, Arc::clone(&all))?;
        let to_images = ops::soft_cross_entropy(&logits.t()?.contiguous()?, &own, all)?;
        let total = ((to_captions + to_images)? * 0.5)?;
        Ok(Loss { parts: vec![("caption", total.detach())], total })
    }
}
