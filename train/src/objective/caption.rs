//! The caption term of GPT4Image (arXiv 2306.00693): docs/methods.md section 4.
//!
//! Symmetric contrast within the batch: with logits `z[i,j] = s_i . c_j / tau` of the students' and the captions'
//! embeddings, `L = (mean_i -log_softmax(z[i,:])[i] + mean_j -log_softmax(z[:,j])[j]) / 2`. A batch that is split into
//! parts is contrasted part by part. A part has fewer captions to tell apart and so a smaller loss. `--batch-parts`
//! therefore changes this objective.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::registry::{Declared, Setup};
use super::settings::positive;
use super::{
    Input, InputError, Loss, Objective, ObjectiveSpec, SettingGroup, TargetBatch, TargetColumns,
    WantedOutputs, check_temperature,
};
use crate::error::{SettingError, TrainError, expect_dims};
use crate::ops;
use crate::parse;
use crate::student::StudentOutput;

/// Settings that only this objective reads.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptionSettings {
    /// caption: temperature of the similarities between images and captions.
    #[arg(long = "tau-caption", value_name = "TAU_CAPTION", default_value_t = DEFAULT.caption_temperature, value_parser = parse::temperature)]
    pub caption_temperature: f32,
}

/// The paper's settings (docs/methods.md section 4).
const DEFAULT: CaptionSettings = CaptionSettings { caption_temperature: 0.07 };

impl Default for CaptionSettings {
    fn default() -> Self {
        DEFAULT
    }
}

impl SettingGroup for CaptionSettings {
    fn check(&self) -> Result<(), SettingError> {
        SettingError::first([positive("caption_temperature", self.caption_temperature)])
    }
}

impl Declared for Caption {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "caption",
        about: "contrasts images with the embeddings of their captions within the batch",
        needs: &[Input::Captions],
        flags: &["--tau-caption"],
        outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "GPT4Image, arXiv 2306.00693",
    };

    /// Fails unless captions are as wide as the embeddings that they are compared with.
    fn check(setup: &Setup<'_>) -> Result<(), InputError> {
        let cache = setup.inputs.cache();
        match &cache.manifest().config.captions {
            Some(record) if record.dim != cache.dim() => {
                let (got, expected) = (record.dim, cache.dim());
                Err(InputError::CaptionWidth { cache: cache.dir().to_owned(), got, expected })
            }
            _ => Ok(()),
        }
    }

    fn build(setup: &Setup<'_>) -> Result<Self, InputError> {
        Ok(Self::new(setup.settings.caption.caption_temperature)?)
    }
}

/// The caption objective.
pub struct Caption {
    temperature: f32,
}

impl Caption {
    /// Creates the objective with a temperature.
    ///
    /// # Errors
    /// If the temperature is out of range.
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
