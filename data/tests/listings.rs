//! A folder, a list of it, an archive of it and a Parquet file with its images list the same samples.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use lgd_data::image::{DecodeLimits, decode};
use lgd_data::source::{ImageSource, listing_hash, open_source};
use parquet::arrow::ArrowWriter;
use tempfile::{TempDir, tempdir};

/// The same images as a folder, a list, an archive, a folder of archives and a Parquet file, in this order.
struct Forms(TempDir);

const NAMES: [&str; 5] = ["images", "list.csv", "images.tar", "shards", "images.parquet"];

impl Forms {
    /// Makes the five forms of `images`, given by their paths in bytewise order; the content of each is its path. `labels`
    /// are those of the list, and of Parquet as numbers if all of them are.
    fn of(images: &[&str], labels: &[&str]) -> Self {
        Self::with(images, labels, &|image| image.to_owned())
    }

    /// Like [`Forms::of`], with the content of each image.
    fn with(images: &[&str], labels: &[&str], content: &dyn Fn(&str) -> String) -> Self {
        let root = tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for image in images {
            let path = at("images").join(image);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content(image)).unwrap();
        }
        let rows = images.iter().zip(labels).map(|(image, label)| format!("images/{image},{label}\n"));
        fs::write(at("list.csv"), format!("path,label\n{}", rows.collect::<String>())).unwrap();
        fs::create_dir(at("shards")).unwrap();
        pack(&at("images.tar"), images, content);
        pack(&at("shards/0.tar"), &images[..2], content);
        pack(&at("shards/1.tar"), &images[2..], content);
        let numbers: Result<Vec<i64>, _> = labels.iter().map(|label| label.parse()).collect();
        let labels: ArrayRef = match numbers {
            Ok(numbers) => Arc::new(Int64Array::from(numbers)),
            Err(_) => Arc::new(StringArray::from(labels.to_vec())),
        };
        let bytes: Vec<String> = images.iter().map(|image| content(image)).collect();
        let bytes = bytes.iter().map(|bytes| Some(bytes.as_bytes())).collect::<BinaryArray>();
        let columns: [(&str, ArrayRef); 2] = [("image", Arc::new(bytes)), ("label", labels)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(at("images.parquet")).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        Self(root)
    }

