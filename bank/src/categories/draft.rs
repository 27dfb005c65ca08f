//! The content of a category file before its names are checked: entries, their numbers, and what was understood.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;

use super::files::counted;
use super::form::{self, NameForm};
use super::numbers::{self, Split};
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
    /// Cells of synonyms: empty ones are padding, and each may hold a list.
    pub cells: Vec<String>,
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
    /// Whether the numbers were parts of the names.
    pub numbers_in_names: bool,
}

impl Draft {
    pub(super) fn new(entries: Vec<Entry>, told: Option<String>) -> Self {
        Self { entries, told: told.into_iter().collect(), numbers_in_names: false }
    }

    /// Moves numbers and identifiers out of the names, strips what surrounds them, and puts numbered entries in order.
    pub(super) fn tidied(mut self, form: NameForm) -> Result<Self, Fault> {
        self.read_cells(form);
        if form == NameForm::Normalized {
            self.report_invisible();
            while self.strip_quotes()
                || self.strip_identifiers()
                || self.strip_numbers()?
                || self.strip_keys()
                || self.strip_last_identifiers()
            {}
            self.strip_last_numbers()?;
            self.undress();
        }
        self.put_in_order()?;
        Ok(self)
    }

    /// Moves the synonyms out of their cells.
    fn read_cells(&mut self, form: NameForm) {
        let separators: &[char] = if form == NameForm::Normalized { &[',', ';', '|'] } else { &[] };
        let mut lists = 0;
        for entry in &mut self.entries {
            for cell in std::mem::take(&mut entry.cells) {
                let before = entry.synonyms.len();
                let parts = cell.split(separators).filter(|part| !part.trim().is_empty());
                entry.synonyms.extend(parts.map(str::to_owned));
                lists += usize::from(entry.synonyms.len() > before + 1);
            }
        }
        if lists > 0 {
            self.tell(format!("{} of synonyms split", counted(lists, "cell")));
        }
    }

    fn report_invisible(&mut self) {
        let mut found = self.entries.iter().filter(|entry| form::has_invisible(&entry.name));
        if let Some(first) = found.next() {
            let count = 1 + found.count();
            self.told.push(format!("invisible characters removed from {count} (line {} first)", first.line));
        }
    }

    /// `n01440764 tench`.
    fn strip_identifiers(&mut self) -> bool {
        self.move_identifiers("WordNet identifiers before the names left out", numbers::leading_identifier)
    }

    /// `tench (n01440764)`.
    fn strip_last_identifiers(&mut self) -> bool {
        self.move_identifiers("WordNet identifiers behind the names left out", numbers::trailing_identifier)
    }

    fn move_identifiers(&mut self, told: &str, split: impl Fn(&str) -> Option<(&str, &str)>) -> bool {
        let split = |name: &str| split(name).map(|(id, name)| (id.to_owned(), name.to_owned()));
        let Some(names) = self.split_all(split) else { return false };
        for (entry, (id, name)) in self.entries.iter_mut().zip(names) {
            entry.keys.push(id);
            entry.name = name;
        }
        self.tell(told.to_owned());
        true
    }

    /// `0: cat`, `[0] cat`, `class_0 cat`, `001.Black_footed_Albatross`.
    fn strip_numbers(&mut self) -> Result<bool, Fault> {
        let told = "numbers before the names taken as their positions";
        if let Some(split) = self.split_all(|name| numbers::leading(name).map(owned)) {
            self.take_numbers(split, told)?;
            return Ok(true);
        }
        // `0cat`, `1dog`, `2fox`: without a separator, only in order.
        if let Some(split) = self.split_all(|name| numbers::attached(name).map(owned)) {
            let first = split[0].0;
            if first < 2
                && split.len() > 2
                && split.iter().zip(first..).all(|((number, _), at)| *number == at)
            {
                self.take_numbers(split, told)?;
                return Ok(true);
            }
        }
        self.all_or_none_numbered().map(|()| false)
    }

    fn take_numbers(&mut self, split: Vec<(u64, String)>, told: &str) -> Result<(), Fault> {
        self.numbers_in_names = true;
        let numbers: Vec<u64> = split.iter().map(|(number, _)| *number).collect();
        self.set_numbers(&numbers)?;
        for (entry, (_, name)) in self.entries.iter_mut().zip(split) {
            entry.name = name;
        }
        self.tell(told.to_owned());
        Ok(())
    }

    /// Refuses lists where most entries have a number and some have none.
    fn all_or_none_numbered(&self) -> Result<(), Fault> {
        let (with, without): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|entry| numbers::leading(&entry.name).is_some());
        match without.first() {
            Some(entry)
                if with.len() > without.len() && with.len() > 1 && !form::is_number(entry.name.trim()) =>
            {
                let text = entry.name.trim().to_owned();
                Err(Fault::Entry(entry.line, Problem::Unnumbered { text, in_names: true }))
            }
            _ => Ok(()),
        }
    }

    /// `/a/airfield 0`, `cat -> 0`: numbers behind distinct names that are exactly their positions, or that a
    /// separator tells from the names.
    fn strip_last_numbers(&mut self) -> Result<(), Fault> {
        let split = self.split_all(|name| {
            let split = numbers::trailing(name)?;
            Some((split.sure, owned(split)))
        });
        let Some(split) = split else { return Ok(()) };
        let sure = split.iter().all(|(sure, _)| *sure);
        let split: Vec<(u64, String)> = split.into_iter().map(|(_, split)| split).collect();
        let names: HashSet<&str> = split.iter().map(|(_, name)| name.as_str()).collect();
        let numbers: HashSet<u64> = split.iter().map(|(number, _)| *number).collect();
        let count = split.len();
        let contiguous = |first: u64| (first..).take(count).all(|number| numbers.contains(&number));
        // `type 1`, `type 2` are names.
        if count < 2 || self.entries.iter().any(|entry| entry.number.is_some()) || names.len() < count {
            return Ok(());
        }
        if !(sure || contiguous(0) || contiguous(1)) {
            self.tell("every name ends in a number, which is kept".to_owned());
            return Ok(());
        }
        self.take_numbers(split, "numbers behind the names taken as their positions")
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
        let in_names = self.numbers_in_names;
        let mut lines = BTreeMap::new();
        for entry in &self.entries {
            let Some(number) = entry.number else {
                let text = entry.name.clone();
                return Err(Fault::Entry(entry.line, Problem::Unnumbered { text, in_names }));
            };
            if let Some(first) = lines.insert(number, entry.line) {
                return Err(Fault::Entry(entry.line, Problem::RepeatedNumber { number, first, in_names }));
            }
        }
        let lowest = lines.keys().next().copied().unwrap_or_default();
        let (start, last) = (lowest.min(1), lines.keys().next_back().copied().unwrap_or_default());
        if let Some((missing, (_, &line))) = (start..).zip(&lines).find(|(want, (number, _))| want != *number)
        {
            return Err(Fault::Entry(line, Problem::Gap { first: start, last, missing, in_names }));
        }
        self.entries.sort_by_key(|entry| entry.number);
        self.told.push(match start {
            0 => "numbered from 0".to_owned(),
            _ => "numbered from 1, so number 1 is position 0".to_owned(),
        });
        Ok(())
    }
}

/// The number and the rest of a name.
fn owned(split: Split<'_>) -> (u64, String) {
    (split.number, split.name.to_owned())
}
