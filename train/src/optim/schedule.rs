//! Learning rate by epoch.

use crate::error::TrainError;

/// Linear warm-up, then cosine to zero, stepped per epoch (METHODS.md section 1).
///
/// With `W` warm-up epochs of `E` and epochs counted from 0:
/// - `e < W`: `start + (base - start) * e / W`
/// - else: `base / 2 * (1 + cos(pi * (e - W) / (E - W)))`
///
/// so that epoch `W` is the first at the base rate, and zero would be reached at epoch `E`, which is never trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    base: f64,
    start: f64,
    warmup_epochs: u32,
    epochs: u32,
}

impl Schedule {
    /// A schedule over `epochs` epochs.
    ///
    /// # Errors
    /// A rate that is not finite and at least 0, no epochs, or a warm-up longer than the training.
    pub fn new(base: f64, start: f64, warmup_epochs: u32, epochs: u32) -> Result<Self, TrainError> {
        for (name, value) in [("the base learning rate", base), ("the first learning rate", start)] {
            if !value.is_finite() || value < 0.0 {
                return Err(TrainError::Setting { name, value, range: "finite and at least 0" });
            }
        }
        if epochs == 0 {
            return Err(TrainError::Setting { name: "epochs", value: 0.0, range: "at least 1" });
        }
        if warmup_epochs > epochs {
            let value = f64::from(warmup_epochs);
            return Err(TrainError::Setting { name: "warm-up epochs", value, range: "at most the epochs" });
        }
        Ok(Self { base, start, warmup_epochs, epochs })
    }

    /// The learning rate of an epoch, counted from 0.
    pub fn lr(&self, epoch: u32) -> f64 {
        if epoch < self.warmup_epochs {
            let done = f64::from(epoch) / f64::from(self.warmup_epochs);
            return self.start + (self.base - self.start) * done;
        }
        let span = self.epochs.saturating_sub(self.warmup_epochs).max(1);
        let done = f64::from((epoch - self.warmup_epochs).min(span)) / f64::from(span);
        self.base / 2.0 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_linearly_and_falls_as_a_cosine() {
        let schedule = Schedule::new(0.24, 0.03, 5, 200).unwrap();
        assert_eq!(schedule.lr(0), 0.03);
        assert!((schedule.lr(2) - 0.114).abs() < 1e-12);
        assert_eq!(schedule.lr(5), 0.24);
        let middle = 5 + 195 / 3;
        assert!((schedule.lr(middle) - 0.18).abs() < 1e-12, "cos(pi/3) is a half");
        assert!(schedule.lr(199) > 0.0 && schedule.lr(199) < 2e-5);
        assert!(schedule.lr(200).abs() < 1e-12);
    }

    #[test]
    fn no_warm_up_starts_at_the_base_rate() {
        let schedule = Schedule::new(0.1, 0.03, 0, 10).unwrap();
        assert_eq!(schedule.lr(0), 0.1);
        assert!((schedule.lr(5) - 0.05).abs() < 1e-12);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Schedule::new(f64::NAN, 0.0, 0, 1).is_err());
        assert!(Schedule::new(0.1, -0.1, 0, 1).is_err());
        assert!(Schedule::new(0.1, 0.1, 0, 0).is_err());
        assert!(Schedule::new(0.1, 0.1, 3, 2).is_err());
    }
}
