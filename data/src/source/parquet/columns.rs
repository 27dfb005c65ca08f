//! Finds the columns of images, labels and captions in a Parquet file.

use std::fmt;

use arrow_schema::{DataType, FieldRef, Fields};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde_json::Value;

use super::super::captions::CaptionKind;
use super::super::csv_list::is_label_word;
use super::super::{CaptionColumn, FieldKind, FieldNames, Note, splits};
use super::ParquetProblem;

/// Names of image columns, used if several columns could hold images. The first name that exists wins.
const IMAGE_NAMES: [&str; 6] = ["image", "img", "jpg", "jpeg", "png", "webp"];

/// Names of label columns. The first name that exists wins. Without any of them, the only column with another usual
/// name of labels is the label column.
const LABEL_NAMES: [&str; 6] = ["label", "labels", "class", "category", "cls", "fine_label"];

/// Names of caption columns. The first name that exists wins.
const CAPTION_NAMES: [(&str, CaptionKind); 4] = [
    ("caption", CaptionKind::Text),
    ("caption_embedding", CaptionKind::Embedding),
    ("text", CaptionKind::Text),
    ("txt", CaptionKind::Text),
];

/// The columns that are read. Those of images, labels and captions must be the same in all files of a source.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// Name of the image column.
    pub image: String,
    /// Name of the label column and kind of its labels, if there is one.
    pub label: Option<(String, LabelKind)>,
    /// Name of the caption column and kind of its captions, if captions are read.
    pub caption: Option<(String, CaptionKind)>,
    /// Name of the column that marks the split of each row and kind of its values, if there is one.
    pub split: Option<(String, LabelKind)>,
}

/// Kind of the labels or the splits in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LabelKind {
    /// Class numbers without names.
    Number,
    /// Class numbers, with the names of the classes.
    Named(Vec<String>),
    /// Class names, or class numbers as text.
    Text,
    /// Truth values, which are the classes `false` and `true`.
    Truth,
}

impl LabelKind {
    /// The kind of the labels that a column can hold.
    fn of(field: &FieldRef, described: &Description) -> Option<Self> {
        match (field.data_type(), described.class_names(field.name())) {
            (of, Some(names)) if is_number(of) => Some(Self::Named(names)),
            (of, None) if is_number(of) => Some(Self::Number),
            (DataType::Boolean, _) => Some(Self::Truth),
            (DataType::Utf8 | DataType::Binary, _) => Some(Self::Text),
            _ => None,
        }
    }
}

fn is_number(of: &DataType) -> bool {
    of.is_integer() || of.is_floating()
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images in {}", self.image)?;
        if let Some((name, kind)) = &self.label {
            let what = match kind {
                LabelKind::Number => "class numbers".to_owned(),
                LabelKind::Named(names) => format!("numbers of {} named classes", names.len()),
                LabelKind::Text => "texts as classes".to_owned(),
                LabelKind::Truth => "truth values as classes".to_owned(),
            };
            write!(f, ", {what} in {name}")?;
        }
        self.caption.iter().try_for_each(|(name, _)| write!(f, ", captions in {name}"))
    }
}

impl Columns {
    /// Finds the columns that `fields` names, and the others by their types, their names, and the description that
    /// Hugging Face's `datasets` adds to the file.
    ///
    /// # Errors
    /// [`ParquetProblem`] if no column or several hold the images, if several may hold the labels, or if a named column
    /// does not exist or has another type.
    pub(super) fn of(
        metadata: &ArrowReaderMetadata,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, ParquetProblem> {
        let (columns, described) = (metadata.schema().fields(), Description::of(metadata));
        let image = match &fields.image {
            Some(name) => {
                chosen(columns, name, |field| {
                    holds_bytes(field.data_type()).then_some(()).ok_or("bytes, or structs with a field bytes")
                })?
                .0
            }
            None => image_of(columns, &described)?,
        };
        let label = match &fields.label {
            Some(name) => Some(chosen(columns, name, |field| {
                LabelKind::of(field, &described).ok_or("one number, text or truth value per row")
            })?),
            None => label_of(columns, &described, &image)?,
        };
        let caption = match (captions, &fields.caption) {
            (CaptionColumn::Ignore, _) => None,
            (CaptionColumn::Read, Some(name)) => Some(chosen(columns, name, |field| {
                caption_kind(field.data_type()).ok_or("one text or list of floats per row")
            })?),
            (CaptionColumn::Read, None) => caption_of(columns)?,
        };
        let read = [Some(&image), label.as_ref().map(|it| &it.0), caption.as_ref().map(|it| &it.0)];
        let mut splits = columns.iter().filter(|field| splits::is_split_column(field.name()));
        let split = splits.find(|field| !read.contains(&Some(field.name())));
        let split = split.and_then(|field| Some((field.name().clone(), LabelKind::of(field, &described)?)));
        Ok(Self { image, label, caption, split })
    }

    /// Whether two files have the same columns of images, labels and captions.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        (&self.image, &self.label, &self.caption) == (&other.image, &other.label, &other.caption)
    }

