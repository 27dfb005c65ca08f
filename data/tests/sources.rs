//! Image folders and CSV lists: order, labels, and refused sources.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use half::f16;
use lgd_data::source::{Captions, ImageSource, SourceError, open_captioned, open_source};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use common::{listed, message, notes, open};

/// Makes a folder with these files. Each file contains its own name.
fn folder(files: &[&str]) -> TempDir {
    let root = tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    root
}

fn csv(root: &Path, text: impl AsRef<[u8]>) -> Result<Box<dyn ImageSource>, SourceError> {
    fs::write(root.join("list.csv"), text).unwrap();
    open_source(&root.join("list.csv"))
}

#[test]
fn classes_are_first_level_folders_and_keys_are_sorted_bytewise() {
    let root =
        folder(&["b/2.png", "b/deep/er/1.JPEG", "a/z", "a/.hidden", ".git/x", "B/1.pic", "a-1/x", "top.jpg"]);
    fs::create_dir(root.path().join("empty")).unwrap();
    let source = open(root.path());
    assert_eq!(source.class_names().unwrap(), ["B", "a", "a-1", "b", "empty"]);
    let expected = [
        ("B/1.pic", Some(0)),
        ("a-1/x", Some(2)),
        ("a/z", Some(1)),
        ("b/2.png", Some(3)),
        ("b/deep/er/1.JPEG", Some(3)),
        ("top.jpg", None),
    ];
    assert_eq!(listed(&*source), expected);
    assert_eq!(source.read(4, 100).unwrap(), b"b/deep/er/1.JPEG");
    assert!(source.listing().rejected.is_empty());
}

#[test]
fn a_flat_folder_has_no_labels() {
    let root = folder(&["2.png", "10.png"]);
    let source = open(root.path());
    assert_eq!(listed(&*source), [("10.png", None), ("2.png", None)]);
    assert_eq!(source.class_names(), None);
}

#[test]
fn a_folder_without_files_says_what_is_expected() {
    let root = folder(&[".hidden"]);
    fs::create_dir(root.path().join("cats")).unwrap();
    let error = message(open_source(root.path()));
    assert!(error.starts_with("no images found in ") && error.contains("hint: "), "{error}");
    assert!(message(open_source(&root.path().join("nothing"))).contains("cannot read"));
    fs::write(root.path().join("x.odd"), "").unwrap();
    assert!(message(open_source(&root.path().join("x.odd"))).contains("hint: give a folder"));
}

#[test]
fn links_are_followed_once_and_odd_entries_are_rejected() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let elsewhere = folder(&["c/1.png"]);
    let root = folder(&["a/1.png"]);
    symlink(elsewhere.path().join("c"), root.path().join("c")).unwrap();
    symlink(root.path(), root.path().join("a/loop")).unwrap();
    symlink("nowhere", root.path().join("a/dangling.png")).unwrap();
    symlink("1.png", root.path().join("a/2.png")).unwrap();
    fs::write(root.path().join("a").join(std::ffi::OsStr::from_bytes(b"\xff.png")), "x").unwrap();
    let source = open(root.path());
    assert_eq!(listed(&*source), [("a/1.png", Some(0)), ("a/2.png", Some(0)), ("c/1.png", Some(1))]);
    let rejected: Vec<_> = source.listing().rejected.iter().map(|r| (&*r.key, r.reason)).collect();
    let expected =
        [("a/dangling.png", "unreadable"), ("a/loop", "link-cycle"), ("a/\u{fffd}.png", "not-utf8")];
    assert_eq!(rejected, expected);
}

