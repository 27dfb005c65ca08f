//! Labels as sources write them: class numbers, class names, or none.
//!
//! Numbers stay numbers in every source: `7`, `7.0` and a class folder `7` are class 7. Names are numbered in bytewise
//! order. An empty label, NaN, null, None, N/A and -1 mean "no label".

use std::collections::{BTreeSet, HashMap};

use super::{FieldKind, Listing, Note};

/// Words for a missing label, besides an empty text.
const NO_LABEL: [&str; 5] = ["nan", "<na>", "null", "n/a", "#n/a"];

/// The missing value of Python. In lower case it may be the name of a class.
const NONE: &str = "None";

/// What separates several labels in one text.
const SEPARATORS: [char; 3] = [',', '|', ';'];

/// Most digits of a class number. All of them fit `f64` exactly.
const MOST_DIGITS: usize = 15;

/// Class numbers are positions, so at most `NUMBERS_PER_CLASS` numbers per class are unused, plus `SPARE`.
const NUMBERS_PER_CLASS: usize = 10;
const SPARE: usize = 1000;

/// The bound below which the numbers of `classes` distinct classes are positions; larger ones are identifiers.
pub fn position_limit(classes: usize) -> usize {
    NUMBERS_PER_CLASS.saturating_mul(classes).saturating_add(SPARE)
}

/// The numbers that class names spell, if all of them are digits only and no two are equal.
pub fn class_numbers(names: &[String]) -> Option<Vec<u32>> {
    let number = |name: &String| {
        let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        name.parse().ok().filter(|_| digits)
    };
    let numbers = names.iter().map(number).collect::<Option<Vec<u32>>>()?;
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    (!names.is_empty() && distinct.len() == names.len()).then_some(numbers)
}

impl Listing {
    /// Sets the classes of labels that are positions in `names`, such as those of class folders. If the names spell
    /// numbers that can be positions, labels become these numbers, and a note says so.
    pub(super) fn set_classes(&mut self, names: Vec<String>) {
        let positions = |numbers: &Vec<u32>| {
            let largest = numbers.iter().max().copied().unwrap_or_default();
            usize::try_from(largest).is_ok_and(|largest| largest < position_limit(names.len()))
        };
        let Some(numbers) = class_numbers(&names).filter(positions) else {
            self.notes.extend(alike(&names));
            self.class_names = Some(names).filter(|names| !names.is_empty());
            return;
        };
        for sample in &mut self.samples {
            let number = sample.label.and_then(|label| numbers.get(usize::try_from(label).ok()?));
            sample.label = number.copied();
        }
        let ends = numbers.iter().min().zip(numbers.iter().max());
        self.notes.extend(ends.map(|(first, last)| {
            format!("the classes are named by numbers: labels are the numbers {first} to {last}").into()
        }));
    }
}

/// Notes the first two classes whose names differ only by case or blanks.
fn alike(names: &[String]) -> Option<Note> {
    let mut known = HashMap::new();
    let plain = |name: &str| name.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let twice = names.iter().find_map(|name| Some((known.insert(plain(name), name)?, name)));
    twice.map(|(one, two)| {
        format!("the classes {one:?} and {two:?} differ only in case or blanks, and stay two classes").into()
    })
}

/// A label as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Label {
    /// No label.
    None,
    /// A class number.
    Number(u32),
    /// A class name.
    Name(String),
}

/// Why a label is not usable. The messages follow its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelFault {
    /// A negative number other than -1, a fraction, or a number that is too large.
    #[error(
        "label {got:?} is not a class: expected a whole number from 0 to 2147483647, -1 for no label, or a name"
    )]
    Number {
        /// The label.
        got: String,
    },
    /// A text that cannot be a label.
    #[error("label {got:?} is not a short UTF-8 text")]
    Text {
        /// Its beginning.
        got: String,
    },
    /// Several labels in one.
    #[error("label {got:?} is several labels or an object\nhint: give one label per image")]
    Several {
        /// The label.
        got: String,
    },
    /// The label is a name, but earlier labels are numbers.
    #[error(
        "label {got:?} is not a class number, but earlier labels are\nhint: use numbers from 0 or names, not both"
    )]
    NotANumber {
        /// The label.
        got: String,
    },
    /// The label is a number, but earlier labels are names.
    #[error(
        "label {got:?} is a number, but earlier labels are names\nhint: use numbers from 0 or names, not both"
    )]
    NotAName {
        /// The label.
        got: String,
    },
}

