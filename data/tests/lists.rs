//! Lists of images as people have them: separators, headers, labels, paths, JSON lines, and named fields.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::fs;

use lgd_data::source::{
    CaptionColumn, Captions, FieldKind, FieldNames, ImageSource, SourceError, open_captioned, open_with,
};
use tempfile::tempdir;

use common::{listed, message, notes, open};

fn list(name: &str, text: impl AsRef<[u8]>) -> Result<Box<dyn ImageSource>, SourceError> {
    list_with(name, text, FieldNames::default())
}

fn list_with(
    name: &str,
    text: impl AsRef<[u8]>,
    fields: FieldNames,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let root = tempdir().unwrap();
    fs::write(root.path().join(name), text).unwrap();
    open_with(&root.path().join(name), CaptionColumn::Ignore, &fields)
}

const CAT_AND_DOG: [(&str, Option<u32>); 2] = [("x/a.jpg", Some(1)), ("b c.png", Some(0))];

#[test]
fn separators_are_found_in_the_first_lines() {
    for (name, text, note) in [
        ("a.csv", "path,label\nx/a.jpg,dog\nb c.png,cat\n", None),
        ("a.csv", "x/a.jpg,dog\r\nb c.png,cat", None),
        (
            "a.csv",
            "sep=;\npath;label\nx/a.jpg;dog\nb c.png;cat\n",
            Some("columns are separated by semicolons"),
        ),
        ("a.csv", ",path,label\n0,x/a.jpg,dog\n1,b c.png,cat\n", Some("columns that are not read: number 1")),
        ("a.csv", "path;label\nx/a.jpg;dog\nb c.png;cat\n", Some("columns are separated by semicolons")),
        ("a.csv", "x/a.jpg;dog\nb c.png;cat\n", Some("columns are separated by semicolons")),
        ("a.csv", "\"x/a.jpg\"\t\"dog\"\n\"b c.png\"\t\"cat\"\n", Some("columns are separated by tabs")),
        ("a.csv", "x/a.jpg|dog\nb c.png|cat\n", Some("columns are separated by bars")),
        ("a.tsv", "file_name\tlabel\nx/a.jpg\tdog\nb c.png\tcat\n", None),
        ("a.txt", "x/a.jpg dog\nb c.png cat\n", Some("columns are separated by spaces")),
        ("a.txt", "path label\rx/a.jpg dog\rb c.png   cat\r", Some("columns are separated by spaces")),
        ("a.csv", "\u{feff}label,image_path\rdog,x/a.jpg\rcat,b c.png\r", None),
        ("a.txt", "x/a.jpg\tdog\n\nb c.png\tcat\n", Some("columns are separated by tabs")),
        (
            "metadata.jsonl",
            "{\"file_name\": \"x/a.jpg\", \"label\": \"dog\"}\n\n{\"label\": \"cat\", \"file_name\": \"b c.png\"}\n",
            None,
        ),
    ] {
        let source = list(name, text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(listed(&*source), CAT_AND_DOG, "{text:?}");
        assert_eq!(source.class_names().unwrap(), ["cat", "dog"], "{text:?}");
        assert_eq!(notes(&*source), note.into_iter().collect::<Vec<_>>(), "{text:?}");
    }
    assert_eq!(listed(&*list("a.csv", "x;y.png,1\n").unwrap()), [("x;y.png", Some(1))]);
    assert_eq!(listed(&*list("a.csv", "my photo.png\n").unwrap()), [("my photo.png", None)]);
    assert_eq!(listed(&*list("a.txt", "my photo.png\n").unwrap()), [("my photo.png", None)]);
    let source =
        list("a.txt", "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n").unwrap();
    assert_eq!(listed(&*source)[1], ("ILSVRC2012_val_00000002.JPEG", Some(970)));
}

#[test]
fn a_stray_quote_is_an_error_with_its_line() {
    for (name, text, line, what) in [
        // Up to the next quote, or to the end of the file.
        ("a.csv", "path,label\na.jpg,cat\nb.jpg,\"cat\nc.jpg,dog\nd.jpg,dog\n", 3, "is not closed"),
        ("a.csv", "path,label\n\"a.jpg,cat\nb.jpg,dog\nc.jpg,\"dog\n", 2, "text follows the double quote"),
        ("a.csv", "\"a.jpg,cat\nb.jpg,dog\n\"c.jpg,dog\n", 1, "text follows the double quote"),
        ("a.csv", "a.jpg,\"cat\nb.jpg,dog\"\nc.jpg,dog\n", 1, "goes on in the next line"),
        ("a.csv", "path,label\nimg1,cat\nimg2,\"cat\nimg3,dog\"\nimg4,dog\n", 3, "goes on in the next line"),
        ("a.csv", "path,label\na.jpg,cat\n\"b.jpg\nc.jpg\",dog\n", 3, "goes on in the next line"),
        ("a.csv", "path,\"label\na.jpg,cat\nb.jpg\",dog\n", 1, "goes on in the next line"),
        (
            "a.csv",
            "path,text,label\na.jpg,\"x,cat\nb.jpg,y\",dog\nc.jpg,z,dog\n",
            2,
            "goes on in the next line",
        ),
        ("a.csv", "text,path,label\n\"x,a.jpg,cat\ny,b.jpg,dog\",c.jpg,dog\n", 2, "goes on in the next line"),
        ("a.csv", "path,text\nimg1,\"x\nimg2,y\"\nimg3,z\n", 2, "goes on in the next line"),
        ("a.tsv", "path\tlabel\r\na.jpg\tcat\r\nb.jpg\t\"cat\r\nc.jpg\tdog\r\n", 3, "is not closed"),
        ("a.txt", "path;label\ra.jpg;cat\rb.jpg;\"cat\rc.jpg;dog\r", 3, "is not closed"),
        ("a.csv", "path,label\na.jpg,\"cat\" \"dog\"\n", 2, "text follows the double quote"),
    ] {
        let error = message(list(name, text));
        assert!(error.contains(&format!("line {line}: ")) && error.contains(what), "{text:?}: {error}");
    }
}

#[test]
fn quotes_around_whole_cells_and_within_texts_are_read() {
    let text =
        "path,label,text\na.jpg,\"cat\",\"a \"\"big\"\" cat,\non two lines\"\n\"b,c.jpg\" ,dog,5\" disk\n";
    let source = list("a.csv", text).unwrap();
    assert_eq!(listed(&*source), [("a.jpg", Some(0)), ("b,c.jpg", Some(1))]);
    assert_eq!(notes(&*source), ["texts in quotes have several lines, first in the row of line 2"]);
    let json = "{\"path\": \"a.jpg\", \"text\": \"x\\nb.jpg\"}\n";
    assert_eq!(listed(&*list("a.jsonl", json).unwrap()), [("a.jpg", None)]);
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    for end in ["\n", "\r\n", "\r"] {
        for (name, row) in [("a.csv", "a.png,-5"), ("a.txt", "a.png -5")] {
            let text = format!("x.png{0}1{end}{end}{row}{end}", if name == "a.csv" { "," } else { " " });
            let error = message(list(name, &text));
            assert!(error.contains("line 3: ") && error.contains("\"-5\""), "{text:?}: {error}");
        }
    }
}

#[test]
fn other_texts_are_not_lists() {
    for (name, text, part) in [
        ("names.txt", "cat\ndog\n", "expected a list of images, got the line \"cat\""),
        (
            "README.txt",
            "These are, in short, photographs\n",
            "expected a list of images, got the line \"These are, in short",
        ),
        ("a.jsonl", "[1]\n", "not a JSON object"),
        ("a.jsonl", "{\"label\": 1}\n", "names no column of images\nhint: call the columns path"),
        ("a.jsonl", "", "no images found"),
    ] {
        let error = message(list(name, text));
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let text: Vec<u8> = "\u{feff}a.png,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(message(list("a.csv", text)).contains("line 1: the list is UTF-16\nhint: save it as UTF-8"));
}

#[test]
fn rows_of_several_splits_are_refused() {
    let text = "path,label,split\na.png,cat,train\nb.png,dog,train\nc.png,cat,val\n";
    let error = message(list("a.csv", text));
    assert!(error.contains("line 4: column split is \"val\", but \"train\" in an earlier row"), "{error}");
    assert!(error.contains("\nhint: list the rows of one split, or remove the column"), "{error}");
    let one = list("a.csv", text.replace("val", "train")).unwrap();
    assert_eq!((one.samples().len(), notes(&*one)), (3, vec!["columns that are not read: split"]));
    // Columns of other names and values: a split beside anything else is refused, other values are told.
    let usage = text.replace("split", "Usage").replace("val", "PublicTest");
    assert!(message(list("a.csv", usage)).contains("column Usage is \"PublicTest\", but \"train\""));
    let fold = text.replace("split", "fold").replace("val", "2").replace("train", "1");
    let folds = list("a.csv", fold).unwrap();
    let told = "rows with 2 values in column fold (\"1\", \"2\") are taken together; if the values are splits, keep \
                the rows of one";
    assert_eq!(notes(&*folds), ["columns that are not read: fold", told]);
    // A column that is read is no column of splits.
    let named = FieldNames { label: Some("split".to_owned()), ..FieldNames::default() };
    assert_eq!(list_with("a.csv", text, named).unwrap().class_names().unwrap(), ["train", "val"]);
}

#[test]
fn paths_in_the_folders_of_several_splits_are_told() {
    let text = "path,label\ntrain/cat/a.png,0\nval/cat/b.png,0\n";
    let told = "images of several splits are taken together: the paths are in the folders train, val";
    assert_eq!(notes(&*list("a.csv", text).unwrap()), [told]);
    assert!(notes(&*list("a.csv", text.replace("val/", "train/")).unwrap()).is_empty());
}

#[test]
fn labels_may_be_whole_floats_and_missing() {
    let text = "path,label\na.png,2.0\nb.png,-1\nc.png,\nd.png,NaN\ne.png,0\n";
    let source = list("a.csv", text).unwrap();
    let labels: Vec<_> = source.samples().iter().map(|sample| sample.label).collect();
    assert_eq!((labels, source.class_names()), (vec![Some(2), None, None, None, Some(0)], None));
    assert_eq!(
        notes(&*source),
        ["3 of the 5 samples have no label in column label (empty, NaN, null, None, N/A or -1)"]
    );

    let source = list("a.csv", "a.png,dog\nb.png,-1\nc.png,\n").unwrap();
    assert_eq!(listed(&*source), [("a.png", Some(0)), ("b.png", None), ("c.png", None)]);
    assert!(notes(&*source)[0].contains("in the second column"), "{:?}", notes(&*source));

    let text = "path,label\na.png,17\nb.png,4\nc.png,99\nd.png,5\n";
    let source = list("a.csv", text).unwrap();
    assert_eq!(notes(&*source), ["each of the 4 labels in column label occurs once, as identifiers do"]);
    assert_eq!(source.listing().notes[0].field, Some(FieldKind::Label));
    let text = "{\"path\": \"a.png\", \"label\": 2.0}\n{\"path\": \"b.png\", \"label\": null}\n{\"path\": \"c.png\"}\n";
    assert_eq!(
        listed(&*list("a.jsonl", text).unwrap()),
        [("a.png", Some(2)), ("b.png", None), ("c.png", None)]
    );
}

#[test]
fn headers_have_many_words_and_columns_that_are_not_read_are_told() {
    for header in [
        "image,label",
        "img,target",
        "File Path,Category ID",
        "filepath,cls",
        "image_name,y",
        "IMG_PATH,class_id",
        "image-file,label_name",
        "filename,wnid",
    ] {
        let source = list("a.csv", format!("{header}\na.png,3\n")).unwrap();
        assert_eq!((listed(&*source), notes(&*source).len()), (vec![("a.png", Some(3))], 0), "{header}");
    }
    let source = list("a.csv", "id,path,label,width\n1,a.png,3,640\n2,b.png,3,640\n").unwrap();
    assert_eq!(listed(&*source), [("a.png", Some(3)), ("b.png", Some(3))]);
    assert_eq!(notes(&*source), ["columns that are not read: id, width"]);
    let source = list("a.csv", "path,species,width\na.png,cat,640\n").unwrap();
    assert_eq!(listed(&*source), [("a.png", None)]);
    assert!(notes(&*source)[0].starts_with("no labels: none of the columns species, width is called label"));
    let source = list("a.csv", "path,label,text\na.png,1,x\n").unwrap();
    assert_eq!((listed(&*source), source.listing().ignores_captions), (vec![("a.png", Some(1))], true));
}

#[test]
fn fields_choose_among_columns() {
    let fields = |image: Option<&str>, label: Option<&str>| {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        FieldNames { image: owned(image), label: owned(label), caption: None }
    };
    let text = "image,path,class,class_id,species\nx,a.png,cat,7,felis\n";
    let source = list_with("a.csv", text, fields(Some("path"), Some("class_id"))).unwrap();
    assert_eq!((listed(&*source), source.class_names()), (vec![("a.png", Some(7))], None));
    let source = list_with("a.csv", text, fields(Some("Path"), Some("species"))).unwrap();
    assert_eq!(source.class_names().unwrap(), ["felis"]);
    assert_eq!(source.listing().fields, fields(Some("Path"), Some("species")));
    for (fields, part) in [
        (fields(None, Some("class")), "image, path may all hold the images"),
        (fields(Some("path"), None), "class, class_id may all hold the labels"),
        (
            fields(Some("path"), Some("clas")),
            "line 1: there is no column clas among \"image,path,class,class_id,species\"",
        ),
    ] {
        assert!(message(list_with("a.csv", text, fields)).contains(part), "{part}");
    }
    let unknown = "photo,species\na.png,cat\n";
    let source = list_with("a.csv", unknown, fields(Some("photo"), Some("species"))).unwrap();
    assert_eq!((listed(&*source), source.class_names().unwrap().len()), (vec![("a.png", Some(0))], 1));
    let error = message(list_with("a.csv", "a.png,cat\n", fields(None, Some("label"))));
    assert!(error.contains("there is no column label among \"a.png,cat\""), "{error}");

    let root = tempdir().unwrap();
    let path = root.path().join("a.csv");
    fs::write(&path, "path,text,caption\na.png,one,two\n").unwrap();
    assert!(message(open_captioned(&path)).contains("text, caption may all hold the captions"));
    let two = FieldNames { caption: Some("caption".to_owned()), ..FieldNames::default() };
    let source = open_with(&path, CaptionColumn::Read, &two).unwrap();
    assert_eq!(source.listing().captions, Some(Captions::Texts(vec!["two".to_owned()])));
}

#[test]
fn backslashes_separate_folders_unless_they_are_in_a_name() {
    let root = tempdir().unwrap();
    fs::create_dir(root.path().join("cat")).unwrap();
    fs::write(root.path().join("cat/a.png"), "a").unwrap();
    let path = root.path().join("a.csv");
    fs::write(&path, "cat\\a.png,1\ncat\\b.png,2\n").unwrap();
    let source = open(&path);
    assert_eq!(listed(&*source), [("cat/a.png", Some(1)), ("cat/b.png", Some(2))]);
    assert_eq!(notes(&*source), ["backslashes in paths are taken as /, first in cat\\a.png"]);
    assert_eq!(source.read(0, 10).unwrap(), b"a");
    fs::write(root.path().join("cat\\a.png"), "b").unwrap();
    let source = open(&path);
    assert_eq!((listed(&*source)[0].0, source.read(0, 10).unwrap()), ("cat\\a.png", b"b".to_vec()));
}

#[test]
fn a_folder_with_metadata_is_listed_by_it() {
    let root = tempdir().unwrap();
    for name in ["cat/a.png", "dog/b.png", "dog/c.png"] {
        fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
        fs::write(root.path().join(name), name).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    write("metadata.csv", "id,name\n1,a\n");
    assert_eq!(open(root.path()).class_names().unwrap(), ["cat", "dog"], "another file of this name");
    write("metadata.csv", "file_name,text\ndog/b.png,a dog\ncat/a.png,a cat\n");
    let source = open_captioned(root.path()).unwrap();
    assert_eq!(listed(&*source), [("dog/b.png", Some(1)), ("cat/a.png", Some(0))]);
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!(
        source.listing().captions,
        Some(Captions::Texts(vec!["a dog".to_owned(), "a cat".to_owned()]))
    );
    let told =
        ["the images are those listed in metadata.csv", "the classes are the first folders of the paths"];
    assert_eq!(notes(&*source), told);
    assert_eq!(source.read(0, 20).unwrap(), b"dog/b.png");
    fs::remove_file(root.path().join("metadata.csv")).unwrap();
    write("metadata.jsonl", "{\"file_name\": \"cat/a.png\", \"label\": 3}\n");
    let source = open(root.path());
    assert_eq!((listed(&*source), source.class_names()), (vec![("cat/a.png", Some(3))], None));
}

#[test]
fn files_of_systems_are_left_aside_in_lists_too() {
    let source = list("a.csv", "a.png,1\n__MACOSX/._a.png,1\ncat/@eaDir/b.png,2\n").unwrap();
    assert_eq!(listed(&*source), [("a.png", Some(1))]);
    assert_eq!(source.listing().left_aside.to_string(), "left aside: 2 of the system");
}
