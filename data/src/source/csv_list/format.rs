//! Detects how the rows of a list are written: separated by a character or by spaces, or as JSON objects.

use std::io::{BufReader, Read};
use std::path::Path;

use super::super::{Note, SourceError, names};
use super::header::{is_label_word, is_path_word};
use super::{RowProblem, wrong};
use crate::ordinary;

/// Bytes at the start of a list that decide its format.
const HEAD: u64 = 1 << 16;

/// Lines that decide the separator: a header, the first image, and a line that some programs write above them.
const LINES: usize = 3;

/// Separators, and their words for notes.
const SEPARATORS: [(u8, &str); 4] = [(b',', "commas"), (b'\t', "tabs"), (b';', "semicolons"), (b'|', "bars")];

const BYTE_ORDER_MARKS_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// How the rows of a list are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Cells between separators, in double quotes if needed.
    Separated(u8),
    /// A path, blanks, and a label without blanks, as in ImageNet's `train.txt`.
    Spaces,
    /// One JSON object per line, keyed by column name.
    Json,
}

impl Format {
    /// Detects the format from the list's name and first lines.
    ///
    /// # Errors
    /// [`SourceError`] if the list cannot be read, is UTF-16, or is a text that does not begin with images.
    pub(super) fn of(path: &Path) -> Result<Self, SourceError> {
        let io = |error| SourceError::io(path, error);
        let mut head = Vec::new();
        BufReader::new(ordinary::open(path).map_err(io)?).take(HEAD).read_to_end(&mut head).map_err(io)?;
        if BYTE_ORDER_MARKS_16.iter().any(|mark| head.starts_with(mark)) {
            return Err(wrong(path, (1, RowProblem::Utf16)));
        }
        let extension = names::extension(&names::file_name(path));
        match &*extension {
            "jsonl" | "ndjson" => return Ok(Self::Json),
            "tsv" => return Ok(Self::Separated(b'\t')),
            _ => {}
        }
        let text = String::from_utf8_lossy(&head);
        let text = text.trim_start_matches('\u{feff}');
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<&str> = lines.take(LINES).collect();
        match Self::of_lines(&lines) {
            Some(format) => Ok(format),
            None if extension == "csv" => Ok(Self::Separated(b',')),
            None => {
                let got = lines.first().copied().unwrap_or_default().chars().take(80).collect();
                Err(wrong(path, (1, RowProblem::NotImages { got })))
            }
        }
    }

    /// The separator with which one of the lines is a header or begins with the name of an image.
    fn of_lines(lines: &[&str]) -> Option<Self> {
        let begins = |cells: &[&str]| {
            cells.first().is_some_and(|cell| names::is_image(cell))
                || cells.iter().any(|cell| is_path_word(cell.as_bytes()))
        };
        for (separator, _) in SEPARATORS {
            let split = |line: &&str| {
                let cells: Vec<&str> = line
                    .split(char::from(separator))
                    .map(|cell| cell.trim().trim_matches('"').trim())
                    .collect();
                cells.len() > 1 && begins(&cells)
            };
            if lines.iter().any(split) {
                return Some(Self::Separated(separator));
            }
        }
        let image = |bytes: &[u8]| names::is_image(&String::from_utf8_lossy(bytes));
        let spaced = |line: &&str| {
            split_at_space(line.as_bytes()).is_some_and(|(path, label)| {
                image(path) && !image(label) || is_path_word(path) && is_label_word(label)
            })
        };
        if lines.iter().any(spaced) {
            return Some(Self::Spaces);
        }
        lines.iter().any(|line| begins(&[line.trim_matches('"')])).then_some(Self::Separated(b','))
    }

    /// Describes a format that the name of the list does not announce.
    pub(super) fn note(self, path: &Path) -> Option<Note> {
        let announced = match &*names::extension(&names::file_name(path)) {
            "tsv" => Self::Separated(b'\t'),
            _ => Self::Separated(b','),
        };
        let words = match self {
            Self::Separated(separator) => SEPARATORS.iter().find(|(byte, _)| *byte == separator)?.1,
            Self::Spaces => "spaces",
            Self::Json => return None,
        };
        (self != announced).then(|| format!("columns are separated by {words}").into())
    }
}

/// Splits a line before its last blanks.
pub(super) fn split_at_space(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    let blank = line.iter().rposition(|byte| matches!(byte, b' ' | b'\t'))?;
    Some((line[..blank].trim_ascii_end(), &line[blank + 1..]))
}
