//! TAR archives: every format, labels and captions beside images, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::fs;
use std::path::Path;

use lgd_data::source::{Captions, ImageSource, Rejected, Sample, SourceError, open_captioned, open_source};
use tar::{Builder, Header};
use tempfile::{TempDir, tempdir};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");

/// Writes an archive of these members at `path`.
fn archive(path: &Path, members: &[(&str, &str)]) {
    let mut builder = Builder::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        let mut header = Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.finish().unwrap();
}

/// A folder of archives.
fn shards(shards: &[(&str, &[(&str, &str)])]) -> TempDir {
    let root = tempdir().unwrap();
    for (name, members) in shards {
        archive(&root.path().join(name), members);
    }
    root
}

fn open(path: &Path) -> Box<dyn ImageSource> {
    open_source(path).unwrap_or_else(|error| panic!("{error}"))
}

fn listed(source: &dyn ImageSource) -> Vec<(&str, Option<u32>)> {
    source.samples().iter().map(|Sample { key, label }| (&**key, *label)).collect()
}

fn message(outcome: Result<Box<dyn ImageSource>, SourceError>) -> String {
    outcome.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_format_of_tar_is_read_alike() {
    let long = format!("b/{}3.jpg", "one-of-four-folders-on-the-way/".repeat(4));
    for format in ["ustar", "gnu", "pax"] {
        let source = open(&Path::new(GOLDENS).join(format!("archive-{format}.tar")));
        assert_eq!(source.class_names().unwrap(), ["a", "b"]);
        let expected =
            [(&*long, Some(1)), ("b/2.JPEG", Some(1)), ("a/1.png", Some(0)), ("a/zwölf.webp", Some(0))];
        assert_eq!(listed(&*source), expected, "{format}");
        for (index, (key, _)) in expected.iter().enumerate() {
            assert_eq!(source.read(index, 1000).unwrap(), format!("images/{key}").as_bytes(), "{format}");
        }
        let detail = "a link in an archive".to_owned();
        let link = Rejected { key: "images/b/link.jpg".to_owned(), reason: "not-a-file", detail };
        assert_eq!(source.rejected(), [link], "{format}");
        assert!(source.read(1, 14).is_err_and(|error| error.reason() == "too-many-bytes"));
        assert!(source.read(4, 1000).is_err_and(|error| error.reason() == "source"));
    }
}

#[test]
fn an_archive_of_a_folder_lists_what_the_folder_lists() {
    let root = tempdir().unwrap();
    for name in ["b/deep/1.png", "a/2.jpg", "a/1.jpg", "top.png"] {
        let path = root.path().join("images").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let path = root.path().join("images.tar");
    let mut builder = Builder::new(fs::File::create(&path).unwrap());
    builder.append_dir_all("some/where", root.path().join("images")).unwrap();
    builder.finish().unwrap();
    let (folder, archive) = (open(&root.path().join("images")), open(&path));
    let mut sorted = listed(&*archive);
    sorted.sort_unstable();
    assert_eq!(sorted, listed(&*folder));
    assert_eq!(archive.class_names(), folder.class_names());
}

#[test]
fn shards_have_labels_and_captions_beside_their_images() {
    let first: &[_] = &[("x.jpg", "X"), ("x.cls", "7\n"), ("x.txt", " an x\n"), ("x.json", "{}")];
    let second: &[_] = &[("d/y.txt", "a y"), ("d/y.cls", "0"), ("d/y.PNG", "Y")];
    let root = shards(&[("b.tar", second), ("a.tar", first)]);
    fs::write(root.path().join("index.json"), "{}").unwrap();
    let source = open(root.path());
    assert_eq!(listed(&*source), [("a.tar/x.jpg", Some(7)), ("b.tar/d/y.PNG", Some(0))]);
    assert_eq!((source.class_names(), source.captions(), source.ignores_captions()), (None, None, true));
    assert_eq!((source.read(0, 9).unwrap(), source.read(1, 9).unwrap()), (b"X".to_vec(), b"Y".to_vec()));

    let source = open_captioned(root.path()).unwrap();
    let texts = ["an x", "a y"].map(str::to_owned).to_vec();
    assert_eq!((source.captions(), source.ignores_captions()), (Some(&Captions::Texts(texts)), false));
    assert_eq!(listed(&*source), [("a.tar/x.jpg", Some(7)), ("b.tar/d/y.PNG", Some(0))]);
}

#[test]
fn a_folder_with_images_is_no_set_of_archives() {
    let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
    fs::write(root.path().join("y.jpg"), "Y").unwrap();
    assert_eq!(listed(&*open(root.path())), [("a.tar", None), ("y.jpg", None)]);
    let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
    fs::create_dir(root.path().join("cats")).unwrap();
    assert_eq!(listed(&*open(root.path())), [("a.tar", None)]);
}

#[test]
fn members_that_do_not_fit_together_are_errors_that_name_them() {
    for (members, part) in [
        (&[("a.jpg", ""), ("b.jpg", ""), ("a.cls", "1")][..], "b.jpg has no .cls beside it"),
        (&[("a.jpg", ""), ("a.cls", "cat")], "a.cls: expected a class number from 0, got \"cat\""),
        (&[("a.jpg", ""), ("a.cls", "-1")], "got \"-1\""),
        (&[("a.jpg", ""), ("a.jpg", "")], "a.jpg is in it twice\nhint:"),
        (&[("a.txt", ""), ("b.cls", "1")], "no images found in"),
    ] {
        let root = shards(&[("a.tar", members)]);
        let error = message(open_source(root.path()));
        assert!(error.contains("a.tar") || error.starts_with("no images"), "{error}");
        assert!(error.contains(part), "{members:?}: {error}");
    }
    for (members, part) in [
        (&[("a.jpg", ""), ("b.jpg", ""), ("a.txt", "an a")][..], "b.jpg has no caption"),
        (&[("a.jpg", ""), ("a.txt", " \n")], "a.jpg has no caption"),
        (&[("a.jpg", "")], "a.jpg has no caption"),
    ] {
        let root = shards(&[("a.tar", members)]);
        let error = message(open_captioned(root.path()));
        assert!(error.contains(part), "{members:?}: {error}");
    }
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.tar");
    archive(&path, &[("x.jpg", "X"), ("y.jpg", &"Y".repeat(2000))]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..2000]).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("y.jpg should end at byte 3536, the archive has 2000\nhint: "), "{error}");
    fs::write(&path, b"\x1f\x8b compressed or whatever".repeat(99)).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("not a TAR archive") && error.contains("hint: "), "{error}");
    fs::write(root.path().join("b.tar.gz"), "").unwrap();
    assert!(
        message(open_source(&root.path().join("b.tar.gz"))).contains("hint: give a folder of images, a .tar")
    );
}

#[test]
fn an_archive_that_fails_is_no_fault_of_its_images() {
    let root = shards(&[("a.tar", &[("x.jpg", "X")]), ("b.tar", &[("y.jpg", &"Y".repeat(2000))])]);
    let source = open(root.path());
    fs::remove_file(root.path().join("a.tar")).unwrap();
    fs::write(root.path().join("b.tar"), "short").unwrap();
    for index in 0..2 {
        let error = source.read(index, 10_000).unwrap_err();
        assert!(error.is_storage_failure() && error.to_string().starts_with("cannot read"), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn a_link_to_an_archive_that_is_missing_does_not_go_unnoticed() {
    let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
    std::os::unix::fs::symlink("nowhere.tar", root.path().join("b.tar")).unwrap();
    let error = message(open_source(root.path()));
    assert!(error.contains("cannot read") && error.contains("b.tar"), "{error}");
}
