//! The content of a category file before its names are checked: entries, their numbers, and what was understood.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;

use super::form::{self, NameForm};
use super::problem::Problem;

/// A refusal while a file is read.
#[derive(Debug)]
pub(super) enum Fault {
    /// A problem with the entry on a line.
    Entry(usize, Problem),
    /// A syntax error on a line.
    Syntax(usize, Box<dyn Error + Send + Sync>),
}

impl Fault {
    pub(super) fn syntax(line: usize, message: impl Into<String>) -> Self {
        Self::Syntax(line, message.into().into())
    }
}

/// One category as written.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Line number, from 1.
    pub line: usize,
    pub name: String,
    pub synonyms: Vec<String>,
    pub prompts: Vec<String>,
    /// Identifiers beside the name, such as `n01440764`.
    pub keys: Vec<String>,
    /// The number that decides its position, from 0 or 1.
    pub number: Option<u64>,
}

impl Entry {
    pub(super) fn new(line: usize, name: impl Into<String>) -> Self {
        Self { line, name: name.into(), ..Self::default() }
    }
}

/// Entries in file order.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub entries: Vec<Entry>,
    /// What was understood, if the file is not a plain list.
    pub told: Vec<String>,
}

impl Draft {
    pub(super) fn new(entries: Vec<Entry>, told: Option<String>) -> Self {
        Self { entries, told: told.into_iter().collect() }
    }

    /// Moves numbers and identifiers out of the names, and puts numbered entries in order.
    pub(super) fn tidied(mut self, form: NameForm) -> Result<Self, Fault> {
        if form == NameForm::Normalized {
            self.report_invisible();
            self.strip_quotes();
            while self.strip_identifiers() || self.strip_numbers()? {}
            self.strip_last_numbers();
            self.strip_letter_folders();
        }
        self.put_in_order()?;
        Ok(self)
    }

    fn report_invisible(&mut self) {
        let mut found = self.entries.iter().filter(|entry| form::has_invisible(&entry.name));
        if let Some(first) = found.next() {
            let count = 1 + found.count();
            self.told.push(format!("invisible characters removed from {count} (line {} first)", first.line));
        }
    }

    fn strip_quotes(&mut self) {
        let quoted = |entry: &Entry| form::is_wrapped(entry.name.trim());
        if !self.entries.is_empty() && self.entries.iter().all(quoted) {
            for entry in &mut self.entries {
                let name = entry.name.trim();
                let inner = name.char_indices().skip(1).last().map_or("", |(end, _)| {
                    let start = name.chars().next().map_or(0, char::len_utf8);
                    &name[start..end]
                });
                entry.name = inner.to_owned();
            }
            self.told.push("quotes around the names removed".to_owned());
        }
    }

    /// `n01440764 tench`, `n02085620-Chihuahua`.
    fn strip_identifiers(&mut self) -> bool {
        let split = |name: &str| {
            let (id, rest) = name.trim_start().split_at_checked(9)?;
            let rest = rest.strip_prefix(SEPARATORS)?.trim_start_matches(SEPARATORS);
            (form::is_wnid(id) && !rest.is_empty()).then(|| (id.to_owned(), rest.to_owned()))
        };
        let Some(names) = self.split_all(split) else { return false };
        for (entry, (id, name)) in self.entries.iter_mut().zip(names) {
            entry.keys.push(id);
            entry.name = name;
        }
        self.told.push("WordNet identifiers before the names left out".to_owned());
        true
    }

    /// `0: cat`, `0 cat`, `001.Black_footed_Albatross`.
    fn strip_numbers(&mut self) -> Result<bool, Fault> {
        let Some(split) = self.split_all(leading_number) else {
            return self.all_or_none_numbered().map(|()| false);
        };
        let numbers: Vec<u64> = split.iter().map(|(number, _)| *number).collect();
        self.set_numbers(&numbers)?;
        for (entry, (_, name)) in self.entries.iter_mut().zip(split) {
            entry.name = name;
        }
        let told = "numbers before the names taken as their positions";
        if !self.told.iter().any(|line| line == told) {
            self.told.push(told.to_owned());
        }
        Ok(true)
    }

