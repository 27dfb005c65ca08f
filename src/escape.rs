//! Makes text of other people safe to print: names and contents of files may hold control characters, with which they could
//! move a terminal's cursor, change its title, or hide what a message says.

use std::fmt::Write;

/// The text with control characters, other than line feeds and tabs, and characters that change the direction of writing as
/// `\u{1b}`.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_harmful(letter) {
            // Writing to a text does not fail.
            let _ = write!(safe, "{}", letter.escape_unicode());
        } else {
            safe.push(letter);
        }
    }
    safe
}

fn is_harmful(letter: char) -> bool {
    let directs =
        matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    directs || letter.is_control() && !matches!(letter, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_harmful_is_escaped() {
        assert_eq!(
            escaped("a\u{1b}]0;x\u{7}b\r\u{9b}1m\u{202e}gpj"),
            "a\\u{1b}]0;x\\u{7}b\\u{d}\\u{9b}1m\\u{202e}gpj"
        );
        let plain = "two lines\n\tand é, 猫, \u{200d}";
        assert_eq!(escaped(plain), plain);
    }
}
