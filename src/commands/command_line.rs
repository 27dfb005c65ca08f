//! `lgd completions` and `lgd manual`: what shells and `man` know about the command line, from its definitions.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use super::print;
use crate::args::{Args, CompletionsArgs};
use crate::exit::Exit;
use crate::say::say;

/// Prints the script of a shell.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "lgd", &mut script);
    print(String::from_utf8(script)?.trim_end())?;
    Ok(Exit::Done)
}

/// Writes `lgd.1` and one page per command to `out`.
pub fn manual(out: &Path) -> anyhow::Result<Exit> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    clap_mangen::generate_to(Args::command(), out)
        .with_context(|| format!("cannot write to {}", out.display()))?;
    say(format_args!("manual: {}", out.join("lgd.1").display()));
    Ok(Exit::Done)
}
