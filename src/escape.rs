//! Makes text of other people safe to print: names and contents of files may hold control characters, with which they could
//! move a terminal's cursor, change its title, or hide what a message says.

use std::ffi::OsStr;
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

/// JSON in which the characters that [`escaped`] changes are written as JSON writes them: `\u009b`. All of them are in texts.
pub fn json_escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_harmful(letter) {
            // Writing to a text does not fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// The text as one word of a shell: quoted if need be. Characters that [`escaped`] changes, and bytes that are no text, are
/// written as bash, zsh and ksh read them: `$'\x1b'`.
pub fn shell_word(text: &OsStr) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    let bytes = text.as_encoded_bytes();
    match text.to_str() {
        Some(plain) if !bytes.is_empty() && bytes.iter().all(is_plain) => plain.to_owned(),
        Some(text) if !text.chars().any(is_harmful) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let byte = |byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", bytes.iter().map(byte).collect::<String>())
        }
    }
}

fn is_harmful(letter: char) -> bool {
    let directs =
        matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    directs || letter.is_control() && !matches!(letter, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use super::*;

    #[test]
    fn a_shell_reads_the_word_that_was_quoted() {
        for word in [
            &b"plain/a-b_c.1"[..],
            b"",
            b"two words",
            b"it's $HOME `x` \"q\" \\ *",
            "猫 é".as_bytes(),
            b"line\nfeed",
            b"\x1b]0;title\x07 it's \\",
            b"\xff\xfe 1f",
            "\u{202e}gpj".as_bytes(),
        ] {
            let quoted = shell_word(OsStr::from_bytes(word));
            assert_eq!(escaped(&quoted), quoted, "it is printed as it is");
            let output =
                std::process::Command::new("bash").arg("-c").arg(format!("printf %s {quoted}")).output();
            assert_eq!(output.unwrap().stdout, word, "{quoted}");
        }
        assert_eq!(shell_word(OsStr::new("a/b")), "a/b");
        assert_eq!(shell_word(&std::ffi::OsString::from_vec(vec![b'a', 0xff])), "$'a\\xff'");
    }

    #[test]
    fn only_what_is_harmful_is_escaped() {
        assert_eq!(
            escaped("a\u{1b}]0;x\u{7}b\r\u{9b}1m\u{202e}gpj"),
            "a\\u{1b}]0;x\\u{7}b\\u{d}\\u{9b}1m\\u{202e}gpj"
        );
        let plain = "two lines\n\tand é, 猫, \u{200d}";
        assert_eq!(escaped(plain), plain);
    }

    #[test]
    fn escaped_json_says_the_same() {
        let value = serde_json::json!({ "a\u{1b}]\u{7f}": ["\u{9b}1m\u{202e}gpj", "é\n"] });
        let text = json_escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(escaped(&text), text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
