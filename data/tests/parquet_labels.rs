//! Label columns of Parquet files: types, named columns, and columns that could have been meant.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, StringDictionaryBuilder};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, LargeBinaryArray, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, types::Int32Type,
};
use lgd_data::source::{
    CaptionColumn, Captions, FieldKind, FieldNames, ImageSource, SourceError, open_captioned, open_with,
};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tempfile::{TempDir, tempdir};

use common::{listed, message, notes, open};

const WORDS: [&str; 3] = ["cat", "dog", "cat"];

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, features: Option<&str>) {
    let about = features.map(|features| {
        vec![KeyValue::new("huggingface".to_owned(), format!("{{\"info\": {{\"features\": {features}}}}}"))]
    });
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_key_value_metadata(about).build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn bytes(words: &[&str]) -> ArrayRef {
    Arc::new(words.iter().map(|word| Some(word.as_bytes())).collect::<BinaryArray>())
}

/// A file of the columns, and a column of images.
fn table(columns: Vec<(&str, ArrayRef)>) -> TempDir {
    let root = tempdir().unwrap();
    let rows = columns[0].1.len();
    let names: Vec<String> = (0..rows).map(|row| format!("image {row}")).collect();
    let images = bytes(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let columns = [("image", images)].into_iter().chain(columns).collect();
    write(&root.path().join("a.parquet"), columns, None);
    root
}

fn asked(
    root: &TempDir,
    image: Option<&str>,
    label: Option<&str>,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let owned = |name: Option<&str>| name.map(str::to_owned);
    let fields = FieldNames { image: owned(image), label: owned(label), caption: None };
    open_with(root.path(), CaptionColumn::Ignore, &fields)
}

fn labels(source: &dyn ImageSource) -> Vec<Option<u32>> {
    source.samples().iter().map(|sample| sample.label).collect()
}

#[test]
fn names_are_read_from_every_type_of_text() {
    let mut dictionary = StringDictionaryBuilder::<Int32Type>::new();
    WORDS.into_iter().for_each(|word| dictionary.append_value(word));
    let columns: [ArrayRef; 6] = [
        Arc::new(StringArray::from(WORDS.to_vec())),
        Arc::new(LargeStringArray::from(WORDS.to_vec())),
        Arc::new(StringViewArray::from(WORDS.to_vec())),
        Arc::new(dictionary.finish()),
        bytes(&WORDS),
        Arc::new(LargeBinaryArray::from(WORDS.map(str::as_bytes).to_vec())),
    ];
    for column in columns {
        let kind = column.data_type().clone();
        let root = table(vec![("label", column)]);
        let source = open(root.path());
        assert_eq!(labels(&*source), [Some(0), Some(1), Some(0)], "{kind}");
        assert_eq!(source.class_names().unwrap(), ["cat", "dog"], "{kind}");
        assert!(notes(&*source).is_empty(), "{kind}: {:?}", notes(&*source));
        assert_eq!(source.read(1, 100).unwrap(), b"image 1", "{kind}");
    }
    let source = open(
        table(vec![("label", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])))]).path(),
    );
    assert_eq!(labels(&*source), [Some(1), None, Some(0)]);
    assert_eq!(source.class_names().unwrap(), ["false", "true"]);
    let root = table(vec![("label", Arc::new(BinaryArray::from_vec(vec![b"cat", b"\xff"])))]);
    let error = message(asked(&root, None, None));
    assert!(error.contains("row 1, column label: expected UTF-8 text, got other bytes"), "{error}");
}

