//! The protocols that a student is evaluated by, and the classes.

use std::fs;

use crate::common::Desk;

const TRAIN: &str =
    "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 0";

/// Images, a cache of a teacher without a text encoder, and an untrained run for `objective`.
fn desk(objective: &str) -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    desk.lgd(&format!("{TRAIN} --objective {objective} --out run")).ended(0, &[]);
    desk
}

#[test]
fn a_classifier_is_judged_by_its_labels_and_on_some_of_its_classes() {
    let desk = desk("supervised");
    let eval = "eval --run run --images images --json";
    let report = desk.lgd(eval).ended(0, &["note: evaluated by labels; --protocol"]).json();
    assert_eq!((&report["labels"]["classes"], &report["test"]["images"]), (&10.into(), &20.into()));
    desk.lgd(&format!("{eval} --protocol zero-shot")).ended(2, &["zero-shot needs", "hint:", "labels"]);

    fs::remove_dir_all(desk.path("images/truck")).unwrap();
    let report = desk.lgd(eval).ended(0, &[]).json();
    assert_eq!((&report["labels"]["classes"], &report["test"]["images"]), (&10.into(), &18.into()));
    fs::rename(desk.path("images/ship"), desk.path("images/yacht")).unwrap();
    fs::rename(desk.path("images/dog"), desk.path("images/wolf")).unwrap();
    desk.lgd(eval).ended(2, &["not trained on these classes: wolf, yacht", "hint:", "airplane"]);
}

#[test]
fn an_embedding_without_a_bank_is_judged_by_its_neighbors() {
    let desk = desk("seed");
    let eval = "eval --run run --images images --json";
    let ran = desk.lgd(&format!("{eval} --train-images images"));
    let report = ran.ended(0, &["note: evaluated by knn, because no --bank is given"]).json();
    assert!(report["knn"]["student"].is_number() && report["zero_shot"].is_null(), "{report}");
    desk.lgd(eval).ended(2, &["because no --bank is given", "hint: give --train-images"]);
    desk.lgd(&format!("{eval} --bank cache")).ended(
        3,
        &["bank.json is missing: the manifest of a bank of names", "hint: the folder holds a cache"],
    );
}

#[test]
fn a_run_is_judged_by_the_names_it_was_trained_with() {
    let desk = Desk::cache_and_bank();
    desk.lgd(&format!("{TRAIN} --bank banks/ten --out run")).ended(0, &[]);
    let eval = "eval --run run --images images --json";
    let told = ["note: the names are those of", "banks/ten, the run's own bank", "evaluated by zero-shot;"];
    let report = desk.lgd(eval).ended(0, &told).json();
    let given = desk.lgd(&format!("{eval} --bank banks/ten")).ended(0, &[]).json();
    assert_eq!((&report["zero_shot"], &report["bank"]), (&given["zero_shot"], &given["bank"]));
    desk.lgd(&format!("{eval} --protocol zero-shot")).ended(0, &told[..2]);
    let neighbors = "note: evaluated by knn, because no --bank is given";
    desk.lgd(&format!("{eval} --train-images images")).ended(0, &[neighbors]);

    fs::rename(desk.path("banks/ten"), desk.path("banks/moved")).unwrap();
    desk.lgd(eval)
        .ended(3, &["the bank of names that the run was trained with", "hint: give the bank's folder"]);
    desk.lgd(&format!("{eval} --bank banks/moved")).ended(0, &[]);
}

#[test]
fn a_class_whose_samples_are_all_held_out_is_not_learned() {
    let desk = desk("supervised");
    let train = TRAIN.replace("--batch 8", "--batch 2");
    let told = "classes have no sample to train on, so the student cannot learn them: ";
    desk.lgd(&format!("{train} --objective supervised --holdout 15 --out held")).ended(0, &[told]);
    let run: serde_json::Value =
        serde_json::from_slice(&fs::read(desk.path("held/run.json")).unwrap()).unwrap();
    let untrained = run["classes"]["untrained"].as_array().unwrap().len();
    assert!((5..10).contains(&untrained), "{untrained} of 10 classes, with 5 samples left");
}

#[test]
fn a_run_from_a_centered_bank_is_judged_by_a_bank_centered_alike() {
    let desk = Desk::cache_and_bank();
    let bank = "bank --cache cache --teacher teacher --categories names.txt";
    desk.lgd(&format!("{bank} --center both --out banks/centered")).ended(0, &[]);
    desk.lgd("inspect banks/centered").printed(&["centered", "of images and texts"]);
    desk.lgd(&format!("{TRAIN} --objective lgd,seed --bank banks/centered --out run")).ended(0, &[]);
    let eval = "eval --run run --images images --cache cache --json --protocol zero-shot,agreement --bank";
    let report = desk.lgd(&format!("{eval} banks/centered")).ended(0, &[]).json();
    assert!(report["zero_shot"]["teacher"].is_number(), "{report}");
    let apart = ["the centering of embeddings differs", "expected Both", "got none", "hint:"];
    desk.lgd(&format!("{eval} banks/ten")).ended(3, &apart);
    desk.lgd("export --run run --bank banks/ten --out student.onnx").ended(3, &apart[..1]);
    desk.lgd("export --run run --bank banks/centered --out student.onnx").ended(0, &[]);
}

