//! Progress of a running job, and requests to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use serde::Serialize;

/// Shared progress counters and the stop flag of a long job.
///
/// Workers update the counters, the command line shows them, and the thread that handles signals requests a stop.
#[derive(Debug, Default)]
pub struct Job {
    total: AtomicU64,
    done: AtomicU64,
    /// Completed units that an earlier run finished.
    skipped: AtomicU64,
    rejected: AtomicU64,
    /// Start of work on the current stage.
    started: Mutex<Option<Instant>>,
    /// Name and unit of the current stage, if it has its own.
    stage: Mutex<Option<Stage>>,
    stop: AtomicBool,
    /// Flags that a stop request sets.
    flags: Mutex<Vec<Weak<AtomicBool>>>,
}

/// Measured throughput: units of work and the time that they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Number of units.
    pub units: u64,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Pace {
    /// The pace of `units` since `started`.
    pub fn since(started: Instant, units: usize) -> Self {
        Self { units: u64::try_from(units).unwrap_or(u64::MAX), seconds: started.elapsed().as_secs_f64() }
    }

    /// Units per second; 0 if nothing was measured.
    pub fn per_second(self) -> f64 {
        if self.units == 0 { 0.0 } else { self.units as f64 / self.seconds.max(f64::EPSILON) }
    }
}

/// A named stage of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// The plural of what it counts, such as "images".
    pub unit: &'static str,
}

impl Job {
    /// Makes a job of unknown size without a stop request.
    pub const fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            started: Mutex::new(None),
            stage: Mutex::new(None),
            stop: AtomicBool::new(false),
            flags: Mutex::new(Vec::new()),
        }
    }

    /// Starts a stage of `total` units and resets its progress. The stage has the job's own name.
    pub fn begin(&self, total: u64) {
        self.start(None, total);
    }

    /// Starts a stage of `total` units that has a name and a unit of its own.
    pub fn begin_stage(&self, name: &'static str, unit: &'static str, total: u64) {
        self.start(Some(Stage { name, unit }), total);
    }

    /// Name and unit of the current stage; `None` if they are the job's own.
    pub fn stage(&self) -> Option<Stage> {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, stage: Option<Stage>, total: u64) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.done.store(0, Ordering::Relaxed);
        self.skipped.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.start_clock();
    }

    /// Counts units that an earlier run finished and restarts the clock, so that these units do not count toward the
    /// throughput.
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

    /// Total units of the current stage.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Finished units of the current stage.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Throughput: units of the current stage that this process finished per second; 0 before the first unit.
    pub fn rate(&self) -> f64 {
        let units = self.done().saturating_sub(self.skipped.load(Ordering::Relaxed));
        match *self.started.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(started) if units > 0 => units as f64 / started.elapsed().as_secs_f64().max(f64::EPSILON),
            _ => 0.0,
        }
    }

    /// Samples rejected so far.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Requests the workers to stop at the next safe point.
    pub fn interrupt(&self) {
        let flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        self.stop.store(true, Ordering::Relaxed);
        flags.iter().filter_map(Weak::upgrade).for_each(|flag| flag.store(true, Ordering::Relaxed));
    }

    /// A flag that is set once a stop was requested, for what outlives a reference to the job.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        let flag = Arc::new(AtomicBool::new(self.interrupted()));
        flags.retain(|flag| flag.strong_count() > 0);
        flags.push(Arc::downgrade(&flag));
        flag
    }

    /// Whether a stop was requested.
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
    fn a_stop_request_sets_every_flag() {
        let job = Job::new();
        let flag = job.stop_flag();
        assert!(!flag.load(Ordering::Relaxed));
        job.interrupt();
        assert!(flag.load(Ordering::Relaxed) && job.interrupted() && job.stop_flag().load(Ordering::Relaxed));
    }

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
        job.begin_stage("kNN", "images", 10);
        assert_eq!((job.stage(), job.total()), (Some(Stage { name: "kNN", unit: "images" }), 10));
        job.begin(2_000_000);
        assert_eq!(job.stage(), None);
        job.skip(1_000_000);
        assert_eq!((job.done(), job.total(), job.rate()), (1_000_000, 2_000_000, 0.0));
        job.advance(10);
        sleep(Duration::from_millis(20));
        assert!(job.rate() > 0.0 && job.rate() <= 10.0 / 0.02, "{}", job.rate());
        assert_eq!(job.done(), 1_000_010);
    }
}
