//! Normalization of names, and numbers and identifiers in their place.

use unicode_normalization::UnicodeNormalization;

use super::problem::Problem;
use super::suspect::{self, Suspect};

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
        match self.suspect(text) {
            Some(Suspect { what, hint, verbatim }) => {
                Err(Problem::NotAName { text: text.to_owned(), what, hint, verbatim })
            }
            None => Ok(()),
        }
    }

    fn suspect(self, text: &str) -> Option<Suspect> {
        match self {
            Self::Verbatim => None,
            Self::Normalized => suspect::suspect(visible(text).collect::<String>().trim()),
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
            if let Some(Suspect { what, .. }) = self.suspect(text) {
                return Err(Problem::NotASynonym { name: name.to_owned(), text: text.clone(), what });
            }
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
pub(super) fn is_hash(text: &str) -> bool {
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