    fn open(&self, name: &str) -> Box<dyn ImageSource> {
        open_source(&self.0.path().join(name)).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Writes an archive of files with these names, without their folders.
fn pack(path: &Path, files: &[&str], content: &dyn Fn(&str) -> String) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for file in files {
        let (mut header, content) = (tar::Header::new_gnu(), content(file));
        header.set_size(u64::try_from(content.len()).unwrap());
        builder.append_data(&mut header, file, content.as_bytes()).unwrap();
    }
    builder.finish().unwrap();
}

/// Labels, contents and class names of a source, one per line, and its listing hash with the keys replaced by the images'
/// contents.
fn content(source: &dyn ImageSource) -> String {
    let mut samples = source.samples().to_vec();
    for (index, sample) in samples.iter_mut().enumerate() {
        sample.key = String::from_utf8(source.read(index, 1000).unwrap()).unwrap();
    }
    let lines = samples.iter().map(|sample| format!("{:?} {}\n", sample.label, sample.key));
    format!("{}{:?} {}", lines.collect::<String>(), source.class_names(), listing_hash(&samples))
}

fn assert_alike(images: &[&str], labels: &[&str]) {
    let forms = Forms::of(images, labels);
    let folder = forms.open("images");
    let expected = content(&*folder);
    assert_eq!(folder.samples().len(), images.len());
    for name in NAMES {
        assert_eq!(content(&*forms.open(name)), expected, "{name}");
    }
    // Keys are the paths below the folder, and the paths as a list writes them.
    assert_eq!(listing_hash(forms.open("images.tar").samples()), listing_hash(folder.samples()));
    let list = forms.open("list.csv");
    let keys = list.samples().iter().map(|sample| sample.key.strip_prefix("images/"));
    assert!(keys.eq(folder.samples().iter().map(|sample| Some(&*sample.key))));
}

#[test]
fn named_classes_are_alike_in_every_source() {
    let images = ["a-1/2.png", "a/1.png", "a/b/3.jpg", "z/4.PNG", "\u{e4}/5.webp"];
    assert_alike(&images, &["a-1", "a", "a", "z", "\u{e4}"]);
}

#[test]
fn numbered_classes_are_alike_in_every_source() {
    let images = ["0/1.png", "1/1.png", "10/1.png", "2/1.png", "2/2.png"];
    assert_alike(&images, &["0", "1", "10", "2", "2"]);
}

#[test]
fn what_systems_add_changes_no_listing() {
    let images = ["cat/1.png", "cat/2.png", "dog/1.png"];
    let clutter = [
        "__MACOSX/cat/._1.png",
        "cat/._2.png",
        "cat/@eaDir/1.png/SYNOPHOTO_THUMB_S.jpg",
        "cat/Thumbs.db",
        "#recycle/old.png",
        "$RECYCLE.BIN/old.png",
        "System Volume Information/x.png",
        ".Trash-1000/files/old.png",
        "dog/.ipynb_checkpoints/1-checkpoint.png",
        "lost+found/1.png",
    ];
    let clean = Forms::of(&images, &["cat", "cat", "dog"]);
    let all: Vec<&str> = [&clutter[..], &images[..]].concat();
    let labels: Vec<&str> = all.iter().map(|path| path.split('/').next().unwrap()).collect();
    let littered = Forms::of(&all, &labels);
    for name in ["images", "list.csv", "images.tar"] {
        let source = littered.open(name);
        assert_eq!(content(&*source), content(&*clean.open(name)), "{name}");
        let counted: u64 = source.listing().left_aside.kinds().map(|(_, count)| count).sum();
        assert!(
            counted > 0 && source.listing().rejected.is_empty(),
            "{name}: {}",
            source.listing().left_aside
        );
    }
}

/// The validation images of Tiny ImageNet: one folder, and a list of the labels beside it.
#[test]
fn a_list_beside_a_lone_folder_is_told_alike() {
    let root = tempdir().unwrap();
    let files = ["val/images/val_0.JPEG", "val/images/val_1.JPEG", "val/val_annotations.txt"];
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let archive = |name: &str| root.path().join(name);
    pack(&archive("members.tar"), &files, &|file| file.to_owned());
    for (name, at) in [("whole.tar", "val"), ("inside.tar", ".")] {
        let mut builder = tar::Builder::new(File::create(archive(name)).unwrap());
        builder.append_dir_all(at, root.path().join("val")).unwrap();
        builder.finish().unwrap();
    }
    for name in ["val", "members.tar", "whole.tar", "inside.tar"] {
        let source = open_source(&root.path().join(name)).unwrap();
        let mut samples: Vec<_> = source.samples().iter().map(|it| (it.key.clone(), it.label)).collect();
        samples.sort();
        let expected = ["images/val_0.JPEG", "images/val_1.JPEG"].map(|key| (key.to_owned(), Some(0)));
        assert_eq!((samples, source.class_names().unwrap()), (expected.to_vec(), &["images".to_owned()][..]));
        let notes: Vec<&str> = source.listing().notes.iter().map(|note| &*note.text).collect();
        let told = "val_annotations.txt is not read: for labels from there, give a .csv list with rows path,label instead";
        assert_eq!(notes, ["all images are of one class, images", told], "{name}");
        assert_eq!(source.listing().left_aside.to_string(), "left aside: 1 .txt", "{name}");
    }
}

#[test]
fn pointers_of_git_lfs_are_told_from_images_and_files() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    let (images, labels) = (["cat/1.png", "dog/1.png", "dog/2.png"], ["0", "1", "1"]);
    let forms = Forms::with(&images, &labels, &|_| pointer.to_owned());
    for name in NAMES {
        let bytes = forms.open(name).read(1, 1000).unwrap();
        let error = decode(&bytes, &DecodeLimits::default()).unwrap_err();
        assert_eq!(error.reason(), "git-lfs-pointer", "{name}");
        assert!(error.to_string().contains("`git lfs pull`"), "{name}: {error}");
    }
    for name in ["a.tar", "a.parquet", "a.csv"] {
        let path = forms.0.path().join(name);
        fs::write(&path, pointer).unwrap();
        let error = open_source(&path).err().unwrap().to_string();
        assert!(
            error.contains("a.")
                && error.contains("is a git-lfs pointer, not the file itself\nhint: run `git lfs pull`"),
            "{error}"
        );
    }
}
