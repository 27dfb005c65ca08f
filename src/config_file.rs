//! `--config FILE`: flags of a command from a TOML file, and the flags of a `--recipe`. Flags on the command line win, then
//! those of the file.
//!
//! ```toml
//! [train]                 # optional: without sections, all keys belong to the command that reads the file
//! student = "resnet34"    # --student resnet34
//! lr-per-step = true      # --lr-per-step; false leaves a flag out
//! bank = ["a", "b"]       # --bank a --bank b
//! ```
//!
//! The file becomes arguments in front of the typed ones, so clap checks its values. The `config.toml` of a run is read
//! too: it becomes the flags of `lgd train` that make it.

mod of_run;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, Command, ValueEnum};
use toml::{Table, Value};

use crate::recipe::Recipe;
use crate::say::say;

/// Names of the flags.
const CONFIG: &str = "config";
const RECIPE: &str = "recipe";

/// A flag and its values; no value for a switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// Its name without dashes.
    pub long: String,
    /// Its values.
    pub values: Vec<String>,
}

impl Flag {
    fn new(long: impl Into<String>, value: impl ToString) -> Self {
        Self { long: long.into(), values: vec![value.to_string()] }
    }

    fn switch(long: impl Into<String>) -> Self {
        Self { long: long.into(), values: Vec::new() }
    }
}

/// `typed`, the arguments of the process, with those of `--config FILE` and `--recipe NAME` in front of the command's own;
/// unchanged without these flags. A flag is taken from the command line, else from the file, else from the recipe.
///
/// # Errors
/// The file cannot be read, is no TOML, or has a key that is no flag of the command or a value that no flag takes. The
/// recipe has no value for this student.
pub fn expand(root: &Command, typed: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    if ![CONFIG, RECIPE].iter().any(|long| is_typed(long, &typed)) {
        return Ok(typed);
    }
    let Some((at, command)) = subcommand(root, &typed, 1) else { return Ok(typed) };
    // `lgd plan train` takes the flags of `lgd train`.
    let (at, command) = subcommand(command, &typed, at + 1).unwrap_or((at, command));
    let (mut given, mut complete) = (Vec::new(), false);
    let mut words = Vec::new();
    if let Some(file) = value_of(CONFIG, &typed) {
        let path = Path::new(&file);
        (given, complete) = of_file(root, command, path)?;
        given.retain(|flag| !is_typed(&flag.long, &typed));
        words = told(&path.display(), &given);
    }
    let recipe = value_of(RECIPE, &typed).and_then(|name| name.into_string().ok());
    let recipe = recipe.or_else(|| given.iter().find(|flag| flag.long == RECIPE)?.values.first().cloned());
    // clap refuses an unknown name, and a command that has no recipes.
    let recipe = recipe.and_then(|name| Recipe::from_str(&name, false).ok());
    if let Some(recipe) = recipe.filter(|_| has_flag(command, RECIPE)) {
        if complete {
            bail!(
                "the configuration of a run is complete, and leaves nothing to a recipe\nhint: leave out --config or --recipe"
            );
        }
        let flags = recipe.flags(command, &given, &typed)?;
        let told = told(&format_args!("the recipe {recipe}"), &flags);
        words.splice(0..0, told);
    }
    let mut expanded = typed;
    expanded.splice(at + 1..=at, words.into_iter().map(OsString::from));
    Ok(expanded)
}

/// The flags of a file, and whether it is the configuration of a run, which has all of them.
fn of_file(root: &Command, command: &Command, path: &Path) -> anyhow::Result<(Vec<Flag>, bool)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = toml::from_str(&text).with_context(|| path.display().to_string())?;
    match of_run::flags(&table) {
        Some(flags) if command.get_name() == "train" => Ok((flags?, true)),
        Some(_) => {
            bail!("{}: this is the configuration of a run, which only `lgd train` reads", path.display())
        }
        None => {
            let table = section(root, command, table).with_context(|| path.display().to_string())?;
            let flags = table.iter().map(|(key, value)| flag(command, key, value));
            let flags =
                flags.collect::<anyhow::Result<Vec<_>>>().with_context(|| path.display().to_string())?;
            Ok((flags.concat(), false))
        }
    }
}

/// The flags as arguments, after a note about their origin.
fn told(origin: &dyn fmt::Display, flags: &[Flag]) -> Vec<String> {
    let words: Vec<String> = flags.iter().cloned().flat_map(words).collect();
    if !words.is_empty() {
        say(format_args!("note: {origin} gives {}", words.join(" ")));
    }
    words
}

