//! A list of images: a `.csv`, `.tsv`, `.txt` or `.jsonl` file with a row per image, its label and its caption.
//!
//! - Rows are `path` or `path,label`, or have a header that names the columns in any order. A first row that is only
//!   half a header is an error: if it were taken as an image, it would silently add a class.
//! - Cells are separated by commas, tabs, semicolons or bars; rows `path label` may be separated by blanks, as in
//!   ImageNet's `train.txt`. The first two lines decide ([`format`]). Each line of a `.jsonl` file is an object.
//! - The columns have usual names ([`header`]), or are named by the caller. If several columns may hold the images, the
//!   labels or the captions, the list is refused.
//! - Captions are texts, or JSON arrays of numbers in `caption_embedding`. They are read only if the list is opened for
//!   captions.
//! - Paths are relative to the list's folder; absolute paths are used unchanged. The key is the path as written. In
//!   paths of Windows, backslashes become `/`. The listing is in the order of the rows.
//! - Rows whose column `split`, or one with a similar name, marks several splits are refused; a note names splits among the
//!   first folders of the paths.
//! - Labels are either all numbers or all names ([`labels`]). An empty label, NaN and -1 mean "no label".
//! - A cell in double quotes ends in its line. Only texts that are no paths, labels, splits or headers may have several
//!   lines, which a note says; if one of these lines looks like a row, the list is refused. So is every list with a quote
//!   that is not closed, or with text behind a closing one ([`quotes`](crate::quotes)).
//! - Blanks around values and a leading byte order mark are removed. Empty lines are skipped.
//! - A missing image file is rejected when it is read. An invalid row is an error that names its line.

mod error;
mod format;
mod header;
mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use csv::ByteRecord;

use super::captions::{Captions, numbers_of};
use super::labels::{self, Label};
use super::{
    FieldNames, ImageSource, LeftAside, Listing, Note, Rejected, Sample, SourceError, clutter, names,
    read_sample, splits,
};
use format::Format;
use header::Columns;
use records::Records;
use splits::SplitColumn;

pub use error::{ListError, RowProblem};
pub(super) use header::is_label_word;

/// File extensions of lists.
const LISTS: [&str; 6] = ["csv", "tsv", "txt", "lst", "jsonl", "ndjson"];

