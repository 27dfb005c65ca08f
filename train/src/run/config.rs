//! The settings that determine the bits of a run.

use std::path::PathBuf;

use lgd_data::render::MAX_SIZE;
use serde::{Deserialize, Serialize};

use super::RunError;
use crate::error::SettingError;
use crate::loader::holdout::Holdout;
use crate::loader::origin::StoredUse;
use crate::objective::{ObjectiveSettings, Objectives};
use crate::optim::{OptimizerSettings, ScheduleKind, Unit};
use crate::student::Architecture;

/// The paper's learning rate for a batch of [`REFERENCE_BATCH`] (docs/methods.md section 1).
const REFERENCE_LR: f32 = 0.03;
const REFERENCE_BATCH: f32 = 256.0;
const WARMUP_EPOCHS: u32 = 5;
/// Smallest input for which the map of every stage of a student has at least one pixel.
const MIN_SIZE: u32 = 16;

/// The resolved configuration of a run: `config.toml`. Together with the cache, the banks, the bytes of the initial
/// weights and the kind of device, it determines every bit of the student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The student.
    pub student: Architecture,
    /// Side of its square input, pixels.
    pub size: u32,
    /// Passes over the samples. 0 saves the untrained student.
    pub epochs: u32,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub base_lr: f32,
    /// Learning rate at the start of the warm-up.
    pub start_lr: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: u32,
    /// Schedule of the learning rate after the warm-up.
    pub schedule: ScheduleKind,
    /// Whether the learning rate changes at every epoch or at every step.
    pub lr_unit: Unit,
    /// The optimizer.
    #[serde(rename = "optimiser")]
    pub optimizer: OptimizerSettings,
    /// Number of parts that a batch is split into. They pass through the student one after the other, and their
    /// gradients are averaged before the step.
    #[serde(alias = "accumulate")]
    pub batch_parts: usize,
    /// The weighted sum of losses. Files from before there was a choice mean LGD.
    #[serde(default)]
    pub objective: Objectives,
    /// Settings of all objectives, as flat members.
    #[serde(flatten)]
    pub objective_settings: ObjectiveSettings,
    /// Seed of initialization, order and dropout.
    pub seed: u64,
    /// Whether the cache's stored views are used.
    #[serde(default)]
    pub stored_views: StoredUse,
    /// Initial weights, under torchvision's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Samples of the cache that are evaluated after every epoch and never trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<Holdout>,
    /// Epochs without a better held-out score after which the run stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
}

impl TrainConfig {
    /// LGD with its paper's settings (docs/methods.md section 1), except for the visual bank
    /// ([`LgdSettings`](crate::objective::LgdSettings)), and with the given student, size, length and batch. The
    /// warm-up takes at most a quarter of the epochs and starts below the base learning rate.
    pub fn new(student: Architecture, size: u32, epochs: u32, batch: usize, seed: u64) -> Self {
        let base_lr = Self::default_lr(batch);
        Self {
            student,
            size,
            epochs,
            batch,
            base_lr,
            start_lr: Self::default_start_lr(base_lr),
            warmup_epochs: WARMUP_EPOCHS.min(epochs / 4),
            schedule: ScheduleKind::DEFAULT,
            lr_unit: Unit::Epoch,
            optimizer: OptimizerSettings::default(),
            batch_parts: 1,
            objective: Objectives::default(),
            objective_settings: ObjectiveSettings::default(),
            seed,
            stored_views: StoredUse::default(),
            init: None,
            holdout: None,
            patience: None,
        }
    }

    /// 0.03 as published, or a tenth of `base_lr` if `base_lr` is at most 0.03.
    pub fn default_start_lr(base_lr: f32) -> f32 {
        if base_lr > REFERENCE_LR { REFERENCE_LR } else { base_lr / 10.0 }
    }

