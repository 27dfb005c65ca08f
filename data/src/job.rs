//! A running job as seen from outside: how far it is, and the wish to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared progress counters and the interrupt flag of one long job.
///
/// Workers count; the command line shows; a signal handler asks to stop.
#[derive(Debug, Default)]
pub struct Job {
    total: AtomicU64,
    done: AtomicU64,
    rejected: AtomicU64,
    stop: AtomicBool,
}

impl Job {
    /// A job of unknown size that nobody has asked to stop.
    pub const fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Starts a stage of `total` units at zero.
    pub fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
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

    /// Rejected samples so far.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Asks the workers to stop at the next safe point. Safe to call from a signal handler.
    pub fn interrupt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked to stop.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
