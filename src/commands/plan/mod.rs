//! `lgd plan`: what an extraction or a training will take. It opens the inputs as the command does, measures a few batches
//! and writes nothing to the output folder.

mod cache_bytes;
mod estimate;
mod extract;
mod train;
mod watch;

use std::fmt::Display;
use std::time::Duration;

use crate::args::{PlanArgs, PlannedJob};
use crate::exit::Exit;
use crate::progress::JOB;
use crate::say::{say, warn};

/// Runs `lgd plan`.
pub fn run(args: &PlanArgs) -> anyhow::Result<Exit> {
    let budget = Duration::from_secs(args.seconds);
    let planned = match &args.job {
        PlannedJob::Extract(args) => extract::run(args, budget),
        PlannedJob::Train(args) => train::run(args, budget),
    };
    match planned {
        // The errors of extraction and training say how to resume them; there is nothing to resume here.
        Err(_) if JOB.interrupted() => {
            warn("error: interrupted before the plan was complete");
            Ok(Exit::Interrupted)
        }
        planned => planned,
    }
}

/// Prints a line of the plan: a label and its text.
fn row(label: &str, text: impl Display) {
    say(format_args!("  {label:<12} {text}"));
}

/// Prints the memory of the process and of the machine. `peak`: bytes, if the system reports them.
fn memory_row(peak: Option<u64>, available: Option<u64>) {
    let Some(peak) = peak else { return };
    let available = available.map(|bytes| format!("; {} available", indicatif::DecimalBytes(bytes)));
    row("memory", format_args!("{} at most{}", indicatif::DecimalBytes(peak), available.unwrap_or_default()));
}

/// Warns if a job needs more memory than the machine has available.
fn warn_of_memory(peak: Option<u64>, available: Option<u64>) {
    if let (Some(peak), Some(available)) = (peak, available)
        && peak > available
    {
        warn("warning: the job needs more memory than is available; a smaller --batch needs less");
    }
}
