//! Which column of a Parquet file is what.

use std::fmt;

use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde_json::Value;

use super::super::captions::CaptionKind;
use super::TableProblem;

/// What decides between several columns of images.
const IMAGE_NAMES: [&str; 2] = ["image", "img"];

/// What columns of labels are called, the first that is there counts.
const LABEL_NAMES: [&str; 5] = ["label", "labels", "class", "category", "fine_label"];

/// What columns of captions are called, the first that is there counts.
const CAPTION_NAMES: [(&str, CaptionKind); 3] = [
    ("caption", CaptionKind::Text),
    ("caption_embedding", CaptionKind::Embedding),
    ("text", CaptionKind::Text),
];

/// What files of one source must have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    /// Name of the column of images.
    pub image: String,
    /// Name of the column of labels, and what they are.
    pub label: Option<(String, LabelKind)>,
    /// Name of the column of captions, and what they are.
    pub caption: Option<(String, CaptionKind)>,
}

/// What a column of labels holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LabelKind {
    /// Class numbers.
    Number,
    /// Class numbers, and the names of the classes.
    Named(Vec<String>),
    /// Names of classes.
    Name,
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "images in {}", self.image)?;
        if let Some((name, kind)) = &self.label {
            let what = match kind {
                LabelKind::Number => "class numbers".to_owned(),
                LabelKind::Named(names) => format!("numbers of {} named classes", names.len()),
                LabelKind::Name => "class names".to_owned(),
            };
            write!(f, ", {what} in {name}")?;
        }
        self.caption.iter().try_for_each(|(name, _)| write!(f, ", captions in {name}"))
    }
}

impl Columns {
    /// Finds the columns by their types and names, and by what Hugging Face's `datasets` adds to the file about them.
    pub(super) fn of(metadata: &ArrowReaderMetadata) -> Result<Self, TableProblem> {
        let fields = metadata.schema().fields();
        let named = |name: &str| fields.iter().find(|field| field.name().eq_ignore_ascii_case(name));
        let image = image_of(metadata)?;
        let features = features(metadata);
        let kind = |name: &str, of: &DataType| match class_names(&features, name) {
            Some(names) if of.is_integer() => Some(LabelKind::Named(names)),
            None if of.is_integer() => Some(LabelKind::Number),
            _ => (*of == DataType::Utf8).then_some(LabelKind::Name),
        };
        let mut labels = LABEL_NAMES.iter().filter_map(|name| {
            let field = named(name)?;
            Some((field.name().clone(), kind(field.name(), field.data_type())?))
        });
        let class_label = || {
            let mut labels = fields.iter().filter_map(|field| {
                let names = class_names(&features, field.name())?;
                field.data_type().is_integer().then(|| (field.name().clone(), LabelKind::Named(names)))
            });
            labels.next().filter(|_| labels.next().is_none())
        };
        let caption = CAPTION_NAMES.iter().find_map(|(name, kind)| {
            let field = named(name)?;
            let fits = match (kind, field.data_type()) {
                (CaptionKind::Text, of) => *of == DataType::Utf8,
                (CaptionKind::Embedding, DataType::List(item)) => item.data_type().is_floating(),
                (CaptionKind::Embedding, _) => false,
            };
            fits.then(|| (field.name().clone(), *kind))
        });
        Ok(Self { image, label: labels.next().or_else(class_label), caption })
    }

    /// What is said about the columns that are not read, where no label is among those that are.
    pub(super) fn passed_over(&self, metadata: &ArrowReaderMetadata) -> Option<String> {
        let taken = |name: &String| {
            *name == self.image || self.caption.as_ref().is_some_and(|(caption, _)| caption == name)
        };
        let fields = metadata.schema().fields().iter().map(|field| field.name());
        let others: Vec<&str> = fields.filter(|name| !taken(name)).map(String::as_str).collect();
        (self.label.is_none() && !others.is_empty()).then(|| {
            let (others, names) = (others.join(", "), LABEL_NAMES.join(", "));
            format!("no labels: none of the columns {others} is one of numbers or texts called {names}")
        })
    }
}

/// The number of the leaf column that the top-level column `name` has, or of its part `bytes` where it has several.
pub(super) fn leaf(metadata: &ArrowReaderMetadata, name: &str) -> Option<usize> {
    let leaves = metadata.parquet_schema().columns();
    let find = |part: Option<&str>| {
        leaves.iter().position(|leaf| {
            let parts = leaf.path().parts();
            parts.first().is_some_and(|first| first == name)
                && part.is_none_or(|part| parts.len() == 2 && parts[1] == part)
        })
    };
    find(Some("bytes")).or_else(|| find(None))
}

/// The column of images: the only one of bytes, or with a part `bytes`, or the one of those that is called so.
fn image_of(metadata: &ArrowReaderMetadata) -> Result<String, TableProblem> {
    let fields = metadata.schema().fields();
    let holds_bytes = |of: &DataType| match of {
        DataType::Struct(parts) => {
            parts.iter().any(|part| part.name() == "bytes" && *part.data_type() == DataType::Binary)
        }
        of => *of == DataType::Binary,
    };
    let names: Vec<&str> = fields
        .iter()
        .filter(|field| holds_bytes(field.data_type()))
        .map(|field| field.name().as_str())
        .collect();
    let called =
        || IMAGE_NAMES.iter().find_map(|image| names.iter().find(|name| name.eq_ignore_ascii_case(image)));
    match *names {
        [] => {
            let got = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            Err(TableProblem::NoImages { got })
        }
        [name] => Ok(name.to_owned()),
        _ => match called() {
            Some(name) => Ok((*name).to_owned()),
            None => Err(TableProblem::Ambiguous { got: names.join(", ") }),
        },
    }
}

/// What Hugging Face's `datasets` says about the columns; null where it says nothing.
fn features(metadata: &ArrowReaderMetadata) -> Value {
    let entries = metadata.metadata().file_metadata().key_value_metadata();
    let about = entries.into_iter().flatten().find(|entry| entry.key == "huggingface");
    let text = about.and_then(|entry| entry.value.as_deref()).unwrap_or("null");
    // It describes columns that can be read without it.
    serde_json::from_str(text).map(|mut about: Value| about["info"]["features"].take()).unwrap_or(Value::Null)
}

/// The names of the classes in a column, where it is one of class numbers.
fn class_names(features: &Value, column: &str) -> Option<Vec<String>> {
    let feature = features.get(column).filter(|feature| feature["_type"] == "ClassLabel")?;
    let names = feature["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
