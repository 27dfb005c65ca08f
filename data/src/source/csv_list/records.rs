//! Reads the records of a list one at a time, because a list of embeddings may be large.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder, Trim};
use serde_json::{Map, Value};

use super::super::SourceError;
use super::format::{Format, split_at_space};
use super::{RowProblem, wrong};
use crate::ordinary;
use crate::quotes::{QuoteFault, Quotes};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

type Bytes = Chain<Cursor<Vec<u8>>, BufReader<File>>;

/// The records of a file, and the numbers of the lines that they start on.
pub(super) struct Records<'a> {
    path: &'a Path,
    rows: Rows,
}

enum Rows {
    Separated { reader: Box<Reader<Counted>>, separator: u8 },
    Lines(std::vec::IntoIter<(u64, ByteRecord)>),
    Json { bytes: Bytes, line: u64, keys: Vec<String>, header: bool },
}

impl<'a> Records<'a> {
    /// Opens the list at `path`. The first record of JSON objects is their keys.
    ///
    /// # Errors
    /// [`SourceError`] if the list cannot be read or a line is not a JSON object.
    pub(super) fn open(path: &'a Path, format: Format) -> Result<Self, SourceError> {
        let bytes = bytes(path)?;
        let rows = match format {
            Format::Separated(separator) => {
                let mut options = ReaderBuilder::new();
                options.has_headers(false).flexible(true).trim(Trim::All).delimiter(separator);
                Rows::Separated {
                    reader: Box::new(options.from_reader(Counted::new(bytes, separator))),
                    separator,
                }
            }
            Format::Spaces => Rows::Lines(spaced(path, bytes)?.into_iter()),
            Format::Json => Rows::Json { bytes, line: 0, keys: keys(path)?, header: true },
        };
        Ok(Self { path, rows })
    }

    /// The byte between cells, if cells may be in quotes.
    pub(super) fn separator(&self) -> Option<u8> {
        match self.rows {
            Rows::Separated { separator, .. } => Some(separator),
            Rows::Lines(_) | Rows::Json { .. } => None,
        }
    }

    /// The next record and the number of the line that it starts on.
    ///
    /// # Errors
    /// [`SourceError`] if the list cannot be read or is malformed.
    pub(super) fn next(&mut self) -> Result<Option<(u64, ByteRecord)>, SourceError> {
        let path = self.path;
        match &mut self.rows {
            Rows::Separated { reader, .. } => {
                let mut record = ByteRecord::new();
                let start = reader.position().byte();
                let read = reader.read_byte_record(&mut record);
                let end = reader.position().byte();
                let bytes = reader.get_mut();
                let line = bytes.line_from(start);
                // The reader is ahead of the record, and what is wrong further on is told when it is reached.
                if let Some((_, fault)) = bytes.fault.filter(|(at, _)| *at < end) {
                    return Err(wrong(path, (fault.line(), RowProblem::Quote(fault))));
                }
                match read {
                    Ok(false) => Ok(None),
                    Ok(true) => Ok(Some((line, record))),
                    Err(error) => Err(wrong(path, (line, RowProblem::Syntax(error)))),
                }
            }
            Rows::Lines(lines) => Ok(lines.next()),
            Rows::Json { keys, header: header @ true, .. } => {
                *header = false;
                Ok((!keys.is_empty()).then(|| (1, ByteRecord::from(keys.clone()))))
            }
            Rows::Json { bytes, line, keys, .. } => {
                let Some(text) = next_line(path, bytes, line)? else { return Ok(None) };
                let object = object(path, *line, &text)?;
                let cells: Vec<String> = keys.iter().map(|key| cell(object.get(key))).collect();
                Ok(Some((*line, ByteRecord::from(cells))))
            }
        }
    }
}

/// Bytes, and the lines in those that were read. The CSV reader itself counts line feeds only, and an empty line as the
/// beginning of the next record.
struct Counted {
    bytes: Bytes,
    /// Number of bytes read.
    read: u64,
    /// The last byte.
    last: u8,
    /// Number of the line of the next byte.
    line: u64,
    /// Offsets and numbers of the lines that are not empty and belong to no earlier record.
    lines: VecDeque<(u64, u64)>,
    quotes: Quotes,
    /// The first stray quote, and the offset of the byte that shows it.
    fault: Option<(u64, QuoteFault)>,
}