/// Whether a command has the flag `--long`.
fn has_flag(command: &Command, long: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(long))
}

/// The first word from `from` on that is a subcommand of `command`, and its position.
fn subcommand<'a>(command: &'a Command, typed: &[OsString], from: usize) -> Option<(usize, &'a Command)> {
    let named = |word: &OsString| word.to_str().and_then(|word| command.find_subcommand(word));
    typed.iter().enumerate().skip(from).find_map(|(at, word)| Some((at, named(word)?)))
}

/// Whether an argument is the flag `--long`, with or without a value behind `=`.
fn is_flag(word: &OsStr, long: &str) -> bool {
    let rest =
        word.to_str().and_then(|word| word.strip_prefix("--")).and_then(|word| word.strip_prefix(long));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// Whether the flag `--long` is among `words`.
pub fn is_typed(long: &str, words: &[OsString]) -> bool {
    words.iter().any(|word| is_flag(word, long))
}

/// The value of the flag `--long` among `words`.
pub fn value_of(long: &str, words: &[OsString]) -> Option<OsString> {
    let at = words.iter().position(|word| is_flag(word, long))?;
    match words[at].to_str().and_then(|word| word.split_once('=')) {
        Some((_, value)) => Some(value.into()),
        None => words.get(at + 1).cloned(),
    }
}

/// The keys of `command`: its section if the file has sections, else the whole file.
fn section(root: &Command, command: &Command, mut table: Table) -> anyhow::Result<Table> {
    let is_section =
        |(key, value): (&String, &Value)| value.is_table() && root.find_subcommand(key).is_some();
    if !table.iter().any(is_section) {
        return Ok(table);
    }
    if let Some((key, _)) = table.iter().find(|entry| !is_section(*entry)) {
        bail!(
            "{key} stands outside the sections\nhint: move it below the command that reads it, such as [{}]",
            command.get_name()
        );
    }
    match table.remove(command.get_name()) {
        Some(Value::Table(keys)) => Ok(keys),
        _ => {
            say(format_args!(
                "note: --config gives no flag: the file has no section [{}]",
                command.get_name()
            ));
            Ok(Table::new())
        }
    }
}

/// The flags that a key stands for: none for a switch that is off, several for one that may be repeated.
///
/// # Errors
/// The key is no flag of the command, or the flag does not take the value.
pub fn flag(command: &Command, key: &str, value: &Value) -> anyhow::Result<Vec<Flag>> {
    let long = key.replace('_', "-");
    let known = |arg: &&Arg| arg.get_long().is_some_and(|name| ![CONFIG, "help", "version"].contains(&name));
    let args: Vec<&Arg> = command.get_arguments().filter(known).collect();
    let Some(arg) = args.iter().find(|arg| arg.get_long() == Some(&long)) else {
        let near = args
            .iter()
            .filter_map(|arg| arg.get_long())
            .max_by(|a, b| strsim::jaro(a, &long).total_cmp(&strsim::jaro(b, &long)));
        let near = near.map(|name| format!(", such as --{name}")).unwrap_or_default();
        bail!(
            "{key} is no flag of `lgd {}`\nhint: a key is the name of a flag without dashes{near}",
            command.get_name()
        );
    };
    let wrong = |expected: &str| anyhow::anyhow!("{key} = {value}: expected {expected}");
    if !arg.get_action().takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![Flag::switch(long)]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => Err(wrong("true or false")),
        };
    }
    let values = match value {
        Value::Array(items) => items.iter().map(plain).collect::<Option<Vec<_>>>(),
        value => plain(value).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| wrong("a number, a text, or a list of them"))?;
    let several = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    Ok(match (arg.get_value_delimiter(), arg.get_action()) {
        _ if several => vec![Flag { long, values }],
        (Some(delimiter), _) => vec![Flag::new(long, values.join(&delimiter.to_string()))],
        (None, ArgAction::Append) => values.into_iter().map(|value| Flag::new(&long, value)).collect(),
        _ if values.len() == 1 => vec![Flag { long, values }],
        _ => return Err(wrong("one value")),
    })
}

