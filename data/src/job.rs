//! Progress of a running job, and the request to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Shared progress counters and the interrupt flag of one long job.
///
/// Workers count; the command line shows; a signal handler asks to stop.
#[derive(Debug, Default)]
pub struct Job {
    total: AtomicU64,
    done: AtomicU64,
    /// Units among those done that this process has not worked on.
    skipped: AtomicU64,
    rejected: AtomicU64,
    /// When work on the current stage began.
    started: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

impl Job {
    /// A job of unknown size that has not been asked to stop.
    pub const fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            started: Mutex::new(None),
            stop: AtomicBool::new(false),
        }
    }

    /// Starts a stage of `total` units at zero.
    pub fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.skipped.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.start_clock();
    }

    /// Counts units that an earlier run has finished, and restarts the clock: they do not count for the throughput.
    pub fn skip(&self, units: u64) {
        self.skipped.fetch_add(units, Ordering::Relaxed);
        self.done.fetch_add(units, Ordering::Relaxed);
        self.start_clock();
    }

    /// Counts finished units.
    pub fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// Counts rejected samples.
    pub fn reject(&self, samples: u64) {
        self.rejected.fetch_add(samples, Ordering::Relaxed);
    }

    /// Units of the current stage.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Finished units of the current stage.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Units of the current stage that this process has finished per second; 0 before the first.
    pub fn rate(&self) -> f64 {
        let units = self.done().saturating_sub(self.skipped.load(Ordering::Relaxed));
        match *self.started.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(started) if units > 0 => units as f64 / started.elapsed().as_secs_f64().max(f64::EPSILON),
            _ => 0.0,
        }
    }

    /// Rejected samples so far.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Asks the workers to stop at the next safe point. Safe to call from a signal handler.
    pub fn interrupt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the job was asked to stop.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn start_clock(&self) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rate_is_that_of_this_stage_and_of_this_process() {
        let job = Job::new();
        assert_eq!(job.rate(), 0.0);
        job.begin(10_000_000);
        job.advance(5_000_000);
        sleep(Duration::from_millis(20));
        assert!(job.rate() > 0.0 && job.rate() <= 5_000_000.0 / 0.02, "{}", job.rate());

        job.begin(2_000_000);
        assert_eq!((job.done(), job.rate()), (0, 0.0), "a new stage has done nothing yet");
        job.skip(1_000_000);
        assert_eq!((job.done(), job.total(), job.rate()), (1_000_000, 2_000_000, 0.0));
        job.advance(10);
        sleep(Duration::from_millis(20));
        assert!(job.rate() > 0.0 && job.rate() <= 10.0 / 0.02, "{}", job.rate());
        assert_eq!(job.done(), 1_000_010);
    }
}