#[test]
fn a_folder_that_cannot_be_listed_ends_the_listing() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    // A link that may be a class folder on a disk that is gone.
    let root = folder(&["a/1.png", "b/1.png"]);
    symlink("nowhere", root.path().join("c")).unwrap();
    let error = message(open_source(root.path()));
    assert!(error.contains("cannot list") && error.contains("/c: ") && error.contains("\nhint: "), "{error}");
    fs::remove_file(root.path().join("c")).unwrap();
    // Folders deeper than are entered.
    let deep = "d/".repeat(70);
    fs::create_dir_all(root.path().join(&deep)).unwrap();
    let error = message(open_source(root.path()));
    assert!(error.contains("cannot list") && error.contains("more than 64 folders deep"), "{error}");
    fs::remove_dir_all(root.path().join("d")).unwrap();
    for mode in [0o000, 0o400] {
        fs::set_permissions(root.path().join("b"), fs::Permissions::from_mode(mode)).unwrap();
        let opened = open_source(root.path());
        let free = root.path().join("b/1.png").metadata().is_ok();
        fs::set_permissions(root.path().join("b"), fs::Permissions::from_mode(0o755)).unwrap();
        match opened {
            // The superuser may read everything.
            Ok(source) => assert!(free && source.samples().len() == 2),
            Err(error) => {
                let error = error.to_string();
                assert!(!free && error.contains("cannot list") && error.contains("/b: "), "{error}");
            }
        }
    }
    // Every file in a folder whose name is not UTF-8 is a reject.
    let odd = root.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    fs::create_dir(&odd).unwrap();
    ["1.png", "2.png"].iter().for_each(|name| fs::write(odd.join(name), "x").unwrap());
    assert_eq!(open(root.path()).listing().rejected.len(), 2);
}

#[test]
fn reading_is_limited_and_names_the_file() {
    let root = folder(&["a/1.png"]);
    let source = open(root.path());
    assert_eq!(source.read(0, 7).unwrap(), b"a/1.png");
    let error = source.read(0, 6).unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string().contains("1.png has more than 6 bytes, the limit")),
        ("too-many-bytes", true)
    );
    fs::remove_file(root.path().join("a/1.png")).unwrap();
    assert_eq!(source.read(0, 7).unwrap_err().reason(), "missing");
    assert_eq!(source.read(1, 7).unwrap_err().to_string(), "there is no sample 1: the source has 1");
}

#[test]
fn a_storage_that_fails_is_told_from_a_file_that_is_bad() {
    use std::io::ErrorKind;
    let fails =
        |kind: ErrorKind| SourceError::Io { path: "a".into(), source: kind.into() }.is_storage_failure();
    for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::IsADirectory] {
        assert!(!fails(kind), "{kind:?}");
    }
    for kind in [ErrorKind::StaleNetworkFileHandle, ErrorKind::TimedOut, ErrorKind::Other] {
        assert!(fails(kind), "{kind:?}");
    }
    let root = folder(&["a/1.png", "a/2.png"]);
    let images = open(root.path());
    fs::remove_file(root.path().join("a/1.png")).unwrap();
    let error = images.read(0, 100).unwrap_err();
    assert!(error.reason() == "missing" && !error.is_storage_failure(), "{error}");
    assert!(images.read(1, 3).is_err_and(|error| !error.is_storage_failure()), "too long");
    // A disconnected share leaves an empty mount point, or none.
    fs::remove_dir_all(root.path().join("a")).unwrap();
    for _ in 0..2 {
        let error = images.read(1, 100).unwrap_err();
        assert!(
            error.is_storage_failure() && error.to_string().contains(" is empty or gone\nhint: "),
            "{error}"
        );
        let _ = fs::remove_dir(root.path());
    }
}

#[test]
fn a_list_that_names_a_share_by_whole_paths_is_gone_with_it() {
    let (share, lists) = (folder(&["photos/1.png", "photos/2.png"]), folder(&["elsewhere.png"]));
    let photo = |name: &str| share.path().join("photos").join(name).display().to_string();
    let text = format!("{}\n{}\n{}\n", photo("1.png"), photo("none/3.png"), photo("4.png"));
    let source = csv(lists.path(), text).unwrap();
    assert!(source.read(0, 100).is_ok());
    for missing in [1, 2] {
        let error = source.read(missing, 100).unwrap_err();
        assert!(error.reason() == "missing" && !error.is_storage_failure(), "{error}");
    }
    fs::remove_dir_all(share.path().join("photos")).unwrap();
    for sample in 0..3 {
        let error = source.read(sample, 100).unwrap_err();
        let told = format!("{} is empty or gone", share.path().display());
        assert!(error.is_storage_failure() && error.to_string().contains(&told), "{error}");
    }
}

#[test]
fn links_in_a_circle_are_bad_files_and_no_storage_failure() {
    let root = folder(&["a/1.png"]);
    std::os::unix::fs::symlink("circle.png", root.path().join("circle.png")).unwrap();
    let source = csv(root.path(), "circle.png\n").unwrap();
    let error = source.read(0, 100).unwrap_err();
    assert!(error.reason() == "unreadable" && !error.is_storage_failure(), "{error}");
    fs::remove_file(root.path().join("list.csv")).unwrap();
    let rejected = open(root.path()).listing().rejected.clone();
    assert_eq!(
        rejected.iter().map(|entry| (&*entry.key, entry.reason)).collect::<Vec<_>>(),
        [("circle.png", "unreadable")]
    );
}

