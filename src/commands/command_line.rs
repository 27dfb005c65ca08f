//! `lgd completions` and `lgd manual`: what shells and `man` know about the command line, from its definitions.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use lgd_data::manifest::write_atomic;

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

/// Writes the page of `command` and those of its subcommands to `out`. Files are replaced as wholes, and links are not
/// followed.
fn write_pages(command: &Command, out: &Path) -> anyhow::Result<()> {
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(subcommand, out)?;
    }
    let (page, mut text) = (Man::new(command.clone()), Vec::new());
    page.render(&mut text)?;
    write_atomic(&out.join(page.get_filename()), &text)?;
    Ok(())
}

/// Writes `lgd.1` and one page per command to `out`.
pub fn manual(out: &Path) -> anyhow::Result<Exit> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut root = Args::command().disable_help_subcommand(true);
    root.build();
    write_pages(&root, out)?;
    say(format_args!("manual: {}", out.join("lgd.1").display()));
    Ok(Exit::Done)
}
