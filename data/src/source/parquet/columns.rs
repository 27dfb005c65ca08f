//! Finds the columns of images, labels and captions in a Parquet file.

use std::fmt;

use arrow_schema::{DataType, FieldRef, Fields};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde_json::Value;

use super::super::CaptionColumn;
use super::super::captions::CaptionKind;
use super::ParquetProblem;

/// Names of image columns, used if several columns could hold images. The first name that exists wins.
const IMAGE_NAMES: [&str; 6] = ["image", "img", "jpg", "jpeg", "png", "webp"];

/// Names of label columns. The first name that exists wins.
const LABEL_NAMES: [&str; 6] = ["label", "labels", "class", "category", "cls", "fine_label"];

/// Names of caption columns. The first name that exists wins.
const CAPTION_NAMES: [(&str, CaptionKind); 4] = [
    ("caption", CaptionKind::Text),
    ("caption_embedding", CaptionKind::Embedding),
    ("text", CaptionKind::Text),
    ("txt", CaptionKind::Text),
];

/// The columns that are read. They must be the same in all files of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    /// Name of the image column.
    pub image: String,
    /// Name of the label column and kind of its labels, if there is one.
    pub label: Option<(String, LabelKind)>,
    /// Name of the caption column and kind of its captions, if captions are read.
    pub caption: Option<(String, CaptionKind)>,
}

/// Kind of the labels in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LabelKind {
    /// Class numbers without names.
    Number,
    /// Class numbers, with the names of the classes.
    Named(Vec<String>),
    /// Class names, or class numbers as text.
    Text,
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images in {}", self.image)?;
        if let Some((name, kind)) = &self.label {
            let what = match kind {
                LabelKind::Number => "class numbers".to_owned(),
                LabelKind::Named(names) => format!("numbers of {} named classes", names.len()),
                LabelKind::Text => "texts as classes".to_owned(),
            };
            write!(f, ", {what} in {name}")?;
        }
        self.caption.iter().try_for_each(|(name, _)| write!(f, ", captions in {name}"))
    }
}

impl Columns {
    /// Finds the columns by their types, their names, and the description that Hugging Face's `datasets` adds to the
    /// file.
    pub(super) fn of(
        metadata: &ArrowReaderMetadata,
        captions: CaptionColumn,
    ) -> Result<Self, ParquetProblem> {
        let fields = metadata.schema().fields();
        let described = Description::of(metadata);
        let caption = match captions {
            CaptionColumn::Ignore => None,
            CaptionColumn::Read => caption_of(fields)?,
        };
        Ok(Self { image: image_of(fields, &described)?, label: label_of(fields, &described), caption })
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

    /// Lists the columns that are not read, if no column holds labels.
    pub(super) fn passed_over(&self, metadata: &ArrowReaderMetadata) -> Option<String> {
        let others = metadata.schema().fields().iter().filter(|field| *field.name() != self.image);
        let others =
            others.map(|field| format!("{} ({})", field.name(), field.data_type())).collect::<Vec<_>>();
        (self.label.is_none() && !others.is_empty()).then(|| {
            let (others, names) = (others.join(", "), LABEL_NAMES.join(", "));
            format!("no labels: of the columns {others} none holds numbers or texts and is called {names}")
        })
    }
}

/// Whether the file has a caption column.
pub(super) fn has_captions(metadata: &ArrowReaderMetadata) -> bool {
    matches!(caption_of(metadata.schema().fields()), Ok(Some(_)))
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

/// The image column: the only column of bytes or with a field `bytes`, or the one among several with a known name.
fn image_of(fields: &Fields, described: &Description) -> Result<String, ParquetProblem> {
    let holds_bytes = |of: &DataType| match of {
        DataType::Struct(parts) => {
            parts.iter().any(|part| part.name() == "bytes" && *part.data_type() == DataType::Binary)
        }
        of => *of == DataType::Binary,
    };
    let held = fields.iter().filter(|field| holds_bytes(field.data_type()));
    // Audio is stored like images, and plain bytes may be either.
    let held = held.filter(|field| matches!(described.kind(field.name()), None | Some("Image" | "Value")));
    let held: Vec<&String> = held.map(|field| field.name()).collect();
    let images: Vec<&String> =
        held.iter().copied().filter(|name| described.kind(name) == Some("Image")).collect();
    let candidates = if images.is_empty() { held } else { images };
    let called = || {
        let by_name = |image: &&str| candidates.iter().find(|name| name.eq_ignore_ascii_case(image));
        IMAGE_NAMES.iter().find_map(by_name)
    };
    match *candidates {
        [] => {
            let got = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            Err(ParquetProblem::NoImages { got })
        }
        [name] => Ok(name.clone()),
        _ => called().map(|name| (*name).clone()).ok_or_else(|| {
            let got = candidates.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            ParquetProblem::Ambiguous { got }
        }),
    }
}

/// The label column: the first with a known name, or the only column of class numbers whose names `datasets` lists.
fn label_of(fields: &Fields, described: &Description) -> Option<(String, LabelKind)> {
    let is_number = |of: &DataType| of.is_integer() || of.is_floating();
    let kind = |field: &FieldRef| match described.class_names(field.name()) {
        Some(names) if is_number(field.data_type()) => Some(LabelKind::Named(names)),
        _ if is_number(field.data_type()) => Some(LabelKind::Number),
        _ => (*field.data_type() == DataType::Utf8).then_some(LabelKind::Text),
    };
    let known = LABEL_NAMES.iter().find_map(|name| {
        let field = named(fields, name)?;
        Some((field.name().clone(), kind(field)?))
    });
    let described = || {
        let mut described = fields.iter().filter(|field| described.class_names(field.name()).is_some());
        let field = described.next().filter(|_| described.next().is_none())?;
        Some((field.name().clone(), kind(field)?))
    };
    known.or_else(described)
}

/// The caption column.
///
/// # Errors
/// [`ParquetProblem`] if a column with a known name has another type and no other column holds captions.
fn caption_of(fields: &Fields) -> Result<Option<(String, CaptionKind)>, ParquetProblem> {
    let called = CAPTION_NAMES.iter().filter_map(|(name, kind)| Some((named(fields, name)?, *kind)));
    let fits = |field: &FieldRef, kind: CaptionKind| match (kind, field.data_type()) {
        (CaptionKind::Text, of) => *of == DataType::Utf8,
        (CaptionKind::Embedding, DataType::List(item)) => item.data_type().is_floating(),
        (CaptionKind::Embedding, _) => false,
    };
    let called: Vec<_> = called.collect();
    match called.iter().find(|(field, kind)| fits(field, *kind)) {
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
