//! Maps the classes of images to those of a bank, of other images or of a classifier.
//!
//! A class is a number or a name, whatever the source and whatever the position of its label: a folder `10` is class
//! 10, also in a cache that numbers its folders in bytewise order. Names are matched with names. A number is a position
//! in a list of names, unless those names are numbers too, or the number that the list gives a name. Only classes with
//! an image are matched. A list may give identifiers beside its names, and classes may be named by these.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use lgd_data::bank::CategoryRecord;
use lgd_data::source::{ImageSource, class_numbers};
use unicode_normalization::UnicodeNormalization;

use super::{EvalError, LabeledImages};

/// Most classes or categories that an error message shows.
const SHOWN: usize = 20;

/// Positions that a note lists.
const NOTED: usize = 3;

/// Normalizes a name for matching: NFC (file systems may decompose letters), lower case, underscores and hyphens as spaces,
/// one space between words.
pub fn normalize_name(name: &str) -> String {
    let blanks = name.nfc().collect::<String>().replace(['_', '-'], " ").to_lowercase();
    blanks.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A category as classes of images may be named: by its name, by an identifier, or by a number.
#[derive(Clone, Copy, Debug)]
pub struct CategoryKeys<'a> {
    /// The name.
    pub name: &'a str,
    /// Identifiers beside the name in its list, such as `n01440764`.
    pub keys: &'a [String],
    /// The number in its list, from 0 or 1; none if the list has no numbers.
    pub number: Option<u64>,
}

impl<'a> From<&&'a str> for CategoryKeys<'a> {
    fn from(name: &&'a str) -> Self {
        Self { name, keys: &[], number: None }
    }
}

impl<'a> From<&'a CategoryRecord> for CategoryKeys<'a> {
    fn from(category: &'a CategoryRecord) -> Self {
        Self { name: &category.name, keys: &category.keys, number: category.number }
    }
}

/// The category of each class: the only one with exactly the same name, else the only one with the same normalized
/// name.
///
/// # Errors
/// The classes without a category, or with more than one.
pub fn categories_of_classes(classes: &[String], categories: &[&str]) -> Result<Vec<u32>, Vec<String>> {
    let index = NameIndex::of(categories);
    let found: Vec<Option<u32>> = classes.iter().map(|class| index.find(class)).collect();
    let unmatched = classes.iter().zip(&found).filter(|(_, category)| category.is_none());
    let unmatched: Vec<String> = unmatched.map(|(class, _)| class.clone()).collect();
    if unmatched.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(unmatched) }
}

/// The positions of names in a list; `None` for a name that occurs more than once.
struct NameIndex<'a> {
    exact: HashMap<&'a str, Option<u32>>,
    normalized: HashMap<String, Option<u32>>,
}

