//! Identifies the columns of a list.

use csv::ByteRecord;

use super::super::captions::CaptionKind;
use super::super::{CaptionColumn, FieldKind, FieldNames, Note, names, splits};
use super::RowProblem;

/// Names of the path column in a header. Case, blanks, `_` and `-` do not matter.
const PATH_NAMES: [&str; 19] = [
    "path",
    "file",
    "filename",
    "filepath",
    "fname",
    "image",
    "img",
    "imagepath",
    "imagename",
    "imagefile",
    "imagefilename",
    "imagefilepath",
    "imgpath",
    "imgname",
    "imgfile",
    "imgfilename",
    "relpath",
    "relativepath",
    "imagepaths",
];

/// Names of the label column in a header.
const LABEL_NAMES: [&str; 21] = [
    "label",
    "labels",
    "class",
    "category",
    "target",
    "cls",
    "y",
    "classid",
    "classname",
    "classindex",
    "classidx",
    "classlabel",
    "labelid",
    "labelname",
    "labelindex",
    "labelidx",
    "categoryid",
    "categoryname",
    "finelabel",
    "wnid",
    "synset",
];

/// Names of the caption column in a header.
const CAPTION_NAMES: [(&str, CaptionKind); 5] = [
    ("caption", CaptionKind::Text),
    ("captions", CaptionKind::Text),
    ("text", CaptionKind::Text),
    ("txt", CaptionKind::Text),
    ("captionembedding", CaptionKind::Embedding),
];

/// Names of a column of addresses, which are not read.
const ADDRESS_NAMES: [&str; 4] = ["url", "imageurl", "uri", "link"];

/// Beginning of the note that no column holds labels.
pub(super) const NO_LABELS: &str = "no labels";

/// The columns of a list.
#[derive(Debug)]
pub(super) struct Columns {
    /// Number of columns.
    pub count: usize,
    /// Index of the path column.
    pub path: usize,
    /// Index of the label column, if there is one.
    pub label: Option<usize>,
    /// Index of the caption column and the kind of its captions, if there is one.
    pub caption: Option<(usize, CaptionKind)>,
    /// Names of the columns, if the first row is a header and therefore not an image.
    pub header: Option<Vec<String>>,
}

impl Columns {
    /// Identifies the columns: by name if the first row is a header, otherwise by the number of cells.
    ///
    /// # Errors
    /// [`RowProblem`] if the first row resembles a header but lacks the images or has other columns; if several columns
    /// may hold the images, the labels or requested captions; if `fields` names a column that does not exist.
    pub(super) fn of(
        first: &ByteRecord,
        second: Option<&ByteRecord>,
        fields: &FieldNames,
        captions: CaptionColumn,
    ) -> Result<Self, RowProblem> {
        let named: Vec<&str> = [&fields.image, &fields.label, &fields.caption]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let is_named = |cell: &[u8]| named.iter().any(|name| same(cell, name));
        if first.iter().any(|cell| is_path_word(cell) || is_named(cell)) {
            return Self::by_name(first, fields, captions);
        }
        if let Some(name) = named.first() {
            return Err(RowProblem::NoColumn { name: (*name).to_owned(), got: shown(first) });
        }
        if first.iter().any(|cell| names::is_one_of(cell, &ADDRESS_NAMES)) {
            return Err(RowProblem::Address { got: shown(first) });
        }
        let image = |record: &ByteRecord| {
            record.get(0).is_some_and(|cell| names::is_image(&String::from_utf8_lossy(cell)))
        };
        let number = |cell: &[u8]| std::str::from_utf8(cell).is_ok_and(|cell| cell.parse::<f64>().is_ok());
        let header =
            first.iter().any(is_label_word) || second.is_some_and(image) && !first.iter().any(number);
        if header && !image(first) {
            return Err(RowProblem::Header { got: shown(first) });
        }
        let count = first.len().min(2);
        Ok(Self { count, path: 0, label: (count == 2).then_some(1), caption: None, header: None })
    }

    /// Identifies the columns of a header, in any order.
    fn by_name(first: &ByteRecord, fields: &FieldNames, captions: CaptionColumn) -> Result<Self, RowProblem> {
        let path = column(first, fields.image.as_deref(), FieldKind::Image, is_path_word)?;
        let path = path.ok_or_else(|| RowProblem::NoImages { got: shown(first) })?;
        let label = column(first, fields.label.as_deref(), FieldKind::Label, is_label_word)?;
        let of_captions = |cell: &[u8]| caption_kind(cell).is_some();
        let caption = column(first, fields.caption.as_deref(), FieldKind::Caption, of_captions);
        let caption = match captions {
            CaptionColumn::Read => caption?,
            // Several of them matter only if they are read.
            CaptionColumn::Ignore => first.iter().position(of_captions),
        };
        let caption = caption.filter(|caption| Some(*caption) != label);
        if let (2, None, None) = (first.len(), label, caption) {
            return Err(RowProblem::Other { got: shown(first), other: text(first, 1 - path) });
        }
        let kind = |column: usize| first.get(column).and_then(caption_kind).unwrap_or(CaptionKind::Text);
        Ok(Self {
            count: first.len(),
            path,
            label,
            caption: caption.map(|column| (column, kind(column))),
            header: Some((0..first.len()).map(|column| text(first, column)).collect()),
        })
    }

