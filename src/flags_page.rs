//! Generates docs/flags.md: every command and flag, from the definitions of the command line.
//!
//! The test fails if the file differs from what [`page`] returns.
//! `UPDATE_FLAGS_PAGE=1 cargo nextest run --release --workspace --locked flags_page` rewrites it.

use std::path::Path;
use std::{env, fs};

use clap::{Arg, Command, CommandFactory};

use crate::args::Args;

const HEAD: &str = "\
<!-- Generated from the definitions in src/args. To update it: UPDATE_FLAGS_PAGE=1 cargo nextest run --release --workspace --locked flags_page -->

# Flags

Every command, its flags and their defaults, as `lgd COMMAND --help` prints them. **Bold** flags are required.

## Flags from a file

Every command reads flags from a TOML file with `--config FILE`: a key is a flag without dashes, and a flag on the command line wins. A file
may have one section per command:

```toml
[extract]
teacher = \"teacher\"
views = 4

[train]
student = \"mobilenet_v3_large\"
epochs = 100
bank = [\"banks/names\", \"banks/kdep\"]   # a flag that may be repeated
lr-per-step = true                      # a switch
```

`lgd train --config runs/first/config.toml` repeats the settings of a run; give its cache, images, banks and another `--out` beside it.
Paths are relative to the current folder. `lgd` prints the flags that it took from the file.

## URLs

Caches, banks, bridges, runs and images may be URLs: `s3://`, `gs://`, `az://`, `https://`. [Object stores](object-stores.md) has the details. Two
flags of every command belong to them:

| flag | default | meaning |
|---|---|---|
| `--store-cache <DIR>` | `lgd/store` in `XDG_CACHE_HOME`, else in `~/.cache` | Folder for what is fetched from URLs |
| `--store-limit <SIZE>` | `64GB` | Size up to which fetched files stay in `--store-cache`. The longest unused are deleted first |

## Completion and manual pages

```sh
lgd completions bash > ~/.local/share/bash-completion/completions/lgd   # also zsh, fish, powershell, elvish
lgd manual --out ~/.local/share/man/man1                                # then: man lgd-train
```
";

/// The page as Markdown.
fn page() -> String {
    let mut root = Args::command();
    root.build();
    let exit_codes = root.get_after_help().map(ToString::to_string).unwrap_or_default();
    let sections = root.get_subcommands_mut().filter(|command| command.get_name() != "help").map(section);
    let sections: String = sections.collect();
    format!("{HEAD}{sections}\n## Exit codes\n\n{exit_codes}\n")
}

/// One command: description, usage and a table of its flags.
fn section(command: &mut Command) -> String {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let args = command.get_arguments().filter(|arg| {
        !["help", "version", "config", "store_cache", "store_limit"].contains(&arg.get_id().as_str())
    });
    let rows: String = args.map(row).collect();
    format!(
        "\n## lgd {name}\n\n{about}.\n\n```text\n{usage}\n```\n\n| flag | default | meaning |\n|---|---|---|\n{rows}",
        name = command.get_name(),
        about = about.trim_end_matches('.'),
    )
}

/// One row of the table.
fn row(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>"));
    let value =
        if arg.get_action().takes_values() { values.collect::<Vec<_>>().join(" ") } else { String::new() };
    let typed = match arg.get_long() {
        Some(long) => format!("--{long} {value}").trim_end().to_owned(),
        None => value,
    };
    let typed = if arg.is_required_set() { format!("**`{typed}`**") } else { format!("`{typed}`") };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (help, told) = split_default(&help);
    let help = format!("{}.{}", help.trim_end_matches('.'), values_of(arg));
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = defaults.collect::<Vec<_>>().join(" ");
    let default = if arg.get_action().takes_values() && !default.is_empty() { default } else { told };
    let default = if default.is_empty() { default } else { format!("`{default}`") };
    format!("| {typed} | {default} | {} |\n", help.replace('|', "\\|"))
}

/// The possible values of a flag as a sentence; empty if they are not an enumeration.
fn values_of(arg: &Arg) -> String {
    let shown = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    let names: Vec<String> = shown.map(|value| format!("`{}`", value.get_name())).collect();
    if names.is_empty() || !arg.get_action().takes_values() {
        return String::new();
    }
    format!(" One of {}.", names.join(", "))
}

/// Splits off `[default: VALUE]`; returns the help without it, and the value.
fn split_default(help: &str) -> (String, String) {
    let split =
        help.split_once(" [default: ").and_then(|(before, rest)| Some((before, rest.split_once(']')?)));
    match split {
        Some((before, (value, after))) => (format!("{before}{after}"), value.to_owned()),
        None => (help.to_owned(), String::new()),
    }
}

#[test]
fn the_page_of_flags_is_what_the_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let expected = page();
    if env::var_os("UPDATE_FLAGS_PAGE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/flags.md is out of date; run UPDATE_FLAGS_PAGE=1 cargo nextest run --release --workspace --locked flags_page"
    );
}
