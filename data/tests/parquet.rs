//! Parquet files of images: files of several writers, labels and captions, large files, and refused files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt8Array};
use half::f16;
use lgd_data::source::{Captions, ParquetSourceError, SourceError, open_captioned, open_source};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use common::{listed, message, notes, open};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(GOLDENS).join(name)
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    write_with(path, columns, WriterProperties::default());
}

fn write_with(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn images(images: &[&str]) -> ArrayRef {
    Arc::new(images.iter().map(|image| Some(image.as_bytes())).collect::<BinaryArray>())
}

/// Makes a folder of files with one image each.
fn folder(names: &[&str]) -> TempDir {
    let root = tempdir().unwrap();
    names.iter().for_each(|name| write(&root.path().join(name), vec![("image", images(&[name]))]));
    root
}

/// A column of `rows` equal values, which the file holds once.
fn repeated(value: &[u8], rows: usize) -> ArrayRef {
    let values: ArrayRef = Arc::new(BinaryArray::from_vec(vec![value]));
    let keys = arrow_array::Int32Array::from(vec![0; rows]);
    Arc::new(arrow_array::DictionaryArray::try_new(keys, values).unwrap())
}

fn one_dictionary() -> WriterProperties {
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(64 << 20);
    properties.set_compression(Compression::ZSTD(ZstdLevel::default())).build()
}

#[test]
fn repeated_values_take_little_memory() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let large = vec![7; 1 << 20];
    write_with(&path, vec![("image", repeated(&large, 3000))], one_dictionary());
    assert!(path.metadata().unwrap().len() < 20_000);
    let source = open(&path);
    for row in [0, 1500, 2999] {
        assert_eq!(source.read(row, 1 << 20).unwrap(), large);
    }
    // The highest memory so far.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(peak < 800_000, "{peak} kB");
}

#[test]
fn files_that_decode_to_far_more_than_they_hold_are_refused() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let label = repeated(&vec![b'x'; 1 << 20], 1000);
    write_with(&path, vec![("image", repeated(b"image", 1000)), ("label", label)], one_dictionary());
    let error = message(open_source(&path));
    assert!(
        error.contains("column label has more than 67236864 bytes in its 1000 rows: this is more than"),
        "{error}"
    );
    write_with(&path, vec![("image", repeated(b"image", 5_000_000))], one_dictionary());
    let error = message(open_source(&path));
    assert!(error.contains("it has 5000000 rows in ") && error.contains("\nhint: "), "{error}");
}

