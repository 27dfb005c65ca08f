//! Identifies the columns of a list.

use csv::ByteRecord;

use super::super::captions::CaptionKind;
use super::RowProblem;

/// Names of the path column in a header.
const PATH_NAMES: [&str; 4] = ["path", "file", "filename", "image"];

/// Names of the label column in a header.
const LABEL_NAMES: [&str; 3] = ["label", "class", "category"];

/// Names of the caption column in a header, for texts and for embeddings.
const CAPTION_NAMES: [&str; 2] = ["caption", "caption_embedding"];

/// The columns of a list.
pub(super) struct Columns {
    /// Number of columns.
    pub count: usize,
    /// Index of the path column.
    pub path: usize,
    /// Index of the label column, if there is one.
    pub label: Option<usize>,
    /// Index of the caption column and the kind of its captions, if captions are present.
    pub caption: Option<(usize, CaptionKind)>,
    /// Whether the first row is a header and therefore not an image.
    pub header: bool,
}

impl Columns {
    /// Identifies the columns from the first row: by name if it is a header, otherwise by the number of cells.
    pub(super) fn of(first: &ByteRecord) -> Result<Self, RowProblem> {
        let paths = first.iter().any(|cell| is(cell, &PATH_NAMES));
        let captions = first.iter().any(|cell| is(cell, &CAPTION_NAMES));
        if paths && (captions || first.len() > 2) {
            return Self::by_name(first);
        }
        let (path, label) = (cell_is(first, 0, &PATH_NAMES), cell_is(first, 1, &LABEL_NAMES));
        let swapped = cell_is(first, 0, &LABEL_NAMES) && cell_is(first, 1, &PATH_NAMES);
        let header = path && (label || first.len() == 1);
        if !header && (path || label || swapped) {
            return Err(unknown_header(first));
        }
        let count = first.len().min(2);
        Ok(Self { count, path: 0, label: (count == 2).then_some(1), caption: None, header })
    }

    /// Identifies the columns of a header in any order. Every known name may occur once; unknown names are refused.
    fn by_name(first: &ByteRecord) -> Result<Self, RowProblem> {
        let find = |names: &[&str]| first.iter().position(|cell| is(cell, names));
        let text = find(&CAPTION_NAMES[..1]).map(|column| (column, CaptionKind::Text));
        let embedding = find(&CAPTION_NAMES[1..]).map(|column| (column, CaptionKind::Embedding));
        let (path, label) = (find(&PATH_NAMES), find(&LABEL_NAMES));
        let known = [path.is_some(), label.is_some(), text.is_some() || embedding.is_some()];
        // An unknown or repeated name makes the header longer than the number of known columns.
        let complete = known.into_iter().filter(|&known| known).count() == first.len();
        match path.filter(|_| complete) {
            Some(path) => {
                Ok(Self { count: first.len(), path, label, caption: text.or(embedding), header: true })
            }
            None => Err(unknown_header(first)),
        }
    }

    /// Fails if a row has more or fewer cells than the first row.
    pub(super) fn require(&self, record: &ByteRecord) -> Result<(), RowProblem> {
        let (expected, got) = (self.count, record.len());
        match self.caption {
            _ if expected == got => Ok(()),
            Some(_) => Err(RowProblem::Cells { expected, got }),
            None => Err(RowProblem::Columns { expected, got }),
        }
    }
}

fn cell_is(record: &ByteRecord, column: usize, names: &[&str]) -> bool {
    record.get(column).is_some_and(|cell| is(cell, names))
}

fn is(cell: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| cell.eq_ignore_ascii_case(name.as_bytes()))
}

fn unknown_header(record: &ByteRecord) -> RowProblem {
    let cells: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
    RowProblem::Header { got: cells.join(",") }
}