#[test]
fn a_csv_keeps_its_order_and_numbers_names() {
    let root = folder(&["x/2.png", "1.png"]);
    let text = "\u{feff}Path,Label\r\nx/2.png, dog\r\n\r\n\"1.png\",cat\nmissing.png,dog\n";
    let source = csv(root.path(), text).unwrap();
    assert_eq!(listed(&*source), [("x/2.png", Some(1)), ("1.png", Some(0)), ("missing.png", Some(1))]);
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!(source.read(0, 100).unwrap(), b"x/2.png");
    assert_eq!(source.read(2, 100).unwrap_err().reason(), "missing");
}

#[test]
fn csv_labels_may_be_numbers_or_absent() {
    let root = folder(&[]);
    let source = csv(root.path(), "a,7\nb,0\n").unwrap();
    assert_eq!((listed(&*source), source.class_names()), (vec![("a", Some(7)), ("b", Some(0))], None));
    let source = csv(root.path(), "path\nb\na\n").unwrap();
    assert_eq!((listed(&*source), source.class_names()), (vec![("b", None), ("a", None)], None));
}

#[test]
fn a_csv_header_may_use_other_words_and_is_never_an_image() {
    let root = folder(&[]);
    for header in ["path,label", "file,class", "FileName,Category", "image,label", "\"image\" , class"] {
        let source = csv(root.path(), format!("{header}\na,1\n")).unwrap();
        assert_eq!(listed(&*source), [("a", Some(1))], "{header}");
    }
    for header in ["file", "filename", "Image"] {
        assert_eq!(listed(&*csv(root.path(), format!("{header}\na\n")).unwrap()), [("a", None)], "{header}");
    }
}

#[test]
fn wrong_csv_rows_are_errors_with_their_line() {
    let root = folder(&[]);
    for (text, line, part) in [
        ("a,1\nb\n", 2, "expected 2 columns, got 1"),
        ("a\nb,1\n", 2, "expected 1 columns, got 2"),
        ("a,1,2\n", 1, "expected 2 columns, got 3"),
        ("a,1\n,2\n", 2, "the path is empty"),
        ("a,1\nb,cat\n", 2, "\"cat\" is not a class number"),
        ("a,1\nb,-2\n", 2, "label \"-2\" is not a class: expected a whole number from 0"),
        ("a,1\nb,0.5\n", 2, "label \"0.5\" is not a class"),
        ("a,1\nb,4294967296\n", 2, "label \"4294967296\" is not a class"),
        ("path,labels\na,\"[0, 1]\"\n", 2, "label \"[0, 1]\" is several labels or an object"),
        ("a,cat\nb,1\n", 2, "\"1\" is a number"),
        ("path\na\nb\na\n", 4, "\"a\" is also in line 2\nhint: list every image once"),
        (
            "name,label\na,1\n",
            1,
            "the header \"name,label\" names no column of images\nhint: call the columns path",
        ),
        ("photo,species\na.png,cat\n", 1, "the header \"photo,species\" names no column of images"),
        (
            "path,species\na.png,cat\n",
            1,
            "the header \"path,species\" does not say what column species holds",
        ),
        (
            "path,image,label\na,b,1\n",
            1,
            "the columns path, image may all hold the images\nhint: name one of them",
        ),
        (
            "path,class,class_id\na,b,1\n",
            1,
            "the columns class, class_id may all hold the labels\nhint: name one of them",
        ),
        ("path,label\nhttps://a.b/c.png,1\n", 2, "\"https://a.b/c.png\" gives images by address"),
        ("url,label\nhttps://a.b/c.png,1\n", 1, "\"url,label\" gives images by address"),
        ("path,label\na,x\npath,label\nb,y\n", 3, "the header is repeated"),
        ("path,label\nC:\\a\\b.png,1\n", 2, "is a Windows path"),
        ("path,label\n\\\\share\\b.png,1\n", 2, "is a Windows path"),
        ("path,caption\na.png,\"one\nb.png,two\n", 2, "a double quote is not closed"),
        ("a\n\n\nb\na\n", 5, "\"a\" is also in line 1"),
    ] {
        let error = message(csv(root.path(), text));
        assert!(error.contains(&format!("line {line}: ")) && error.contains(part), "{text:?}: {error}");
    }
    for text in ["", "path,label\n"] {
        assert!(message(csv(root.path(), text)).contains("hint: expected one row"), "{text:?}");
    }
}

