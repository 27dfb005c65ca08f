//! The learning rate over a run: linear warm-up, then a cosine, steps or a constant.

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// Shape of the schedule after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine to zero.
    Cosine {
        /// Where it begins. Configurations from before there was a choice mean the end of the warm-up.
        #[serde(default, skip_serializing_if = "CosineFrom::is_warmup")]
        from: CosineFrom,
    },
    /// The learning rate is multiplied by `factor` every `every` epochs after the warm-up.
    Step {
        /// Epochs between two drops.
        every: u32,
        /// Factor of a drop.
        factor: f32,
    },
    /// The base learning rate until the end.
    Constant,
}

impl ScheduleKind {
    /// The default: a cosine from the end of the warm-up.
    pub const DEFAULT: Self = Self::Cosine { from: CosineFrom::Warmup };
}

/// Epoch from which a cosine is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CosineFrom {
    /// The start of the run, as in the paper: the first learning rate after the warm-up is below the base.
    Start,
    /// The end of the warm-up.
    #[default]
    Warmup,
}

impl CosineFrom {
    fn is_warmup(&self) -> bool {
        *self == Self::Warmup
    }
}

/// When the learning rate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// At the start of every epoch, as in the paper.
    Epoch,
    /// At every step.
    Step,
}

/// A schedule's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// Learning rate after the warm-up.
    pub base: f64,
    /// Learning rate at the start of the warm-up.
    pub start: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Optimizer steps per epoch.
    pub steps_per_epoch: usize,
    /// Shape of the schedule after the warm-up.
    pub kind: ScheduleKind,
    /// When the learning rate changes.
    pub unit: Unit,
}

/// Linear warm-up, then cosine, steps or a constant (docs/methods.md section 1).
///
/// Let `W` of `E` epochs be warm-up, and `e` epochs be done (whole epochs, or with a fraction for [`Unit::Step`]):
/// - `e < W`: `start + (base - start) * e / W`
/// - cosine from the warm-up: `base / 2 * (1 + cos(pi * (e - W) / (E - W)))`
/// - cosine from the start: `base / 2 * (1 + cos(pi * e / E))`
/// - steps: `base * factor^floor((e - W) / every)`
///
/// Epoch `e = W` is the first at the base learning rate, except with a cosine from the start. A cosine reaches zero at `e = E`, which is never trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule(ScheduleSettings);

impl Schedule {
    /// Checks the constants.
    ///
    /// # Errors
    /// If a learning rate is negative or not finite, there are no epochs or steps, or the warm-up is longer than the
    /// training.
    pub fn new(settings: ScheduleSettings) -> Result<Self> {
        let rates = [("the base learning rate", settings.base), ("the first learning rate", settings.start)];
        for (name, value) in rates {
            if !value.is_finite() || value < 0.0 {
                return Err(TrainError::Setting { name, value, range: "finite and at least 0" });
            }
        }
        if settings.epochs == 0 || settings.steps_per_epoch == 0 {
            return Err(TrainError::Setting {
                name: "epochs and their steps",
                value: 0.0,
                range: "at least 1",
            });
        }
        if settings.warmup_epochs > settings.epochs {
            let value = f64::from(settings.warmup_epochs);
            return Err(TrainError::Setting { name: "warm-up epochs", value, range: "at most the epochs" });
        }
        if let ScheduleKind::Step { every, factor } = settings.kind
            && (every == 0 || !factor.is_finite() || factor <= 0.0 || factor > 1.0)
        {
            let range = "above 0 and at most 1, every 1 or more epochs";
            return Err(TrainError::Setting { name: "the step factor", value: factor.into(), range });
        }
        Ok(Self(settings))
    }