impl Counted {
    fn new(bytes: Bytes, separator: u8) -> Self {
        let (lines, quotes) = (VecDeque::new(), Quotes::new(separator));
        Self { bytes, read: 0, last: b'\n', line: 1, lines, quotes, fault: None }
    }

    /// Notes the first fault, at the last byte read.
    fn note(&mut self, found: Result<(), QuoteFault>) {
        if let (Err(fault), None) = (found, self.fault) {
            self.fault = Some((self.read.saturating_sub(1), fault));
        }
    }

    /// The number of the first line that is not empty and starts at `offset` or later.
    fn line_from(&mut self, offset: u64) -> u64 {
        while self.lines.front().is_some_and(|(start, _)| *start < offset) {
            self.lines.pop_front();
        }
        self.lines.front().map_or(self.line, |(_, line)| *line)
    }
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(out)?;
        for &byte in &out[..read] {
            let ended = matches!(self.last, b'\n' | b'\r');
            match byte {
                b'\n' if self.last == b'\r' => {}
                b'\n' | b'\r' => self.line += 1,
                _ if ended => self.lines.push_back((self.read, self.line)),
                _ => {}
            }
            self.last = byte;
            self.read += 1;
            if self.fault.is_none() {
                let found = self.quotes.push(byte);
                self.note(found);
            }
        }
        if read == 0 && !out.is_empty() {
            let end = self.quotes.finish();
            self.note(end);
        }
        Ok(read)
    }
}

/// The rows of a list of paths and labels separated by blanks. Lines end in `\n`, `\r\n` or `\r`.
fn spaced(path: &Path, mut bytes: Bytes) -> Result<Vec<(u64, ByteRecord)>, SourceError> {
    let mut text = Vec::new();
    bytes.read_to_end(&mut text).map_err(|error| SourceError::io(path, error))?;
    let (mut rows, mut line) = (Vec::new(), 0);
    let mut before = b'\n';
    for row in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        // A line feed alone after a carriage return ends the same line.
        line += u64::from(!(row == b"\n" && before == b'\r'));
        before = row.last().copied().unwrap_or(b'\n');
        let row = row.trim_ascii();
        if !row.is_empty() {
            let cells = split_at_space(row).map_or(vec![row], |(path, label)| vec![path, label]);
            rows.push((line, ByteRecord::from(cells)));
        }
    }
    Ok(rows)
}

/// Opens the file behind its byte order mark.
fn bytes(path: &Path) -> Result<Bytes, SourceError> {
    let io = |error| SourceError::io(path, error);
    let mut file = BufReader::new(ordinary::open(path).map_err(io)?);
    let mut start = Vec::new();
    file.by_ref().take(3).read_to_end(&mut start).map_err(io)?;
    if start == BYTE_ORDER_MARK {
        start.clear();
    }
    Ok(Cursor::new(start).chain(file))
}

/// The next line that is not blank; `line` becomes its number. Lines end in `\n` or `\r\n`.
fn next_line(path: &Path, bytes: &mut Bytes, line: &mut u64) -> Result<Option<Vec<u8>>, SourceError> {
    loop {
        let mut text = Vec::new();
        let read = bytes.read_until(b'\n', &mut text).map_err(|error| SourceError::io(path, error))?;
        *line += 1;
        if read == 0 {
            return Ok(None);
        }
        if !text.trim_ascii().is_empty() {
            return Ok(Some(text));
        }
    }
}

/// The keys of all objects of a list, in bytewise order.
fn keys(path: &Path) -> Result<Vec<String>, SourceError> {
    let (mut bytes, mut line, mut keys) = (bytes(path)?, 0, BTreeSet::new());
    while let Some(text) = next_line(path, &mut bytes, &mut line)? {
        keys.extend(object(path, line, &text)?.into_iter().map(|(key, _)| key));
    }
    Ok(keys.into_iter().collect())
}

fn object(path: &Path, line: u64, text: &[u8]) -> Result<Map<String, Value>, SourceError> {
    serde_json::from_slice(text).map_err(|error| wrong(path, (line, RowProblem::Json(error))))
}

/// A JSON value as the text of a cell.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(value) => value.to_string(),
    }
}
