//! Numbers and identifiers before and behind names: `0: cat`, `[0] cat`, `Class 0 - cat`, `cat -> 0`.

use super::form;

/// Characters between a number or an identifier and a name.
pub(super) const SEPARATORS: [char; 22] = [
    ' ', '\t', '\u{a0}', ':', ',', ';', '|', '-', '_', '.', '=', '>', '–', '—', '→', '⇒', '：', '，', '；',
    '、', '．', '。',
];

/// Separators that no name has at its end.
const SURE: [char; 12] = [':', ',', ';', '|', '=', '>', '\t', '→', '⇒', '：', '，', '；'];

/// Characters before a number that belong to it.
const OPENING: [char; 11] = ['(', '[', '{', '<', '#', '№', '"', '\'', '（', '【', '「'];

/// Characters behind a number that belong to it.
const CLOSING: [char; 9] = [')', ']', '}', '>', '"', '\'', '）', '】', '」'];

/// Words that announce a number.
const COUNTED: [&str; 15] = [
    "class", "category", "label", "cls", "id", "index", "idx", "no", "nr", "num", "number", "item", "key",
    "target", "entry",
];

/// A number, the rest of its name, and whether the characters between them cannot be part of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    pub number: u64,
    pub name: &'a str,
    pub sure: bool,
}

/// Splits `0: cat`, `0 => cat`, `(0) cat`, `#0 cat`, `Class 0: cat`, `class_0 cat`, `id: 0 name: cat`,
/// `001.Black_footed_Albatross`.
pub(super) fn leading(text: &str) -> Option<Split<'_>> {
    let text = text.trim();
    let opened = text.trim_start_matches(OPENING);
    let (word, behind) = opened.split_at(opened.find(|c: char| !c.is_alphabetic()).unwrap_or(opened.len()));
    let counted = is_counted(word);
    if !(word.is_empty() || counted) {
        return None;
    }
    let start =
        if counted { behind.trim_start_matches(SEPARATORS).trim_start_matches(OPENING) } else { behind };
    let (digits, rest) = start.split_at(digits(start.chars()));
    let number = digits.parse().ok()?;
    // 1.5 and 1,000 are numbers.
    let fraction =
        rest.strip_prefix(['.', ',']).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let closed = rest.trim_start_matches(CLOSING);
    let name = closed.trim_start_matches(SEPARATORS);
    // 1-2 is a range.
    let separated = name.len() < rest.len() && !name.is_empty() && !fraction && !form::is_number(name);
    let between = &rest[..rest.len() - name.len()];
    let sure = opened.len() < text.len()
        || closed.len() < rest.len()
        || between.contains(SURE)
        || (counted && between != " ")
        || between == ". ";
    separated.then_some(Split { number, name, sure })
}

/// Splits `0cat`.
pub(super) fn attached(text: &str) -> Option<Split<'_>> {
    let text = text.trim();
    let (digits, name) = text.split_at(digits(text.chars()));
    let number = digits.parse().ok()?;
    name.starts_with(char::is_alphabetic).then_some(Split { number, name, sure: false })
}

/// Splits `cat 0`, `cat = 0`, `cat (0)`, `cat, id: 0`, `/a/airfield 0`.
pub(super) fn trailing(text: &str) -> Option<Split<'_>> {
    let text = text.trim();
    let closed = text.trim_end_matches(CLOSING);
    let (rest, digits) = closed.split_at(closed.len() - digits(closed.chars().rev()));
    let number = digits.parse().ok()?;
    let opened = rest.trim_end_matches(OPENING);
    let name = opened.trim_end_matches(SEPARATORS);
    let between = &opened[name.len()..];
    if name.is_empty() || name.len() == rest.len() || between == "." {
        return None;
    }
    let sure = between.contains(SURE);
    let word = name
        .rfind(|c: char| !c.is_alphabetic())
        .map_or(0, |at| at + name[at..].chars().next().map_or(0, char::len_utf8));
    if sure && is_counted(&name[word..]) && !name[..word].trim().is_empty() {
        let name = name[..word].trim_end_matches(OPENING).trim_end_matches(SEPARATORS);
        return Some(Split { number, name, sure });
    }
    Some(Split { number, name, sure })
}

