//! The settings of objectives, those of all of them together: members of `config.toml`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::RunError;

/// Where the visual semantics bank of LGD comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisualMode {
    /// The bank's means; the visual distributions are read from disk.
    Mean,
    /// The paper's online form: a moving average, computed in the loop.
    Ema,
}

impl fmt::Display for VisualMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Ema => "ema",
        })
    }
}

impl FromStr for VisualMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "mean" => Ok(Self::Mean),
            "ema" => Ok(Self::Ema),
            _ => Err(format!("expected mean or ema, got {name:?}")),
        }
    }
}

/// How often a category's slot counts in LGD's distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotMode {
    /// Once, as published.
    Balanced,
    /// As often as views are assigned to it.
    Views,
}

impl FromStr for SlotMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "balanced" => Ok(Self::Balanced),
            "views" => Ok(Self::Views),
            _ => Err(format!("expected balanced or views, got {name:?}")),
        }
    }
}

/// Settings of objectives. One that no chosen objective reads has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectiveSettings {
    /// LGD: weight of the visual term; the textual one has 1 - alpha.
    pub alpha: f32,
    /// LGD, SEED: temperature tau_s of the student's distributions.
    pub student_temperature: f32,
    /// LGD: where the visual semantics bank comes from.
    pub vsb: VisualMode,
    /// LGD: momentum of the moving average, used with [`VisualMode::Ema`] only.
    pub vsb_momentum: f32,
    /// LGD: how often a category's slot counts.
    pub slots: SlotMode,
    /// SEED: temperature tau_t of the teacher's distribution over the queue. LGD's stands in the bank.
    pub teacher_temperature: f32,
    /// SEED, H-GKD: most teacher embeddings in the queue, K; never more than the cache has rows.
    pub queue: usize,
    /// Caption: temperature of the similarities to captions.
    pub caption_temperature: f32,
    /// H-GKD: share of cells hidden from the student.
    pub mask_ratio: f32,
    /// H-GKD: weight of the visible cells beside the hidden ones.
    pub beta: f32,
    /// H-GKD: weight of the similarities to the queue.
    pub lambda_sim: f32,
}

impl Default for ObjectiveSettings {
    /// Those of the papers (docs/methods.md sections 1, 3 and 4), but for LGD's visual bank: the paper's moves with the batches
    /// ([`VisualMode::Ema`]), the default is fixed.
    fn default() -> Self {
        Self {
            alpha: 0.5,
            student_temperature: 0.2,
            vsb: VisualMode::Mean,
            vsb_momentum: 0.999,
            slots: SlotMode::Balanced,
            teacher_temperature: 0.01,
            queue: 65_536,
            caption_temperature: 0.07,
            mask_ratio: 0.6,
            beta: 1.0,
            lambda_sim: 1.0,
        }
    }
}

impl ObjectiveSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`RunError::Configuration`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), RunError> {
        let positive = |value: f32| (value.is_finite() && value > 0.0, "a positive number");
        let weight = |value: f32| (value.is_finite() && value >= 0.0, "a number that is not negative");
        let checks = [
            ("alpha", self.alpha, ((0.0..=1.0).contains(&self.alpha), "between 0 and 1")),
            ("student_temperature", self.student_temperature, positive(self.student_temperature)),
            (
                "vsb_momentum",
                self.vsb_momentum,
                ((0.0..1.0).contains(&self.vsb_momentum), "at least 0 and below 1"),
            ),
            ("teacher_temperature", self.teacher_temperature, positive(self.teacher_temperature)),
            ("caption_temperature", self.caption_temperature, positive(self.caption_temperature)),
            (
                "mask_ratio",
                self.mask_ratio,
                (self.mask_ratio > 0.0 && self.mask_ratio < 1.0, "above 0 and below 1"),
            ),
            ("beta", self.beta, weight(self.beta)),
            ("lambda_sim", self.lambda_sim, weight(self.lambda_sim)),
        ];
        if self.queue == 0 {
            return Err(RunError::Configuration {
                setting: "queue",
                value: "0".to_owned(),
                rule: "at least 1",
            });
        }
        match checks.into_iter().find(|(_, _, (valid, _))| !valid) {
            Some((setting, value, (_, rule))) => {
                Err(RunError::Configuration { setting, value: value.to_string(), rule })
            }
            None => Ok(()),
        }
    }
}