    /// Refuses lists where most entries have a number and some have none.
    fn all_or_none_numbered(&self) -> Result<(), Fault> {
        let (with, without): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|entry| leading_number(&entry.name).is_some());
        match without.first() {
            Some(entry)
                if with.len() > without.len() && with.len() > 1 && !form::is_number(entry.name.trim()) =>
            {
                let text = entry.name.trim().to_owned();
                Err(Fault::Entry(entry.line, Problem::Unnumbered { text }))
            }
            _ => Ok(()),
        }
    }

    /// `/a/airfield 0`: numbers behind distinct names that are exactly their positions.
    fn strip_last_numbers(&mut self) {
        let split = |name: &str| {
            let (rest, digits) =
                name.trim_end().rsplit_once(|c: char| c.is_whitespace() || matches!(c, ',' | ':'))?;
            let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())??;
            Some((number, rest.trim_end_matches(SEPARATORS).to_owned()))
        };
        let Some(split) = self.split_all(split) else { return };
        let names: HashSet<&str> = split.iter().map(|(_, name)| name.as_str()).collect();
        let numbers: HashSet<u64> = split.iter().map(|(number, _)| *number).collect();
        let count = split.len();
        let contiguous = |first: u64| (first..).take(count).all(|number| numbers.contains(&number));
        let numbered = self.entries.iter().any(|entry| entry.number.is_some());
        if count < 2 || numbered {
            return;
        }
        if !(contiguous(0) || contiguous(1)) {
            self.told.push("every name ends in a number, which is kept".to_owned());
            return;
        }
        // `type 1`, `type 2` are names.
        if names.len() < count {
            return;
        }
        for (entry, (number, name)) in self.entries.iter_mut().zip(split) {
            (entry.number, entry.name) = (Some(number), name);
        }
        self.told.push("numbers behind the names taken as their positions".to_owned());
    }

    /// `/a/airfield`, as Places365 writes it.
    fn strip_letter_folders(&mut self) {
        let split = |name: &str| {
            let (letter, rest) = name.trim().strip_prefix('/')?.split_once('/')?;
            let lower = letter.len() == 1 && letter.bytes().all(|b| b.is_ascii_lowercase());
            (lower && rest.starts_with(letter)).then(|| rest.to_owned())
        };
        let Some(names) = self.split_all(split) else { return };
        for (entry, name) in self.entries.iter_mut().zip(names) {
            entry.name = name;
        }
        self.told.push("the folder of the first letter left out".to_owned());
    }

    /// `split` of every name, `None` if it fails for one.
    fn split_all<T>(&self, split: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.iter().map(|entry| split(&entry.name)).collect()
    }

    /// Numbers every entry. Entries that have numbers must have the same ones, perhaps from another start.
    pub(super) fn set_numbers(&mut self, numbers: &[u64]) -> Result<(), Fault> {
        let shift = self.entries.first().and_then(|first| Some((first.number?, *numbers.first()?)));
        for (entry, &number) in self.entries.iter_mut().zip(numbers) {
            match (entry.number, shift) {
                (Some(one), Some((old, new)))
                    if i128::from(one) - i128::from(old) != i128::from(number) - i128::from(new) =>
                {
                    let name = entry.name.clone();
                    return Err(Fault::Entry(entry.line, Problem::TwoNumbers { name, one, other: number }));
                }
                (Some(_), _) => {}
                (None, _) => entry.number = Some(number),
            }
        }
        Ok(())
    }

    /// Sorts numbered entries. Their numbers must be all of 0, 1, 2, ... or 1, 2, 3, ...
    fn put_in_order(&mut self) -> Result<(), Fault> {
        if self.entries.iter().all(|entry| entry.number.is_none()) {
            return Ok(());
        }
        let mut lines = BTreeMap::new();
        for entry in &self.entries {
            let Some(number) = entry.number else {
                let text = entry.name.clone();
                return Err(Fault::Entry(entry.line, Problem::Unnumbered { text }));
            };
            if let Some(first) = lines.insert(number, entry.line) {
                return Err(Fault::Entry(entry.line, Problem::RepeatedNumber { number, first }));
            }
        }
        let lowest = lines.keys().next().copied().unwrap_or_default();
        let (start, last) = (lowest.min(1), lines.keys().next_back().copied().unwrap_or_default());
        if let Some((missing, (_, &line))) = (start..).zip(&lines).find(|(want, (number, _))| want != *number)
        {
            return Err(Fault::Entry(line, Problem::Gap { first: start, last, missing }));
        }
        self.entries.sort_by_key(|entry| entry.number);
        self.told.push(match start {
            0 => "numbered from 0".to_owned(),
            _ => "numbered from 1, so number 1 is position 0".to_owned(),
        });
        Ok(())
    }
}

/// Characters between a number or an identifier and a name.
pub(super) const SEPARATORS: [char; 10] = [' ', '\t', ':', ',', ';', '|', '-', '_', '.', ')'];

fn leading_number(name: &str) -> Option<(u64, String)> {
    let name = name.trim();
    let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = name[..name.len() - rest.len()].parse().ok()?;
    let after = rest.trim_start_matches(SEPARATORS);
    let separated = rest.len() > after.len() && !after.is_empty();
    // 1.5 and 1-2 are numbers, not a number and a name.
    (separated && !form::is_number(after)).then(|| (number, after.to_owned()))
}