impl Label {
    /// Reads a text: a number, a name, or no label.
    pub(super) fn of_text(text: &str) -> Result<Self, LabelFault> {
        let text = text.trim();
        let got = || text.to_owned();
        if text.is_empty() || text == NONE || NO_LABEL.iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Ok(Self::None);
        }
        if is_enclosed(text) || is_numbers(text) {
            return Err(LabelFault::Several { got: got() });
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let numeric = unsigned.starts_with(|first: char| first.is_ascii_digit())
            && unsigned.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse::<f64>() {
            Ok(number) if numeric && unsigned.len() <= MOST_DIGITS => Self::of_number(number),
            Ok(number) if is_scientific(unsigned) => Self::of_number(number),
            Ok(_) if numeric => Err(LabelFault::Number { got: got() }),
            _ if is_printed(text) => Err(LabelFault::Number { got: got() }),
            _ => Ok(Self::Name(got())),
        }
    }

    /// Reads a number. NaN and -1 are no label.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be the same number"
    )]
    pub(super) fn of_number(number: f64) -> Result<Self, LabelFault> {
        let label = number as u32;
        // The cache stores labels as i32.
        if f64::from(label) == number && label <= i32::MAX.cast_unsigned() {
            Ok(Self::Number(label))
        } else if number.is_nan() || number == -1.0 {
            Ok(Self::None)
        } else {
            Err(LabelFault::Number { got: number.to_string() })
        }
    }
}

/// Whether a text is an array, an object, or a tuple.
fn is_enclosed(text: &str) -> bool {
    let within = |start: char, end: char| text.starts_with(start) && text.ends_with(end);
    within('[', ']') || within('{', '}') || (within('(', ')') && text.contains(','))
}

/// Whether a text is several whole numbers, such as `0,1` or `0 1`.
fn is_numbers(text: &str) -> bool {
    let separates = |letter: char| SEPARATORS.contains(&letter) || letter.is_whitespace();
    let parts: Vec<&str> = text.split(separates).filter(|part| !part.is_empty()).collect();
    let all = !parts.is_empty() && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    all && text.contains(separates)
}

/// Whether a text is a number as NumPy writes it, such as `7.000e+00`. Without the sign, it may be an identifier.
fn is_scientific(unsigned: &str) -> bool {
    let Some((digits, exponent)) = unsigned.split_once(['e', 'E']) else { return false };
    let all = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits.split_once('.').map_or(all(digits), |(whole, part)| all(whole) && all(part));
    digits && exponent.strip_prefix(['+', '-']).is_some_and(all)
}

/// Whether a text is a value as Python prints it, such as `tensor(0)`.
fn is_printed(text: &str) -> bool {
    let called = text.strip_suffix(')').and_then(|text| text.split_once('('));
    called.is_some_and(|(name, _)| ["tensor", "array"].contains(&name) || name.starts_with("np."))
}

/// The labels of a source in order, and its class names if labels are names.
pub(super) type Resolved = (Vec<Option<u32>>, Option<Vec<String>>);