    /// The learning rate of step `step`, counted from 0 over the whole run.
    pub fn lr(&self, step: usize) -> f64 {
        let ScheduleSettings { base, start, warmup_epochs, epochs, steps_per_epoch, kind, unit } = self.0;
        let whole = real(step / steps_per_epoch);
        let done = match unit {
            Unit::Epoch => whole,
            Unit::Step => whole + real(step % steps_per_epoch) / real(steps_per_epoch),
        };
        let warmup = f64::from(warmup_epochs);
        if done < warmup {
            return start + (base - start) * done / warmup;
        }
        match kind {
            ScheduleKind::Constant => base,
            ScheduleKind::Step { every, factor } => {
                base * f64::from(factor).powf(((done - warmup) / f64::from(every)).floor())
            }
            ScheduleKind::Cosine { from } => {
                let first = if from == CosineFrom::Start { 0 } else { warmup_epochs };
                let span = f64::from(epochs.saturating_sub(first).max(1));
                let share = ((done - f64::from(first)) / span).min(1.0);
                base / 2.0 * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "steps are far below 2^53")]
fn real(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ScheduleSettings {
        ScheduleSettings {
            base: 0.24,
            start: 0.03,
            warmup_epochs: 5,
            epochs: 200,
            steps_per_epoch: 10,
            kind: ScheduleKind::DEFAULT,
            unit: Unit::Epoch,
        }
    }

    #[test]
    fn warms_up_linearly_and_falls_as_a_cosine() {
        let schedule = Schedule::new(settings()).unwrap();
        assert_eq!(schedule.lr(0), 0.03);
        assert!((schedule.lr(29) - 0.114).abs() < 1e-12, "epoch 2 to its last step");
        assert_eq!(schedule.lr(50), 0.24);
        let middle = 5 + 195 / 3;
        assert!((schedule.lr(10 * middle) - 0.18).abs() < 1e-12, "cos(pi/3) is a half");
        assert!(schedule.lr(1999) > 0.0 && schedule.lr(1999) < 2e-5);
        assert!(schedule.lr(2000).abs() < 1e-12);
    }

    /// The rates of LGD's own schedule for 10 epochs with 2 of warm-up at 8 x 0.03, computed from its formula.
    #[test]
    fn a_cosine_from_the_start_includes_the_warm_up() {
        let kind = ScheduleKind::Cosine { from: CosineFrom::Start };
        let settings =
            ScheduleSettings { kind, warmup_epochs: 2, epochs: 10, steps_per_epoch: 1, ..settings() };
        let schedule = Schedule::new(settings).unwrap();
        let expected = [0.03, 0.135, 0.217_082_039, 0.190_534_230, 0.157_082_039, 0.12];
        for (epoch, lr) in expected.into_iter().enumerate() {
            assert!((schedule.lr(epoch) - lr).abs() < 1e-8, "epoch {epoch}: {}", schedule.lr(epoch));
        }
        assert!((schedule.lr(2) / 0.24 - 0.904_508_497).abs() < 1e-8);
        assert!(schedule.lr(10).abs() < 1e-12);
    }

    /// A configuration of before has no `from`, and is written as before.
    #[test]
    fn a_cosine_from_the_warm_up_is_written_as_it_always_was() {
        let before = r#"{"kind":"cosine"}"#;
        assert_eq!(serde_json::to_string(&ScheduleKind::DEFAULT).unwrap(), before);
        assert_eq!(serde_json::from_str::<ScheduleKind>(before).unwrap(), ScheduleKind::DEFAULT);
        let start = ScheduleKind::Cosine { from: CosineFrom::Start };
        let text = serde_json::to_string(&start).unwrap();
        assert_eq!(serde_json::from_str::<ScheduleKind>(&text).unwrap(), start, "{text}");
    }

    #[test]
    fn moves_at_every_step_where_asked() {
        let schedule = Schedule::new(ScheduleSettings { unit: Unit::Step, ..settings() }).unwrap();
        assert!((schedule.lr(25) - (0.03 + 0.21 * 0.5)).abs() < 1e-12);
        assert!(schedule.lr(51) < schedule.lr(50));
        assert!(schedule.lr(1999) < 1e-6);
    }

    #[test]
    fn steps_and_constants() {
        let kind = ScheduleKind::Step { every: 30, factor: 0.1 };
        let steps = Schedule::new(ScheduleSettings { kind, warmup_epochs: 0, ..settings() }).unwrap();
        assert_eq!((steps.lr(0), steps.lr(299)), (0.24, 0.24));
        assert!((steps.lr(300) - 0.024).abs() < 1e-9 && (steps.lr(650) - 0.0024).abs() < 1e-9);
        let constant =
            Schedule::new(ScheduleSettings { kind: ScheduleKind::Constant, ..settings() }).unwrap();
        assert_eq!((constant.lr(50), constant.lr(1999)), (0.24, 0.24));
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = [
            ScheduleSettings { base: f64::NAN, ..settings() },
            ScheduleSettings { start: -0.1, ..settings() },
            ScheduleSettings { epochs: 0, ..settings() },
            ScheduleSettings { steps_per_epoch: 0, ..settings() },
            ScheduleSettings { warmup_epochs: 201, ..settings() },
            ScheduleSettings { kind: ScheduleKind::Step { every: 0, factor: 0.1 }, ..settings() },
            ScheduleSettings { kind: ScheduleKind::Step { every: 1, factor: 1.5 }, ..settings() },
        ];
        assert!(wrong.into_iter().all(|settings| Schedule::new(settings).is_err()));
    }
}