impl<'a> NameIndex<'a> {
    fn of(names: &[&'a str]) -> Self {
        let (mut exact, mut normalized) = (HashMap::new(), HashMap::new());
        for (position, &name) in (0..).zip(names) {
            exact.entry(name).and_modify(|position| *position = None).or_insert(Some(position));
            let name = normalize_name(name);
            normalized.entry(name).and_modify(|position| *position = None).or_insert(Some(position));
        }
        Self { exact, normalized }
    }

    fn find(&self, name: &str) -> Option<u32> {
        let exact = self.exact.get(name);
        exact.or_else(|| self.normalized.get(&normalize_name(name))).copied().flatten()
    }
}

/// A class name such as `001.Black_footed_Albatross` or `n02085620-Chihuahua`: the number or identifier, and the name.
fn split_prefix(class: &str) -> Option<(&str, &str)> {
    let (prefix, name) = class.split_once(['.', '-', '_', ' '])?;
    let name = name.trim_start_matches(['.', '-', '_', ' ']);
    let digits = prefix.strip_prefix('n').filter(|digits| digits.len() == 8).unwrap_or(prefix);
    let numbered = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (numbered && name.contains(char::is_alphabetic)).then_some((prefix, name))
}

/// The category of each label by its class name, else by the identifier that the class is named by. If every class has
/// a number or an identifier before its name, these are tried without it too, which is noted.
fn categories_by_name(labels: &BTreeSet<u32>, names: &[String], categories: &[CategoryKeys<'_>]) -> Found {
    let listed: Vec<&str> = categories.iter().map(|category| category.name).collect();
    let by_name = NameIndex::of(&listed);
    let mut by_key = HashMap::new();
    for (position, category) in (0..).zip(categories) {
        for key in category.keys {
            by_key.entry(key.as_str()).and_modify(|at| *at = None).or_insert(Some(position));
        }
    }
    let key = |class: &str| by_key.get(class).copied().flatten();
    let split: Option<Vec<(&str, &str)>> = names.iter().map(|name| split_prefix(name)).collect();
    let distinct = |split: &[(&str, &str)]| {
        split.iter().map(|(_, name)| normalize_name(name)).collect::<BTreeSet<_>>().len() == split.len()
    };
    let unique = split.as_deref().is_some_and(distinct);
    let mut shortened = None;
    let mut found = Vec::new();
    for &label in labels {
        let class = at(names, label).map_or("", String::as_str);
        let whole = by_name.find(class).or_else(|| key(class));
        let short = || {
            let (prefix, name) = *at(split.as_deref()?, label)?;
            let category = key(prefix).or_else(|| by_name.find(name).filter(|_| unique))?;
            shortened.get_or_insert((class, listed[usize::try_from(category).ok()?]));
            Some(category)
        };
        found.push((label, whole.or_else(short)));
    }
    let note = shortened.map(|(class, name)| {
        format!("classes were matched without the number or identifier before the name: {class} is {name}")
    });
    (found, note)
}

/// The category of each label, `None` if it has none, and a note on how classes were matched.
type Found = (Vec<(u32, Option<u32>)>, Option<String>);

/// The classes that labels stand for.
pub(super) enum Classes<'a> {
    /// The name of each label.
    Names(&'a [String]),
    /// The number of each label; `None` if labels are the numbers.
    Numbers(Option<Vec<u32>>),
}

impl<'a> Classes<'a> {
    /// The classes of a set with these class names, or without class names.
    pub(super) fn of(names: Option<&'a [String]>) -> Self {
        match names {
            None => Self::Numbers(None),
            Some(names) => {
                let numbers = class_numbers(names);
                numbers.map_or(Self::Names(names), |numbers| Self::Numbers(Some(numbers)))
            }
        }
    }

    /// The class of a label, in words.
    pub(super) fn word(&self, label: u32) -> String {
        match self {
            Self::Names(names) => at(names, label).cloned().unwrap_or_else(|| label.to_string()),
            Self::Numbers(_) => self.number(label).to_string(),
        }
    }

    /// The number of a label, if classes are numbers.
    fn number(&self, label: u32) -> u32 {
        match self {
            Self::Numbers(Some(numbers)) => at(numbers, label).copied().unwrap_or(label),
            _ => label,
        }
    }

    /// The label in `other` of each of these labels. `None` if one side has names and the other one numbers.
    pub(super) fn labels_in(&self, labels: &BTreeSet<u32>, other: &Self) -> Option<Vec<(u32, Option<u32>)>> {
        let find: Box<dyn Fn(u32) -> Option<u32>> = match (self, other) {
            (Self::Names(names), Self::Names(others)) => {
                let index = NameIndex::of(&borrowed(others));
                Box::new(move |label| index.find(at(names, label)?))
            }
            (Self::Numbers(_), Self::Numbers(None)) => Box::new(|label| Some(self.number(label))),
            (Self::Numbers(_), Self::Numbers(Some(others))) => {
                let index: HashMap<u32, u32> = others.iter().copied().zip(0..).collect();
                Box::new(move |label| index.get(&self.number(label)).copied())
            }
            _ => return None,
        };
        Some(labels.iter().map(|&label| (label, find(label))).collect())
    }
}

fn at<T>(values: &[T], label: u32) -> Option<&T> {
    usize::try_from(label).ok().and_then(|label| values.get(label))
}

/// The labels that the images of a source have.
pub(super) fn labels_of(source: &dyn ImageSource) -> BTreeSet<u32> {
    source.samples().iter().filter_map(|sample| sample.label).collect()
}

/// The class of each label of the test images, as a number of another list: of a bank's categories, of the training
/// images' labels, or of a classifier's outputs.
#[derive(Debug, Default)]
pub struct LabelMap {
    /// Keyed by label.
    classes: BTreeMap<u32, u32>,
    /// Note on an assumption made while matching.
    pub note: Option<String>,
}

impl LabelMap {
    /// Maps every label, or returns the classes that are not in the other list, in words.
    pub(super) fn complete(
        found: Vec<(u32, Option<u32>)>,
        classes: &Classes<'_>,
    ) -> Result<Self, Vec<String>> {
        let lost: Vec<String> = found
            .iter()
            .filter(|(_, class)| class.is_none())
            .map(|(label, _)| classes.word(*label))
            .collect();
        let found = found.into_iter().filter_map(|(label, class)| Some((label, class?)));
        if lost.is_empty() { Ok(Self { classes: found.collect(), note: None }) } else { Err(lost) }
    }

    /// The class of each of these labels, which must be labels of the source that was mapped.
    pub fn classes(&self, labels: &[u32]) -> Vec<u32> {
        labels.iter().filter_map(|label| self.classes.get(label)).copied().collect()
    }
}

/// The category of each label of a source: by name or identifier, or for numbers by number or position. `images` names the source in messages.
///
/// # Errors
/// [`EvalError::UnmatchedClasses`] if a class has no category; [`EvalError::OutsidePositions`] if it is a number that is not a position.
pub fn categories_of_source<'a, C>(
    source: &dyn ImageSource,
    images: &Path,
    categories: C,
) -> Result<LabelMap, EvalError>
where
    C: IntoIterator,
    C::Item: Into<CategoryKeys<'a>>,
{
    categories_of_labels(&labels_of(source), source.class_names(), images, categories)
}

/// The category of each of `labels`, whose class names are `names` if they have any. `images` names their source in
/// messages.
///
/// # Errors
/// [`EvalError::UnmatchedClasses`] if a class has no category; [`EvalError::OutsidePositions`] if it is a number that is not a position.
pub fn categories_of_labels<'a, C>(
    labels: &BTreeSet<u32>,
    names: Option<&[String]>,
    images: &Path,
    categories: C,
) -> Result<LabelMap, EvalError>
where
    C: IntoIterator,
    C::Item: Into<CategoryKeys<'a>>,
{
    let categories: Vec<CategoryKeys<'_>> = categories.into_iter().map(Into::into).collect();
    let classes = Classes::of(names);
    let owned: Vec<String> = categories.iter().map(|category| category.name.to_owned()).collect();
    let of_bank = Classes::of(Some(&owned));
    let (found, note) = match (&classes, classes.labels_in(labels, &of_bank)) {
        (Classes::Names(names), _) => categories_by_name(labels, names, &categories),
        (Classes::Numbers(_), Some(found)) => {
            let note = "labels are numbers, and so are the names: matched by name";
            (found, Some(note.to_owned()))
        }
        (Classes::Numbers(_), None) => return positions(labels, &classes, images, &categories),
    };
    let map = LabelMap::complete(found, &classes).map_err(|lost| EvalError::UnmatchedClasses {
        images: images.to_owned(),
        classes: shown(&borrowed(&lost)),
        categories: shown(&borrowed(&owned)),
    })?;
    Ok(LabelMap { note, ..map })
}