#[test]
fn csv_paths_that_are_not_utf8_are_rejects() {
    let root = folder(&[]);
    let source = csv(root.path(), b"a,1\n\xff.png,2\n").unwrap();
    assert_eq!(listed(&*source), [("a", Some(1))]);
    assert_eq!(source.listing().rejected[0].reason, "not-utf8");
    assert_eq!(source.listing().rejected[0].detail, "line 2: the path is not UTF-8");
    assert!(message(csv(root.path(), b"a,\xff\n")).contains("line 1: the label is not UTF-8"));
}

fn captioned(root: &Path, text: impl AsRef<[u8]>) -> Result<Box<dyn ImageSource>, SourceError> {
    fs::write(root.join("list.csv"), text).unwrap();
    open_captioned(&root.join("list.csv"))
}

#[test]
fn captions_are_found_by_the_name_of_their_column() {
    let root = folder(&[]);
    let text = "caption,File,class\n\"a cat, \"\"Tom\"\",\nasleep\" ,a.png,cat\n  a dog,b.png,dog\n";
    let source = captioned(root.path(), text).unwrap();
    assert_eq!(listed(&*source), [("a.png", Some(0)), ("b.png", Some(1))]);
    let texts = ["a cat, \"Tom\",\nasleep", "a dog"].map(str::to_owned).to_vec();
    assert_eq!(
        (source.listing().captions.as_ref(), source.listing().ignores_captions),
        (Some(&Captions::Texts(texts)), false)
    );

    let plain = csv(root.path(), text).unwrap();
    assert_eq!(listed(&*plain), listed(&*source), "the listing is the same without them");
    assert_eq!((plain.listing().captions.as_ref(), plain.listing().ignores_captions), (None, true));
    assert!(!csv(root.path(), "path,label\na,1\n").unwrap().listing().ignores_captions);

    let source = captioned(root.path(), "path,caption\na,x\n").unwrap();
    assert_eq!(source.listing().captions.as_ref(), Some(&Captions::Texts(vec!["x".to_owned()])));
    let text = "path,caption_embedding\na,\"[3, 4]\"\nb,\"[0, -1e300]\"\n";
    let values = [0.6, 0.8, 0.0, -1.0].map(f16::from_f64).to_vec();
    let expected = Captions::Embeddings { dim: 2, values };
    let source = captioned(root.path(), text).unwrap();
    assert_eq!((source.listing().captions.as_ref(), source.listing().first_line), (Some(&expected), Some(2)));
    let late = captioned(root.path(), b"path,caption\n\n\n\xff,x\na,x\n").unwrap();
    assert_eq!(late.listing().first_line, Some(5), "of the first sample, not of a reject");
}

#[test]
fn captions_that_cannot_be_used_are_errors_with_their_line() {
    let root = folder(&["x/a.png"]);
    for (text, line, part) in [
        ("path,caption\na,x\nb,\n", 3, "\"b\" has no caption"),
        ("path,caption\na,x\nb,\"  \"\n", 3, "\"b\" has no caption"),
        (
            "path,caption\na,a cat, asleep\n",
            2,
            "expected 2 columns as in the header, got 3\nhint: put a text with commas in double quotes",
        ),
        ("path,label,caption\na,1\n", 2, "expected 3 columns as in the header, got 2"),
        ("path,caption_embedding\na,\"[1, 2]\"\nb,\"[1]\"\n", 3, "\"b\" has 1 numbers, expected 2"),
        ("path,caption_embedding\na,\"[0, 0]\"\n", 2, "\"a\" is all zeros"),
        ("path,caption_embedding\na,\"[1, NaN]\"\n", 2, "\"a\" is not a JSON array"),
        ("path,caption_embedding\na,words\n", 2, "\"a\" is not a JSON array"),
        ("path,caption_embedding\na,\n", 2, "\"a\" has no caption"),
        (
            "path,caption,caption_embedding\na,x,\"[1]\"\n",
            1,
            "may all hold the captions\nhint: name one of them",
        ),
        ("path,caption,caption\na,x,y\n", 1, "the columns caption, caption may all hold the captions"),
        ("a,1,a cat\n", 1, "expected 2 columns, got 3"),
    ] {
        let error = message(captioned(root.path(), text));
        assert!(error.contains(&format!("line {line}: ")) && error.contains(part), "{text:?}: {error}");
    }
    let bytes = [b"path,caption\na,".as_slice(), b"\xff\n"].concat();
    assert!(message(captioned(root.path(), bytes)).contains("line 2: the caption of \"a\" is not UTF-8"));
    for path in [root.path().to_owned(), root.path().join("list.csv")] {
        fs::write(root.path().join("list.csv"), "path,label\na,1\n").unwrap();
        assert!(message(open_captioned(&path)).contains("has no captions\nhint: give a .csv list"));
    }
}