/// Numbers the labels: numbers are unchanged, and names are numbered in bytewise order. The first label decides.
///
/// # Errors
/// The position of the first label of the other kind.
pub(super) fn resolve(labels: &[Label]) -> Result<Resolved, (usize, LabelFault)> {
    let named = labels.iter().find_map(|label| match label {
        Label::None => None,
        Label::Number(_) => Some(false),
        Label::Name(_) => Some(true),
    });
    let mut names = BTreeSet::new();
    for (position, label) in labels.iter().enumerate() {
        match label {
            Label::Name(name) if named == Some(true) => drop(names.insert(name.as_str())),
            Label::Name(name) => return Err((position, LabelFault::NotANumber { got: name.clone() })),
            Label::Number(number) if named == Some(true) => {
                return Err((position, LabelFault::NotAName { got: number.to_string() }));
            }
            Label::Number(_) | Label::None => {}
        }
    }
    let index: HashMap<&str, u32> = names.iter().copied().zip(0..).collect();
    let number = |label: &Label| match label {
        Label::None => None,
        Label::Number(number) => Some(*number),
        Label::Name(name) => index.get(name.as_str()).copied(),
    };
    let numbers = labels.iter().map(number).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    Ok((numbers, Some(names).filter(|names| !names.is_empty())))
}

/// Fewest labels of which a note says that all are different.
const IDENTIFIERS: usize = 4;

/// Notes about the labels in `name`, such as `column label`, and the names of their classes: how many samples have none,
/// whether every sample has its own, and whether some may be several labels.
pub(super) fn notes(name: &str, labels: &[Option<u32>], classes: Option<&[String]>) -> Vec<Note> {
    let (count, labeled) = (labels.len(), labels.iter().flatten().count());
    let distinct: BTreeSet<u32> = labels.iter().flatten().copied().collect();
    let mut notes = Vec::new();
    if labeled > 0 && labeled < count {
        let missing = count - labeled;
        let note = format!(
            "{missing} of the {count} samples have no label in {name} (empty, NaN, null, None, N/A or -1)"
        );
        notes.push(note.into());
    }
    if labeled >= IDENTIFIERS && distinct.len() == labeled {
        let note = format!("each of the {labeled} labels in {name} occurs once, as identifiers do");
        notes.push(Note::about(FieldKind::Label, note));
    }
    if let Some(combined) = classes.and_then(combined) {
        let note = format!(
            "the label {combined:?} in {name} is taken as one class; if it is several labels, write one per image"
        );
        notes.push(note.into());
    }
    notes
}