    /// How the columns of two files differ: those of this one and those of the other one.
    pub(super) fn difference(&self, other: &Self) -> (String, String) {
        let (one, two) = (self.to_string(), other.to_string());
        match (&self.label, &other.label) {
            (Some((_, LabelKind::Named(a))), Some((_, LabelKind::Named(b)))) if one == two => {
                let differ = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b);
                differ.map_or((one, two), |(class, (a, b))| {
                    (format!("{a:?} as class {class}"), format!("{b:?} as class {class}"))
                })
            }
            _ => (one, two),
        }
    }

    /// Notes about columns that could have been meant but are not read.
    pub(super) fn notes(&self, metadata: &ArrowReaderMetadata) -> Vec<Note> {
        let (columns, described) = (metadata.schema().fields(), Description::of(metadata));
        let (image, label) = (&self.image, self.label.as_ref().map(|(name, _)| name));
        let caption = self.caption.as_ref().map(|(name, _)| name);
        let others: Vec<&FieldRef> = columns.iter().filter(|field| field.name() != image).collect();
        let mut notes = Vec::new();
        let images = others.iter().filter(|field| is_image(field, &described) && !has_other_name(field));
        let unread = list(images.copied(), |field| field.name().clone());
        if !unread.is_empty() {
            let text = format!("images are those in column {image}, not in {unread}");
            notes.push(Note::about(FieldKind::Image, text));
        }
        let labels = others.iter().filter(|field| is_label_word(field.name().as_bytes()));
        let labels = labels.filter(|field| Some(field.name()) != label);
        let unread = list(labels.copied(), described_type);
        if let Some(label) = label.filter(|_| !unread.is_empty()) {
            let text = format!("labels are those in column {label}, not in {unread}");
            notes.push(Note::about(FieldKind::Label, text));
        }
        if label.is_none() && !others.is_empty() {
            let (others, names) = (list(others.iter().copied(), described_type), LABEL_NAMES.join(", "));
            let text = format!(
                "no labels: none of the columns {others} is called {names} and holds one number or text per row"
            );
            notes.push(Note::about(FieldKind::Label, text));
        }
        let texts = others.iter().filter(|field| caption_name(field).is_some());
        let texts = texts.filter(|field| Some(field.name()) != caption && Some(field.name()) != label);
        let unread = list(texts.copied(), |field| field.name().clone());
        if let Some(caption) = caption.filter(|_| !unread.is_empty()) {
            let text = format!("captions are those in column {caption}, not in {unread}");
            notes.push(Note::about(FieldKind::Caption, text));
        }
        notes
    }
}

/// The names or descriptions of columns, separated by commas.
fn list<'a>(columns: impl Iterator<Item = &'a FieldRef>, word: fn(&FieldRef) -> String) -> String {
    columns.map(word).collect::<Vec<_>>().join(", ")
}

fn described_type(field: &FieldRef) -> String {
    format!("{} ({})", field.name(), field.data_type())
}

/// The column `name`, and what `fits` makes of it.
fn chosen<T>(
    columns: &Fields,
    name: &str,
    fits: impl Fn(&FieldRef) -> Result<T, &'static str>,
) -> Result<(String, T), ParquetProblem> {
    let missing = || {
        let got = list(columns.iter(), |field| field.name().clone());
        ParquetProblem::NoColumn { name: name.to_owned(), got }
    };
    let exact = columns.iter().find(|field| field.name() == name);
    let field = exact.or_else(|| named(columns, name)).ok_or_else(missing)?;
    match fits(field) {
        Ok(fit) => Ok((field.name().clone(), fit)),
        Err(expected) => {
            let (column, got) = (field.name().clone(), field.data_type().to_string());
            Err(ParquetProblem::Type { column, got, expected })
        }
    }
}

/// Whether the file has a caption column.
pub(super) fn has_captions(metadata: &ArrowReaderMetadata, fields: &FieldNames) -> bool {
    let found = Columns::of(metadata, CaptionColumn::Read, fields);
    found.is_ok_and(|columns| {
        columns.caption.is_some_and(|(caption, _)| columns.label.is_none_or(|(label, _)| label != caption))
    })
}

/// Index of the leaf column of the top-level column `name`, or of its field `bytes` if it has several.
pub(super) fn leaf(metadata: &ArrowReaderMetadata, name: &str) -> Option<usize> {
    let leaves = metadata.parquet_schema().columns();
    let find = |parts: &[&str]| leaves.iter().position(|leaf| leaf.path().parts() == parts);
    find(&[name, "bytes"]).or_else(|| find(&[name]))
}

/// The field with this name, ignoring case.
fn named<'a>(fields: &'a Fields, name: &str) -> Option<&'a FieldRef> {
    fields.iter().find(|field| field.name().eq_ignore_ascii_case(name))
}

fn holds_bytes(of: &DataType) -> bool {
    match of {
        DataType::Struct(parts) => {
            parts.iter().any(|part| part.name() == "bytes" && *part.data_type() == DataType::Binary)
        }
        of => *of == DataType::Binary,
    }
}

/// Whether a column can hold images. Audio is stored like images, and plain bytes may be either.
fn is_image(field: &FieldRef, described: &Description) -> bool {
    holds_bytes(field.data_type()) && matches!(described.kind(field.name()), None | Some("Image" | "Value"))
}