    /// 0.03 x batch / 256.
    pub fn default_lr(batch: usize) -> f32 {
        // A batch that does not fit u16 would not fit any memory.
        u16::try_from(batch).map_or(f32::from(u16::MAX), f32::from) * (REFERENCE_LR / REFERENCE_BATCH)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`RunError::Setting`] or [`RunError::Train`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), RunError> {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let not_negative = |value: f32| value.is_finite() && value >= 0.0;
        let checks = [
            ("size", self.size.to_string(), (MIN_SIZE..=MAX_SIZE).contains(&self.size), "16 to 4096 pixels"),
            // The batch statistics of a single image say nothing about the data.
            ("batch", self.batch.to_string(), (2..=65_535).contains(&self.batch), "2 to 65535"),
            ("base_lr", self.base_lr.to_string(), positive(self.base_lr), "a positive number"),
            (
                "start_lr",
                self.start_lr.to_string(),
                not_negative(self.start_lr),
                "a number that is not negative",
            ),
            (
                "batch_parts",
                self.batch_parts.to_string(),
                // A part of a single image has no batch statistics.
                self.batch_parts >= 1
                    && self.batch.is_multiple_of(self.batch_parts)
                    && self.batch / self.batch_parts >= 2,
                "a divisor of the batch that leaves at least 2 images",
            ),
            (
                "warmup_epochs",
                self.warmup_epochs.to_string(),
                self.warmup_epochs <= self.epochs,
                "at most the number of epochs",
            ),
            (
                "patience",
                self.patience.map_or(String::new(), |epochs| epochs.to_string()),
                self.patience != Some(0),
                "at least 1 epoch",
            ),
            // TOML has signed integers only.
            ("seed", self.seed.to_string(), i64::try_from(self.seed).is_ok(), "below 2^63"),
        ];
        self.optimizer.validate()?;
        self.objective_settings.check()?;
        Ok(SettingError::first(checks)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::{CategoryWeights, QueueFill, VisualMode};
    use crate::optim::CosineFrom;

    #[test]
    fn defaults_are_the_papers_and_valid() {
        let config = TrainConfig::new(Architecture::ResNet18, 224, 200, 2048, 0);
        config.validate().unwrap();
        assert!((config.base_lr - 0.24).abs() < 1e-6);
        assert_eq!((config.start_lr, config.warmup_epochs), (0.03, 5));
        let small = TrainConfig::new(Architecture::MobileNetV2, 32, 8, 128, 0);
        small.validate().unwrap();
        assert!((small.base_lr - 0.015).abs() < 1e-7);
        assert_eq!((small.start_lr, small.warmup_epochs), (small.base_lr / 10.0, 2));
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let valid = TrainConfig::new(Architecture::ResNet18, 32, 4, 64, 0);
        let with = |change: fn(&mut ObjectiveSettings)| {
            let mut config = valid.clone();
            change(&mut config.objective_settings);
            config
        };
        let broken = [
            ("size", TrainConfig { size: 8, ..valid.clone() }),
            ("batch", TrainConfig { batch: 1, ..valid.clone() }),
            ("base_lr", TrainConfig { base_lr: f32::NAN, ..valid.clone() }),
            ("warmup_epochs", TrainConfig { warmup_epochs: 5, ..valid.clone() }),
            ("seed", TrainConfig { seed: u64::MAX, ..valid.clone() }),
            ("patience", TrainConfig { patience: Some(0), ..valid.clone() }),
            ("alpha", with(|settings| settings.lgd.alpha = 1.5)),
            ("student_temperature", with(|settings| settings.shared.student_temperature = 0.0)),
            ("vsb_momentum", with(|settings| settings.lgd.vsb_momentum = 1.0)),
            ("teacher_temperature", with(|settings| settings.seed.teacher_temperature = -1.0)),
            ("queue", with(|settings| settings.shared.queue = 0)),
            ("compress_temperature", with(|settings| settings.compress.compress_temperature = 0.0)),
            ("caption_temperature", with(|settings| settings.caption.caption_temperature = f32::NAN)),
            ("mask_ratio", with(|settings| settings.hgkd.mask_ratio = 1.0)),
            ("mask_ratio", with(|settings| settings.hgkd.mask_ratio = 0.0)),
            ("beta", with(|settings| settings.hgkd.beta = -0.1)),
            ("lambda_sim", with(|settings| settings.hgkd.lambda_sim = f32::INFINITY)),
        ];
        for (name, config) in broken {
            let error = config.validate().unwrap_err();
            assert!(matches!(&error, RunError::Setting(error) if error.setting == name), "{name}: {error}");
        }
    }

    #[test]
    fn a_configuration_survives_toml_and_json() {
        let mut config = TrainConfig::new(Architecture::MobileNetV2, 160, 90, 100, 42);
        config.init = Some(PathBuf::from("a/b.safetensors"));
        config.objective = "lgd,kdep:0.1".parse().unwrap();
        config.objective_settings.lgd.vsb = VisualMode::Ema;
        config.objective_settings.lgd.slots = CategoryWeights::Views;
        config.objective_settings.hgkd.mask_ratio = 0.7;
        config.objective_settings.shared.queue_fill = QueueFill::Random;
        config.schedule = ScheduleKind::Cosine { from: CosineFrom::Start };
        config.stored_views = StoredUse::Ignored;
        (config.holdout, config.patience) = (Some(Holdout::Percent(2.5)), Some(3));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config, "{text}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config, "{json}");
    }

    #[test]
    fn a_configuration_from_before_there_was_a_choice_of_objectives_is_lgds() {
        let old = TrainConfig::new(Architecture::ResNet18, 32, 4, 64, 0);
        let mut json = serde_json::to_value(&old).unwrap();
        let members = json.as_object_mut().unwrap();
        for later in [
            "objective",
            "slots",
            "teacher_temperature",
            "queue",
            "queue_fill",
            "compress_temperature",
            "caption_temperature",
            "mask_ratio",
            "beta",
            "lambda_sim",
        ] {
            assert!(members.remove(later).is_some(), "{later}");
        }
        assert_eq!(serde_json::from_value::<TrainConfig>(json).unwrap(), old);
    }
}
