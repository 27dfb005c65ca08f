//! The commands: they resolve typed arguments to objects and run.
//!
//! There is one file per command. Each prints data to standard output and everything else to standard error.

mod align;
mod bank;
mod command_line;
mod embed;
mod eval;
mod export;
mod extract;
mod images;
mod inspect;
mod model;
mod objectives;
mod plan;
mod predict;
mod report;
mod teacher;
mod train;
mod verify;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use lgd_data::cache::CacheManifest;
use lgd_data::manifest::Verify;
use lgd_data::source::Listing;
use lgd_extract::Runtime;
use lgd_train::run::{Checkpoint, Run};
use serde::Serialize;

use crate::args::{CheckpointArgs, Command, JsonArgs};
use crate::escape::{escaped, json_escaped};
use crate::exit::Exit;
use crate::hints;
use crate::say::say;
use crate::stores::shown;

/// Loads ONNX Runtime from `explicit` or its usual places, and prints the path if it is a Python package's.
fn runtime(explicit: Option<&Path>) -> anyhow::Result<Runtime> {
    let runtime = Runtime::load(explicit)?;
    if let Some(note) = runtime.note() {
        say(format_args!("note: {note}"));
    }
    Ok(runtime)
}

/// Runs a command.
pub fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Teacher(args) => teacher::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Align(args) => align::run(&args),
        Command::Bank(args) => bank::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Objectives(args) => objectives::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Completions(args) => command_line::completions(&args),
        Command::Manual(args) => command_line::manual(&args.out),
    }
}

/// Prints `value` as indented JSON to standard output.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    print(&json_escaped(&text))
}

/// Prints a command's report to standard output: as JSON into a file or pipe, and on a terminal only if asked to, because
/// the summary on standard error says it in a few lines.
fn print_report(args: &JsonArgs, report: &impl Serialize) -> anyhow::Result<()> {
    if wants_json(args) { print_json(report) } else { Ok(()) }
}

/// Whether standard output gets a report as JSON.
fn wants_json(args: &JsonArgs) -> bool {
    args.json || !std::io::stdout().is_terminal()
}

/// Opens a finished run with the weights that were asked for, and says which are used if there is a choice.
fn open_run(dir: &Path, checkpoint: &CheckpointArgs) -> anyhow::Result<Run> {
    let mut run = Run::open(dir, Verify::Full)?;
    if let Some(checkpoint) = checkpoint.choice() {
        run.select(checkpoint)?;
    }
    let (manifest, epochs) = (run.manifest(), run.epochs());
    if let Some(best) = &manifest.best {
        let score = best.score.describe(best.value);
        let other = match run.checkpoint() {
            Checkpoint::Best => format!("the best by held-out {score}; --checkpoint last selects the last"),
            Checkpoint::Last => format!("the last; the best by held-out {score} is epoch {}", best.epoch + 1),
        };
        say(format_args!("note: weights of epoch {epochs} of {}, {other}", manifest.epochs()));
    }
    Ok(run)
}

/// Prints a line to standard output, without control characters from names and files. A closed pipe, for example by `head`,
/// is not an error: the work is done.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{}", escaped(&shown(text))) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("cannot write to standard output"),
    }
}

/// Prints what a source assumed and what it left aside.
fn source_notes(images: &Path, listing: &Listing) {
    for note in &listing.notes {
        say(format_args!("note: {}: {}", images.display(), hints::of_note(note)));
    }
    if !listing.left_aside.is_empty() {
        say(format_args!("note: {}: {}", images.display(), listing.left_aside));
    }
}

/// Describes the variance that the projection of a cache's tokens keeps; `None` without a projection.
fn kept_variance(manifest: &CacheManifest) -> Option<String> {
    let (projection, views) = manifest.token_projection.as_ref().zip(manifest.config.fitted_views())?;
    let kept = 100.0 * projection.explained;
    Some(format!("{kept:.1}% of the variance of the {views} views that the projection was fitted to"))
}

/// Sets the size of the thread pool shared by decoding, banks and kernels; 0 means all cores.
fn set_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the thread pool")
}

/// The given number of threads; for 0, the number of cores.
fn threads_or_all(threads: usize) -> usize {
    if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads }
}
