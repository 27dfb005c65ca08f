//! Messages on standard error. While a progress bar is drawn, it makes room for them.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::escape::escaped;
use crate::stores::shown;

static QUIET: AtomicBool = AtomicBool::new(false);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Sets whether only warnings and errors are printed.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether only warnings and errors are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a line of information, unless `--quiet` was given.
pub fn say(line: impl Display) {
    if !is_quiet() {
        warn(line);
    }
}

/// Prints a warning or an error, without control characters from names and files. A closed standard error is not an error.
pub fn warn(line: impl Display) {
    let print = || {
        let _ = writeln!(std::io::stderr().lock(), "{}", escaped(&shown(&line.to_string())));
    };
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// Sets the progress bar that messages must not tear, or removes it.
pub fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}
