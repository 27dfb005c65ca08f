//! A CSV list of images: `path` or `path,label` per row, with or without that header.
//!
//! - A header may also say `file`, `filename` or `image`, and `class` or `category`. A first row that is half a header,
//!   or one in the wrong order, is an error: taken as an image, it would silently add a class.
//! - Paths are relative to the list's folder (absolute ones are taken as they are); the key is the path as
//!   written. Listing order is the order of the rows.
//! - Labels are all numbers from 0, or all names; names are numbered in bytewise order. Either every row has
//!   one or none.
//! - Blanks around values and a leading byte order mark are dropped; empty lines are skipped.
//! - A file that is missing is found out when it is read and becomes a reject; a wrong row is an error that
//!   names its line.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::{ImageSource, Rejected, RowProblem, Sample, SourceError, read_sample};

/// What a header may call the first column.
const PATH_NAMES: [&str; 4] = ["path", "file", "filename", "image"];

/// What a header may call the second column.
const LABEL_NAMES: [&str; 3] = ["label", "class", "category"];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A listed CSV file.
#[derive(Debug)]
pub struct CsvList {
    root: PathBuf,
    samples: Vec<Sample>,
    class_names: Option<Vec<String>>,
    rejected: Vec<Rejected>,
}

impl CsvList {
    /// Reads the list at `path`. No image is opened.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let bytes = std::fs::read(path).map_err(|error| SourceError::io(path, error))?;
        let root = path.parent().unwrap_or(Path::new("")).to_owned();
        let wrong = |(line, problem)| SourceError::Row { path: path.to_owned(), line, problem };
        let (rows, rejected) = parse(&bytes).map_err(wrong)?;
        if rows.is_empty() {
            let hint = "expected one row path[,label] per image";
            return Err(SourceError::NoImages { path: path.to_owned(), hint });
        }
        let (labels, class_names) = resolve_labels(&rows).map_err(wrong)?;
        let samples =
            rows.into_iter().zip(labels).map(|(row, label)| Sample { key: row.key, label }).collect();
        Ok(Self { root, samples, class_names, rejected })
    }
}

impl ImageSource for CsvList {
    fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        read_sample(&self.root, &self.samples, index, max_bytes)
    }

    fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }
}

struct Row {
    line: u64,
    key: String,
    label: Option<String>,
}

type Problem = (u64, RowProblem);

/// Rows in order, and those whose path is not UTF-8.
fn parse(bytes: &[u8]) -> Result<(Vec<Row>, Vec<Rejected>), Problem> {
    let records = records(bytes)?;
    let columns = records.first().map_or(1, |(_, record)| record.len().min(2));
    let has_header = records.first().map_or(Ok(false), |(line, record)| is_header(*line, record))?;
    let (mut rows, mut rejected) = (Vec::new(), Vec::new());
    let mut lines = HashMap::new();
    for (line, record) in records.into_iter().skip(usize::from(has_header)) {
        if record.len() != columns {
            return Err((line, RowProblem::Columns { expected: columns, got: record.len() }));
        }
        match parse_row(line, &record)? {
            Ok(row) => {
                if let Some(first) = lines.insert(row.key.clone(), line) {
                    return Err((line, RowProblem::Duplicate { key: row.key, first }));
                }
                rows.push(row);
            }
            Err(reject) => rejected.push(reject),
        }
    }
    Ok((rows, rejected))
}

/// All records with the line each starts on.
fn records(bytes: &[u8]) -> Result<Vec<(u64, ByteRecord)>, Problem> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(bytes);
    let mut records = Vec::new();
    loop {
        let mut record = ByteRecord::new();
        let line = reader.position().line();
        match reader.read_byte_record(&mut record) {
            Ok(true) => records.push((record.position().map_or(line, csv::Position::line), record)),
            Ok(false) => return Ok(records),
            Err(error) => return Err((line, RowProblem::Syntax(error.to_string()))),
        }
    }
}

/// Whether the first row is a header.
fn is_header(line: u64, record: &ByteRecord) -> Result<bool, Problem> {
    let is = |column: usize, names: &[&str]| {
        record
            .get(column)
            .is_some_and(|cell| names.iter().any(|name| cell.eq_ignore_ascii_case(name.as_bytes())))
    };
    let (path, label) = (is(0, &PATH_NAMES), is(1, &LABEL_NAMES));
    let swapped = is(0, &LABEL_NAMES) && is(1, &PATH_NAMES);
    if path && (label || record.len() == 1) {
        Ok(true)
    } else if path || label || swapped {
        let cells: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
        Err((line, RowProblem::Header { got: cells.join(",") }))
    } else {
        Ok(false)
    }
}

fn parse_row(line: u64, record: &ByteRecord) -> Result<Result<Row, Rejected>, Problem> {
    let path = record.get(0).unwrap_or_default();
    if path.is_empty() {
        return Err((line, RowProblem::EmptyPath));
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
    let label = match record.get(1).map(std::str::from_utf8) {
        None => None,
        Some(Ok("")) => return Err((line, RowProblem::EmptyLabel { key })),
        Some(Ok(label)) => Some(label.to_owned()),
        Some(Err(_)) => return Err((line, RowProblem::LabelEncoding)),
    };
    Ok(Ok(Row { line, key, label }))
}

type Labels = (Vec<Option<u32>>, Option<Vec<String>>);

/// The label of each row, and the names they stand for when they are not plain numbers. The first row
/// decides.
fn resolve_labels(rows: &[Row]) -> Result<Labels, Problem> {
    let labelled: Vec<_> = rows.iter().filter_map(|row| Some((row.line, row.label.as_deref()?))).collect();
    let number = |label: &str| label.parse::<u32>().ok();
    let Some(&(_, first)) = labelled.first() else {
        return Ok((vec![None; rows.len()], None));
    };
    if number(first).is_some() {
        let parsed = labelled.iter().map(|&(line, label)| match number(label) {
            Some(number) => Ok(Some(number)),
            None => Err((line, RowProblem::NotANumber { label: label.to_owned() })),
        });
        return Ok((parsed.collect::<Result<_, _>>()?, None));
    }
    if let Some(&(line, label)) = labelled.iter().find(|(_, label)| number(label).is_some()) {
        return Err((line, RowProblem::NotAName { label: label.to_owned() }));
    }
    let names: BTreeSet<&str> = labelled.iter().map(|&(_, label)| label).collect();
    let index: HashMap<&str, Option<u32>> = names.iter().copied().zip((0_u32..).map(Some)).collect();
    let labels = labelled.iter().map(|(_, label)| index.get(label).copied().flatten()).collect();
    Ok((labels, Some(names.into_iter().map(str::to_owned).collect())))
}