#[test]
fn the_same_labels_are_the_same_classes_in_every_type() {
    let texts = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let expected = [Some(10), None, Some(2)];
    let columns: [ArrayRef; 4] = [
        Arc::new(Int64Array::from(vec![10, -1, 2])),
        Arc::new(Float64Array::from(vec![10.0, f64::NAN, 2.0])),
        texts(&["10", "", "2"]),
        texts(&["10.0", "-1", "002"]),
    ];
    for column in columns {
        let kind = column.data_type().clone();
        let source = open(table(vec![("label", column)]).path());
        assert_eq!((labels(&*source), source.class_names()), (expected.to_vec(), None), "{kind}");
        assert_eq!(
            notes(&*source),
            ["1 of the 3 samples have no label in column label (empty, NaN, null, None, N/A or -1)"]
        );
    }
    // Classes that `datasets` names by numbers, in bytewise order, as it does for folders.
    let root = tempdir().unwrap();
    let features = "{\"label\": {\"_type\": \"ClassLabel\", \"names\": [\"0\", \"1\", \"10\", \"2\"]}}";
    let columns: Vec<(&str, ArrayRef)> =
        vec![("image", bytes(&WORDS)), ("label", Arc::new(Int64Array::from(vec![2, -1, 3])))];
    write(&root.path().join("a.parquet"), columns, Some(features));
    let source = open(root.path());
    assert_eq!((labels(&*source), source.class_names()), (expected.to_vec(), None));
    assert!(notes(&*source).iter().any(|note| note.contains("the numbers 0 to 10")));

    for (column, part) in [
        (texts(&["10", "x", "9"]), "row 1, column label: label \"x\" is not a class number"),
        (texts(&["x", "x", "9"]), "row 2, column label: label \"9\" is a number"),
        (texts(&["1", "1", "-3"]), "row 2, column label: label \"-3\" is not a class"),
        (Arc::new(Int64Array::from(vec![1, -100])), "row 1, column label: label \"-100\" is not a class"),
        (texts(&["[1, 2]"]), "row 0, column label: label \"[1, 2]\" is several labels or an object"),
    ] {
        let error = message(asked(&table(vec![("label", column)]), None, None));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_mix_over_two_files_names_the_second() {
    let root = table(vec![("label", Arc::new(StringArray::from(vec!["cat", "dog"])))]);
    let columns: Vec<(&str, ArrayRef)> =
        vec![("image", bytes(&["a", "b"])), ("label", Arc::new(StringArray::from(vec!["cat", "7"])))];
    write(&root.path().join("b.parquet"), columns, None);
    let error = message(asked(&root, None, None));
    assert!(error.contains("b.parquet: row 1, column label: label \"7\" is a number"), "{error}");
}

#[test]
fn columns_that_could_have_been_meant_are_told() {
    let numbers = |numbers: &[i64]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    let root = table(vec![
        ("conditioning_image", bytes(&["x", "y"])),
        ("fine_label", numbers(&[7, 7])),
        ("label", numbers(&[1, 1])),
        ("caption", bytes(&["one", "two"])),
    ]);
    let source = open(root.path());
    assert_eq!((labels(&*source), source.read(0, 9).unwrap()), (vec![Some(1); 2], b"image 0".to_vec()));
    assert_eq!(
        notes(&*source),
        [
            "images are those in column image, not in conditioning_image",
            "labels are those in column label, not in fine_label (Int64)",
        ]
    );
    let fields: Vec<_> = source.listing().notes.iter().map(|note| note.field).collect();
    assert_eq!(fields, [Some(FieldKind::Image), Some(FieldKind::Label)]);
    let captioned = open_captioned(root.path()).unwrap();
    assert_eq!(captioned.listing().captions, Some(Captions::Texts(vec!["one".to_owned(), "two".to_owned()])));

    let source = asked(&root, Some("conditioning_image"), Some("fine_label")).unwrap();
    assert_eq!((labels(&*source), source.read(0, 9).unwrap()), (vec![Some(7); 2], b"x".to_vec()));
    for (image, label, part) in [
        (Some("photo"), None, "there is no column photo among image, conditioning_image, fine_label"),
        (Some("label"), None, "column label is Int64, expected bytes, or structs with a field bytes"),
    ] {
        let error = message(asked(&root, image, label));
        assert!(error.contains(part), "{error}");
    }

    let mut lists = ListBuilder::new(Int64Builder::new());
    (0..2).for_each(|_| lists.append_value([Some(0), Some(1)]));
    let root = table(vec![("labels", Arc::new(lists.finish())), ("width", numbers(&[640, 640]))]);
    let source = open(root.path());
    let told = notes(&*source)[0];
    assert!(told.starts_with("no labels: none of the columns labels (List("), "{told}");
    assert_eq!(source.listing().notes[0].field, Some(FieldKind::Label));
    assert_eq!(listed(&*source), [("a.parquet/0", None), ("a.parquet/1", None)]);
    let error = message(asked(&root, None, Some("labels")));
    assert!(error.contains("expected one number, text or truth value per row"), "{error}");
    assert_eq!(labels(&*asked(&root, None, Some("Width")).unwrap()), [Some(640); 2]);

    let two = table(vec![("class_id", numbers(&[1])), ("target", numbers(&[2]))]);
    let error = message(asked(&two, None, None));
    assert!(
        error.contains("the columns class_id, target may all hold the labels\nhint: name one"),
        "{error}"
    );
    assert_eq!(labels(&*open(table(vec![("target", numbers(&[2]))]).path())), [Some(2)]);
    let ids = open(table(vec![("label", numbers(&[4, 8, 15, 16]))]).path());
    assert!(notes(&*ids)[0].starts_with("each of the 4 labels in column label occurs once"));
}

#[test]
fn rows_of_several_splits_are_refused() {
    let texts = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let error = message(asked(&table(vec![("split", texts(&["train", "train", "test"]))]), None, None));
    assert!(
        error.contains("a.parquet: row 2: column split is \"test\", but \"train\" in an earlier row"),
        "{error}"
    );
    assert!(error.contains("\nhint: write the rows of one split to a file of their own"), "{error}");
    let error = message(asked(&table(vec![("subset", bytes(&["extra", "val"]))]), None, None));
    assert!(error.contains("column subset is \"val\", but \"extra\""), "{error}");

    // Over two files, and class numbers with names.
    let root = table(vec![("split", texts(&["train"]))]);
    write(&root.path().join("b.parquet"), vec![("image", bytes(&["b"])), ("split", texts(&["test"]))], None);
    let error = message(asked(&root, None, None));
    assert!(error.contains("b.parquet: row 0: column split is \"test\""), "{error}");
    let features = "{\"split\": {\"_type\": \"ClassLabel\", \"names\": [\"train\", \"test\"]}}";
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0, 0, 1]));
    let root = tempdir().unwrap();
    let columns = vec![("image", bytes(&WORDS)), ("label", bytes(&WORDS)), ("split", numbers)];
    write(&root.path().join("a.parquet"), columns, Some(features));
    let error = message(asked(&root, None, None));
    assert!(error.contains("row 2: column split is \"test\", but \"train\""), "{error}");

    let one = open(table(vec![("label", bytes(&["a", "b"])), ("split", texts(&["train", "train"]))]).path());
    assert_eq!((one.samples().len(), notes(&*one)), (2, vec![]));
    let truths: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let told = open(table(vec![("label", bytes(&["a", "b"])), ("is_train", truths)]).path());
    assert!(
        notes(&*told)[0].starts_with("rows with 2 values in column is_train (\"true\", \"false\") are taken")
    );
    let label = asked(&table(vec![("split", texts(&["train", "test"]))]), None, Some("split")).unwrap();
    assert_eq!(label.class_names().unwrap(), ["test", "train"]);
}
