//! `--recipe NAME`: the published settings of a method, as flags in front of those of `--config` and the command line.
//!
//! A recipe is a TOML file like that of `--config`, in this executable. A section in it may have conditional parts:
//!
//! ```toml
//! [train]
//! batch = 2048
//! [train."batch=2048"]           # only if --batch has this value, whoever gives it
//! batch-parts = 8
//! [extract."with-center"]        # only if the flag is given
//! [train."warmup-epochs!=0"]     # only if the flag has another value
//! ```
//!
//! So a flag that overrides a value takes along the settings that belong to that value, which would be refused or wrong.

use std::ffi::OsString;
use std::fmt;

use anyhow::{Context, bail};
use clap::{Command, ValueEnum};
use toml::{Table, Value};

use crate::config_file::{Flag, flag, is_typed, value_of};

/// The recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// Language-guided distillation, 200 epochs.
    Lgd,
    /// Language-guided distillation, 90 epochs.
    #[value(name = "lgd-90")]
    Lgd90,
    /// Knowledge distillation as efficient pre-training.
    Kdep,
    /// Self-supervised distillation.
    Seed,
}

impl Recipe {
    /// The files, of which later ones replace values of earlier ones.
    fn files(self) -> &'static [&'static str] {
        const LGD: &str = include_str!("recipe/lgd.toml");
        match self {
            Self::Lgd => &[LGD],
            Self::Lgd90 => &[LGD, include_str!("recipe/lgd-90.toml")],
            Self::Kdep => &[include_str!("recipe/kdep.toml")],
            Self::Seed => &[include_str!("recipe/seed.toml")],
        }
    }

    /// The section of a command, with its conditional parts as tables.
    fn section(self, command: &str) -> anyhow::Result<Table> {
        let mut section = Table::new();
        for file in self.files() {
            let mut file: Table = toml::from_str(file).context("a recipe")?;
            if let Some(Value::Table(keys)) = file.remove(command) {
                section.extend(keys);
            }
        }
        Ok(section)
    }

    /// The flags of `command` that the recipe gives where `given`, those of `--config`, and `typed`, the command line, give
    /// none.
    ///
    /// # Errors
    /// If a value depends on the student, and the recipe has none for this one.
    pub(crate) fn flags(
        self,
        command: &Command,
        given: &[Flag],
        typed: &[OsString],
    ) -> anyhow::Result<Vec<Flag>> {
        let mut flags = Vec::new();
        let mut conditional = Vec::new();
        let open = |key: &str| !is_typed(key, typed) && !given.iter().any(|flag| flag.long == key);
        let add = |flags: &mut Vec<Flag>, key: &str, value: &Value| {
            if open(key) {
                flags.extend(flag(command, key, value)?);
            }
            anyhow::Ok(())
        };
        for (key, value) in self.section(command.get_name())? {
            match value {
                Value::Table(part) => conditional.push((Condition::new(key), part)),
                value => add(&mut flags, &key, &value)?,
            }
        }
        // A part may decide on another part's condition.
        loop {
            let value = |long: &str| current(command, long, &flags, given, typed);
            let Some(at) = conditional.iter().position(|(condition, _)| condition.holds(&value)) else {
                break;
            };
            let (_, part) = conditional.remove(at);
            part.iter().try_for_each(|(key, value)| add(&mut flags, key, value))?;
        }
        self.require_student(&conditional, &flags, &open)?;
        Ok(flags)
    }

    /// Fails if a value is published for other students only, and is given nowhere else.
    fn require_student(
        self,
        left: &[(Condition, Table)],
        flags: &[Flag],
        open: &dyn Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let of_students = || left.iter().filter(|(condition, _)| condition.flag == "student");
        let lacks = |key: &&String| open(key) && !flags.iter().any(|flag| flag.long == **key);
        let Some(key) = of_students().find_map(|(_, part)| part.keys().find(lacks)) else { return Ok(()) };
        let students: Vec<&str> =
            of_students().filter_map(|(condition, _)| condition.value.as_deref()).collect();
        bail!(
            "the recipe {self} has --{key} for {} only, because it depends on the student\nhint: give --{key}",
            students.join(" and ")
        )
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// When a conditional part of a recipe holds.
struct Condition {
    flag: String,
    value: Option<String>,
    equal: bool,
}

impl Condition {
    fn new(text: String) -> Self {
        match text.split_once('=') {
            None => Self { flag: text, value: None, equal: true },
            Some((flag, value)) => Self {
                flag: flag.trim_end_matches('!').to_owned(),
                value: Some(value.to_owned()),
                equal: !flag.ends_with('!'),
            },
        }
    }

    /// Whether it holds for the values of flags. One of a list of objectives is enough, whatever its weight.
    fn holds(&self, value: &dyn Fn(&str) -> Option<String>) -> bool {
        match (value(&self.flag), &self.value) {
            (got, None) => got.is_some(),
            (None, Some(_)) => false,
            (Some(got), Some(expected)) => {
                let names = |part: &str| part.split(':').next() == Some(expected.as_str());
                got.split(',').any(names) == self.equal
            }
        }
    }
}

/// The value of a flag so far: typed, of the file, of the recipe, or the default. Empty for a switch that is on.
fn current(
    command: &Command,
    long: &str,
    recipe: &[Flag],
    given: &[Flag],
    typed: &[OsString],
) -> Option<String> {
    if is_typed(long, typed) {
        return Some(value_of(long, typed).unwrap_or_default().to_string_lossy().into_owned());
    }
    let flag = given.iter().chain(recipe).find(|flag| flag.long == long);
    let default = || {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long))?;
        let value = arg.get_default_values().first().filter(|_| arg.get_action().takes_values());
        value.map(|value| value.to_string_lossy().into_owned())
    };
    flag.map(|flag| flag.values.join(",")).or_else(default)
}

#[cfg(test)]
mod tests;
