//! TAR archives: all formats, labels and captions beside images, and refused archives.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use lgd_data::source::{
    CaptionColumn, Captions, FieldNames, ImageSource, Rejected, SourceError, open_captioned, open_source,
    open_with,
};
use proptest::prelude::*;
use tar::{Builder, Header};
use tempfile::{TempDir, tempdir};

use common::{listed, message, notes, open};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");

/// Writes an archive with these members to `path`.
fn archive(path: &Path, members: &[(&str, &str)]) {
    let mut builder = Builder::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        let mut header = Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.finish().unwrap();
}

/// Makes a folder of archives.
fn shards(shards: &[(&str, &[(&str, &str)])]) -> TempDir {
    let root = tempdir().unwrap();
    for (name, members) in shards {
        archive(&root.path().join(name), members);
    }
    root
}

#[test]
fn long_names_and_attributes_are_bounded() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.tar");
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(kind);
        header.set_size(9 << 30);
        header.set_cksum();
        fs::write(&path, header.as_bytes()).unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_len(10 << 30).unwrap();
        let error = message(open_source(&path));
        assert!(error.contains("have more than 1048576 bytes, the limit\nhint: "), "{kind:?}: {error}");
    }
}

#[test]
fn every_format_of_tar_is_read_alike() {
    let long = format!("b/{}3.jpg", "one-of-four-folders-on-the-way/".repeat(4));
    for format in ["ustar", "gnu", "pax"] {
        let source = open(&Path::new(GOLDENS).join(format!("archive-{format}.tar")));
        assert_eq!(source.class_names().unwrap(), ["a", "b", "ä", "ö"]);
        let expected = [
            (&*long, Some(1)),
            ("b/2.JPEG", Some(1)),
            ("a/1.png", Some(0)),
            ("a/zwölf.webp", Some(0)),
            ("ä/hard.jpg", Some(2)),
            ("ö/2.jpg", Some(3)),
        ];
        assert_eq!(listed(&*source), expected, "{format}");
        for (index, (key, _)) in expected.iter().enumerate() {
            // A hard link has the content of its target.
            let content = format!("images/{}", key.replace("ä/hard.jpg", "b/2.JPEG"));
            assert_eq!(source.read(index, 1000).unwrap(), content.as_bytes(), "{format}");
        }
        let detail = "a symbolic link in an archive".to_owned();
        let link = Rejected { key: "b/link.jpg".to_owned(), reason: "not-a-file", detail };
        assert_eq!(source.listing().rejected, [link], "{format}");
        assert!(notes(&*source).is_empty(), "{format}");
        assert!(source.read(1, 14).is_err_and(|error| error.reason() == "too-many-bytes"));
        assert!(source.read(6, 1000).is_err_and(|error| error.reason() == "source"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_archive_of_a_folder_lists_what_the_folder_lists(
        names in proptest::collection::btree_set("((cat|Öl|öl|äpfel|x[.]y)/){0,3}[aéb猫狗]{1,2}[.](jpg|PNG)", 1..12),
        empty in proptest::option::of("[a-z]{3}"),
        at in prop_oneof![Just("."), Just("images"), Just("some/where")],
    ) {
        let root = tempdir().unwrap();
        let images = root.path().join("images");
        for name in &names {
            let path = images.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        empty.iter().for_each(|class| fs::create_dir_all(images.join(class)).unwrap());
        let path = root.path().join("images.tar");
        let mut builder = Builder::new(fs::File::create(&path).unwrap());
        builder.append_dir_all(at, &images).unwrap();
        builder.finish().unwrap();
        let (folder, archive) = (open(&images), open(&path));
        let mut sorted = listed(&*archive);
        sorted.sort_unstable();
        prop_assert_eq!(sorted, listed(&*folder));
        prop_assert_eq!(archive.class_names(), folder.class_names());
        for (index, sample) in archive.samples().iter().enumerate() {
            prop_assert_eq!(archive.read(index, 100).unwrap(), sample.key.as_bytes());
        }
    }
}

#[test]
fn an_archive_of_single_members_is_the_folder_that_they_share() {
    for (members, expected) in [
        (
            &["./x/cat/1.jpg", "x/./dog/../2.jpg", "/x/cat/b.jpg"][..],
            &["cat/1.jpg", "dog/../2.jpg", "cat/b.jpg"][..],
        ),
        (&["x/1.jpg", "x/2.jpg"], &["1.jpg", "2.jpg"]),
        (&["x/.hidden/1.jpg", "._1.jpg", "1.jpg"], &["1.jpg"]),
    ] {
        let root = tempdir().unwrap();
        let path = root.path().join("a.tar");
        let mut builder = Builder::new(fs::File::create(&path).unwrap());
        for member in members {
            let mut header = Header::new_gnu();
            // Writes the name directly, as other writers do, instead of through `set_path`.
            header.as_mut_bytes()[..member.len()].copy_from_slice(member.as_bytes());
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        }
        builder.finish().unwrap();
        let source = open(&path);
        assert_eq!(source.samples().iter().map(|sample| &*sample.key).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn shards_have_labels_and_captions_beside_their_images() {
    let first: &[_] = &[("x.jpg", "X"), ("x.cls", "7\n"), ("x.txt", " an x\n"), ("x.json", "{}")];
    let second: &[_] = &[("d/y.txt", "a y"), ("d/y.cls", "0"), ("d/y.PNG", "Y")];
    let root = shards(&[("b.tar", second), ("a.tar", first)]);
    fs::write(root.path().join("index.json"), "{}").unwrap();
    let source = open(root.path());
    assert_eq!(listed(&*source), [("a.tar/x.jpg", Some(7)), ("b.tar/d/y.PNG", Some(0))]);
    assert_eq!(
        (source.class_names(), source.listing().captions.as_ref(), source.listing().ignores_captions),
        (None, None, true)
    );
    assert_eq!((source.read(0, 9).unwrap(), source.read(1, 9).unwrap()), (b"X".to_vec(), b"Y".to_vec()));

    let source = open_captioned(root.path()).unwrap();
    let texts = ["an x", "a y"].map(str::to_owned).to_vec();
    assert_eq!(
        (source.listing().captions.as_ref(), source.listing().ignores_captions),
        (Some(&Captions::Texts(texts)), false)
    );
    assert_eq!(listed(&*source), [("a.tar/x.jpg", Some(7)), ("b.tar/d/y.PNG", Some(0))]);
    let error = source.read(0, 0).unwrap_err();
    let path = root.path().join("a.tar/x.jpg");
    assert!(error.to_string().starts_with(&format!("{} has more than", path.display())), "{error}");
}

#[test]
fn files_stand_beside_the_image_that_their_names_name() {
    let members: &[_] = &[
        ("v1.5.jpg", ""),
        ("v1.cls", "3"),
        ("v1.5.cls", "4"),
        ("v1.blip.txt", "other"),
        ("v1.5.txt", "\u{feff}own"),
        ("w.jpg", ""),
        ("w.txt", " \n"),
        ("x.jpg", ""),
        ("readme", ""),
        ("x.npy", ""),
    ];
    let root = shards(&[("a.tar", members)]);
    let plain = open(root.path());
    assert_eq!(listed(&*plain), [("a.tar/v1.5.jpg", Some(4)), ("a.tar/w.jpg", None), ("a.tar/x.jpg", None)]);
    assert_eq!(plain.listing().left_aside.to_string(), "left aside: 1 .npy, 1 without an extension");
    let captioned = open_captioned(root.path()).unwrap();
    assert_eq!(captioned.listing().captions.as_ref(), Some(&Captions::Texts(vec!["own".to_owned()])));
    assert_eq!(listed(&*captioned), [("a.tar/v1.5.jpg", Some(4))]);
    let rejected: Vec<_> =
        captioned.listing().rejected.iter().map(|it| (&*it.key, it.reason, &*it.detail)).collect();
    let none = ("a.tar/x.jpg", "no-caption", "there is no caption beside it");
    assert_eq!(rejected, [("a.tar/w.jpg", "no-caption", "its caption is empty"), none]);
    assert!(
        message(open_captioned(shards(&[("a.tar", &[("x.jpg", "")])]).path())).contains("has no captions")
    );
}

#[test]
fn keys_stay_when_shards_are_added_and_classes_are_below_what_all_share() {
    let root = shards(&[("0.tar", &[("train/cat/1.jpg", "")])]);
    assert_eq!(listed(&*open(root.path())), [("0.tar/train/cat/1.jpg", None)]);
    archive(&root.path().join("1.tar"), &[("train/dog/1.jpg", ""), ("train/cat/2.jpg", "")]);
    let source = open(root.path());
    let expected = [
        ("0.tar/train/cat/1.jpg", Some(0)),
        ("1.tar/train/dog/1.jpg", Some(1)),
        ("1.tar/train/cat/2.jpg", Some(0)),
    ];
    assert_eq!(listed(&*source), expected);
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
}

#[test]
fn a_folder_with_images_is_no_set_of_archives() {
    for other in ["y.jpg", "0a1b2c3d", "y.avif", "cats/y.jpg"] {
        let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
        fs::create_dir(root.path().join("cats")).unwrap();
        fs::write(root.path().join(other), "Y").unwrap();
        let source = open(root.path());
        assert_eq!(listed(&*source).iter().map(|(key, _)| *key).collect::<Vec<_>>(), [other]);
        assert_eq!(source.listing().left_aside.to_string(), "left aside: 1 .tar");
    }
    let root = shards(&[("a.tar", &[("x.jpg", "X")]), ("b.tar", &[])]);
    fs::create_dir_all(root.path().join("logs/of/today")).unwrap();
    for about in ["LICENSE", "README", "cover.jpg", "b.idx", ".DS_Store", "__MACOSX"] {
        fs::write(root.path().join(about), "").unwrap();
    }
    let source = open(root.path());
    assert_eq!(listed(&*source), [("a.tar/x.jpg", None)]);
    let told = "left aside: 1 .idx, 1 .jpg, 2 of the system, 2 without an extension, 1 without images";
    assert_eq!(source.listing().left_aside.to_string(), told);
    fs::create_dir(root.path().join("more")).unwrap();
    fs::rename(root.path().join("a.tar"), root.path().join("more/a.tar")).unwrap();
    fs::remove_file(root.path().join("b.tar")).unwrap();
    fs::remove_file(root.path().join("cover.jpg")).unwrap();
    let error = message(open_source(root.path()));
    assert!(
        error.contains("has no images, but archives; the first is ") && error.contains("more/a.tar\nhint: "),
        "{error}"
    );
}

#[test]
fn members_that_do_not_fit_together_are_errors_that_name_them() {
    for (members, part) in [
        (&[("a.jpg", ""), ("a.cls", "0.5")][..], "a.cls: label \"0.5\" is not a class"),
        (&[("a.jpg", ""), ("a.cls", "-2")], "a.cls: label \"-2\" is not a class"),
        (
            &[("a.jpg", ""), ("a.cls", "cat"), ("b.jpg", ""), ("b.cls", "1")],
            "b.jpg: label \"1\" is a number, but earlier labels are names",
        ),
        (&[("a.jpg", ""), ("a.jpg", "")], "a.jpg is in the archive twice\nhint:"),
        (&[("a.jpg", ""), ("a.cls", "1"), ("a.cls", "1")], "a.cls is in the archive twice"),
        (&[("a.jpg", ""), ("a.txt", "1"), ("a.txt", "1")], "a.txt is in the archive twice"),
        (&[("a.txt", ""), ("b.cls", "1")], "no images found in"),
    ] {
        let root = shards(&[("a.tar", members)]);
        let error = message(open_source(root.path()));
        assert!(error.contains("a.tar") || error.starts_with("no images"), "{error}");
        assert!(error.contains(part), "{members:?}: {error}");
    }
}

/// The bytes of a complete archive whose last member is hidden.
fn whole() -> Vec<u8> {
    let root = tempdir().unwrap();
    let path = root.path().join("a.tar");
    archive(&path, &[("x.jpg", "X"), ("y.jpg", &"Y".repeat(2000)), ("._y.jpg", &"Z".repeat(600))]);
    fs::read(&path).unwrap()
}

#[test]
fn an_archive_that_was_cut_anywhere_is_refused() {
    let (root, whole) = (tempdir().unwrap(), whole());
    let path = root.path().join("a.tar");
    let ends = whole.len() - 1024;
    assert_eq!((ends, whole[ends - 1]), (512 * 10, 0));
    for cut in (0..=ends).step_by(64).chain([1, 511, 513, ends - 1]) {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = message(open_source(&path));
        assert!(
            error.contains("hint: ") && error.contains("copy the archive again") | (cut < 512),
            "{cut}: {error}"
        );
        // The archive is also refused beside a valid one.
        let shards = shards(&[("b.tar", &[("x.jpg", "X")])]);
        fs::copy(&path, shards.path().join("a.tar")).unwrap();
        assert!(message(open_source(shards.path())).contains("a.tar"), "{cut}");
    }
    fs::write(&path, &whole[..2000]).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("y.jpg ends at byte 3536, the archive at 2000\nhint: "), "{error}");
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(&path).samples().len(), 2);
}

#[test]
fn what_is_no_archive_or_several_is_refused() {
    let root = tempdir().unwrap();
    let path = root.path().join("a.tar");
    fs::write(&path, [whole(), whole()].concat()).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("data after the end mark, at byte 6144\nhint: "), "{error}");
    fs::write(&path, b"\x1f\x8b compressed or whatever".repeat(99)).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("compressed with gzip") && error.contains("`gzip -dc < "), "{error}");
    fs::write(&path, b"no archive at all".repeat(99)).unwrap();
    let error = message(open_source(&path));
    assert!(error.contains("not a TAR archive") && error.contains("decompress it"), "{error}");
    fs::write(&path, whole()).unwrap();
    for (other, hint) in [
        ("b.tar.gz", "hint: decompress it with `gzip -dk "),
        ("b.tgz", "hint: decompress it with `gzip -dk "),
        ("b.tar.zst", "hint: decompress it with `zstd -d "),
        ("b.tar.part", "hint: decompress it, or finish its download"),
    ] {
        let path = root.path().join(other);
        fs::write(&path, "").unwrap();
        let error = message(open_source(root.path()));
        assert!(error.contains(other) && error.contains(hint), "{error}");
        let error = message(open_source(&path));
        assert!(error.contains(hint) || error.contains("hint: give a folder of images"), "{error}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_damaged_shard_is_the_same_whoever_reads_first() {
    let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
    for name in ["b", "c", "d", "e"] {
        fs::write(root.path().join(format!("{name}.tar")), "no archive").unwrap();
    }
    (0..8).for_each(|_| assert!(message(open_source(root.path())).contains("b.tar: ")));
}

#[test]
fn files_with_holes_are_rejected_and_nothing_else_is() {
    for format in ["gnu", "pax"] {
        let source = open(&Path::new(GOLDENS).join(format!("archive-holes-{format}.tar")));
        assert_eq!(listed(&*source), [("cat/whole.png", Some(0))], "{format}");
        let rejected: Vec<_> = source.listing().rejected.iter().map(|it| (it.reason, &*it.detail)).collect();
        assert_eq!(rejected, [("not-a-file", "a sparse file in an archive")], "{format}");
        assert_eq!(source.class_names().unwrap(), ["cat"], "{format}");
    }
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
fn a_link_to_an_archive_that_is_missing_does_not_go_unnoticed() {
    let root = shards(&[("a.tar", &[("x.jpg", "X")])]);
    std::os::unix::fs::symlink("nowhere.tar", root.path().join("b.tar")).unwrap();
    let error = message(open_source(root.path()));
    assert!(error.contains("cannot read") && error.contains("b.tar"), "{error}");
}

/// The notes and the line about what was left aside of a source.
fn told(source: &dyn ImageSource) -> String {
    format!("{}\n{}", notes(source).join("\n"), source.listing().left_aside)
}

fn with_fields(
    path: &Path,
    captions: CaptionColumn,
    image: Option<&str>,
    label: Option<&str>,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let fields =
        FieldNames { image: image.map(str::to_owned), label: label.map(str::to_owned), caption: None };
    open_with(path, captions, &fields)
}

#[test]
fn a_few_images_above_the_class_folders_change_no_class() {
    let classes: &[_] = &[("p/cat/1.jpg", "1"), ("p/dog/1.jpg", "2"), ("p/fox/1.jpg", "3")];
    for stray in ["cover.png", "1.jpg"] {
        let members = [classes, &[(stray, "stray"), ("LICENSE", "")]].concat();
        let root = shards(&[("a.tar", &members)]);
        let source = open(&root.path().join("a.tar"));
        let expected =
            [("cat/1.jpg", Some(0)), ("dog/1.jpg", Some(1)), ("fox/1.jpg", Some(2)), (stray, None)];
        assert_eq!(listed(&*source), expected);
        assert_eq!(source.class_names().unwrap(), ["cat", "dog", "fox"]);
        assert!(
            told(&*source).contains("1 of the images are beside the class folders"),
            "{}",
            told(&*source)
        );
    }
    let members: &[_] = &[("p/cat/1.jpg", ""), ("p/dog/1.jpg", ""), ("cat/1.jpg", "")];
    let root = shards(&[("a.tar", members)]);
    assert_eq!(open(&root.path().join("a.tar")).class_names().unwrap(), ["cat", "p"]);
}

#[test]
fn samples_have_the_fields_that_webdataset_and_img2dataset_write() {
    let first: &[_] = &[
        ("s0.input.png", "A"),
        ("s0.outputs.txt", "a"),
        ("s0.target.cls", "1"),
        ("s1.input.png", "B"),
        ("s1.outputs.txt", "b"),
        ("s1.target.cls", "0"),
    ];
    let second: &[_] = &[("22.00.jpg", ""), ("22.00.cls", "3"), ("22.01.jpg", ""), ("22.01.cls", "4")];
    let third: &[_] = &[("x.jpg", ""), ("x.jpg.cls", "5"), ("y.JPG", ""), ("y.CLS", "-1")];
    let fourth: &[_] = &[("n.jpg", ""), ("n.cls", "cat"), ("m.jpg", ""), ("m.cls", "ant")];
    for (members, labels) in [
        (first, [Some(1), Some(0)]),
        (second, [Some(3), Some(4)]),
        (third, [Some(5), None]),
        (fourth, [Some(1), Some(0)]),
    ] {
        let root = shards(&[("0.tar", members)]);
        let source = open(root.path());
        assert_eq!(source.samples().iter().map(|sample| sample.label).collect::<Vec<_>>(), labels);
    }
    let root = shards(&[("0.tar", first)]);
    let texts = Captions::Texts(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(open_captioned(root.path()).unwrap().listing().captions, Some(texts));

    let about =
        |label: &str| format!(r#"{{"label": {label}, "class_name": "c{label}", "caption": "of {label}"}}"#);
    let (zero, one) = (about("0"), about("1"));
    let members: &[_] =
        &[("0.jpg", ""), ("0.json", &*one), ("1.jpg", ""), ("1.json", &*zero), ("i.json", "[]")];
    let root = shards(&[("0.tar", members)]);
    fs::write(root.path().join("0_stats.json"), "{}").unwrap();
    let source = open_captioned(root.path()).unwrap();
    assert_eq!(listed(&*source), [("0.tar/0.jpg", Some(1)), ("0.tar/1.jpg", Some(0))]);
    let texts = Captions::Texts(vec!["of 1".to_owned(), "of 0".to_owned()]);
    assert_eq!(source.listing().captions, Some(texts));
    assert_eq!(source.listing().left_aside.to_string(), "left aside: 2 .json");
    let named = with_fields(root.path(), CaptionColumn::Ignore, None, Some("class_name")).unwrap();
    assert_eq!(named.class_names().unwrap(), ["c0", "c1"]);
    let error = message(with_fields(root.path(), CaptionColumn::Ignore, None, Some("kind")));
    assert!(
        error.contains(
            "no sample has its label in a field \"kind\"; the fields are caption, class_name, json, label"
        ),
        "{error}"
    );
}

#[test]
fn a_sample_with_several_images_has_one_that_is_taken_or_named() {
    let sample = |key: &str, fields: &[&str]| -> Vec<(String, String)> {
        let files = fields.iter().map(|field| (format!("{key}.{field}"), (*field).to_owned()));
        files.chain([(format!("{key}.cls"), "0".to_owned())]).collect()
    };
    let root = |fields: &[&str]| {
        let members: Vec<_> = ["0", "1", "2"].iter().flat_map(|key| sample(key, fields)).collect();
        let members: Vec<_> = members.iter().map(|(name, content)| (&**name, &**content)).collect();
        shards(&[("0.tar", &members)])
    };
    let masks = root(&["jpg", "mask.png", "depth.png"]);
    let source = open(masks.path());
    assert_eq!(source.read(0, 99).unwrap(), b"jpg");
    assert_eq!(source.samples().len(), 3);
    let told = told(&*source);
    assert!(
        told.contains("3 samples have several images (depth.png, jpg, mask.png); jpg is taken"),
        "{told}"
    );
    assert!(told.ends_with("left aside: 3 .depth.png, 3 .mask.png"), "{told}");
    let source = with_fields(masks.path(), CaptionColumn::Ignore, Some("mask.png"), None).unwrap();
    assert_eq!((source.read(1, 99).unwrap(), source.samples().len()), (b"mask.png".to_vec(), 3));
    let error = message(with_fields(masks.path(), CaptionColumn::Ignore, Some("png"), None));
    assert!(
        error.contains("no sample has its image in a field \"png\"; the fields are depth.png, jpg, mask.png"),
        "{error}"
    );
    assert_eq!(open(root(&["input.png", "target.png"]).path()).read(0, 99).unwrap(), b"input.png");
    for fields in [["left.jpg", "right.jpg"], ["jpg", "png"]] {
        let root = root(&fields);
        let error = message(open_source(root.path()));
        assert!(error.contains("sample 0 has several images: ") && error.contains(fields[1]), "{error}");
        let source = with_fields(root.path(), CaptionColumn::Ignore, Some(fields[1]), None).unwrap();
        assert_eq!(source.samples().len(), 3);
    }
    // Files that nothing describes are files of a folder.
    let root = shards(&[("0.tar", &[("a/1.jpg", ""), ("a/1.png", ""), ("b/1.jpg", ""), ("b/1.png", "")])]);
    let source = open(root.path());
    assert_eq!(source.samples().len(), 4);
    assert!(notes(&*source)[0].starts_with("2 names have several images (jpg, png)"));
}

#[test]
fn ranges_of_archives_are_opened_and_their_gaps_named() {
    let root = tempdir().unwrap();
    for folder in ["a", "b"] {
        fs::create_dir(root.path().join(folder)).unwrap();
        for shard in ["00", "01", "02"] {
            archive(&root.path().join(format!("{folder}/{shard}.tar")), &[("x.jpg", "X")]);
        }
    }
    let source = open(&root.path().join("a/{00..02}.tar"));
    assert_eq!(listed(&*source), [("00.tar/x.jpg", None), ("01.tar/x.jpg", None), ("02.tar/x.jpg", None)]);
    assert_eq!(listed(&*source), listed(&*open(&root.path().join("a"))));
    let source = open(&root.path().join("{a,b}/{00..01}.tar"));
    let keys: Vec<_> = source.samples().iter().map(|sample| &*sample.key).collect();
    assert_eq!(keys, ["a/00.tar/x.jpg", "a/01.tar/x.jpg", "b/00.tar/x.jpg", "b/01.tar/x.jpg"]);
    let error = message(open_source(&root.path().join("a/{00..04}.tar")));
    assert!(error.starts_with("2 of the 5 files of ") && error.contains("a/03.tar\nhint: "), "{error}");
}

#[test]
fn splits_side_by_side_are_refused() {
    let root = shards(&[("train-0.tar", &[("x.jpg", "")]), ("val-0.tar", &[("x.jpg", "")])]);
    let error = message(open_source(root.path()));
    assert!(error.contains("several splits of a data set: train-0.tar, val-0.tar\nhint: "), "{error}");
    let root = shards(&[("a.tar", &[("d/train/cat/1.jpg", ""), ("d/val/cat/1.jpg", "")])]);
    let error = message(open_source(&root.path().join("a.tar")));
    assert!(error.contains("several splits of a data set: train, val\nhint: "), "{error}");
}

#[test]
fn one_block_of_zeros_ends_an_archive() {
    let (root, whole) = (tempdir().unwrap(), whole());
    let path = root.path().join("a.tar");
    let ends = whole.len() - 1024;
    fs::write(&path, &whole[..ends + 512]).unwrap();
    assert_eq!(open(&path).samples().len(), 2);
    for cut in [ends, ends + 511] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(message(open_source(&path)).contains("hint: "), "{cut}");
    }
}
