//! Groups of settings, and the group that several objectives share.
//!
//! A group is one struct with three uses: the flags of `lgd train` (clap), the members of `config.toml` (serde), and
//! the values that an objective is built with. Members have flat names in `config.toml`, whichever group they are in.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::queue::QueueFill;
use crate::error::SettingError;
use crate::parse;

/// A group of settings.
pub trait SettingGroup {
    /// Checks every setting of the group, whether or not a chosen objective reads it.
    ///
    /// # Errors
    /// The first setting that is out of range.
    fn check(&self) -> Result<(), SettingError>;

    /// A flag that another setting of the group leaves without effect, if there is one.
    fn idle(&self) -> Option<IdleFlag> {
        None
    }
}

/// A flag that another flag leaves without effect. A test checks that clap defines both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleFlag {
    /// The flag.
    pub flag: &'static str,
    /// The method or part that the flag configures.
    pub owner: &'static str,
    /// The flag that gives it an effect.
    pub needs: &'static str,
}

/// Settings that several objectives read.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedSettings {
    /// lgd, seed: temperature of the student's logits.
    #[arg(long = "tau-s", value_name = "TAU_S", default_value_t = SHARED.student_temperature, value_parser = parse::temperature)]
    pub student_temperature: f32,
    /// seed, compress, hgkd: teacher embeddings in the queue; at most as many as the cache has. The default is at most a
    /// quarter of the samples.
    #[arg(long, value_name = "K", default_value_t = SHARED.queue, value_parser = parse::at_least_one)]
    pub queue: usize,
    /// seed, compress, hgkd: the queue at the first step: empty, or random (full of random unit vectors, as published for
    /// seed and compress).
    #[arg(long, value_name = "START", default_value_t = SHARED.queue_fill)]
    pub queue_fill: QueueFill,
}

/// The papers' settings (docs/methods.md sections 1 and 4).
const SHARED: SharedSettings =
    SharedSettings { student_temperature: 0.2, queue: 65_536, queue_fill: QueueFill::Empty };

impl Default for SharedSettings {
    fn default() -> Self {
        SHARED
    }
}

impl SettingGroup for SharedSettings {
    fn check(&self) -> Result<(), SettingError> {
        let Self { student_temperature, queue, .. } = *self;
        SettingError::first([
            positive("student_temperature", student_temperature),
            ("queue", queue.to_string(), queue > 0, "at least 1"),
        ])
    }
}

/// A check for [`SettingError::first`].
pub(super) type Check = (&'static str, String, bool, &'static str);

/// Checks for a number above 0.
pub(super) fn positive(setting: &'static str, value: f32) -> Check {
    (setting, value.to_string(), value.is_finite() && value > 0.0, "a positive number")
}

/// Checks for a number of at least 0.
pub(super) fn not_negative(setting: &'static str, value: f32) -> Check {
    (setting, value.to_string(), value.is_finite() && value >= 0.0, "a number that is not negative")
}