    /// The column that marks the split of each row, if one does and holds nothing that is read, with its name.
    pub(super) fn split(&self) -> Option<(usize, &str)> {
        let found = |(column, name): &(usize, &String)| !self.reads(*column) && splits::is_split_column(name);
        let (column, name) = self.header.as_ref()?.iter().enumerate().find(found)?;
        Some((column, name.as_str()))
    }

    /// Whether a column holds images, labels or captions.
    fn reads(&self, column: usize) -> bool {
        column == self.path
            || Some(column) == self.label
            || self.caption.is_some_and(|(caption, _)| caption == column)
    }

    /// The label column, in words.
    pub(super) fn label_words(&self) -> String {
        let name = self.label.and_then(|label| self.header.as_ref()?.get(label));
        name.map_or("the second column".to_owned(), |name| format!("column {name}"))
    }

    /// Notes the columns that are not read, if there are any.
    pub(super) fn note(&self) -> Option<Note> {
        let header = self.header.as_ref()?.iter().enumerate();
        let others: Vec<&str> =
            header.filter(|(column, _)| !self.reads(*column)).map(|(_, name)| &**name).collect();
        let (others, none) = (others.join(", "), others.is_empty());
        match self.label {
            _ if none => None,
            Some(_) => Some(format!("columns that are not read: {others}").into()),
            None => Some(Note::about(
                FieldKind::Label,
                format!(
                    "{NO_LABELS}: none of the columns {others} is called label, class, category or target"
                ),
            )),
        }
    }

    /// Fails if a row has more or fewer cells than the first row, or is the header again.
    pub(super) fn require(&self, record: &ByteRecord) -> Result<(), RowProblem> {
        let (expected, got) = (self.count, record.len());
        match self.header {
            Some(_) if expected != got => Err(RowProblem::Cells { expected, got }),
            Some(ref header) if record.iter().eq(header.iter().map(String::as_bytes)) => {
                Err(RowProblem::HeaderAgain)
            }
            _ if expected == got => Ok(()),
            _ => Err(RowProblem::Columns { expected, got }),
        }
    }
}

/// The column called `name`, or without a name the only one that `fits`.
fn column(
    header: &ByteRecord,
    name: Option<&str>,
    kind: FieldKind,
    fits: impl Fn(&[u8]) -> bool,
) -> Result<Option<usize>, RowProblem> {
    if let Some(name) = name {
        let found = header.iter().position(|cell| same(cell, name));
        let missing = || RowProblem::NoColumn { name: name.to_owned(), got: shown(header) };
        return found.map(Some).ok_or_else(missing);
    }
    let found: Vec<usize> =
        (0..header.len()).filter(|&column| header.get(column).is_some_and(&fits)).collect();
    match *found {
        [] => Ok(None),
        [column] => Ok(Some(column)),
        _ => {
            let got = found.iter().map(|&column| text(header, column)).collect::<Vec<_>>().join(", ");
            Err(RowProblem::Ambiguous { got, kind })
        }
    }
}

/// Whether a cell of a header names the images.
pub(super) fn is_path_word(cell: &[u8]) -> bool {
    names::is_one_of(cell, &PATH_NAMES)
}

/// Whether a cell of a header names the labels.
pub(in super::super) fn is_label_word(cell: &[u8]) -> bool {
    names::is_one_of(cell, &LABEL_NAMES)
}

fn caption_kind(cell: &[u8]) -> Option<CaptionKind> {
    CAPTION_NAMES.into_iter().find(|(name, _)| names::is_one_of(cell, &[name])).map(|(_, kind)| kind)
}

/// Whether a cell is the name that the user gave, ignoring case.
fn same(cell: &[u8], name: &str) -> bool {
    String::from_utf8_lossy(cell).to_lowercase() == name.trim().to_lowercase()
}

fn text(record: &ByteRecord, column: usize) -> String {
    match record.get(column).unwrap_or_default() {
        b"" => format!("number {}", column + 1),
        cell => String::from_utf8_lossy(cell).into_owned(),
    }
}

fn shown(record: &ByteRecord) -> String {
    record.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",")
}
