//! Watches the process while a plan is measured: its memory, and the progress of the job.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::progress::JOB;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(5);
/// Looks between two readings of the memory.
const READING: usize = 4;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// Largest anonymous memory in bytes: memory that is not a file's, and that the system cannot drop.
    peak: Option<u64>,
    /// The time of every change of the units done, and their number.
    progress: Vec<(Instant, u64)>,
}

/// Watches until dropped.
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Starts watching this process and its job.
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(Seen { peak: process_memory(), progress: Vec::new() }));
        let shared = Arc::downgrade(&seen);
        thread::spawn(move || {
            for look in 0_usize.. {
                let Some(seen) = shared.upgrade() else { return };
                let memory = if look.is_multiple_of(READING) { process_memory() } else { None };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.peak = seen.peak.max(memory);
                let done = JOB.done();
                if seen.progress.last().map(|(_, done)| *done) != Some(done) {
                    seen.progress.push((Instant::now(), done));
                }
                drop(seen);
                thread::sleep(EVERY);
            }
        });
        Self(seen)
    }

    /// Peak of the anonymous memory in bytes; `None` if the system does not report it.
    pub fn peak(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).peak
    }

    /// When each of `marks`, ascending numbers of units done, was passed after `start`. Fewer if the job did not get there.
    pub fn passed(&self, start: Instant, marks: &[u64]) -> Vec<Instant> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = seen.progress.iter().filter(|(time, _)| *time >= start);
        let passed = |mark: &u64| after.clone().find(|(_, done)| done >= mark).map(|(time, _)| *time);
        marks.iter().map_while(passed).collect()
    }
}

/// Bytes of anonymous memory that this process has now.
fn process_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")
}

/// Bytes of memory that the machine can give to programs.
pub fn available_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The value in bytes of a line `NAME: 1234 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_reports_memory_in_kibibytes() {
        let text = "VmHWM:\t  900 kB\nRssAnon:\t     12 kB\nThreads:\t1\n";
        assert_eq!(field(text, "RssAnon:"), Some(12 * 1024));
        assert_eq!((field(text, "Threads:"), field(text, "VmSwap:")), (None, None));
    }
}
