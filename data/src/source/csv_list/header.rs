//! Which column of a list is what.

use csv::ByteRecord;

use super::super::captions::CaptionKind;
use super::RowProblem;

/// What a header may call the column of paths.
const PATH_NAMES: [&str; 4] = ["path", "file", "filename", "image"];

/// What a header may call the column of labels.
const LABEL_NAMES: [&str; 3] = ["label", "class", "category"];

/// What a header calls a column of captions, as texts and as embeddings.
const CAPTION_NAMES: [&str; 2] = ["caption", "caption_embedding"];

/// The columns of a list.
pub(super) struct Columns {
    /// How many there are.
    pub count: usize,
    /// Which one holds the path.
    pub path: usize,
    /// Which one holds the label.
    pub label: Option<usize>,
    /// Which one holds captions, and of which kind they are.
    pub caption: Option<(usize, CaptionKind)>,
    /// Whether the first row says so, and is therefore no image.
    pub header: bool,
}

impl Columns {
    /// What the first row says: a header decides by its names, another row by the number of its cells.
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

    /// A header of columns in any order, each once and none unknown.
    fn by_name(first: &ByteRecord) -> Result<Self, RowProblem> {
        let find = |names: &[&str]| first.iter().position(|cell| is(cell, names));
        let text = find(&CAPTION_NAMES[..1]).map(|column| (column, CaptionKind::Text));
        let embedding = find(&CAPTION_NAMES[1..]).map(|column| (column, CaptionKind::Embedding));
        let (path, label) = (find(&PATH_NAMES), find(&LABEL_NAMES));
        let known = [path.is_some(), label.is_some(), text.is_some() || embedding.is_some()];
        // A name that is unknown, or stands there twice, leaves a column over.
        let complete = known.into_iter().filter(|&known| known).count() == first.len();
        match path.filter(|_| complete) {
            Some(path) => {
                Ok(Self { count: first.len(), path, label, caption: text.or(embedding), header: true })
            }
            None => Err(unknown_header(first)),
        }
    }

    /// Refuses a row with more or fewer cells than the first one.
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
