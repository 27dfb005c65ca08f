//! Normalization of names, and names that look like something else.

use unicode_normalization::UnicodeNormalization;

use super::problem::Problem;
use crate::text_file::is_garbled;

/// Most synonyms of one category. Longer lists are lists of names under a title.
const MOST_SYNONYMS: usize = 100;

/// Fewest words of a synonym that is a sentence if it ends in a full stop.
const SENTENCE: usize = 5;

/// Whether names and synonyms are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameForm {
    /// Letters are composed (NFC), invisible characters removed, underscores become spaces, each run of white space
    /// becomes one space, and both ends are trimmed. Names that look like numbers, identifiers, files or markup are
    /// refused.
    #[default]
    Normalized,
    /// Unchanged.
    Verbatim,
}

impl NameForm {
    /// The name in this form.
    pub(super) fn apply(self, text: &str) -> String {
        match self {
            Self::Verbatim => text.to_owned(),
            Self::Normalized => {
                let visible: String = visible(text).nfc().collect();
                visible.replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Equal for names that a reader takes for the same name.
    pub(super) fn key(self, name: &str) -> String {
        match self {
            Self::Verbatim => name.to_owned(),
            Self::Normalized => {
                let folded: String =
                    name.nfkc().flat_map(char::to_lowercase).filter(|c| !is_joiner(*c)).collect();
                self.apply(&folded)
            }
        }
    }

    /// Refuses names and synonyms that look like something else. `text` is as in the file.
    pub(super) fn check(self, text: &str) -> Result<(), Problem> {
        let suspect = match self {
            Self::Verbatim => None,
            Self::Normalized => suspect(visible(text).collect::<String>().trim()),
        };
        match suspect {
            Some((what, hint)) => Err(Problem::NotAName { text: text.to_owned(), what, hint }),
            None => Ok(()),
        }
    }

    /// Refuses lists that hold no synonyms of `name`: sentences, or other names.
    pub(super) fn check_synonyms(self, name: &str, synonyms: &[String]) -> Result<(), Problem> {
        if self == Self::Verbatim {
            return Ok(());
        }
        if synonyms.len() > MOST_SYNONYMS {
            return Err(Problem::ManySynonyms { name: name.to_owned(), count: synonyms.len() });
        }
        for text in synonyms {
            if text.trim_end().ends_with('.') && text.split_whitespace().count() >= SENTENCE {
                return Err(Problem::Sentence { name: name.to_owned(), text: text.clone() });
            }
            self.check(text)?;
        }
        Ok(())
    }
}

/// The characters of `text` without those that show nothing. Joiners stay between letters of scripts that use them.
fn visible(text: &str) -> impl Iterator<Item = char> {
    let letters: Vec<char> = text.chars().collect();
    let foreign = |at: Option<usize>, letters: &[char]| {
        at.and_then(|at| letters.get(at)).is_some_and(|letter| !letter.is_ascii() && !letter.is_whitespace())
    };
    let kept = |(at, letter): (usize, &char)| match *letter {
        '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' => false,
        '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{180e}' => false,
        joiner if is_joiner(joiner) => {
            foreign(at.checked_sub(1), &letters) && foreign(Some(at + 1), &letters)
        }
        _ => true,
    };
    let kept: Vec<bool> = letters.iter().enumerate().map(kept).collect();
    letters.into_iter().zip(kept).filter_map(|(letter, kept)| kept.then_some(letter))
}

/// Whether `text` has characters that [`NameForm::Normalized`] removes.
pub(super) fn has_invisible(text: &str) -> bool {
    visible(text).count() != text.chars().count()
}

fn is_joiner(letter: char) -> bool {
    matches!(letter, '\u{200c}' | '\u{200d}')
}

/// Whether `text` is an identifier of WordNet, such as `n01440764` or `01440764-n`, or of Freebase, such as `/m/0abc`.
pub(super) fn is_identifier(text: &str) -> bool {
    is_wnid(text) || is_freebase(text) || is_offset(text)
}

/// Whether `text` is a letter of a part of speech and eight digits.
pub(super) fn is_wnid(text: &str) -> bool {
    let digits = text.strip_prefix(['n', 'v', 'a', 'r']);
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_offset(text: &str) -> bool {
    text.split_once('-').is_some_and(|(digits, part)| {
        digits.len() == 8
            && digits.bytes().all(|b| b.is_ascii_digit())
            && matches!(part, "n" | "v" | "a" | "r" | "s")
    })
}

fn is_freebase(text: &str) -> bool {
    let id =
        text.strip_prefix("/m/").or_else(|| text.strip_prefix("/g/")).or_else(|| text.strip_prefix("/t/"));
    id.is_some_and(|id| {
        id.starts_with(|c: char| c.is_ascii_digit())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// Whether `text` is a hash or UUID in hexadecimal.
fn is_hash(text: &str) -> bool {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    text.len() >= 16 && hexadecimal && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Whether `text` is a number: digits, with a sign and a fraction or not.
pub(super) fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().any(|byte| byte.is_ascii_digit())
}

/// What a name looks like if not like a name, and what to do.
fn suspect(name: &str) -> Option<(&'static str, &'static str)> {
    let lower = name.to_ascii_lowercase();
    let starts = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    let ends = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end));
    let holds = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    let found = if name.chars().any(|letter| letter.is_control() && !matches!(letter, '\t' | '\n'))
        || holds(&["\u{2028}", "\u{2029}"])
    {
        ("text with control characters", "write one name per line, as plain text")
    } else if is_garbled(name) {
        ("text in a wrong encoding", "write the file again, as UTF-8")
    } else if name.split_whitespace().all(is_number) {
        ("a number", "give the name that the number stands for")
    } else if is_identifier(name) || is_hash(name) {
        ("an identifier, not a name", "give a list with names, such as ImageNet's LOC_synset_mapping.txt")
    } else if leads_with_identifier(name) {
        ("an identifier or number and a name, unlike other entries", "write every entry in the same way")
    } else if ends(&[".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"]) {
        ("an image file", "give the names of the categories, not a list of images")
    } else if starts(&["http://", "https://"]) {
        ("an address", "give the names of the categories")
    } else if starts(&["#", "//"]) || lower.contains(" # ") {
        ("a comment", "begin lines of comment with \"# \"")
    } else if holds(&["&amp;", "&quot;", "&apos;", "&lt;", "&gt;", "&nbsp;", "&#"])
        || (starts(&["<"]) && holds(&[">"]))
    {
        ("markup", "write names as plain text")
    } else if holds(&["\t", ";", "|", "\",\""]) {
        (
            "several columns",
            "give one name per line, or a .csv file with a header row such as id,name,synonym",
        )
    } else if holds(&["['", "[\"", "{'", "{\""]) || ends(&["{"]) || matches!(name, "}" | "]" | "}," | "],") {
        ("a piece of code", "write the names to a .txt file, one per line")
    } else if is_wrapped(name) || starts(&["\""]) {
        ("a quoted name, unlike other entries", "leave out the quotes")
    } else if ends(&[",", ":"]) {
        ("a part of a longer list", "write one name per line, without a comma or colon behind it")
    } else if lower.strip_prefix("label_").is_some_and(is_number) {
        ("a placeholder for a name", "give the names that the labels stand for")
    } else if matches!(name, "nan" | "NaN" | "NULL" | "null" | "#N/A" | "undefined") {
        ("a missing value", "write the name that is missing here")
    } else {
        return None;
    };
    Some(found)
}

/// Whether the name starts as `0: cat`, `1) cat`, `1. cat` or `n01440764 tench` does.
fn leads_with_identifier(name: &str) -> bool {
    let digits = name.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = digits.len() < name.len()
        && (digits.starts_with([':', ')', '\t', ';', '|']) || digits.starts_with(". "));
    let end = name.char_indices().nth(9).map_or(name.len(), |(at, _)| at);
    let identified = is_wnid(&name[..end]) && !name[end..].starts_with(|c: char| c.is_alphanumeric());
    numbered || identified
}

/// Whether `text` is in quotes.
pub(super) fn is_wrapped(text: &str) -> bool {
    let pairs = [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('`', '`')];
    let inner = |(open, close)| text.strip_prefix(open).and_then(|text: &str| text.strip_suffix(close));
    pairs.into_iter().any(|pair| inner(pair).is_some())
}