/// The number of digits at the start.
fn digits(letters: impl Iterator<Item = char>) -> usize {
    letters.take_while(char::is_ascii_digit).count()
}

fn is_counted(word: &str) -> bool {
    COUNTED.iter().any(|counted| counted.eq_ignore_ascii_case(word))
}

/// Whether `text` is a word and a number that stand for a name: `LABEL_0`, `class 3`.
pub(super) fn is_placeholder(text: &str) -> bool {
    let (word, rest) = text.split_at(text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len()));
    let number = rest.trim_start_matches(SEPARATORS).trim_start_matches(OPENING).trim_end_matches(CLOSING);
    is_counted(word) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Splits `n01440764 tench`, `n02085620-Chihuahua`.
pub(super) fn leading_identifier(text: &str) -> Option<(&str, &str)> {
    let (id, rest) = text.trim().trim_start_matches(OPENING).split_at_checked(9)?;
    let name = rest.trim_start_matches(CLOSING).trim_start_matches(SEPARATORS);
    (form::is_wnid(id) && !name.is_empty() && name.len() < rest.len()).then_some((id, name))
}

/// Splits `tench n01440764`, `tench (n01440764)`.
pub(super) fn trailing_identifier(text: &str) -> Option<(&str, &str)> {
    let closed = text.trim().trim_end_matches(CLOSING);
    let (rest, id) = closed.split_at_checked(closed.len().checked_sub(9)?)?;
    let name = rest.trim_end_matches(OPENING).trim_end_matches(SEPARATORS);
    (form::is_wnid(id) && !name.is_empty() && name.len() < rest.len()).then_some((id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_before_names_are_found_in_every_spelling() {
        for text in [
            "7 cat",
            "7: cat",
            "7 -> cat",
            "7=>cat",
            "7 = cat",
            "7=cat",
            "7 – cat",
            "7 — cat",
            "7 | cat",
            "7 - cat",
            "7. cat",
            "7.cat",
            "7) cat",
            "(7) cat",
            "[7] cat",
            "<7> cat",
            "#7 cat",
            "#7: cat",
            "Class 7: cat",
            "class_7 cat",
            "class 7 cat",
            "Class #7 - cat",
            "[id: 7] cat",
            "id=7, cat",
            "No. 7 cat",
            "7、cat",
            "7：cat",
            "\"7\": cat",
            "007_cat",
            "№7 cat",
            "7 → cat",
            "【7】cat",
        ] {
            let split = leading(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((split.number, split.name), (7, "cat"), "{text}");
        }
        for text in [
            "cat",
            "7",
            "7.5 cat",
            "1,000 cats",
            "7-8",
            "7up",
            "class cat",
            "no parking",
            "cat 7",
            "n01440764 x",
        ] {
            assert_eq!(leading(text), None, "{text}");
        }
        for text in ["7 cat", "7-cat", "7_cat", "007.cat", "class 7 cat"] {
            assert!(!leading(text).unwrap().sure, "{text}");
        }
    }

    #[test]
    fn numbers_and_identifiers_behind_names_are_found() {
        for text in [
            "cat 7",
            "cat: 7",
            "cat = 7",
            "cat -> 7",
            "cat (7)",
            "cat [7]",
            "cat, id: 7",
            "cat #7",
            "cat\t7",
            "cat_7",
        ] {
            let split = trailing(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((split.number, split.name), (7, "cat"), "{text}");
        }
        for text in ["cat", "cat7", "7", "cat v1.7"] {
            assert_eq!(trailing(text), None, "{text}");
        }
        let tench = Some(("n01440764", "tench"));
        assert_eq!(leading_identifier("n01440764: tench"), tench);
        assert_eq!(leading_identifier("[n01440764] tench"), tench);
        assert_eq!(trailing_identifier("tench (n01440764)"), tench);
        assert!(is_placeholder("LABEL_0") && is_placeholder("class 12") && !is_placeholder("type 1"));
    }
}
