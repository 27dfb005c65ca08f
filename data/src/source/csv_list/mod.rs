//! A CSV list of images with rows `path` or `path,label`, with or without that header, or with captions.
//!
//! - A header may also use `file`, `filename` or `image`, and `class` or `category`. A first row that is only half a
//!   header, or has the columns in the wrong order, is an error: if it were taken as an image, it would silently add a
//!   class.
//! - An additional column `caption` holds a text; `caption_embedding` holds a JSON array of numbers. It requires a
//!   header, which allows the columns in any order. Captions are read only if the list is opened for captions.
//! - Paths are relative to the list's folder; absolute paths are used unchanged. The key is the path as written. The
//!   listing is in the order of the rows.
//! - Labels are either all numbers from 0, or all names, which are numbered in bytewise order. Either every row has a
//!   label or none has.
//! - Blanks around values and a leading byte order mark are removed. Empty lines are skipped.
//! - A missing image file is rejected when it is read. An invalid row is an error that names its line.

mod error;
mod header;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Reader, ReaderBuilder, Trim};

use super::captions::{Captions, numbers_of};
use super::{FieldNames, ImageSource, Listing, Rejected, Sample, SourceError, read_sample};
use header::Columns;

pub use error::{ListError, RowProblem};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How to treat captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionColumn {
    /// Ignore captions.
    Ignore,
    /// Read captions. A source without captions is an error.
    Read,
}

/// The images of a CSV list.
#[derive(Debug)]
pub struct CsvList {
    root: PathBuf,
    listing: Listing,
}

impl CsvList {
    /// Reads the list at `path` without opening any image.
    ///
    /// # Errors
    /// [`SourceError`] if the list cannot be read, is empty, has an invalid row, or lacks the requested captions.
    pub fn open(path: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        let list = Rows::read(path, captions)?;
        if captions == CaptionColumn::Read && list.captions.is_none() {
            return Err(SourceError::NoCaptions { path: path.to_owned() });
        }
        if list.rows.is_empty() {
            let hint = "expected one row path[,label] per image";
            return Err(SourceError::NoImages { path: path.to_owned(), hint });
        }
        let (labels, class_names) = resolve_labels(&list.rows).map_err(|problem| wrong(path, problem))?;
        let first_line = list.rows.first().map(|row| row.line);
        let samples = list.rows.into_iter().zip(labels).map(|(row, label)| Sample { key: row.key, label });
        let listing = Listing {
            samples: samples.collect(),
            class_names,
            rejected: list.rejected,
            captions: list.captions,
            ignores_captions: list.ignores_captions,
            first_line,
            fields: fields.clone(),
            ..Listing::default()
        };
        Ok(Self { root: path.parent().unwrap_or(Path::new("")).to_owned(), listing })
    }
}

impl ImageSource for CsvList {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        read_sample(&self.root, &self.listing, index, max_bytes)
    }
}

struct Row {
    line: u64,
    key: String,
    label: Option<String>,
}

/// A problem and the line number of its row.
type Problem = (u64, RowProblem);

fn wrong(path: &Path, (line, problem): Problem) -> SourceError {
    ListError { path: path.to_owned(), line, problem }.into()
}

/// The rows of a list in order, their captions, and the rows whose path is not UTF-8.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    /// Line number of each path.
    lines: HashMap<String, u64>,
    rejected: Vec<Rejected>,
    captions: Option<Captions>,
    ignores_captions: bool,
}

impl Rows {
    fn read(path: &Path, captions: CaptionColumn) -> Result<Self, SourceError> {
        let mut list = Self::default();
        let mut records = Records::open(path)?;
        let Some((line, first)) = records.next()? else { return Ok(list) };
        let columns = Columns::of(&first).map_err(|problem| wrong(path, (line, problem)))?;
        match (columns.caption, captions) {
            (Some((_, kind)), CaptionColumn::Read) => list.captions = Some(Captions::empty(kind)),
            (found, _) => list.ignores_captions = found.is_some(),
        }
        let mut next = if columns.header { records.next()? } else { Some((line, first)) };
        while let Some((line, record)) = next {
            list.add(line, &record, &columns).map_err(|problem| wrong(path, (line, problem)))?;
            next = records.next()?;
        }
        Ok(list)
    }

    fn add(&mut self, line: u64, record: &ByteRecord, columns: &Columns) -> Result<(), RowProblem> {
        columns.require(record)?;
        let row = match parse_row(line, record, columns)? {
            Ok(row) => row,
            Err(reject) => {
                self.rejected.push(reject);
                return Ok(());
            }
        };
        if let Some(first) = self.lines.insert(row.key.clone(), line) {
            return Err(RowProblem::Duplicate { key: row.key, first });
        }
        if let Some((captions, (column, _))) = self.captions.as_mut().zip(columns.caption) {
            push_caption(captions, &row.key, record.get(column).unwrap_or_default())?;
        }
        self.rows.push(row);
        Ok(())
    }
}

