//! Cleaning of a prompt's text before it is tokenized, as open_clip and transformers' SigLIP tokenizer do it.
//!
//! open_clip passes texts through ftfy first. Of ftfy, the steps that change ordinary text are applied here: HTML
//! entities, ligatures, full-width characters, curly quotes, line breaks, control characters and NFC. Text that was
//! decoded with the wrong character set is not repaired.

use tokenizers::{NormalizedString, Normalizer, normalizers};

use crate::teacher::Clean;

/// Whitespace, control characters and entities apart, ftfy replaces these characters.
const REPLACED: &[(char, &str)] = &[
    ('\u{85}', "\n"),
    ('\u{132}', "IJ"),
    ('\u{133}', "ij"),
    ('\u{149}', "\u{2bc}n"),
    ('\u{1c4}', "D\u{17d}"),
    ('\u{1c5}', "D\u{17e}"),
    ('\u{1c6}', "d\u{17e}"),
    ('\u{1c7}', "LJ"),
    ('\u{1c8}', "Lj"),
    ('\u{1c9}', "lj"),
    ('\u{1ca}', "NJ"),
    ('\u{1cb}', "Nj"),
    ('\u{1cc}', "nj"),
    ('\u{1f1}', "DZ"),
    ('\u{1f2}', "Dz"),
    ('\u{1f3}', "dz"),
    ('\u{2bc}', "'"),
    ('\u{2018}', "'"),
    ('\u{2019}', "'"),
    ('\u{201a}', "'"),
    ('\u{201b}', "'"),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{201e}', "\""),
    ('\u{201f}', "\""),
    ('\u{2028}', "\n"),
    ('\u{2029}', "\n"),
    ('\u{3000}', " "),
    ('\u{fb00}', "ff"),
    ('\u{fb01}', "fi"),
    ('\u{fb02}', "fl"),
    ('\u{fb03}', "ffi"),
    ('\u{fb04}', "ffl"),
    ('\u{fb05}', "\u{17f}t"),
    ('\u{fb06}', "st"),
];

/// HTML entities by name. Every other name is refused, because the character that it stands for is not known here.
const ENTITIES: &[(&str, &str)] =
    &[("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"), ("nbsp", "\u{a0}")];

impl Clean {
    /// The text as the tokenizer is to read it.
    ///
    /// # Errors
    /// The HTML entity that is not known.
    pub(crate) fn apply(self, text: &str) -> Result<String, String> {
        Ok(match self {
            Self::None => text.to_owned(),
            Self::Whitespace => collapsed(&basic(text)?),
            Self::Lower => collapsed(&basic(text)?).to_lowercase(),
            Self::Canonicalize => collapsed(&unpunctuated(&basic(text)?.replace('_', " ")).to_lowercase()),
            Self::Siglip => collapsed(&unpunctuated(&text.to_lowercase())),
        })
    }
}

/// open_clip's `basic_clean`.
fn basic(text: &str) -> Result<String, String> {
    let text = unescaped(&unescaped(&fixed(text))?)?;
    Ok(text.trim().to_owned())
}

fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unpunctuated(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_ascii_punctuation()).collect()
}

/// The steps of ftfy that change ordinary text.
fn fixed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.replace("\r\n", "\n").chars() {
        match REPLACED.binary_search_by_key(&letter, |(from, _)| *from) {
            Ok(at) => out.push_str(REPLACED[at].1),
            Err(_) => match letter {
                '\r' => out.push('\n'),
                '\u{ff01}'..='\u{ffef}' => {
                    out.push_str(&normalized(&normalizers::unicode::NFKC, &letter.to_string()));
                }
                '\t' | '\n' | '\u{c}' => out.push(letter),
                _ if letter.is_control() && letter.is_ascii() => {}
                '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
                _ => out.push(letter),
            },
        }
    }
    normalized(&normalizers::unicode::NFC, &out)
}

fn normalized(normalizer: &impl Normalizer, text: &str) -> String {
    let mut string = NormalizedString::from(text);
    match normalizer.normalize(&mut string) {
        Ok(()) => string.get().to_owned(),
        Err(_) => text.to_owned(),
    }
}

/// Replaces HTML entities once.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].split_once(';').map(|(name, _)| name);
        let entity = name.filter(|name| {
            let name = name.strip_prefix('#').unwrap_or(name);
            !name.is_empty() && name.len() <= 32 && name.chars().all(|letter| letter.is_ascii_alphanumeric())
        });
        if let Some(name) = entity {
            out.push_str(&character(name).ok_or_else(|| format!("&{name};"))?);
            rest = &rest[name.len() + 2..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The text of an entity, given without `&` and `;`.
fn character(name: &str) -> Option<String> {
    let Some(number) = name.strip_prefix('#') else {
        return ENTITIES.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_characters_are_sorted_for_the_search() {
        assert!(REPLACED.is_sorted_by_key(|(from, _)| *from));
    }

    /// Expected values: open_clip's tokenizer (tests/fixtures/make_tokenizers.py).
    #[test]
    fn texts_are_cleaned_as_open_clip_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cleaned.json");
        let cases: Vec<(String, String, String)> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(cases.len() > 60);
        for (clean, text, expected) in cases {
            let kind: Clean = serde_json::from_value(clean.clone().into()).unwrap();
            assert_eq!(kind.name(), clean);
            assert_eq!(kind.apply(&text).unwrap(), expected, "{clean}: {text:?}");
        }
        assert_eq!(Clean::None.apply(" A_b ").unwrap(), " A_b ");
    }

    #[test]
    fn an_unknown_entity_is_named() {
        assert_eq!(Clean::Lower.apply("caf&eacute;").unwrap_err(), "&eacute;");
        assert_eq!(Clean::Lower.apply("R&D; &#0xfffffff;").unwrap_err(), "&D;");
    }
}
