//! The recipes against the tables of docs/methods.md, which say what is published, what is the default, and what a recipe
//! gives.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory};

use super::*;
use crate::args::Args;

/// A row of a table: command and flag, if the setting has one, and the cells of its default and of the recipe.
struct Row {
    setting: String,
    flag: Option<(String, String)>,
    default: String,
    recipe: String,
}

/// The first text in backticks.
fn quoted(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

/// The rows of the table with a column for this recipe.
fn rows(recipe: Recipe) -> Vec<Row> {
    let page = include_str!("../../docs/methods.md");
    let head = format!("| setting | published | default | `--recipe {recipe}` | why |");
    let table =
        page.lines().skip_while(|line| **line != head).skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        let flag = quoted(cells[0]).and_then(|text| text.split_once(" --"));
        Row {
            setting: cells[0].to_owned(),
            flag: flag.map(|(command, long)| (command.to_owned(), long.to_owned())),
            default: cells[2].to_owned(),
            recipe: cells[3].to_owned(),
        }
    };
    let rows: Vec<Row> = table.map(row).collect();
    assert!(rows.len() > 15, "{recipe}: {} rows", rows.len());
    rows
}

fn commands() -> Command {
    let mut root = Args::command();
    root.build();
    root
}

/// What the recipe gives a command beside `typed`.
fn given(recipe: Recipe, command: &str, typed: &str) -> anyhow::Result<Vec<Flag>> {
    let root = commands();
    let typed: Vec<OsString> = typed.split_whitespace().map(OsString::from).collect();
    recipe.flags(root.find_subcommand(command).unwrap(), &[], &typed)
}

fn value(flags: &[Flag], long: &str) -> Option<String> {
    let flag = flags.iter().find(|flag| flag.long == long)?;
    Some(if flag.values.is_empty() { "on".to_owned() } else { flag.values.join(" ") })
}

/// Whether a table's default is that of a flag: its value in clap, or words of its help.
fn is_default(arg: &Arg, cell: &str) -> bool {
    if !arg.get_action().takes_values() {
        return cell == "off";
    }
    match arg.get_default_values().first() {
        Some(value) => quoted(cell) == value.to_str(),
        None => {
            let words = |text: &str| text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
            let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
            words(&help).contains(&words(cell))
        }
    }
}

#[test]
fn every_line_of_the_tables_is_what_the_command_line_and_the_recipe_say() {
    let root = commands();
    for recipe in [Recipe::Lgd, Recipe::Kdep, Recipe::Seed] {
        let mut seen = BTreeSet::new();
        for Row { setting, flag, default, recipe: cell } in rows(recipe) {
            let Some((name, long)) = flag else {
                assert_eq!(cell, "–", "{recipe}: {setting} has no flag, so the recipe cannot give it");
                assert!(!default.is_empty(), "{recipe}: {setting}");
                continue;
            };
            let command = root.find_subcommand(&name).unwrap();
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&long));
            let arg = arg.unwrap_or_else(|| panic!("{recipe}: {setting} is no flag"));
            assert!(is_default(arg, &default), "{recipe}: {setting}: {default} is not its default");
            assert!(seen.insert((name.clone(), long.clone())), "{recipe}: {setting} is listed twice");
            if cell == "–" {
                let typed = if name == "train" { "--student resnet18" } else { "" };
                assert_eq!(value(&given(recipe, &name, typed).unwrap(), &long), None, "{recipe}: {setting}");
                continue;
            }
            for case in cell.split("; ") {
                let typed =
                    case.split_once(" with ").and_then(|(_, typed)| quoted(typed)).unwrap_or_default();
                let got = value(&given(recipe, &name, typed).unwrap(), &long);
                assert_eq!(got.as_deref(), quoted(case), "{recipe}: {setting}, beside {typed:?}");
            }
        }
        for name in ["extract", "bank", "train", "eval"] {
            let section = recipe.section(name).unwrap();
            let parts = section.values().filter_map(Value::as_table).flat_map(Table::keys);
            let plain = section.iter().filter(|(_, value)| !value.is_table()).map(|(key, _)| key);
            for key in plain.chain(parts) {
                assert!(
                    seen.contains(&(name.to_owned(), key.clone())),
                    "{recipe}: no line for {name} --{key}"
                );
            }
        }
    }
}

#[test]
fn the_shorter_run_differs_in_its_epochs_only() {
    for command in ["extract", "bank", "train", "eval"] {
        let [long, short] = [Recipe::Lgd, Recipe::Lgd90].map(|recipe| given(recipe, command, "").unwrap());
        let differ: Vec<(&Flag, &Flag)> = long.iter().zip(&short).filter(|(a, b)| a != b).collect();
        assert_eq!(long.len(), short.len());
        let expected = if command == "train" { 1 } else { 0 };
        assert_eq!(differ.len(), expected, "{command}: {differ:?}");
    }
    let flags = given(Recipe::Lgd90, "train", "").unwrap();
    assert_eq!(value(&flags, "epochs").as_deref(), Some("90"));
}

#[test]
fn a_flag_that_replaces_a_value_takes_along_what_belongs_to_it() {
    let lacks = |recipe, typed: &str, absent: &[&str], present: &[&str]| {
        let flags = given(recipe, "train", typed).unwrap();
        for long in absent {
            assert_eq!(value(&flags, long), None, "{typed}: --{long}");
        }
        for long in present {
            assert!(value(&flags, long).is_some(), "{typed}: --{long}");
        }
    };
    lacks(Recipe::Lgd, "--batch 256", &["batch", "batch-parts"], &["epochs", "start-lr"]);
    lacks(Recipe::Lgd, "--batch=2048", &["batch"], &["batch-parts"]);
    lacks(Recipe::Lgd, "--vsb mean", &["vsb", "vsb-momentum"], &["alpha"]);
    lacks(Recipe::Lgd, "--objective seed", &["alpha", "vsb", "vsb-momentum", "tau-s"], &["momentum"]);
    lacks(Recipe::Lgd, "--objective seed,lgd:0.5", &[], &["alpha", "vsb-momentum"]);
    lacks(Recipe::Lgd, "--optimizer adamw", &["momentum"], &["weight-decay"]);
    lacks(Recipe::Lgd, "--schedule step", &["cosine-from"], &["start-lr"]);
    lacks(Recipe::Lgd, "--warmup-epochs 0", &["start-lr"], &["cosine-from"]);
    lacks(Recipe::Lgd, "--warmup-epochs 2", &[], &["start-lr"]);
    lacks(Recipe::Kdep, "--schedule constant", &["drop-every", "drop-factor"], &["lr"]);
    lacks(Recipe::Kdep, "--student resnet50 --lr 0.2", &["lr"], &["drop-every"]);
    assert_eq!(value(&given(Recipe::Lgd, "extract", "").unwrap(), "center-fraction"), None);
    let error = given(Recipe::Kdep, "train", "--student resnet50").unwrap_err().to_string();
    assert!(
        error.contains("kdep has --lr for mobilenet_v2 and resnet18 only")
            && error.contains("hint: give --lr"),
        "{error}"
    );
}
