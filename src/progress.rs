//! Showing how far a job is: a bar on a terminal, a line every 30 seconds elsewhere. Standard error only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lgd_data::job::Job;

use crate::say::say;

const BAR: &str = "{msg:>8} [{bar:32}] {human_pos}/{human_len} {per_sec} eta {eta}";
const REFRESH: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The process's one job: a signal handler can reach nothing else.
pub static JOB: Job = Job::new();

/// Shows the job until it is dropped.
pub struct Progress {
    finished: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts showing the process's job under `name`; `unit` is what it counts.
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
    let bar = ProgressBar::new(0).with_message(name);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    while !finished.load(Ordering::Relaxed) {
        bar.set_length(JOB.total());
        bar.set_position(JOB.done());
        std::thread::sleep(REFRESH);
    }
    bar.finish_and_clear();
}

fn draw_lines(name: &'static str, unit: &'static str, finished: &AtomicBool) {
    let (started, mut last) = (Instant::now(), Instant::now());
    while !finished.load(Ordering::Relaxed) {
        std::thread::sleep(REFRESH);
        if last.elapsed() < LINE_EVERY {
            continue;
        }
        last = Instant::now();
        let (done, total) = (JOB.done(), JOB.total());
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let left = total.saturating_sub(done) as f64 / rate.max(f64::MIN_POSITIVE);
        let eta = if left.is_finite() && left < 1e9 { format!("{left:.0} s") } else { "unknown".to_owned() };
        say(format_args!(
            "{name}: {done}/{total} {unit}, {rate:.1} {unit}/s, eta {eta}, {} rejected",
            JOB.rejected()
        ));
    }
}
