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
    let report = desk.lgd(eval).ended(0, &["note: judged by labels; --protocol"]).json();
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
    let report = ran.ended(0, &["note: judged by knn, for want of a --bank"]).json();
    assert!(report["knn"]["student"].is_number() && report["zero_shot"].is_null(), "{report}");
    desk.lgd(eval).ended(2, &["for want of a --bank", "hint: give --train-images"]);
    desk.lgd(&format!("{eval} --bank cache")).ended(
        3,
        &["bank.json is missing: the manifest of a bank of names", "hint: the folder holds a cache"],
    );
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
    let apart = ["the centering of embeddings (--center)", "expected Both", "got none", "hint:"];
    desk.lgd(&format!("{eval} banks/ten")).ended(3, &apart);
    desk.lgd("export --run run --bank banks/ten --out student.onnx").ended(3, &apart[..1]);
    desk.lgd("export --run run --bank banks/centered --out student.onnx").ended(0, &[]);
}
