//! Choosing what a student is trained for.

use crate::common::Desk;

const TRAIN: &str =
    "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 2 --lr 0.01";

/// Images and a cache of a teacher that has no text encoder.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --views 2 --out cache").ended(0, &[]);
    desk
}

#[test]
fn objectives_are_listed() {
    let desk = Desk::new();
    let list = desk.lgd("objectives").ended(0, &[]);
    assert_eq!(list.stdout, include_str!("objectives.txt"));
    let json = desk.lgd("objectives --json").ended(0, &[]).json();
    let names: Vec<&str> =
        json.as_array().unwrap().iter().map(|spec| spec["name"].as_str().unwrap()).collect();
    let listed: Vec<&str> = list.stdout.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, listed);
    assert_eq!(json[0]["flags"][0], "--bank");
}

#[test]
fn seed_trains_without_text_and_without_a_bank() {
    let desk = desk();
    let seed = format!("{TRAIN} --objective seed --queue 12 --tau-t 0.05 --out runs/seed");
    desk.lgd(&seed).ended(0, &["epoch 2/2", "seed "]);
    let run = desk.lgd("inspect runs/seed").ended(0, &[]).json();
    assert_eq!((&run["config"]["objective"], &run["config"]["queue"]), (&"seed:1".into(), &12.into()));
    assert!(run.get("bank").is_none() && run.get("text_encoder").is_none(), "{run}");
    let eval = "eval --run runs/seed --images images --train-images images --json --protocol";
    let report = desk.lgd(&format!("{eval} knn,linear")).ended(0, &[]).json();
    assert!(report["knn"]["student"].is_number(), "{report}");
    desk.lgd(&format!("{eval} labels")).ended(2, &["labels needs", "hint:", "--objective supervised"]);
}

#[test]
fn a_supervised_student_is_judged_by_its_own_classifier() {
    let desk = desk();
    desk.lgd(&format!("{TRAIN} --objective supervised --out runs/labels")).ended(0, &["supervised "]);
    desk.images("test", 2, 1);
    let report =
        desk.lgd("eval --run runs/labels --images test --protocol labels --json").ended(0, &[]).json();
    assert_eq!(report["labels"]["classes"], 10);
    assert!(report["labels"]["student"].is_number(), "{report}");
    let table = desk.lgd("eval --run runs/labels --images test --protocol labels").ended(0, &[]);
    assert!(table.stdout.contains("labels") && table.stdout.contains("10 classes"), "{}", table.stdout);
    desk.lgd("eval --run runs/labels --images test").ended(2, &["zero-shot needs", "hint:", "labels"]);
    std::fs::remove_dir_all(desk.path("test/truck")).unwrap();
    desk.lgd("eval --run runs/labels --images test --protocol labels").ended(2, &["classes", "truck"]);
}

#[test]
fn what_would_be_ignored_or_makes_no_sense_is_refused() {
    let desk = Desk::new();
    // Nothing of this gets as far as the cache.
    let refused = |words: &str, parts: &[&str]| {
        desk.lgd(&format!("train --cache none --out run {words}")).ended(2, parts);
    };
    refused("--objective lgd,banana", &["banana", "lgd, seed, kdep"]);
    refused("--objective lgd,lgd:2", &["lgd is named twice"]);
    refused("--objective lgd,supervised", &["stands alone"]);
    refused("--objective lgd:0", &["positive number"]);
    refused("--queue 100", &["--queue is a setting of seed", "the objective is lgd:1", "hint:"]);
    refused("--objective seed --alpha 0.5", &["--alpha is a setting of lgd"]);
    refused("--objective kdep --tau-s 0.1", &["--tau-s is a setting of lgd and seed"]);
    refused("--objective supervised --slots views", &["--slots is a setting of lgd"]);
    refused("--objective lgd,seed --tau-caption 0.1", &["--tau-caption is a setting of caption"]);
    refused("--vsb-momentum 0.9", &["--vsb ema"]);
    refused("--objective seed --queue 0", &["--queue"]);
    refused("--slots many", &["balanced or views"]);
}

#[test]
fn banks_that_are_missing_surplus_or_doubled_are_refused() {
    let desk = Desk::cache_and_bank();
    let train = "train --cache cache --images images --size 32 --batch 16 --epochs 0 --out runs/x";
    desk.lgd(train).ended(2, &["lgd needs a bank of names", "hint:", "--bank"]);
    desk.lgd(&format!("{train} --objective kdep")).ended(2, &["kdep needs a KDEP bank", "hint:"]);
    desk.lgd(&format!("{train} --objective seed --bank banks/ten"))
        .ended(2, &["a bank of names is given", "seed:1", "hint:"]);
    desk.lgd(&format!("{train} --bank banks/ten --bank banks/ten"))
        .ended(2, &["second bank of names", "hint:"]);
    desk.lgd(&format!("{train} --objective caption")).ended(2, &["caption needs captions"]);
    desk.lgd(&format!("{train} --objective lgd,seed:0.5 --bank banks/ten --slots views")).ended(0, &[]);
}
