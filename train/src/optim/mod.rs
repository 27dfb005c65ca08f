//! Settings of the optimizer and of the learning-rate schedule. [`crate::engine::optimizer`] has the rules, updates and
//! state.

mod schedule;

use serde::{Deserialize, Serialize};

pub use self::schedule::{CosineFrom, Schedule, ScheduleKind, ScheduleSettings, Unit};
pub use crate::engine::optimizer::{Group, OptimizerState, Rule, Update};
use crate::engine::optimizer::{require_positive, require_share};
use crate::engine::parameters::{Entry, Role, Table};
use crate::error::{Result, TrainError};

/// The optimizer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSettings {
    /// The rule that turns gradients into updates.
    pub rule: Rule,
    /// L2 penalty (SGD, LARS) or decoupled weight decay (AdamW).
    pub weight_decay: f32,
    /// Whether biases and normalizations decay too, as by PyTorch's defaults and in the paper.
    pub decay_all: bool,
    /// Largest L2 norm of the whole gradient. A longer gradient is scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f32>,
    /// Share of the averaged weights that each step keeps, at most `(1 + step) / (10 + step)`. `None`: no average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f32>,
}

impl Default for OptimizerSettings {
    /// The paper's settings: SGD with momentum 0.9, weight decay 1e-4 on everything (docs/methods.md section 1).
    fn default() -> Self {
        let rule = Rule::Sgd { momentum: 0.9, nesterov: false };
        Self { rule, weight_decay: 1e-4, decay_all: true, clip: None, ema: None }
    }
}

impl OptimizerSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.rule.validate()?;
        if !self.weight_decay.is_finite() || self.weight_decay < 0.0 {
            return Err(TrainError::setting("weight decay", self.weight_decay, "finite and at least 0"));
        }
        self.clip.map_or(Ok(()), |clip| require_positive("largest gradient norm", clip))?;
        self.ema.map_or(Ok(()), |ema| require_share("share of the averaged weights", ema))
    }

    /// The update of step `step`, counted from 1, at learning rate `lr`.
    pub fn update(&self, table: &Table, lr: f32, step: u64) -> Update {
        let group = |entry: &Entry| {
            let weight = entry.spec.role == Role::Weight;
            let weight_decay = if weight || self.decay_all { self.weight_decay } else { 0.0 };
            Group { range: entry.range, weight_decay, adapted: weight }
        };
        let groups = table.parameters().iter().map(group).collect();
        let ema = self.ema.map(|decay| decay.min(warm_decay(step)));
        Update { rule: self.rule, lr, step, clip: self.clip, ema, groups }
    }
}

/// Largest share that an average keeps at step `step`, from 1: `(1 + step) / (10 + step)`, as in TensorFlow's moving
/// average. Without this limit, an average that keeps 0.9999 would consist mostly of the initial weights for ten
/// thousand steps.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "steps are far below 2^53, and rounding to f32 is the intent"
)]
fn warm_decay(step: u64) -> f32 {
    let step = step as f64;
    ((1.0 + step) / (10.0 + step)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_keeps_more_with_every_step() {
        // Both sides of each quotient are exact in f32.
        assert_eq!(warm_decay(65_535), 65_536.0 / 65_545.0);
        assert_eq!(warm_decay(89_990), 0.9999);
        assert_eq!(warm_decay(1_000_000), 1_000_001.0 / 1_000_010.0);
    }
}