/// The first name that may be several labels: a part of it is another name, or a part of one.
fn combined(names: &[String]) -> Option<&String> {
    let parts = |name: &str| -> BTreeSet<String> {
        name.split(SEPARATORS).map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    };
    let mut counts: HashMap<String, usize> = HashMap::new();
    names.iter().flat_map(|name| parts(name)).for_each(|part| *counts.entry(part).or_default() += 1);
    names.iter().find(|name| {
        let parts = parts(name);
        parts.len() > 1 && parts.iter().any(|part| counts.get(part).is_some_and(|count| *count > 1))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Sample;
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn texts_are_numbers_names_or_nothing() {
        for (text, number) in
            [("0", 0), (" 7 ", 7), ("7.0", 7), ("7.", 7), ("007", 7), ("2147483647", 0x7fff_ffff)]
        {
            assert_eq!(Label::of_text(text), Ok(Label::Number(number)), "{text}");
        }
        for text in ["", "  ", "NaN", "nan", "<NA>", "NULL", "null", "None", "N/A", "-1", "-1.0", "-1.0e+00"]
        {
            assert_eq!(Label::of_text(text), Ok(Label::None), "{text}");
        }
        for text in [
            "cat",
            "n01440764",
            "7up",
            "inf",
            "1e3",
            "e",
            "-",
            ".",
            "none",
            "1.2.3",
            "-cat",
            "a,b",
            "1,a",
            "(0) cat",
            ",",
            ";",
        ] {
            assert_eq!(Label::of_text(text), Ok(Label::Name(text.to_owned())), "{text}");
        }
        for text in
            ["-2", "-100", "0.5", "2147483648", "4294967295", "4294967296", "-0.5", "20190501123456789"]
        {
            let fault = Label::of_text(text).unwrap_err();
            assert!(matches!(&fault, LabelFault::Number { got } if got == text), "{text}: {fault}");
        }
        for text in ["[0, 1]", "0,1", "0 1", "0; 1", "0|1", "(0, 1)", "1,"] {
            assert!(matches!(Label::of_text(text), Err(LabelFault::Several { .. })), "{text}");
        }
        for text in ["tensor(0)", "array(0)", "np.int64(0)", "1.5e+00"] {
            assert!(matches!(Label::of_text(text), Err(LabelFault::Number { .. })), "{text}");
        }
        assert_eq!(Label::of_text("3.000000000000000000e+00"), Ok(Label::Number(3)));
        assert_eq!(Label::of_text("0e+00"), Ok(Label::Number(0)));
    }

    #[test]
    fn names_are_numbered_and_a_mix_is_refused() {
        let name = |name: &str| Label::Name(name.to_owned());
        let (none, seven) = (Label::None, Label::Number(7));
        let resolved = resolve(&[none.clone(), name("dog"), name("cat"), name("dog")]).unwrap();
        assert_eq!(resolved, (vec![None, Some(1), Some(0), Some(1)], Some(names(&["cat", "dog"]))));
        assert_eq!(resolve(&[seven.clone(), none.clone()]).unwrap(), (vec![Some(7), None], None));
        assert_eq!(resolve(std::slice::from_ref(&none)).unwrap(), (vec![None], None));
        let (position, fault) = resolve(&[none, seven.clone(), name("cat")]).unwrap_err();
        assert_eq!((position, fault), (2, LabelFault::NotANumber { got: "cat".to_owned() }));
        let (position, fault) = resolve(&[name("cat"), seven]).unwrap_err();
        assert_eq!((position, fault), (1, LabelFault::NotAName { got: "7".to_owned() }));
    }

    #[test]
    fn folders_named_by_positions_are_those_numbers() {
        let settle = |list: &[&str]| {
            let labels = (0..).take(list.len()).map(Some).chain([None]);
            let samples = labels.map(|label| Sample { key: String::new(), label }).collect();
            let mut listing = Listing { samples, ..Listing::default() };
            listing.set_classes(names(list));
            assert_eq!(listing.class_names.is_some(), listing.notes.is_empty());
            (listing.samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), listing.class_names)
        };
        assert_eq!(settle(&["0", "1", "10", "2"]), (vec![Some(0), Some(1), Some(10), Some(2), None], None));
        assert_eq!(settle(&["000", "001", "010"]), (vec![Some(0), Some(1), Some(10), None], None));
        for list in [&["0", "1", "cat"][..], &["1", "01"], &["0000045", "6573378"], &["-1", "0"], &["1.0"]] {
            let (labels, kept) = settle(list);
            assert_eq!((labels[0], kept), (Some(0), Some(names(list))), "{list:?}");
        }
        let mut twice = Listing::default();
        twice.set_classes(names(&["Fire  truck", "cat", "fire Truck"]));
        assert!(twice.notes[0].text.contains("\"Fire  truck\" and \"fire Truck\" differ only in case"));
        let mut empty = Listing::default();
        empty.set_classes(Vec::new());
        assert_eq!(empty, Listing::default());
    }

    #[test]
    fn labels_that_may_be_several_are_noted() {
        let told = |list: &[&str]| notes("column label", &[Some(0), Some(0)], Some(&names(list)));
        assert!(told(&["cat", "cat,furry"])[0].text.starts_with("the label \"cat,furry\" in column label"));
        assert!(told(&["a|b", "b|c"])[0].text.contains("\"a|b\""));
        assert!(told(&["goldfish, Carassius auratus", "tench, Tinca tinca"]).is_empty());
    }

    #[test]
    fn labels_that_look_like_identifiers_are_noted() {
        let told = |labels: &[Option<u32>]| notes("column label", labels, None);
        assert!(told(&[Some(0), Some(1), Some(2), Some(0)]).is_empty());
        assert!(told(&[Some(3), Some(1), Some(2)]).is_empty(), "too few to say");
        assert!(told(&[None, None]).is_empty(), "no labels at all is said elsewhere");
        let both = told(&[Some(3), Some(1), Some(2), Some(9), None]);
        assert!(
            both[0].text.starts_with("1 of the 5 samples have no label")
                && both[1].text.starts_with("each of the 4")
        );
    }
}