/// A number or text as it is typed on the command line.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// The flag as arguments. One value is joined by `=`, because it may begin with a dash.
fn words(flag: Flag) -> Vec<String> {
    let Flag { long, values } = flag;
    match values.as_slice() {
        [value] => vec![format!("--{long}={value}")],
        values => [format!("--{long}")].into_iter().chain(values.iter().cloned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    /// The arguments behind the command, expanded; the file is written for the call.
    fn expanded(toml: &str, typed: &str) -> anyhow::Result<Vec<String>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("flags.toml");
        fs::write(&path, toml)?;
        let typed = format!("lgd {typed} --config={}", path.display());
        let mut root = Args::command();
        root.build();
        let all = expand(&root, typed.split(' ').map(OsString::from).collect())?;
        let all: Vec<String> = all.into_iter().map(|word| word.into_string().unwrap()).collect();
        Ok(all[2..all.len() - 1].to_vec())
    }

    #[test]
    fn keys_become_flags_in_front_of_typed_ones() {
        let toml = "student = 'resnet34'\nlr_per_step = true\nnesterov = false\nbank = ['a', 'b']\nbetas = [0.8, 0.99]\nseed = 7\n";
        let got = expanded(toml, "train --cache c").unwrap();
        let expected = [
            "--bank=a",
            "--bank=b",
            "--betas",
            "0.8",
            "0.99",
            "--lr-per-step",
            "--seed=7",
            "--student=resnet34",
        ];
        assert_eq!(got[got.len() - 2..], ["--cache", "c"]);
        let mut flags = got[..got.len() - 2].to_vec();
        if let Some(at) = flags.iter().position(|word| word == "--betas") {
            assert_eq!(flags[at..at + 3], ["--betas", "0.8", "0.99"]);
        }
        flags.sort();
        let mut sorted = expected.map(str::to_owned);
        sorted.sort();
        assert_eq!(flags, sorted);
    }

    #[test]
    fn typed_flags_win_and_other_sections_are_skipped() {
        let toml = "[train]\nstudent = 'resnet34'\nbank = ['a', 'b']\n[eval]\nprotocol = 'knn'\n";
        assert_eq!(
            expanded(toml, "train --student=resnet50 --bank c").unwrap(),
            ["--student=resnet50", "--bank", "c"]
        );
        assert_eq!(expanded(toml, "eval --run r").unwrap()[0], "--protocol=knn");
        assert_eq!(expanded(toml, "verify x").unwrap(), ["x"]);
        let planned = ["--seconds=3", "train", "--bank=a", "--bank=b", "--student=resnet50"];
        assert_eq!(expanded(toml, "plan --seconds=3 train --student=resnet50").unwrap(), planned);
    }

    #[test]
    fn a_recipe_gives_way_to_the_file_and_the_file_to_typed_flags() {
        let toml = "[train]\nepochs = 7\nbatch = 64\nrecipe = 'lgd'\n";
        let got = expanded(toml, "train --batch 32").unwrap();
        let count = |start: &str| got.iter().filter(|word| word.starts_with(start)).count();
        assert_eq!((count("--epochs"), count("--batch")), (1, 1), "{got:?}");
        assert!(
            got.contains(&"--epochs=7".to_owned()) && got.ends_with(&["--batch".into(), "32".into()]),
            "{got:?}"
        );
        assert!(got.contains(&"--cosine-from=start".to_owned()) && got.contains(&"--vsb=ema".to_owned()));
        let planned = expanded(toml, "plan --seconds=3 train --recipe seed").unwrap();
        assert!(
            planned.contains(&"--queue-fill=random".to_owned()) && !planned.contains(&"--vsb=ema".to_owned())
        );
        assert_eq!(planned[0], "--seconds=3");
        let unknown = expanded(toml, "train --recipe none").unwrap();
        assert!(!unknown.iter().any(|word| word.starts_with("--vsb")), "clap refuses the name: {unknown:?}");
    }

    #[test]
    fn what_is_no_flag_is_refused_with_the_file() {
        for (toml, parts) in [
            ("studnet = 'resnet34'", ["studnet is no flag of `lgd train`", "--student"]),
            ("lr_per_step = 3", ["lr_per_step = 3", "true or false"]),
            ("student = ['a', 'b']", ["student = ", "one value"]),
            ("student = {a = 1}", ["student = ", "a text"]),
            ("seed = 1\n[train]\nbatch = 2", ["seed stands outside", "[train]"]),
            ("config = 'x'", ["config is no flag", "hint"]),
            ("seed =", ["flags.toml", "flags.toml"]),
        ] {
            let text = format!("{:#}", expanded(toml, "train --cache c").unwrap_err());
            assert!(text.contains("flags.toml") && parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