/// Takes class numbers as the numbers that the list of categories has, from 1, if it has one for each of them; else as
/// positions among `categories`.
fn positions(
    labels: &BTreeSet<u32>,
    classes: &Classes<'_>,
    images: &Path,
    categories: &[CategoryKeys<'_>],
) -> Result<LabelMap, EvalError> {
    let numbers: BTreeSet<u32> = labels.iter().map(|&label| classes.number(label)).collect();
    let listed: HashMap<u64, u32> = categories
        .iter()
        .zip(0..)
        .filter_map(|(category, position)| Some((category.number?, position)))
        .collect();
    let own = |number: u32| listed.get(&u64::from(number)).copied();
    if !listed.contains_key(&0) && numbers.iter().all(|number| own(*number).is_some()) {
        let classes = labels.iter().filter_map(|&label| Some((label, own(classes.number(label))?)));
        let note = positions_note("the numbers of the names in their list", 1, categories, &numbers);
        return Ok(LabelMap { classes: classes.collect(), note: Some(note) });
    }
    let inside = |number: u32| usize::try_from(number).is_ok_and(|number| number < categories.len());
    let outside: Vec<String> =
        numbers.iter().filter(|number| !inside(**number)).map(u32::to_string).collect();
    let from_one = !numbers.contains(&0);
    if !outside.is_empty() {
        let last = numbers.last().is_some_and(|last| usize::try_from(*last) == Ok(categories.len()));
        return Err(EvalError::OutsidePositions {
            images: images.to_owned(),
            classes: shown(&borrowed(&outside)),
            categories: categories.len(),
            from_one: from_one && last,
        });
    }
    let what = format!("positions among the {} names", categories.len());
    let note = positions_note(&what, 0, categories, &numbers);
    let classes = labels.iter().map(|&label| (label, classes.number(label))).collect();
    Ok(LabelMap { classes, note: Some(note) })
}

/// Notes that labels were taken as `what`, counted from `start`. It lists the first categories, so a reader notices a
/// list in another order.
fn positions_note(
    what: &str,
    start: usize,
    categories: &[CategoryKeys<'_>],
    numbers: &BTreeSet<u32>,
) -> String {
    let names = (start..).zip(categories.iter().take(NOTED));
    let names: Vec<String> =
        names.map(|(number, category)| format!("{number} = {}", category.name)).collect();
    let more = if categories.len() > NOTED { ", …" } else { "" };
    let names = names.join(", ");
    let first = match numbers.first() {
        Some(first) if usize::try_from(*first).is_ok_and(|first| first > start) => {
            format!("; the smallest label is {first}")
        }
        _ => String::new(),
    };
    format!("labels are {what}, {names}{more}{first}")
}

/// The training label of each label of the test images: classes are matched by name, or by number if neither set has
/// names.
///
/// # Errors
/// [`EvalError::ClassesDiffer`] if one set has names and the other one numbers; [`EvalError::UntrainedClasses`] if the
/// training images lack a class of the test images.
pub(super) fn labels_of_training(
    test: &LabeledImages<'_>,
    train: &LabeledImages<'_>,
) -> Result<LabelMap, EvalError> {
    let (of_test, of_train) =
        (Classes::of(test.source.class_names()), Classes::of(train.source.class_names()));
    let (labels, known) = (labels_of(test.source), labels_of(train.source));
    let Some(mut found) = of_test.labels_in(&labels, &of_train) else {
        return Err(EvalError::ClassesDiffer { train: kind(train, &known), test: kind(test, &labels) });
    };
    for (_, label) in &mut found {
        *label = label.filter(|label| known.contains(label));
    }
    let map = LabelMap::complete(found, &of_test).map_err(|lost| EvalError::UntrainedClasses {
        images: test.images.to_owned(),
        train_images: train.images.to_owned(),
        classes: shown(&borrowed(&lost)),
    })?;
    let by = match of_test {
        Classes::Names(_) => "name",
        Classes::Numbers(_) => "number",
    };
    let (some, all) = (labels.len(), known.len());
    let note = (some < all).then(|| {
        format!("the test images have {some} of the {all} classes of the training images, matched by {by}")
    });
    Ok(LabelMap { note, ..map })
}

/// The classes of a set that occur, in words.
fn kind(images: &LabeledImages<'_>, labels: &BTreeSet<u32>) -> String {
    let classes = Classes::of(images.source.class_names());
    let words: Vec<String> = labels.iter().map(|&label| classes.word(label)).collect();
    let what = match classes {
        Classes::Names(_) => "names",
        Classes::Numbers(_) => "numbers",
    };
    format!("{what} ({})", shown(&borrowed(&words)).join(", "))
}

/// Borrows every name.
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
        let categories = ["crane", "Crane", "maillot", "maillot"];
        assert_eq!(categories_of_classes(&names(&["Crane"]), &categories).unwrap(), [1]);
        let asked = names(&["CRANE", "crane", "maillot"]);
        assert_eq!(categories_of_classes(&asked, &categories).unwrap_err(), ["CRANE", "maillot"]);
    }

    #[test]
    fn names_that_are_numbers_are_numbers_in_any_order() {
        let (sorted, plain, padded) =
            (names(&["0", "1", "10", "2"]), names(&["a", "b"]), names(&["002", "010"]));
        let labels: BTreeSet<u32> = [2, 3].into();
        let of = |names| Classes::of(Some(names));
        assert_eq!(
            of(&sorted).labels_in(&labels, &Classes::Numbers(None)).unwrap(),
            [(2, Some(10)), (3, Some(2))]
        );
        let back = Classes::Numbers(None).labels_in(&[10, 2, 7].into(), &of(&sorted)).unwrap();
        assert_eq!(back, [(2, Some(3)), (7, None), (10, Some(2))]);
        assert_eq!(of(&sorted).labels_in(&labels, &of(&padded)).unwrap(), [(2, Some(1)), (3, Some(0))]);
        assert!(of(&sorted).labels_in(&labels, &of(&plain)).is_none());
        assert!(of(&plain).labels_in(&[0].into(), &Classes::Numbers(None)).is_none());
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
        let note = |categories: &[&str], numbers: &[u32]| {
            let categories: Vec<CategoryKeys<'_>> = categories.iter().map(Into::into).collect();
            positions_note("positions", 0, &categories, &numbers.iter().copied().collect())
        };
        assert!(note(&["tench", "goldfish"], &[0]).ends_with("positions, 0 = tench, 1 = goldfish"));
        assert!(note(&["a", "b", "c", "d"], &[0]).ends_with(" 2 = c, …"));
        assert!(note(&["a", "b", "c", "d"], &[3, 1]).ends_with(" 2 = c, …; the smallest label is 1"));
    }

    #[test]
    fn letters_match_composed_or_not() {
        let found = categories_of_classes(&names(&["cafe\u{301}"]), &["tea", "caf\u{e9}"]);
        assert_eq!(found.unwrap(), [1]);
    }

    /// The categories of all of these classes, and the note.
    fn matched(
        classes: &[&str],
        categories: &[CategoryKeys<'_>],
    ) -> Result<(Vec<u32>, Option<String>), EvalError> {
        let labels: BTreeSet<u32> = (0..).zip(classes).map(|(label, _)| label).collect();
        let all: Vec<u32> = labels.iter().copied().collect();
        let categories = categories.iter().copied();
        let map = categories_of_labels(&labels, Some(&names(classes)), Path::new("images"), categories)?;
        Ok((map.classes(&all), map.note))
    }

    #[test]
    fn numbers_and_identifiers_before_class_names_are_left_out_if_all_have_them() {
        let plain: Vec<CategoryKeys<'_>> = ["dog", "cat", "hot dog"].iter().map(Into::into).collect();
        let (found, note) = matched(&["001.cat", "002.hot_dog"], &plain).unwrap();
        assert_eq!(found, [1, 2]);
        assert!(note.unwrap().ends_with("001.cat is cat"));
        assert_eq!(matched(&["n02084071-dog", "n02121808-cat"], &plain).unwrap().0, [0, 1]);
        for classes in [&["001.cat", "dog"], &["1.cat", "2.cat"], &["001.5", "002.6"]] {
            assert!(matched(classes, &plain).is_err(), "{classes:?}");
        }
        let written: Vec<CategoryKeys<'_>> = ["1.cat", "cat"].iter().map(Into::into).collect();
        assert_eq!(matched(&["1.cat"], &written).unwrap(), (vec![0], None));
    }

    #[test]
    fn classes_match_identifiers() {
        let keys = [names(&["n02012849"]), names(&["n03126707"])];
        let cranes = [("crane", &keys[0]), ("crane machine", &keys[1])];
        let cranes = cranes.map(|(name, keys)| CategoryKeys { name, keys, number: None });
        assert_eq!(matched(&["n03126707", "n02012849"], &cranes).unwrap(), (vec![1, 0], None));
        assert_eq!(matched(&["n02012849-crane", "n03126707-crane"], &cranes).unwrap().0, [0, 1]);
        assert!(matched(&["n02084071"], &cranes).is_err());
    }

    #[test]
    fn numbers_of_a_list_from_1_are_kept_for_classes_from_1() {
        let animals = ["cat", "dog", "ship"];
        let counted = |from: u64| {
            let list = (from..).zip(animals);
            list.map(|(number, name)| CategoryKeys { name, keys: &[], number: Some(number) })
                .collect::<Vec<_>>()
        };
        let (found, note) = matched(&["1", "2"], &counted(1)).unwrap();
        assert_eq!(found, [0, 1]);
        assert!(note.unwrap().ends_with("in their list, 1 = cat, 2 = dog, 3 = ship"));
        assert_eq!(matched(&["0", "2"], &counted(1)).unwrap().0, [0, 2]);
        assert_eq!(matched(&["1", "2"], &counted(0)).unwrap().0, [1, 2]);
        assert!(matched(&["0", "3"], &counted(1)).is_err());
    }

    #[test]
    fn all_unmatched_classes_are_listed() {
        let unmatched = categories_of_classes(&names(&["cat", "owl", "elk"]), &["cat"]).unwrap_err();
        assert_eq!(unmatched, ["owl", "elk"]);
    }
}
