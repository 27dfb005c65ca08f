//! `lgd`: cache a vision teacher once, aim it at any category names in seconds, train small students from the cache.
//!
//! This crate is only the command line: [`args`] defines the arguments, [`commands`] resolves and runs them.

// Standard error may be closed, and `eprintln!` would then panic.
#![deny(clippy::print_stderr)]

mod args;
mod commands;
mod config_file;
mod escape;
mod exit;
#[cfg(test)]
mod flags_page;
mod hints;
mod progress;
mod recipe;
mod say;
mod stores;

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use exit::Exit;
use lgd_data::exit_on_lost_pages;
use lgd_data::manifest::on_unguarded;
use say::warn;

/// Training allocates and frees large activations constantly. This allocator keeps the memory, which makes training
/// 20-40% faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a model may go on after an interrupt. Within it, a batch ends, and the encoder between batches.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let (matches, args) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            warn(format_args!("error: {}", hints::message(&error)));
            return exit::of_error(&error).into();
        }
    };
    say::set_quiet(args.quiet);
    on_unguarded(|dir| {
        say::say(format_args!(
            "note: {}: this file system has no locks, so do not let two commands write to the folder at the same time",
            dir.display()
        ));
    });
    if let Err(error) = exit_on_lost_pages(Exit::Artifact as i32) {
        warn(format_args!("warning: a file that is shortened while it is read will not be named: {error}"));
    }
    if let Err(error) = ctrlc::set_handler(on_interrupt) {
        warn(format_args!("warning: an interrupt will not be handled gracefully: {error}"));
    }
    match run(&matches, args) {
        Ok(exit) => exit.into(),
        Err(error) => {
            warn(format_args!("error: {}", hints::message(&error)));
            exit::of_error(&error).into()
        }
    }
}

/// The arguments, with those of `--config`. A wrong argument ends the process, as clap does it.
fn parse() -> anyhow::Result<(ArgMatches, args::Args)> {
    let mut root = args::Args::command();
    root.build();
    let words = config_file::expand(&root, std::env::args_os().collect())?;
    let matches = args::Args::command().try_get_matches_from(words).unwrap_or_else(|error| end(&error));
    let args = args::Args::from_arg_matches(&matches).unwrap_or_else(|error| end(&error));
    Ok((matches, args))
}

/// Ends the process with clap's message. One that quotes a URL is shown without credentials.
fn end(error: &clap::Error) -> ! {
    let text = error.to_string();
    if error.use_stderr() && text.contains("://") {
        warn(text.trim_end());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Fetches inputs that are URLs, runs the command, and stores outputs that are URLs.
fn run(matches: &ArgMatches, mut args: args::Args) -> anyhow::Result<Exit> {
    let stores = stores::resolve(matches, &args.store, &mut args.command)?;
    let exit = commands::run(args.command)?;
    if let Some(stores) = stores.filter(|_| matches!(exit, Exit::Done | Exit::Rejects)) {
        stores.store()?;
    }
    Ok(exit)
}

/// The first interrupt asks the job to stop at the next safe point. The second ends the process at once.
fn on_interrupt() {
    if progress::JOB.interrupted() {
        std::process::exit(130);
    }
    progress::JOB.interrupt();
    std::thread::spawn(|| {
        std::thread::sleep(GRACE);
        lgd_extract::stop::stop_models();
    });
    warn("\nstopping at the next safe point; once more to stop at once");
}