/// Appends the caption in a cell of the row of `key`.
fn push_caption(captions: &mut Captions, key: &str, cell: &[u8]) -> Result<(), RowProblem> {
    let key = || key.to_owned();
    let text = std::str::from_utf8(cell).map_err(|_| RowProblem::CaptionEncoding { key: key() })?;
    if text.is_empty() {
        return Err(RowProblem::EmptyCaption { key: key() });
    }
    if let Captions::Texts(_) = captions {
        captions.push_text(text);
        return Ok(());
    }
    let pushed = numbers_of(text).and_then(|numbers| captions.push_embedding(&numbers));
    pushed.map_err(|source| RowProblem::CaptionEmbedding { key: key(), source })
}

/// The records of a file. They are read one at a time, because a list of embeddings may be large.
struct Records<'a> {
    path: &'a Path,
    reader: Reader<Chain<Cursor<Vec<u8>>, BufReader<File>>>,
}

impl<'a> Records<'a> {
    fn open(path: &'a Path) -> Result<Self, SourceError> {
        let io = |error| SourceError::io(path, error);
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let mut start = Vec::new();
        file.by_ref().take(3).read_to_end(&mut start).map_err(io)?;
        if start == BYTE_ORDER_MARK {
            start.clear();
        }
        let bytes = Cursor::new(start).chain(file);
        let reader =
            ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(bytes);
        Ok(Self { path, reader })
    }

    /// The next record and the number of the line that it starts on.
    fn next(&mut self) -> Result<Option<(u64, ByteRecord)>, SourceError> {
        let mut record = ByteRecord::new();
        let line = self.reader.position().line();
        match self.reader.read_byte_record(&mut record) {
            Ok(true) => Ok(Some((record.position().map_or(line, csv::Position::line), record))),
            Ok(false) => Ok(None),
            Err(error) => Err(wrong(self.path, (line, RowProblem::Syntax(error)))),
        }
    }
}

fn parse_row(line: u64, record: &ByteRecord, columns: &Columns) -> Result<Result<Row, Rejected>, RowProblem> {
    let path = record.get(columns.path).unwrap_or_default();
    if path.is_empty() {
        return Err(RowProblem::EmptyPath);
    }
    let Ok(key) = std::str::from_utf8(path) else {
        let key = String::from_utf8_lossy(path).into_owned();
        return Ok(Err(Rejected {
            key,
            reason: "not-utf8",
            detail: format!("line {line}: the path is not UTF-8"),
        }));
    };
    let key = key.to_owned();
    let label = columns.label.and_then(|column| record.get(column));
    let label = match label.map(std::str::from_utf8) {
        None => None,
        Some(Ok("")) => return Err(RowProblem::EmptyLabel { key }),
        Some(Ok(label)) => Some(label.to_owned()),
        Some(Err(_)) => return Err(RowProblem::LabelEncoding),
    };
    Ok(Ok(Row { line, key, label }))
}

type Labels = (Vec<Option<u32>>, Option<Vec<String>>);

/// The label of each row, and the class names if the labels are names. The first row decides whether they are.
fn resolve_labels(rows: &[Row]) -> Result<Labels, Problem> {
    let labeled: Vec<_> = rows.iter().filter_map(|row| Some((row.line, row.label.as_deref()?))).collect();
    let number = |label: &str| label.parse::<u32>().ok();
    let Some(&(_, first)) = labeled.first() else {
        return Ok((vec![None; rows.len()], None));
    };
    if number(first).is_some() {
        let parsed = labeled.iter().map(|&(line, label)| match number(label) {
            Some(number) => Ok(Some(number)),
            None => Err((line, RowProblem::NotANumber { label: label.to_owned() })),
        });
        return Ok((parsed.collect::<Result<_, _>>()?, None));
    }
    if let Some(&(line, label)) = labeled.iter().find(|(_, label)| number(label).is_some()) {
        return Err((line, RowProblem::NotAName { label: label.to_owned() }));
    }
    let names: BTreeSet<&str> = labeled.iter().map(|&(_, label)| label).collect();
    let index: HashMap<&str, Option<u32>> = names.iter().copied().zip((0_u32..).map(Some)).collect();
    let labels = labeled.iter().map(|(_, label)| index.get(label).copied().flatten()).collect();
    Ok((labels, Some(names.into_iter().map(str::to_owned).collect())))
}
