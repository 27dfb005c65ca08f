//! Selecting the objectives of a student.

use std::fs;

use crate::common::Desk;

const TRAIN: &str =
    "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 2 --lr 0.01";

/// Images and a cache of a teacher without a text encoder.
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
    desk.lgd(&seed).ended(0, &["epoch 2/2"]);
    assert_eq!(losses(&desk, "runs/seed", "seed").len(), 2);
    let run = desk.lgd("inspect runs/seed --json").ended(0, &[]).json();
    assert_eq!((&run["config"]["objective"], &run["config"]["queue"]), (&"seed:1".into(), &12.into()));
    assert!(run.get("bank").is_none() && run.get("text_encoder").is_none(), "{run}");
    let eval = "eval --run runs/seed --images images --train-images images --json --protocol";
    let report = desk.lgd(&format!("{eval} knn,linear")).ended(0, &[]).json();
    assert!(report["knn"]["student"].is_number(), "{report}");
    desk.lgd(&format!("{eval} labels")).ended(2, &["labels needs", "hint:", "--objective supervised"]);
}

/// A part of the loss in every epoch of a run.
fn losses(desk: &Desk, run: &str, part: &str) -> Vec<f64> {
    let text = fs::read_to_string(desk.path(run).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "epoch").filter_map(|line| line["parts"][part].as_f64()).collect()
}

#[test]
fn one_cache_serves_every_objective() {
    let desk = Desk::cache_of_everything();
    desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/ten").ended(0, &[]);
    let warning = "dimensions vary in the 80 rows";
    desk.lgd("bank --cache cache --target kdep --dim 512 --out banks/kdep").ended(0, &[warning]);

    let train = "train --cache cache --images list.csv --student resnet18 --batch 8 --lr 0.01 --epochs";
    let all = "lgd,seed:0.5,kdep:1,caption:0.5";
    let ran = desk.lgd(&format!(
        "{train} 4 --size 32 --objective {all} --bank banks/ten --bank banks/kdep --queue 16 --out runs/sum"
    ));
    let log = ran.ended(0, &["epoch 4/4"]).stderr;
    for word in ["text", "visual", "kdep", "caption"] {
        let found = losses(&desk, "runs/sum", word);
        assert!(found.len() == 4 && found[3] < found[0], "{word}: {found:?}");
    }
    // At the first step the queue is empty and the loss is 0; later losses are not below that.
    let found = losses(&desk, "runs/sum", "seed");
    assert!(found.len() == 4 && found.iter().all(|loss| *loss > 0.0), "{found:?}");

    assert!(!log.contains("contrasts"), "{log}");
    let parts = format!("{train} 0 --size 32 --objective caption --batch-parts 2 --out runs/parts");
    desk.lgd(&parts).ended(0, &["note: with --batch-parts 2", "caption contrasts 4 images at a time, not 8"]);

    // A mask with one cell cannot have both a visible and a hidden part.
    let hgkd = format!("{train} 4 --objective hgkd --queue 16 --out runs/hgkd --size");
    desk.lgd(&format!("{hgkd} 32")).ended(2, &["got 32 x 32", "hint: the smallest square is 64 x 64"]);
    assert!(!desk.path("runs/hgkd").exists());
    desk.lgd(&format!("{hgkd} 64")).ended(0, &["epoch 4/4"]);
    let found = losses(&desk, "runs/hgkd", "hgkd_similarity");
    assert!(found.len() == 4 && found[3] < found[0], "{found:?}");
    // The error of a decoder that outputs zeros is the share of the variance that 16 axes keep, about 0.38. Twenty
    // steps do not reduce it.
    for word in ["hgkd_hidden", "hgkd_visible"] {
        let found = losses(&desk, "runs/hgkd", word);
        assert!(found.len() == 4 && found.iter().all(|loss| *loss > 0.2 && *loss < 0.5), "{word}: {found:?}");
    }

    let eval = "eval --images list.csv --train-images list.csv --json --run";
    let report = desk.lgd(&format!("{eval} runs/hgkd --protocol knn")).ended(0, &[]).json();
    assert!(report["knn"]["student"].is_number(), "{report}");
    // These names are not the labels' names, so only agreement can be measured.
    desk.names("other.txt", &["kitten", "sports car", "sailing boat"]);
    desk.lgd("bank --cache cache --teacher teacher --categories other.txt --out banks/other").ended(0, &[]);
    let eval = "eval --images list.csv --json --run runs/sum --cache cache --bank banks/other --protocol";
    desk.lgd(&format!("{eval} zero-shot")).ended(2, &["not categories of the bank", "--protocol agreement"]);
    let report = desk.lgd(&format!("{eval} agreement")).ended(0, &[]).json();
    assert_eq!(report["agreement"]["categories"], 3);
    assert!(report["agreement"]["student"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_supervised_student_is_judged_by_its_own_classifier() {
    let desk = desk();
    desk.lgd(&format!("{TRAIN} --objective supervised --out runs/labels")).ended(0, &["epoch 2/2"]);
    assert_eq!(losses(&desk, "runs/labels", "supervised").len(), 2);
    desk.images("test", 2, 1);
    let report =
        desk.lgd("eval --run runs/labels --images test --protocol labels --json").ended(0, &[]).json();
    assert_eq!(report["labels"]["classes"], 10);
    assert!(report["labels"]["student"].is_number(), "{report}");
    let table = desk.lgd("eval --run runs/labels --images test --protocol labels").ended(0, &[]);
    assert!(table.stdout.contains("labels") && table.stdout.contains("10 classes"), "{}", table.stdout);
    let zero_shot = "eval --run runs/labels --images test --protocol zero-shot";
    desk.lgd(zero_shot).ended(2, &["zero-shot needs", "hint:", "labels"]);
    // The test images need not cover all classes, and a supervised student needs no --protocol.
    fs::remove_dir_all(desk.path("test/truck")).unwrap();
    desk.lgd("eval --run runs/labels --images test").ended(0, &["evaluated by labels"]);
    fs::rename(desk.path("test/ship"), desk.path("test/yacht")).unwrap();
    desk.lgd("eval --run runs/labels --images test").ended(2, &["not trained on these classes: yacht"]);
}

#[test]
fn what_would_be_ignored_or_makes_no_sense_is_refused() {
    let desk = Desk::new();
    // All of these fail before the cache is opened.
    let refused = |words: &str, parts: &[&str]| {
        desk.lgd(&format!("train --cache none --out run {words}")).ended(2, parts);
    };
    refused("--objective lgd,banana", &["banana", "lgd, seed, compress, kdep"]);
    refused("--objective lgd,lgd:2", &["the objective lgd is listed twice"]);
    refused("--objective lgd,supervised", &["cannot be combined"]);
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

    let kept =
        "bank --cache cache --teacher teacher --categories names.txt --keep-unassigned --out banks/kept";
    desk.lgd(kept).ended(0, &[]);
    desk.lgd(&format!("{train} --bank banks/kept --slots views --overwrite"))
        .ended(2, &["banks/kept", "--slots views", "hint:", "--keep-unassigned"]);
}
