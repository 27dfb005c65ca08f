//! Maps a source's classes to a bank's categories, by name.

use std::collections::BTreeSet;
use std::path::Path;

use lgd_data::source::ImageSource;

use super::EvalError;

/// Most classes or categories that an error message shows.
const SHOWN: usize = 20;

/// Positions that a note lists.
const NOTED: usize = 3;

/// Converts a name to lower case, replaces underscores and hyphens with spaces, and leaves one space between words.
pub fn normalize_name(name: &str) -> String {
    let blanks = name.replace(['_', '-'], " ").to_lowercase();
    blanks.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The category of each class: the one with exactly the same name, else the only one with the same normalized name.
///
/// # Errors
/// The classes without a category, or with more than one.
pub fn categories_of_classes(classes: &[String], categories: &[&str]) -> Result<Vec<u32>, Vec<String>> {
    let normalized: Vec<String> = categories.iter().map(|name| normalize_name(name)).collect();
    let category = |class: &String| {
        if let Some(exact) = categories.iter().position(|name| name == class) {
            return u32::try_from(exact).ok();
        }
        let wanted = normalize_name(class);
        let mut alike = (0..).zip(&normalized).filter(|(_, name)| **name == wanted);
        match (alike.next(), alike.next()) {
            (Some((category, _)), None) => Some(category),
            _ => None,
        }
    };
    let found: Vec<Option<u32>> = classes.iter().map(category).collect();
    let unmatched = classes.iter().zip(&found).filter(|(_, category)| category.is_none());
    let unmatched: Vec<String> = unmatched.map(|(class, _)| class.clone()).collect();
    if unmatched.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(unmatched) }
}

/// [`categories_of_classes`] for a source. Labels that are plain numbers are positions in the list of categories.
pub(super) fn categories_of_source(
    source: &dyn ImageSource,
    images: &Path,
    categories: &[&str],
) -> Result<Vec<u32>, EvalError> {
    let unmatched = |classes: Vec<String>| EvalError::UnmatchedClasses {
        images: images.to_owned(),
        classes: shown(&borrowed(&classes)),
        categories: shown(categories),
    };
    match source.class_names() {
        Some(names) => categories_of_classes(names, categories),
        None => numbers_as_categories(source, categories.len()),
    }
    .map_err(unmatched)
}

/// The categories of labels that are numbers below `count`: the numbers themselves.
///
/// # Errors
/// The labels that are not below `count`, each once.
pub(super) fn numbers_as_categories(source: &dyn ImageSource, count: usize) -> Result<Vec<u32>, Vec<String>> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let labels = source.samples().iter().filter_map(|sample| sample.label);
    let outside: BTreeSet<u32> = labels.filter(|label| *label >= count).collect();
    if outside.is_empty() {
        return Ok((0..count).collect());
    }
    Err(outside.iter().map(u32::to_string).collect())
}

/// Notes that labels were taken as positions among `categories`. It lists the first ones, so a reader notices a list in
/// another order.
pub(super) fn positions_note(categories: &[&str]) -> String {
    let names = categories.iter().take(NOTED).enumerate();
    let names: Vec<String> = names.map(|(position, name)| format!("{position} = {name}")).collect();
    let more = if categories.len() > NOTED { ", …" } else { "" };
    format!("labels are numbers: taken as positions in the bank, {}{more}", names.join(", "))
}

/// The names as slices.
pub(super) fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The first `SHOWN` categories and, if there are more, their total number.
pub(super) fn shown(categories: &[&str]) -> Vec<String> {
    let mut shown: Vec<String> = categories.iter().take(SHOWN).map(|name| (*name).to_owned()).collect();
    if categories.len() > SHOWN {
        shown.push(format!("… {} in all", categories.len()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_match_through_case_blanks_and_underscores() {
        let found = categories_of_classes(
            &names(&["Fire_Truck", "cat", "t-shirt "]),
            &["cat", "T shirt", "fire truck", "dog"],
        );
        assert_eq!(found.unwrap(), [2, 0, 1]);
    }

    #[test]
    fn an_exact_name_wins_and_an_ambiguous_one_is_refused() {
        let categories = ["crane", "Crane"];
        assert_eq!(categories_of_classes(&names(&["Crane"]), &categories).unwrap(), [1]);
        assert_eq!(categories_of_classes(&names(&["CRANE", "crane"]), &categories).unwrap_err(), ["CRANE"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..SHOWN + 1).map(|number| number.to_string()).collect();
        assert_eq!(shown(&borrowed(&names[..SHOWN])), names[..SHOWN]);
        let cut = shown(&borrowed(&names));
        assert_eq!((cut.len(), cut[SHOWN].as_str()), (SHOWN + 1, "… 21 in all"));
    }

    #[test]
    fn a_note_spells_out_the_first_positions() {
        assert!(positions_note(&["tench", "goldfish"]).ends_with("the bank, 0 = tench, 1 = goldfish"));
        assert!(positions_note(&["a", "b", "c", "d"]).ends_with(" 2 = c, …"));
    }

    #[test]
    fn all_unmatched_classes_are_listed() {
        let unmatched = categories_of_classes(&names(&["cat", "owl", "elk"]), &["cat"]).unwrap_err();
        assert_eq!(unmatched, ["owl", "elk"]);
    }
}
