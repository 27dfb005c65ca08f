//! Progress of a job on standard error: a bar on a terminal, else a line every 30 seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use lgd_data::job::Job;

use crate::say::say;

const BAR: &str = "{prefix:>8} [{bar:32}] {human_pos}/{human_len} {msg}";
const REFRESH: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The only job of the process. It is static because a signal handler can reach nothing else.
pub static JOB: Job = Job::new();

/// Displays the job's progress until dropped.
pub struct Progress {
    finished: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts displaying the process's job under `name`, counted in `unit`.
    pub fn show(name: &'static str, unit: &'static str) -> Self {
        let finished = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&finished);
        let draw = if std::io::stderr().is_terminal() { draw_bar } else { draw_lines };
        let thread = std::thread::spawn(move || draw(name, unit, &flag));
        Self { finished, thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the display must not hide the result of the job.
            let _ = thread.join();
        }
    }
}

fn draw_bar(name: &'static str, _unit: &'static str, finished: &AtomicBool) {
    let bar = ProgressBar::new(0).with_prefix(name);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    while !finished.load(Ordering::Relaxed) {
        let (rate, left) = pace(&JOB);
        let eta = left.map_or_else(|| "unknown".to_owned(), |left| format!("{:#}", HumanDuration(left)));
        bar.set_message(format!("{rate:.1}/s eta {eta}"));
        bar.set_length(JOB.total());
        bar.set_position(JOB.done());
        std::thread::sleep(REFRESH);
    }
    bar.finish_and_clear();
}

fn draw_lines(name: &'static str, unit: &'static str, finished: &AtomicBool) {
    let mut last = Instant::now();
    while !finished.load(Ordering::Relaxed) {
        std::thread::sleep(REFRESH);
        if last.elapsed() < LINE_EVERY {
            continue;
        }
        last = Instant::now();
        let (rate, left) = pace(&JOB);
        let eta = left.map_or_else(|| "unknown".to_owned(), |left| format!("{:.0} s", left.as_secs_f64()));
        say(format_args!(
            "{name}: {}/{} {unit}, {rate:.1} {unit}/s, eta {eta}, {} rejected",
            JOB.done(),
            JOB.total(),
            JOB.rejected()
        ));
    }
}

/// Units per second, and the time for the rest of the stage at this rate; `None` before the first unit.
fn pace(job: &Job) -> (f64, Option<Duration>) {
    let rate = job.rate();
    let left = job.total().saturating_sub(job.done()) as f64 / rate;
    (rate, Duration::try_from_secs_f64(left).ok().filter(|left| left.as_secs_f64() < 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_has_done_does_not_shorten_the_estimate() {
        let job = Job::new();
        job.begin(2_000);
        assert_eq!(pace(&job), (0.0, None));
        job.skip(1_000);
        job.advance(10);
        std::thread::sleep(Duration::from_millis(20));
        let (_, left) = pace(&job);
        // 10 units took at least 0.02 s, so the remaining 990 take at least 1.98 s.
        assert!(left.is_some_and(|left| left.as_secs_f64() > 1.9), "{left:?}");
    }
}
