//! Text files as editors, spreadsheets and exporters write them: byte-order marks, UTF-16, any line ends.

use std::char::{REPLACEMENT_CHARACTER, decode_utf16};
use std::path::{Path, PathBuf};

use lgd_data::ordinary;

/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// First bytes of files that are no text, what they are, and what to do.
const BINARY: [(&[u8], &str, &str); 11] = [
    (b"\x1f\x8b", "gzip-compressed", "gunzip it first"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unzip it, or save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save the sheet as CSV in UTF-8"),
    (b"\xff\xfe\0\0", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"PAR1", "a Parquet file", "write its names to a .txt file, one per line"),
    (b"\x93NUMPY", "a NumPy array", "write its names to a .txt file, one per line"),
    (b"\x89HDF", "an HDF5 file", "write its names to a .txt file, one per line"),
    (b"MATLAB 5.0", "a MATLAB file", "write its names to a .txt file, one per line"),
    (b"%PDF", "a PDF document", "write its names to a .txt file, one per line"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "run `git lfs pull`"),
];

/// Reasons why a file's bytes are no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// The file is of a kind that holds no text.
    #[error("this is {what}\nhint: {hint}")]
    NotText {
        /// What the file is.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The file has NUL bytes.
    #[error(
        "line {line} has a NUL byte: this is UTF-16 text without a byte-order mark, or a binary file\n\
         hint: convert it: iconv -f UTF-16LE -t UTF-8"
    )]
    Nul {
        /// Line number, from 1.
        line: usize,
    },
    /// UTF-16 text, by its byte-order mark, with an invalid unit or an odd length.
    #[error("damaged UTF-16 text\nhint: save it again as UTF-8")]
    Utf16,
    /// The bytes are not UTF-8.
    #[error(
        "line {line} is not UTF-8: byte 0x{byte:02x}\n\
         hint: if it is Latin-1, convert it: iconv -f WINDOWS-1252 -t UTF-8"
    )]
    NotUtf8 {
        /// Line number, from 1.
        line: usize,
        /// The first invalid byte.
        byte: u8,
    },
}

/// Reasons why a text file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file's bytes are no text.
    #[error("{}: {fault}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The fault.
        fault: TextFault,
    },
}

/// Reads and decodes a file, see [`decode`].
///
/// # Errors
/// [`TextFileError`].
pub(crate) fn read(path: &Path) -> Result<String, TextFileError> {
    let bytes = ordinary::read(path, MAX_BYTES)
        .map_err(|source| TextFileError::Io { path: path.to_owned(), source })?;
    decode(&bytes).map_err(|fault| TextFileError::Text { path: path.to_owned(), fault })
}

/// Decodes UTF-8, with or without byte-order mark, or UTF-16 with one. CRLF, CR and CR CR LF become LF.
///
/// # Errors
/// [`TextFault`].
pub(crate) fn decode(bytes: &[u8]) -> Result<String, TextFault> {
    if let Some((_, what, hint)) = BINARY.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return Err(TextFault::NotText { what, hint });
    }
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))?,
    };
    let start: String = text.trim_start().chars().take(16).collect::<String>().to_ascii_lowercase();
    if ["<!doctype", "<html", "<?xml"].iter().any(|tag| start.starts_with(tag)) {
        let hint = "a download may have saved a web page instead of the file; fetch the raw file";
        return Err(TextFault::NotText { what: "an HTML or XML page", hint });
    }
    Ok(text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace('\r', "\n"))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, TextFault> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(TextFault::Utf16);
    }
    decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect::<Result<_, _>>().map_err(|_| TextFault::Utf16)
}

fn utf8(bytes: &[u8]) -> Result<String, TextFault> {
    let line = |at: usize| 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(TextFault::Nul { line: line(at) });
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let at = error.valid_up_to();
            Err(TextFault::NotUtf8 { line: line(at), byte: bytes[at] })
        }
    }
}

/// Whether a text holds traces of a wrong decoding: replacement characters, or UTF-8 read as Latin-1.
pub(crate) fn is_garbled(text: &str) -> bool {
    let mut previous = ' ';
    text.chars().any(|letter| {
        // The two Latin-1 letters that begin most two-byte sequences of UTF-8, then a continuation byte.
        let doubled = matches!(previous, 'Ã' | 'Â') && ('\u{80}'..='\u{bf}').contains(&letter);
        previous = letter;
        doubled || letter == REPLACEMENT_CHARACTER
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_and_line_ends_are_understood() {
        let utf16 = |swap: bool| {
            let units = "\u{feff}añ\r\n𝄞".encode_utf16();
            units
                .flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect::<Vec<u8>>()
        };
        assert_eq!(decode(&utf16(false)).unwrap(), "añ\n𝄞");
        assert_eq!(decode(&utf16(true)).unwrap(), "añ\n𝄞");
        assert_eq!(decode("\u{feff}a\rb\r\nc\r\r\nd".as_bytes()).unwrap(), "a\nb\nc\nd");
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        assert_eq!(decode(b"cat\ncaf\xe9\n"), Err(TextFault::NotUtf8 { line: 2, byte: 0xe9 }));
        assert_eq!(decode(b"a\0\n\0"), Err(TextFault::Nul { line: 1 }));
        assert_eq!(decode(b"\xff\xfea"), Err(TextFault::Utf16));
        assert_eq!(decode(b"\xff\xfe\0\xd8a\0"), Err(TextFault::Utf16));
        let refusals: [(&[u8], &str); 5] = [
            (b"PK\x03\x04....", "spreadsheet"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\xff\xfe\0\0c\0\0\0", "UTF-32"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\n<!DOCTYPE html>\n", "raw"),
        ];
        for (bytes, word) in refusals {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("hint:"), "{error}");
        }
        assert!(is_garbled("cafÃ©") && is_garbled("caf\u{fffd}") && !is_garbled("São Tomé, Ântico"));
    }
}
