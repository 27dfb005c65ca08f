//! Running sums of losses and time, and the metrics lines computed from them.

use std::time::{Duration, Instant};

use crate::run::{MetricsKind, MetricsLine, now, per_second};

/// Sums since the start of an epoch, or since the previous line.
#[derive(Debug)]
pub(super) struct Meter {
    /// Steps, then the summed total loss and the sums of its parts: saved in checkpoints.
    sums: Vec<f64>,
    names: Vec<&'static str>,
    /// Steps since `began`. Fewer than `sums` counts if the run was resumed.
    timed_steps: usize,
    began: Instant,
    waited_before: Duration,
}

impl Meter {
    /// Starts a meter now, with the sums of a checkpoint (empty if none). `waited`: time that the loader has waited so
    /// far.
    pub(super) fn new(sums: Vec<f64>, waited: Duration) -> Self {
        Self { sums, names: Vec::new(), timed_steps: 0, began: Instant::now(), waited_before: waited }
    }

    /// Adds a step.
    pub(super) fn add(&mut self, total: f32, parts: &[(&'static str, f32)]) {
        self.names = parts.iter().map(|(name, _)| *name).collect();
        self.sums.resize(2 + self.names.len(), 0.0);
        let parts = parts.iter().map(|(_, value)| f64::from(*value));
        let values = [1.0, f64::from(total)].into_iter().chain(parts);
        self.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        self.timed_steps += 1;
    }

    /// Leaves `time`, which was not spent on steps, out of the throughput.
    pub(super) fn pause(&mut self, time: Duration) {
        self.began += time;
    }

    /// The sums, for a checkpoint.
    pub(super) fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// The line for the steps added so far. `waited`: total time that the loader has waited.
    pub(super) fn line(&self, kind: MetricsKind, at: StepRecord, waited: Duration) -> MetricsLine {
        let mean =
            |sum: Option<&f64>| sum.copied().unwrap_or(0.0) / self.sums.first().copied().unwrap_or(1.0);
        let parts = self.names.iter().zip(self.sums.iter().skip(2));
        let parts = parts.map(|(name, sum)| ((*name).to_owned(), mean(Some(sum)))).collect();
        let seconds = self.began.elapsed().as_secs_f64();
        MetricsLine {
            kind,
            epoch: at.epoch,
            step: at.step,
            time: Some(now()),
            lr: at.lr,
            loss: mean(self.sums.get(1)),
            parts,
            images_per_second: per_second(self.timed_steps * at.batch, seconds),
            data_wait: share(waited.saturating_sub(self.waited_before), seconds),
            holdout: None,
        }
    }
}

/// The last step of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepRecord {
    pub(super) epoch: u32,
    pub(super) step: usize,
    pub(super) lr: f64,
    pub(super) batch: usize,
}

/// `waited` as a share of `seconds`; 0 if no time has passed.
pub(super) fn share(waited: Duration, seconds: f64) -> f64 {
    if seconds > 0.0 { (waited.as_secs_f64() / seconds).min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_means_and_a_restored_meter_goes_on_summing() {
        let parts = |total: f32| [("text", total + 1.0), ("visual", total + 2.0)];
        let mut meter = Meter::new(Vec::new(), Duration::ZERO);
        meter.add(1.0, &parts(1.0));
        let mut meter = Meter::new(meter.sums().to_vec(), Duration::ZERO);
        meter.add(3.0, &parts(3.0));
        let at = StepRecord { epoch: 4, step: 9, lr: 0.5, batch: 8 };
        let line = meter.line(MetricsKind::Epoch, at, Duration::ZERO);
        assert_eq!((line.epoch, line.step, line.loss), (4, 9, 2.0));
        assert_eq!((line.parts["text"], line.parts["visual"]), (3.0, 4.0));
        assert_eq!(meter.sums(), [2.0, 4.0, 6.0, 8.0]);
    }
}