#[test]
fn a_list_without_captions_may_hold_their_names_as_values() {
    let root = folder(&[]);
    let source = csv(root.path(), "a,caption\nb,other\n").unwrap();
    assert_eq!(source.class_names().unwrap(), ["caption", "other"]);
    assert_eq!(listed(&*csv(root.path(), "caption\nb\n").unwrap()), [("caption", None), ("b", None)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn folder_listings_are_sorted_complete_and_repeatable(
        files in prop::collection::btree_set("[A-Za-z]{1,2}/([a-z]{1,2}_d/)?[a-z0-9]{1,4}\\.x", 1..20),
    ) {
        let names: Vec<&str> = files.iter().map(|name| &**name).collect();
        let root = folder(&names);
        let source = open(root.path());
        let keys: Vec<&str> = source.samples().iter().map(|sample| &*sample.key).collect();
        prop_assert_eq!(&keys, &names, "a BTreeSet is in bytewise order too");
        let classes = source.class_names().unwrap();
        prop_assert!(classes.is_sorted());
        for sample in source.samples() {
            let class = &classes[sample.label.unwrap() as usize];
            prop_assert_eq!(Some(&**class), sample.key.split('/').next());
        }
        let again = open(root.path());
        prop_assert_eq!(again.samples(), source.samples());
    }

    #[test]
    fn csv_listings_keep_rows_and_order(
        rows in prop::collection::hash_map("[a-z/,\"]{1,6}[a-z]", "[a-z]{1,2}", 1..20),
    ) {
        let root = tempdir().unwrap();
        let rows: Vec<(String, String)> = rows.into_iter().collect();
        let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let text: String = rows.iter().map(|(path, label)| format!("{},{}\n", quote(path), quote(label))).collect();
        let source = csv(root.path(), format!("path,label\n{text}")).unwrap();
        let names = source.class_names().unwrap();
        prop_assert!(names.is_sorted());
        prop_assert_eq!(source.samples().len(), rows.len());
        for (sample, (path, label)) in source.samples().iter().zip(&rows) {
            prop_assert_eq!((&sample.key, &names[sample.label.unwrap() as usize]), (path, label));
        }
    }
}

#[test]
fn a_folder_reads_what_stands_beside_its_images_and_counts_the_rest() {
    let root = folder(&["00000/1.jpg", "00000/1.txt", "00001/2.jpg", "00001/2.txt", "00001/2.npy"]);
    for shard in ["00000", "00001"] {
        fs::write(root.path().join(format!("{shard}_stats.json")), "{}").unwrap();
        fs::write(root.path().join(format!("{shard}/{}.json", &shard[4..])), "{}").unwrap();
    }
    let source = open(root.path());
    assert_eq!(listed(&*source), [("00000/1.jpg", None), ("00001/2.jpg", None)]);
    assert!(notes(&*source)[0].contains("are shards of img2dataset, not classes"));
    assert_eq!(source.listing().left_aside.to_string(), "left aside: 4 .json, 1 .npy");
    let texts = ["00000/1.txt", "00001/2.txt"].map(str::to_owned).to_vec();
    assert_eq!(open_captioned(root.path()).unwrap().listing().captions, Some(Captions::Texts(texts)));

    let root = folder(&["1.jpg", "2.jpg", "3.jpg"]);
    for (name, label) in [("1", "7"), ("2", "5")] {
        fs::write(root.path().join(format!("{name}.cls")), label).unwrap();
    }
    assert_eq!(listed(&*open(root.path())), [("1.jpg", Some(7)), ("2.jpg", Some(5)), ("3.jpg", None)]);
}

#[test]
fn folders_that_are_no_classes_are_told_or_refused() {
    let root = folder(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"]);
    let error = message(open_source(root.path()));
    assert!(
        error.contains("holds several splits of a data set: train, val\nhint: give one of them"),
        "{error}"
    );
    for (files, splits) in [
        (&["images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt"][..], "images/train, images/val"),
        (&["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"], "cat/test, cat/train"),
        (&["fold1/cat/1.jpg", "fold2/cat/2.jpg"], "fold1, fold2"),
    ] {
        let error = message(open_source(folder(files).path()));
        assert!(error.contains(&format!("splits of a data set: {splits}\nhint: ")), "{error}");
    }
    for (one, two) in [("fold1", "fold2"), ("shard-000", "shard-001")] {
        let root = folder(&[&format!("{one}/1.jpg"), &format!("{two}/2.jpg")]);
        let source = open(root.path());
        assert_eq!((listed(&*source)[1].1, source.class_names()), (None, None));
        assert_eq!(
            notes(&*source),
            [format!("the folders {one}, {two}, ... are parts of a data set, not classes")]
        );
    }
    let root = folder(&["animal/cat/1.jpg", "animal/dog/1.jpg", "notes/read.md"]);
    let source = open(root.path());
    assert_eq!(source.class_names().unwrap(), ["animal"]);
    assert!(notes(&*source)[0].contains("its folders cat, dog are not classes of their own"));
}

#[test]
fn folders_that_may_be_meant_otherwise_are_told() {
    let lone = folder(&["train/cat/1.jpg", "train/dog/1.jpg"]);
    let source = open(lone.path());
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!(listed(&*source), [("train/cat/1.jpg", Some(0)), ("train/dog/1.jpg", Some(1))]);
    assert!(source.read(1, 1000).is_ok());
    assert_eq!(notes(&*source), ["train is a split, not a class: the classes are the folders in it"]);

    let one = folder(&["img/1.png", "img/2.png"]);
    fs::write(one.path().join("labels.csv"), "path,label\nimg/1.png,0\nimg/2.png,1\n").unwrap();
    assert_eq!(
        notes(&*open(one.path())),
        [
            "all images are of one class, img",
            "labels.csv is not read: for labels from there, give a .csv list with rows path,label instead"
        ]
    );

    let masked = folder(&["images/1.jpg", "images/2.jpg", "masks/1.png", "masks/2.png"]);
    let told = "the images in images and masks are taken as two classes, with files of the same names; if masks are masks, \
                give the folder images alone";
    assert_eq!(notes(&*open(masked.path())), [told]);
    let apart = folder(&["images/1.jpg", "masks/2.png"]);
    assert!(notes(&*open(apart.path())).is_empty());
}

#[test]
fn formats_that_are_not_read_are_refused_by_name() {
    for (file, part, hint) in [
        ("data-00000-of-00001.arrow", "an Arrow file", "to_parquet"),
        ("train.tfrecord-00000-of-00010", "a TFRecord file", "WebDataset"),
        ("data.mdb", "an LMDB database", "lmdb"),
        ("x.h5", "an HDF5 file", "h5py"),
        ("x.npz", "a NumPy array", "PNG"),
        ("x.beton", "an FFCV data set", "written from"),
        ("train-images-idx3-ubyte", "the format of MNIST", "torchvision"),
        ("data_batch_1", "a part of CIFAR", "torchvision"),
        ("x.zip", "a ZIP archive", "`unzip "),
        ("x.7z", "a 7-Zip archive", "`7z x "),
        ("x.rar", "a RAR archive", "`unrar x "),
        ("x.tar.gz", "compressed with gzip", "`gzip -dk "),
        ("x.tar.xz", "compressed with xz", "`xz -dk "),
    ] {
        let root = folder(&[file]);
        for path in [root.path().to_owned(), root.path().join(file)] {
            let error = message(open_source(&path));
            assert!(error.contains(part) && error.contains("\nhint: ") && error.contains(hint), "{error}");
        }
    }
    let root = folder(&["dataset_info.json", "state.json", "data-00000-of-00001.arrow"]);
    assert!(
        message(open_source(root.path())).contains("written by Dataset.save_to_disk\nhint: write Parquet")
    );
    let root = folder(&["1.jpg"]);
    let error = message(open_source(&root.path().join("1.jpg")));
    assert!(error.contains("is a single image\nhint: give the folder"), "{error}");
    assert!(message(open_source(Path::new("s3://bucket/a.tar"))).contains("is an address"));
}