/// Whether a column is called like labels or captions. Some writers store texts as plain bytes.
fn has_other_name(field: &FieldRef) -> bool {
    *field.data_type() == DataType::Binary
        && (is_label_word(field.name().as_bytes()) || caption_name(field).is_some())
}

/// The image column: the only column of bytes or with a field `bytes`, or the one among several with a known name.
fn image_of(fields: &Fields, described: &Description) -> Result<String, ParquetProblem> {
    let held: Vec<&FieldRef> = fields.iter().filter(|field| is_image(field, described)).collect();
    let images: Vec<&FieldRef> =
        held.iter().copied().filter(|field| described.kind(field.name()) == Some("Image")).collect();
    let held = if images.is_empty() { held } else { images };
    let others: Vec<&FieldRef> = held.iter().copied().filter(|field| !has_other_name(field)).collect();
    let candidates = if others.is_empty() { held } else { others };
    let called = || {
        let by_name = |image: &&str| candidates.iter().find(|field| field.name().eq_ignore_ascii_case(image));
        IMAGE_NAMES.iter().find_map(by_name)
    };
    match *candidates {
        [] => {
            let got = list(fields.iter(), |field| field.name().clone());
            Err(ParquetProblem::NoImages { got })
        }
        [field] => Ok(field.name().clone()),
        _ => called().map(|field| field.name().clone()).ok_or_else(|| {
            let got = list(candidates.iter().copied(), |field| field.name().clone());
            ParquetProblem::Ambiguous { got, kind: FieldKind::Image }
        }),
    }
}

/// The label column: the first with a known name, the only one with another usual name, or the only column of class
/// numbers whose names `datasets` lists.
fn label_of(
    fields: &Fields,
    described: &Description,
    image: &str,
) -> Result<Option<(String, LabelKind)>, ParquetProblem> {
    let with_kind = |field: &FieldRef| Some((field.name().clone(), LabelKind::of(field, described)?));
    if let Some(known) = LABEL_NAMES.iter().find_map(|name| with_kind(named(fields, name)?)) {
        return Ok(Some(known));
    }
    let listed = fields.iter().filter(|field| described.class_names(field.name()).is_some());
    let listed: Vec<_> = listed.filter_map(with_kind).collect();
    if let [column] = &*listed {
        return Ok(Some(column.clone()));
    }
    let usual = fields.iter().filter(|field| field.name() != image && is_label_word(field.name().as_bytes()));
    let usual: Vec<_> = usual.filter_map(with_kind).collect();
    match &*usual {
        [] => Ok(None),
        [column] => Ok(Some(column.clone())),
        _ => {
            let got = usual.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            Err(ParquetProblem::Ambiguous { got, kind: FieldKind::Label })
        }
    }
}

fn caption_kind(of: &DataType) -> Option<CaptionKind> {
    match of {
        DataType::Utf8 | DataType::Binary => Some(CaptionKind::Text),
        DataType::List(item) if item.data_type().is_floating() => Some(CaptionKind::Embedding),
        _ => None,
    }
}

/// The kind of captions that a column's name announces.
fn caption_name(field: &FieldRef) -> Option<CaptionKind> {
    let known = CAPTION_NAMES.iter().find(|(name, _)| field.name().eq_ignore_ascii_case(name));
    known.map(|(_, kind)| *kind)
}

/// The caption column.
///
/// # Errors
/// [`ParquetProblem`] if a column with a known name has another type and no other column holds captions.
fn caption_of(fields: &Fields) -> Result<Option<(String, CaptionKind)>, ParquetProblem> {
    let called = CAPTION_NAMES.iter().filter_map(|(name, kind)| Some((named(fields, name)?, *kind)));
    let called: Vec<_> = called.collect();
    match called.iter().find(|(field, kind)| caption_kind(field.data_type()) == Some(*kind)) {
        Some((field, kind)) => Ok(Some((field.name().clone(), *kind))),
        None => match called.first() {
            Some((field, _)) => Err(ParquetProblem::Captions {
                column: field.name().clone(),
                got: field.data_type().to_string(),
            }),
            None => Ok(None),
        },
    }
}

/// The description of the columns by Hugging Face's `datasets`; null if the file has none.
struct Description(Value);

impl Description {
    fn of(metadata: &ArrowReaderMetadata) -> Self {
        let entries = metadata.metadata().file_metadata().key_value_metadata();
        let about = entries.into_iter().flatten().find(|entry| entry.key == "huggingface");
        let text = about.and_then(|entry| entry.value.as_deref()).unwrap_or("null");
        // An invalid description is treated as missing: the columns can be read without it.
        let about = serde_json::from_str(text).unwrap_or(Value::Null);
        Self(about["info"]["features"].clone())
    }

    /// The kind of a column, if described.
    fn kind(&self, column: &str) -> Option<&str> {
        self.0.get(column)?["_type"].as_str()
    }

    /// The class names of a column of class numbers, if described.
    fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let feature = self.0.get(column).filter(|feature| feature["_type"] == "ClassLabel")?;
        let names = feature["names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}
