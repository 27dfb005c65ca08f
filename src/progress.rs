//! Progress of a job on standard error: a bar on a terminal, else a line every 30 seconds, nothing with `--quiet`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lgd_data::job::{Job, Stage};

use crate::say::{is_quiet, say, set_bar};

/// The message is cut at the edge of the terminal: a bar of two lines would leave the first behind.
const BAR: &str = "{prefix:>8} [{bar:24}] {human_pos}/{human_len} {wide_msg}";
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
    /// Starts displaying the process's job under `name`, counted in `unit`. Stages with a name of their own are displayed
    /// under that.
    pub fn show(name: &'static str, unit: &'static str) -> Self {
        let finished = Arc::new(AtomicBool::new(false));
        if is_quiet() {
            return Self { finished, thread: None };
        }
        let flag = Arc::clone(&finished);
        let draw = if std::io::stderr().is_terminal() { draw_bar } else { draw_lines };
        let thread = std::thread::spawn(move || draw(Stage { name, unit }, &flag));
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

/// One bar for all stages. It appears when the first one knows its size, and nothing of it is left at the end.
fn draw_bar(own: Stage, finished: &AtomicBool) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    set_bar(Some(bar.clone()));
    while !finished.load(Ordering::Relaxed) {
        if JOB.total() > 0 {
            let (rate, left) = pace(&JOB);
            bar.set_prefix(JOB.stage().unwrap_or(own).name);
            bar.set_message(format!("{rate:.1}/s  eta {}", short(left)));
            bar.set_length(JOB.total());
            bar.set_position(JOB.done());
        }
        std::thread::sleep(REFRESH);
    }
    bar.finish_and_clear();
    set_bar(None);
}

fn draw_lines(own: Stage, finished: &AtomicBool) {
    let mut last = Instant::now();
    while !finished.load(Ordering::Relaxed) {
        std::thread::sleep(REFRESH);
        if last.elapsed() < LINE_EVERY {
            continue;
        }
        last = Instant::now();
        let (rate, left) = pace(&JOB);
        let Stage { name, unit } = JOB.stage().unwrap_or(own);
        let rejected = match JOB.rejected() {
            0 => String::new(),
            rejected => format!(", {rejected} rejected"),
        };
        say(format_args!(
            "{name}: {}/{} {unit}, {rate:.1} {unit}/s, eta {}{rejected}",
            JOB.done(),
            JOB.total(),
            short(left)
        ));
    }
}

/// Units per second, and the time for the rest of the stage at this rate; `None` before the first unit.
fn pace(job: &Job) -> (f64, Option<Duration>) {
    let rate = job.rate();
    let left = job.total().saturating_sub(job.done()) as f64 / rate;
    (rate, Duration::try_from_secs_f64(left).ok().filter(|left| left.as_secs_f64() < 1e9))
}

/// The time for the rest of the job's stage, such as `12m`.
pub fn time_left() -> String {
    short(pace(&JOB).1)
}

/// A duration in its largest unit, rounded up; `?` if unknown.
fn short(time: Option<Duration>) -> String {
    let Some(time) = time else { return "?".to_owned() };
    let seconds = time.as_secs_f64().ceil();
    match seconds {
        0.0..60.0 => format!("{seconds:.0}s"),
        60.0..3600.0 => format!("{:.0}m", (seconds / 60.0).ceil()),
        3600.0..172_800.0 => format!("{:.0}h", (seconds / 3600.0).ceil()),
        _ => format!("{:.0}d", (seconds / 86_400.0).ceil()),
    }
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

    #[test]
    fn times_are_short() {
        let of = |seconds: f64| short(Some(Duration::from_secs_f64(seconds)));
        let all = [0.0, 0.2, 59.0, 61.0, 3599.0, 3601.0, 1e5, 1e6].map(of);
        assert_eq!(all, ["0s", "1s", "59s", "2m", "60m", "2h", "28h", "12d"]);
        assert_eq!(short(None), "?");
    }
}