/// Names of lists in a folder of images.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// Whether a cell has the end of a line in it, which only a quoted one can have.
fn has_line_end(cell: &[u8]) -> bool {
    cell.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

/// Whether `name` is the file name of a list.
pub(super) fn is_list(name: &str) -> bool {
    LISTS.contains(&&*names::extension(name))
}

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
        Self::open_rows(path, captions, fields, FolderClasses::No)
    }

    /// Reads the list `metadata.csv` or `metadata.jsonl` in a folder of images, as Hugging Face's `ImageFolder` has it,
    /// if the folder has one with a column `file_name`. Without a label column, classes are the first folders.
    ///
    /// # Errors
    /// The errors of [`CsvList::open`].
    pub(super) fn of_folder(
        folder: &Path,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Option<Self>, SourceError> {
        for name in METADATA {
            let path = folder.join(name);
            if path.is_file() && has_file_names(&path)? {
                let mut list = Self::open_rows(&path, captions, fields, FolderClasses::Yes)?;
                list.listing.notes.insert(0, format!("the images are those listed in {name}").into());
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    fn open_rows(
        path: &Path,
        captions: CaptionColumn,
        fields: &FieldNames,
        folder_classes: FolderClasses,
    ) -> Result<Self, SourceError> {
        let list = Rows::read(path, captions, fields)?;
        if captions == CaptionColumn::Read && list.captions.is_none() {
            return Err(SourceError::NoCaptions { path: path.to_owned() });
        }
        if list.rows.is_empty() {
            let hint = "expected one row path[,label] per image";
            return Err(SourceError::NoImages { path: path.to_owned(), hint });
        }
        let Rows {
            rows,
            root,
            rejected,
            left_aside,
            captions,
            ignores_captions,
            label_words,
            split,
            mut notes,
            ..
        } = list;
        notes.extend(split.as_ref().and_then(|(_, column)| column.note()));
        if split.is_none() {
            notes.extend(split_folders(&rows));
        }
        let labels: Vec<Label> = rows.iter().map(|row| row.label.clone()).collect();
        let (labels, class_names) = labels::resolve(&labels)
            .map_err(|(row, fault)| wrong(path, (rows[row].line, RowProblem::Label(fault))))?;
        notes.extend(
            label_words.iter().flat_map(|words| labels::notes(words, &labels, class_names.as_deref())),
        );
        let first_line = rows.first().map(|row| row.line);
        let samples = rows.into_iter().zip(labels).map(|(row, label)| Sample { key: row.key, label });
        let mut listing = Listing {
            samples: samples.collect(),
            rejected,
            captions,
            ignores_captions,
            first_line,
            left_aside,
            notes,
            fields: fields.clone(),
            ..Listing::default()
        };
        listing.set_classes(class_names.unwrap_or_default());
        if label_words.is_none() && folder_classes == FolderClasses::Yes {
            label_by_folders(&mut listing);
        }
        Ok(Self { root, listing })
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

/// Whether the folders in the paths of a list without labels are its classes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FolderClasses {
    Yes,
    No,
}

/// Whether the list has a column `file_name`.
fn has_file_names(path: &Path) -> Result<bool, SourceError> {
    let first = Records::open(path, Format::of(path)?)?.next()?;
    Ok(first.is_some_and(|(_, cells)| cells.iter().any(|cell| cell == b"file_name")))
}

/// Labels the samples by the first folders of their paths, if all of them are in folders that are not splits.
fn label_by_folders(listing: &mut Listing) {
    let class = |sample: &Sample| sample.key.split_once('/').map(|(class, _)| class.to_owned());
    let Some(classes) = listing.samples.iter().map(class).collect::<Option<Vec<String>>>() else { return };
    let names: Vec<String> = classes.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if names.iter().any(|name| matches!(&**name, "." | ".." | "") || splits::split_word(name).is_some()) {
        return;
    }
    for (sample, class) in listing.samples.iter_mut().zip(&classes) {
        sample.label = names.binary_search(class).ok().and_then(|label| u32::try_from(label).ok());
    }
    listing.notes.retain(|note| !note.text.starts_with(header::NO_LABELS));
    listing.notes.push("the classes are the first folders of the paths".into());
    listing.set_classes(names);
}

/// Notes that the first folders of the paths are several splits of a data set.
fn split_folders(rows: &[Row]) -> Option<Note> {
    let mut marked: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows {
        let folder = row.key.split_once('/').map_or("", |(folder, _)| folder);
        if let Some(split) = splits::split_word(folder) {
            marked.entry(split).or_insert(folder);
        }
    }
    let folders = marked.values().copied().collect::<Vec<_>>().join(", ");
    (marked.len() > 1).then(|| {
        format!("images of several splits are taken together: the paths are in the folders {folders}").into()
    })
}

struct Row {
    line: u64,
    key: String,
    label: Label,
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
    /// Folder of the list.
    root: PathBuf,
    /// Line number of each path.
    lines: HashMap<String, u64>,
    rejected: Vec<Rejected>,
    left_aside: LeftAside,
    captions: Option<Captions>,
    ignores_captions: bool,
    /// The label column in words, if there is one.
    label_words: Option<String>,
    /// Whether backslashes separate folders; unknown before the first backslash.
    backslashes: Option<bool>,
    /// The column that marks the split of each row and its index, if there is one.
    split: Option<(usize, SplitColumn)>,
    /// The byte between cells that may be in quotes.
    separator: Option<u8>,
    /// The first line whose row has a text of several lines.
    first_of_lines: Option<u64>,
    notes: Vec<Note>,
}

impl Rows {
    fn read(path: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        let mut list = Self { root: path.parent().unwrap_or(Path::new("")).to_owned(), ..Self::default() };
        let format = Format::of(path)?;
        let mut records = Records::open(path, format)?;
        let mut first = records.next()?;
        // Some programs write the separator into a first line of its own.
        if first.as_ref().is_some_and(|(_, first)| first.get(0).is_some_and(|cell| cell.starts_with(b"sep=")))
        {
            first = records.next()?;
        }
        let Some((line, first)) = first else { return Ok(list) };
        list.separator = records.separator();
        if list.separator.is_some() && first.iter().any(has_line_end) {
            return Err(wrong(path, (line, RowProblem::OpenQuote)));
        }
        let mut second = records.next()?;
        let columns = Columns::of(&first, second.as_ref().map(|(_, record)| record), fields, captions)
            .map_err(|problem| wrong(path, (line, problem)))?;
        list.notes.extend(format.note(path).into_iter().chain(columns.note()));
        list.label_words = columns.label.map(|_| columns.label_words());
        list.split = columns.split().map(|(column, name)| (column, SplitColumn::new(name)));
        match (columns.caption, captions) {
            (Some((_, kind)), CaptionColumn::Read) => list.captions = Some(Captions::empty(kind)),
            (found, _) => list.ignores_captions = found.is_some(),
        }
        let first = Some((line, first)).filter(|_| columns.header.is_none());
        for (line, record) in first.into_iter().chain(second.take()) {
            list.add(line, &record, &columns).map_err(|problem| wrong(path, (line, problem)))?;
        }
        while let Some((line, record)) = records.next()? {
            list.add(line, &record, &columns).map_err(|problem| wrong(path, (line, problem)))?;
        }
        if let Some(line) = list.first_of_lines {
            list.notes
                .push(format!("texts in quotes have several lines, first in the row of line {line}").into());
        }
        Ok(list)
    }

    fn add(&mut self, line: u64, record: &ByteRecord, columns: &Columns) -> Result<(), RowProblem> {
        self.require_lines(line, record, columns)?;
        columns.require(record)?;
        if let Some((column, split)) = &mut self.split {
            let got = record.get(*column).map(String::from_utf8_lossy).unwrap_or_default();
            split.add(&got).map_err(|first| {
                let (column, got) = (split.name().to_owned(), got.into_owned());
                RowProblem::Splits { column, first, got }
            })?;
        }
        let path = record.get(columns.path).unwrap_or_default();
        if path.is_empty() {
            return Err(RowProblem::EmptyPath);
        }
        let Ok(path) = std::str::from_utf8(path) else {
            let key = String::from_utf8_lossy(path).into_owned();
            let detail = format!("line {line}: the path is not UTF-8");
            self.rejected.push(Rejected { key, reason: "not-utf8", detail });
            return Ok(());
        };
        if path.split(['/', '\\']).any(clutter::is_system) {
            self.left_aside.add(clutter::SYSTEM, 1);
            return Ok(());
        }
        let key = self.key(path)?;
        let label = columns.label.and_then(|column| record.get(column)).unwrap_or_default();
        let label = std::str::from_utf8(label).map_err(|_| RowProblem::LabelEncoding)?;
        let label = Label::of_text(label).map_err(RowProblem::Label)?;
        if let Some(first) = self.lines.insert(key.clone(), line) {
            return Err(RowProblem::Duplicate { key, first });
        }
        if let Some((captions, (column, _))) = self.captions.as_mut().zip(columns.caption) {
            push_caption(captions, &key, record.get(column).unwrap_or_default())?;
        }
        self.rows.push(Row { line, key, label });
        Ok(())
    }

    /// Fails if a quoted cell goes on over the end of a line and may contain rows: one with a path, a label or a split, or
    /// a text of which a further line has an image in the column of paths. Paths without the ending of an image have no such
    /// mark; then a further line with as many cells as a row is one.
    fn require_lines(&mut self, line: u64, record: &ByteRecord, columns: &Columns) -> Result<(), RowProblem> {
        let Some(separator) = self.separator else { return Ok(()) };
        let is_image = |cell: &[u8]| names::is_image(String::from_utf8_lossy(cell).trim().trim_matches('"'));
        let marked = record.get(columns.path).is_some_and(is_image);
        let is_row = |line: &[u8]| {
            let mut cells = line.split(|byte| *byte == separator);
            match marked {
                true => cells.nth(columns.path).is_some_and(is_image),
                false => cells.count() >= columns.count,
            }
        };
        let split = self.split.as_ref().map(|(column, _)| *column);
        let short = |column: usize| [Some(columns.path), columns.label, split].contains(&Some(column));
        for (column, cell) in record.iter().enumerate().filter(|(_, cell)| has_line_end(cell)) {
            let mut further = cell.split(|byte| matches!(byte, b'\n' | b'\r')).skip(1);
            if short(column) || columns.header.is_none() || further.any(is_row) {
                return Err(RowProblem::OpenQuote);
            }
            self.first_of_lines.get_or_insert(line);
        }
        Ok(())
    }

    /// The key of the image at `path`: the path, with `/` between folders.
    fn key(&mut self, path: &str) -> Result<String, RowProblem> {
        let got = || path.to_owned();
        let scheme = path.split_once("://").map_or("", |(scheme, _)| scheme);
        if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(RowProblem::Address { got: got() });
        }
        let drive =
            matches!(path.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
        if drive || path.starts_with("\\\\") {
            return Err(RowProblem::WindowsPath { got: got() });
        }
        if !path.contains('\\') {
            return Ok(got());
        }
        let separate = match self.backslashes {
            Some(separate) => separate,
            // On Linux a backslash may be part of a name.
            None => !self.root.join(path).exists(),
        };
        if separate && self.backslashes.is_none() {
            self.notes.push(format!("backslashes in paths are taken as /, first in {path}").into());
        }
        self.backslashes = Some(separate);
        Ok(if separate { path.replace('\\', "/") } else { got() })
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