#[test]
fn class_folders_that_are_numbers_are_the_same_classes_in_every_protocol() {
    let desk = Desk::new();
    desk.images("named", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    // 0, 1, 2, 10, 11, ... are in bytewise order 0, 1, 10, 11, ..., 2.
    let number = "\
import os, pathlib
for number, folder in enumerate(sorted(pathlib.Path('named').iterdir())):
    os.renames(folder, pathlib.Path('images') / str(number if number < 3 else number + 7))
files = sorted(pathlib.Path('images').glob('*/*.png'))
rows = [f'{file},{file.parent.name}.0' for file in files]
pathlib.Path('list.csv').write_text('\\n'.join(['file_name,label', *rows]))
some = [f'{file} {file.parent.name}' for file in files if file.parent.name in ('2', '11')]
pathlib.Path('some.txt').write_text('\\n'.join(some))
";
    desk.python(number).ended(0, &[]);
    let told = "note: images: the classes are named by numbers: labels are the numbers 0 to 16";
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[told]);
    desk.lgd(&format!("{TRAIN} --objective supervised --out run"))
        .ended(0, &["note: 7 classes have no sample to train on, so the student cannot learn them: 3, 4, 5, 6, 7, 8, 9"]);
    let report = |images: &str, protocol: &str| {
        let eval = format!("eval --run run --json --images {images} --protocol {protocol}");
        desk.lgd(&eval).ended(0, &[]).json()
    };
    assert_eq!(report("images", "labels")["labels"], report("list.csv", "labels")["labels"]);
    let neighbors = |images: &str| report(images, "knn --train-images images")["knn"].clone();
    assert_eq!(neighbors("images"), neighbors("list.csv"));
    assert_eq!(neighbors("some.txt")["student"], 100.0, "each image is its own nearest neighbor");
    let eval = "eval --run run --images some.txt --protocol knn --train-images";
    desk.lgd(&format!("{eval} list.csv")).ended(
        0,
        &["note: the test images have 2 of the 10 classes of the training images, matched by number"],
    );
    desk.bash("sed -i 's/ 11$/ 7/' some.txt").ended(0, &[]);
    desk.lgd(&format!("{eval} images")).ended(2, &["do not have these classes: 7", "hint: add them"]);
    let labels = desk.lgd("eval --run run --images some.txt --protocol labels");
    labels.ended(2, &["the student was not trained on these classes: 7"]);
}

#[test]
fn a_list_with_several_columns_of_labels_takes_a_field_and_training_follows_it() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let list = "\
import pathlib
files = sorted(pathlib.Path('images').glob('*/*.png'))
rows = [f'{number},{file},{file.parent.name},{number % 2}' for number, file in enumerate(files)]
pathlib.Path('list.csv').write_text('\\n'.join(['id,path,class,target', *rows]))
";
    desk.python(list).ended(0, &[]);
    let extract = "extract --images list.csv --teacher teacher --out cache";
    desk.lgd(extract)
        .ended(2, &["line 1: the columns class, target may all hold the labels", "--label-field"]);
    desk.lgd(&format!("{extract} --label-field target"))
        .ended(0, &["note: list.csv: columns that are not read: id, class"]);
    let train = TRAIN.replace("--images images", "--images list.csv");
    desk.lgd(&format!("{train} --objective supervised --out run")).ended(0, &[]);
    desk.bash("sed '2s/,[01]$/,-1/' list.csv > some.csv").ended(0, &[]);
    desk.lgd("extract --images some.csv --teacher teacher --label-field target --out some")
        .ended(0, &["note: some.csv: 1 of the 20 samples have no label in column target (empty, NaN, null, None, N/A or -1)"]);
    desk.lgd(&format!(
        "{} --objective supervised --out other",
        train.replace("list.csv", "some.csv").replace("--cache cache", "--cache some")
    ))
    .ended(2, &["1 of the 20 samples have no label", "hint: label every image"]);
    let eval = "eval --run run --images list.csv --protocol labels --json";
    desk.lgd(eval).ended(2, &["--label-field"]);
    let report = desk.lgd(&format!("{eval} --label-field target")).ended(0, &[]).json();
    assert_eq!(report["labels"]["classes"], 2);
}