#[test]
fn a_folder_of_the_hub_has_its_images_labels_and_names() {
    let root = tempdir().unwrap();
    for name in ["hub-00001-of-00002.parquet", "hub-00000-of-00002.parquet"] {
        fs::copy(golden(name), root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("README.md"), "a card").unwrap();
    let source = open(root.path());
    assert_eq!(source.class_names().unwrap(), ["dog", "cat", "äffle"], "in the order of their numbers");
    let labels = [Some(0), Some(1), Some(2), Some(0), Some(1), None, Some(0), Some(1), Some(2)];
    let keys = (0..9).map(|row| match row {
        0..5 => format!("hub-00000-of-00002.parquet/{row}"),
        _ => format!("hub-00001-of-00002.parquet/{}", row - 5),
    });
    let expected: Vec<_> = keys.zip(labels).collect();
    let got: Vec<_> = listed(&*source).into_iter().map(|(key, label)| (key.to_owned(), label)).collect();
    assert_eq!(got, expected);
    assert!(
        source.listing().rejected.is_empty()
            && notes(&*source)
                == ["1 of the 9 samples have no label in column kind (empty, NaN, null, None, N/A or -1)"]
            && !source.listing().ignores_captions
    );
    for row in [8, 0, 5, 4, 2] {
        assert_eq!(source.read(row, 100).unwrap(), format!("image {row}").as_bytes());
    }
    let error = source.read(3, 100).unwrap_err();
    assert!(error.reason() == "missing" && !error.is_storage_failure(), "{error}");
    assert!(error.to_string().contains("hub-00000-of-00002.parquet/3 is null"), "{error}");
    assert!(source.read(1, 6).is_err_and(|error| error.reason() == "too-many-bytes"));
    assert!(source.read(9, 100).is_err_and(|error| error.reason() == "source"));

    let one = open(&golden("hub-00001-of-00002.parquet"));
    assert_eq!(listed(&*one), listed(&*source)[5..], "a file has the same keys alone");
}

#[test]
fn every_writer_is_read_alike() {
    for name in ["plain", "snappy", "zstd", "pages", "delta"] {
        let (file, path) = (format!("table-{name}.parquet"), golden(&format!("table-{name}.parquet")));
        let source = open(&path);
        assert_eq!(source.class_names().unwrap(), ["cat", "dog", "äffle"], "{name}");
        let labels: Vec<_> = listed(&*source).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, [Some(1), Some(0), None, Some(1), Some(0), Some(2), Some(1)], "{name}");
        for row in [6, 0, 3, 2, 5, 4, 1] {
            assert_eq!(
                source.read(row, 1000).unwrap(),
                format!("image {row}").repeat(50).as_bytes(),
                "{name}"
            );
        }
        assert!(source.listing().ignores_captions, "{name}");

        let source = open_captioned(&path).unwrap();
        let texts = [1, 2, 3, 5, 6].map(|row| format!("thing {row}")).to_vec();
        assert_eq!(source.listing().captions.as_ref(), Some(&Captions::Texts(texts)), "{name}");
        let keys: Vec<_> = source.samples().iter().map(|sample| &*sample.key).collect();
        assert_eq!(keys, [1, 2, 3, 5, 6].map(|row| format!("{file}/{row}")), "{name}");
        assert_eq!(source.read(3, 1000).unwrap(), "image 5".repeat(50).as_bytes(), "{name}");
        let rejected: Vec<_> =
            source.listing().rejected.iter().map(|it| (&*it.key, it.reason, &*it.detail)).collect();
        let (first, second) = (format!("{file}/0"), format!("{file}/4"));
        let detail = "its caption is null or empty";
        assert_eq!(rejected, [(&*first, "no-caption", detail), (&*second, "no-caption", detail)], "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_row_can_be_read_at_any_time(
        sizes in proptest::collection::vec(prop_oneof![Just(0_usize), 1..100_usize, 200_000..2_000_000_usize], 1..40),
        group_rows in 1..50_usize,
        page_bytes in 1..3_000_000_usize,
        dictionary in any::<bool>(),
        version_2 in any::<bool>(),
        indexed in any::<bool>(),
        codec in prop_oneof![
            Just(Compression::UNCOMPRESSED), Just(Compression::SNAPPY), Just(Compression::ZSTD(ZstdLevel::default())),
            Just(Compression::GZIP(GzipLevel::try_new(1).unwrap()))
        ],
        order in any::<proptest::sample::Index>(),
    ) {
        let image = |row: usize| -> Vec<u8> {
            (0..sizes[row]).map(|at| (at * at / 7 + row * 31).to_le_bytes()[0]).collect()
        };
        let rows: BinaryArray = (0..sizes.len()).map(|row| (row % 5 != 4).then(|| image(row))).collect();
        let version = if version_2 {
            WriterVersion::PARQUET_2_0
        } else {
            WriterVersion::PARQUET_1_0
        };
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_dictionary_enabled(dictionary)
            .set_writer_version(version)
            .set_offset_index_disabled(!indexed)
            .set_max_row_group_row_count(Some(group_rows))
            .set_data_page_size_limit(page_bytes)
            .set_write_batch_size(2);
        let root = tempdir().unwrap();
        let path = root.path().join("a.parquet");
        write_with(&path, vec![("image", Arc::new(rows))], properties.build());
        let source = open(&path);
        prop_assert_eq!(source.samples().len(), sizes.len());
        let start = order.index(sizes.len());
        std::thread::scope(|scope| {
            for step in [1, 3, 7] {
                let (source, image, sizes) = (&source, &image, &sizes);
                scope.spawn(move || {
                    for turn in 0..sizes.len() {
                        let row = (start + turn * step) % sizes.len();
                        match source.read(row, u64::MAX) {
                            Ok(bytes) => assert!(row % 5 != 4 && bytes == image(row), "row {row}"),
                            Err(error) => assert!(row % 5 == 4 && error.reason() == "missing", "{error}"),
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn captions_may_be_embeddings_and_labels_any_integers() {
    let root = tempdir().unwrap();
    let embeddings = |rows: &[Option<&[f32]>]| -> ArrayRef {
        let mut lists = ListBuilder::new(Float32Builder::new());
        for row in rows {
            match row {
                Some(row) => lists.append_value(row.iter().map(|number| Some(*number))),
                None => lists.append_null(),
            }
        }
        Arc::new(lists.finish())
    };
    let table = |name: &str, rows: &[Option<&[f32]>]| {
        let numbers: Vec<String> = (0..rows.len()).map(|row| row.to_string()).collect();
        let names: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let labels: UInt8Array = (200..).take(rows.len()).map(Some).collect();
        let texts: StringArray = names.iter().map(Some).collect();
        let columns = vec![
            ("text", Arc::new(texts) as ArrayRef),
            ("caption_embedding", embeddings(rows)),
            ("Label", Arc::new(labels)),
            ("img", images(&names)),
            ("mask", images(&names)),
        ];
        write(&root.path().join(name), columns);
    };
    table("a.parquet", &[Some(&[3.0, -4.0]), None]);
    table("b.parquet", &[Some(&[0.0, 1e-30])]);
    let source = open_captioned(root.path()).unwrap();
    let values = [0.6, -0.8, 0.0, 1.0].map(f16::from_f64).to_vec();
    assert_eq!(source.listing().captions.as_ref(), Some(&Captions::Embeddings { dim: 2, values }));
    assert_eq!(listed(&*source), [("a.parquet/0", Some(200)), ("b.parquet/0", Some(200))]);
    assert_eq!((source.listing().rejected.len(), source.class_names()), (1, None));
    // In a file without captions all rows are rejected, whatever its position.
    for none in ["0.parquet", "c.parquet"] {
        table(none, &[None, None]);
        let source = open_captioned(root.path()).unwrap();
        assert_eq!(listed(&*source), [("a.parquet/0", Some(200)), ("b.parquet/0", Some(200))]);
        assert_eq!(source.listing().rejected.len(), 3);
        fs::remove_file(root.path().join(none)).unwrap();
    }
    for (row, reason) in [
        (&[1.0, 2.0, 3.0][..], "has 3 numbers, expected 2"),
        (&[0.0, 0.0], "is all zeros"),
        (&[], "has no numbers"),
        (&[1.0, f32::NAN], "has values that are not finite numbers"),
    ] {
        table("b.parquet", &[Some(row)]);
        let error = message(open_captioned(root.path()));
        assert!(
            error.contains("b.parquet: row 0: its caption_embedding") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn labels_may_be_numbers_of_any_type_and_numbers_as_texts() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let labels = |labels: ArrayRef| {
        write(&path, vec![("image", images(&["a", "b", "c"])), ("label", labels)]);
        open_source(&path).map(|source| {
            let labels = source.samples().iter().map(|sample| sample.label).collect::<Vec<_>>();
            (labels, source.class_names().map(<[String]>::to_vec))
        })
    };
    let texts = |texts: [Option<&str>; 3]| Arc::new(StringArray::from(texts.to_vec()));
    let cat_and_dog = Some(["cat", "dog"].map(str::to_owned).to_vec());
    let none = vec![None, Some(3), Some(0)];
    assert_eq!(labels(Arc::new(Int64Array::from(vec![-1, 3, 0]))).unwrap(), (none.clone(), None));
    let floats = Float64Array::from(vec![None, Some(3.0), Some(0.0)]);
    assert_eq!(labels(Arc::new(floats)).unwrap(), (none.clone(), None));
    assert_eq!(labels(texts([None, Some("3"), Some("0")])).unwrap(), (none, None));
    let named = (vec![Some(1), None, Some(0)], cat_and_dog);
    assert_eq!(labels(texts([Some("dog"), Some(""), Some(" cat ")])).unwrap(), named);
    let error = labels(Arc::new(Int64Array::from(vec![0, 1 << 32, 0]))).unwrap_err().to_string();
    assert!(
        error.contains("row 1, column label: label \"4294967296\" is not a class: expected a whole number"),
        "{error}"
    );
    let error = labels(Arc::new(Float64Array::from(vec![0.0, 0.0, 0.5]))).unwrap_err().to_string();
    assert!(
        error.contains("row 2, column label: label \"0.5\" is not a class: expected a whole number"),
        "{error}"
    );

    let breeds: ArrayRef = Arc::new(Int64Array::from(vec![0]));
    write(&path, vec![("image", images(&["a"])), ("breed", Arc::clone(&breeds)), ("cls", breeds)]);
    assert_eq!(listed(&*open(&path)), [("a.parquet/0", Some(0))], "as in WebDataset");
    let breeds: ArrayRef = Arc::new(Int64Array::from(vec![0]));
    write(&path, vec![("image", images(&["a"])), ("breed", breeds)]);
    let source = open(&path);
    let told = notes(&*source)[0];
    assert!(told.starts_with("no labels: none of the columns breed (Int64) is called label, "), "{told}");
    assert_eq!(listed(&*source), [("a.parquet/0", None)]);
}

/// Writes a file of one row with a description like that of `datasets`.
fn described(path: &Path, columns: Vec<(&str, ArrayRef)>, features: &str) {
    let about = format!("{{\"info\": {{\"features\": {features}}}}}");
    let about = KeyValue::new("huggingface".to_owned(), about);
    write_with(path, columns, WriterProperties::builder().set_key_value_metadata(Some(vec![about])).build());
}

#[test]
fn the_description_of_a_file_decides_what_is_an_image_and_a_class() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let number = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let columns = || {
        let sound = ("sound", images(&["sound"]));
        vec![sound, ("mask", images(&["mask"])), ("photo", images(&["photo"])), ("breed.id", number())]
    };
    let sound = "\"sound\": {\"_type\": \"Audio\"}";
    let image = "\"photo\": {\"_type\": \"Image\"}";
    let class = "\"breed.id\": {\"_type\": \"ClassLabel\", \"names\": [\"a\", \"b\"]}";
    described(&path, columns(), &format!("{{{sound}, {image}, {class}}}"));
    let source = open(&path);
    assert_eq!((source.read(0, 9).unwrap(), listed(&*source)[0].1), (b"photo".to_vec(), Some(1)));
    assert_eq!(source.class_names().unwrap(), ["a", "b"]);

    described(&path, columns(), &format!("{{{sound}}}"));
    assert!(message(open_source(&path)).contains("the columns mask, photo may all hold the images"));
    write(&path, columns());
    assert!(message(open_source(&path)).contains("the columns sound, mask, photo may all"));
    described(&path, vec![("sound", images(&["a"]))], &format!("{{{sound}}}"));
    assert!(message(open_source(&path)).contains("none of the columns sound holds images"));
    for broken in ["[", "{\"photo\": 1, \"breed.id\": {\"_type\": \"ClassLabel\", \"names\": [1]}}", "null"] {
        described(&path, vec![("photo", images(&["photo"])), ("breed.id", number())], broken);
        assert_eq!(listed(&*open(&path)), [("a.parquet/0", None)], "{broken}");
    }
    described(&path, vec![("photo", images(&["photo"])), ("breed.id", number())], &format!("{{{class}}}"));
    let other = class.replace("\"b\"", "\"c\"");
    let columns = vec![("photo", images(&["photo"])), ("breed.id", number())];
    described(&root.path().join("b.parquet"), columns, &format!("{{{other}}}"));
    let error = message(open_source(root.path()));
    assert!(error.contains("expected \"b\" as class 1 as in a.parquet, got \"c\" as class 1"), "{error}");
}

#[test]
fn a_set_of_tables_may_have_files_about_them_but_no_images_or_archives() {
    let root = folder(&["a.parquet", "b.parquet"]);
    let beside = |name: &str| {
        let path = root.path().join(name);
        if let Some((folder, _)) = name.split_once('/') {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(&path, "").unwrap();
        path
    };
    for about in ["_SUCCESS", "README.md", "LICENSE", ".gitattributes", "Thumbs.db", "loader.py"] {
        beside(about);
    }
    assert_eq!(open(root.path()).samples().len(), 2);
    let image = beside("x.jpg");
    let source = open(root.path());
    assert!(listed(&*source).contains(&("x.jpg", None)), "then it is a folder of images");
    fs::remove_file(image).unwrap();
    let weights = beside("weights.bin");
    let error = message(open_source(root.path()));
    assert!(error.contains("holds Parquet files and weights.bin\nhint: give one"), "{error}");
    fs::remove_file(weights).unwrap();
    let archive = tar::Builder::new(File::create(root.path().join("a.tar")).unwrap());
    archive.into_inner().unwrap();
    assert!(message(open_source(root.path())).contains("no images found"), "in the archive");

    let root = tempdir().unwrap();
    fs::create_dir_all(root.path().join("data")).unwrap();
    fs::write(root.path().join("README.md"), "").unwrap();
    write(&root.path().join("data/train.parquet"), vec![("image", images(&["a"]))]);
    let error = message(open_source(root.path()));
    assert!(error.contains("holds Parquet files and the folder data"), "{error}");
    assert_eq!(message(open_captioned(root.path())), error);
    fs::write(root.path().join("data/1.png"), "").unwrap();
    assert_eq!(open(root.path()).class_names().unwrap(), ["data"], "a class with a file too many");
}

#[test]
fn files_of_several_splits_are_refused() {
    for files in [
        ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
        ["train-00000-of-00001.parquet", "extra-00000-of-00001-0a1b2c.parquet"],
        ["eval_v2-train-00000-of-00001.parquet", "eval_v2-test-00000-of-00001.parquet"],
        ["training-0.parquet", "testing-0.parquet"],
        ["train2017.parquet", "val2017.parquet"],
        ["part-0.parquet", "x.test.parquet"],
    ] {
        let error = message(open_source(folder(&files).path()));
        assert!(error.contains("holds files of several splits: "), "{error}");
        assert!(files.iter().all(|file| error.contains(file)), "{error}");
    }
    for files in [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["part-0-trained.parquet", "1.parquet"],
        ["val.parquet", "Validation_2.parquet"],
    ] {
        assert_eq!(open(folder(&files).path()).samples().len(), 2, "{files:?}");
    }
}

#[test]
fn what_is_not_one_whole_data_set_is_refused() {
    let root = folder(&["a.parquet"]);
    let b = root.path().join("b.parquet");
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    write(&b, vec![("image", images(&["b"])), ("label", labels)]);
    let error = message(open_source(root.path()));
    let expected =
        "b.parquet: expected images in image as in a.parquet, got images in image, class numbers in label";
    assert!(error.contains(expected), "{error}");

    let texts: ArrayRef = Arc::new(StringArray::from(vec!["http://…"]));
    write(&b, vec![("url", Arc::clone(&texts)), ("caption", Arc::clone(&texts))]);
    assert!(message(open_source(&b)).contains("none of the columns url, caption holds images"));
    write(&b, vec![("image", images(&[]))]);
    assert!(message(open_source(&b)).contains("no images found"));
    write(&b, vec![("image", Arc::new(BinaryArray::from(vec![None, None])))]);
    assert!(message(open_source(&b)).contains("column image is null in every row"));
    let error = message(open_source(&golden("table-lz4.parquet")));
    assert!(
        error.contains("column label is compressed with LZ4_RAW") && error.contains("hint: write the file"),
        "{error}"
    );

    assert!(message(open_captioned(&root.path().join("a.parquet"))).contains("has no captions"));
    let empty: ArrayRef = Arc::new(StringArray::from(vec![""]));
    write(&b, vec![("image", images(&["b"])), ("text", empty)]);
    assert!(message(open_captioned(&b)).contains("has no captions"));
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value([Some("one"), Some("two")]);
    write(&b, vec![("image", images(&["b"])), ("caption", Arc::new(lists.finish()))]);
    assert_eq!(open(&b).samples().len(), 1);
    let error = message(open_captioned(&b));
    assert!(
        error.contains("b.parquet: expected captions in column caption, got List(")
            && error.contains("one per row"),
        "{error}"
    );
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let whole = fs::read(golden("table-snappy.parquet")).unwrap();
    for length in [0, 3, 12, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open_source(&path).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("a.parquet: not a complete Parquet file"), "{length}: {error}");
        assert!(!error.is_storage_failure());
    }
    // Covers files with and without a page index, and a file in which only images are read.
    for name in ["table-snappy.parquet", "table-zstd.parquet", "hub-00000-of-00002.parquet"] {
        let whole = fs::read(golden(name)).unwrap();
        let (mut refused, mut failed) = (0, 0);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, &bytes).unwrap();
            let Ok(source) = (if at % 2 == 0 { open_source(&path) } else { open_captioned(&path) }) else {
                refused += 1;
                continue;
            };
            for row in 0..source.samples().len() {
                match source.read(row, 1000) {
                    // Without checksums, a changed pixel is not detected.
                    Ok(_) => {}
                    Err(SourceError::Parquet(ParquetSourceError::Io { .. })) => failed += 1,
                    Err(
                        SourceError::Parquet(ParquetSourceError::NoBytes { .. })
                        | SourceError::TooManyBytes { .. },
                    ) => {}
                    Err(error) => panic!("byte {at}, row {row}: {error}"),
                }
            }
        }
        assert!(refused > 50 && failed > 50, "{name}: {refused} refused, {failed} reads failed");
    }

    fs::write(&path, &whole).unwrap();
    let source = open(&path);
    fs::write(&path, &whole[..100]).unwrap();
    let error = source.read(6, 1000).unwrap_err();
    assert!(error.is_storage_failure() && error.to_string().contains("a.parquet"), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(message(open_source(&path)).contains("cannot read"));
}
