//! `lgd plan`: its figures against those of the planned command, and its errors.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Desk, Ran};

/// Bytes of all files in a folder and its subfolders.
fn folder_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            if entry.path().is_dir() { folder_bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
        })
        .sum()
}

fn number(plan: &Value, path: &str) -> f64 {
    plan.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {plan:#}"))
}

/// Checks that the limit is the slowest stage, that every stage was measured, and returns the throughput of all together.
fn throughput(plan: &Value) -> f64 {
    let stages = plan["stages"].as_array().unwrap();
    let pace = |stage: &&Value| stage["per_second"].as_f64().unwrap();
    let slowest = stages.iter().min_by(|a, b| pace(a).total_cmp(&pace(b))).unwrap();
    assert_eq!(plan["limit"], slowest["name"], "{plan:#}");
    assert!(stages.iter().all(|stage| pace(&stage) > 0.0), "{plan:#}");
    let together = number(plan, "/throughput/per_second");
    assert!(together > 0.0);
    together
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-6 * expected.abs(), "{got} is not {expected}");
}

/// Exit code and error of a run, without the notes before it.
fn error(ran: &Ran) -> (i32, &str) {
    let at = ran.stderr.find("error: ").unwrap_or_else(|| panic!("no error in: {}", ran.stderr));
    (ran.code, &ran.stderr[at..])
}

#[test]
fn an_extraction_takes_the_planned_bytes() {
    let desk = Desk::new();
    desk.images("images", 0, 8);
    desk.teacher("teacher");
    let base = "--images images --teacher teacher --views 2 --with-center --shard-samples 16 --out";
    for (columns, names) in [
        ("", ["embeddings", "views, keys"].as_slice()),
        (
            "--features --tokens svd:16 --store-views jpeg --store-size 48",
            &["embeddings", "features", "tokens", "stored views", "views, keys"],
        ),
    ] {
        let plan = desk.lgd(&format!("plan --seconds 1 extract {columns} {base} cache{}", names.len()));
        let plan = plan.ended(0, &["plan: 80 samples x 2 views = 160 rows in 5 shards", "measured"]).json();
        let out = desk.path(&format!("cache{}", names.len()));
        assert!(!out.exists(), "a plan writes nothing");
        let found: Vec<&str> =
            plan["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert_eq!(found, names);

        let rows_second = throughput(&plan);
        let parts = number(&plan, "/opening_seconds") + number(&plan, "/fitting_seconds");
        close(number(&plan, "/seconds"), parts + 160.0 / rows_second);
        if cfg!(target_os = "linux") {
            assert!(number(&plan, "/memory_bytes") > 1e7 && number(&plan, "/free_bytes") > 0.0, "{plan:#}");
        }

        desk.lgd(&format!("extract {columns} {base} {}", out.display())).ended(0, &[]);
        let (planned, real) = (number(&plan, "/bytes"), folder_bytes(&out) as f64);
        assert!((planned - real).abs() <= 0.02 * real + 4096.0, "planned {planned} bytes, real {real}");
    }
}

#[test]
fn a_plan_is_of_what_is_left() {
    let desk = Desk::new();
    desk.images("images", 0, 6);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract =
        "extract --images images --teacher teacher --views 3 --batch 4 --shard-samples 16 --out cache";
    desk.lgd(&format!("{extract} --partition 1/3")).ended(0, &[]);
    // Shards of 16, 16, 16 and 12 samples; the second is there.
    let plan = desk.lgd(&format!("plan --seconds 1 {extract} --resume")).ended(0, &[]).json();
    assert_eq!((&plan["samples"], &plan["shards"]), (&44.into(), &3.into()));
    let plan = desk.lgd(&format!("plan --seconds 1 {extract} --partition 0/3")).ended(0, &[]).json();
    assert_eq!((&plan["samples"], &plan["shards"]), (&28.into(), &2.into()));
    let plan = desk.lgd(&format!("plan --seconds 1 {extract} --overwrite")).ended(0, &[]).json();
    assert_eq!((&plan["samples"], &plan["shards"]), (&60.into(), &4.into()));
    desk.lgd(&format!("{extract} --resume")).ended(0, &[]);
    let before = fs::read(desk.path("cache/cache.json")).unwrap();
    desk.lgd(&format!("plan --seconds 1 {extract} --resume")).ended(2, &["nothing is left to plan"]);
    assert_eq!(fs::read(desk.path("cache/cache.json")).unwrap(), before);
}

#[test]
fn rejected_samples_are_told_and_a_source_without_a_usable_one_is_refused() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.write("images/bird/bad.png", "no image");
    desk.write("bad/bird/bad.png", "no image");
    desk.tiny_teacher("teacher", "linear.onnx");
    let plan = "plan --seconds 1 extract --teacher teacher --out cache --images";
    let told = ["warning: 1 measured samples are rejected; the first is bird/bad.png: ", ", 1 rejected"];
    let planned = desk.lgd(&format!("{plan} images")).ended(0, &told).json();
    assert_eq!(planned["measured"]["rejected"], 1);
    desk.lgd(&format!("{plan} bad"))
        .ended(2, &["bad: none of the 1 measured samples can be used; the first is"]);
    assert!(!desk.path("cache").exists());
}

#[test]
fn a_plan_of_an_extraction_fails_as_the_extraction_does() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.teacher("teacher");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    for flags in [
        "--images images --teacher teacher --out cache",
        "--images images --teacher teacher --views 2 --out cache --resume",
        "--images absent --teacher teacher --out new",
        "--images images --teacher absent --out new",
        "--images images --teacher teacher --out images/cache",
        "--images images --teacher teacher --tokens f16 --tokens-limit 1kB --out new",
        "--images images --teacher teacher --tokens f16 --tokens-fit-views 3 --out new",
        "--images images --teacher teacher --captions --out new",
        "--images images --teacher teacher --partition 0/2 --overwrite --out new",
    ] {
        let (planned, real) =
            (desk.lgd(&format!("plan extract {flags}")), desk.lgd(&format!("extract {flags}")));
        assert_eq!(error(&planned), error(&real), "{flags}");
        assert!(real.code != 0 && !desk.path("new").exists(), "{flags}");
    }
}

#[test]
fn a_training_takes_the_planned_steps_and_bytes() {
    let desk = Desk::cache_and_bank();
    let inputs = "--cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32";
    let train = format!("{inputs} --batch 8 --epochs 2 --holdout 8 --keep-checkpoints");
    let plan = desk.lgd(&format!("plan --seconds 2 train {train} --out run"));
    let plan = plan.ended(0, &["plan: 8 steps of 8 images, 4 in each of 2 epochs; run", "measured"]).json();
    assert!(!desk.path("run").exists(), "a plan writes nothing");

    let images_second = throughput(&plan);
    let before = number(&plan, "/opening_seconds") + number(&plan, "/evaluation_seconds");
    close(number(&plan, "/seconds"), before + 64.0 / images_second);
    // Two evaluations of 8 samples: the first with statistics from two batches, the finished student's with those of all 8.
    assert_eq!(plan["forward_images"], 8 + 2 * 8 + 8 + 8 * 8);

    let report = desk.lgd(&format!("train {train} --out run")).ended(0, &[]).json();
    for name in ["steps", "epochs", "samples", "held_out", "batch", "dropped_per_epoch", "parameters"] {
        assert_eq!(plan[name], report[name], "{name}");
    }
    let bytes = |name: &str| fs::metadata(desk.path("run").join(name)).unwrap().len() as f64;
    let checkpoint = number(&plan, "/checkpoint_bytes");
    let real = bytes("checkpoints/step-000000008.safetensors");
    assert!((checkpoint - real).abs() < 4096.0, "planned {checkpoint} bytes, real {real}");
    let weights = bytes("student.safetensors") + bytes("best.safetensors");
    let end = number(&plan, "/final_bytes");
    let real = 2.0 * real + weights;
    assert!((end - real).abs() < 16_384.0, "planned {end} bytes, real {real}");

    desk.lgd(&format!("plan --seconds 1 train {train} --out run --resume"))
        .ended(2, &["run: the run has no step left"]);
    // One step is all that is left to measure.
    let single = format!("{inputs} --batch 40 --epochs 1");
    let plan = desk.lgd(&format!("plan --seconds 1 train {single} --out new")).ended(0, &[]).json();
    assert_eq!(plan["steps"], 1);
    throughput(&plan);
}

#[test]
fn a_plan_of_a_training_fails_as_the_training_does() {
    let desk = Desk::cache_and_bank();
    let train = "--cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 8 --epochs 1";
    desk.lgd(&format!("train {train} --out run")).ended(0, &[]);
    for flags in [
        "--out run".to_owned(),
        "--seed 3 --out run --resume".to_owned(),
        "--out cache --overwrite".to_owned(),
        "--objective kdep --out new".to_owned(),
        "--batch-parts 3 --out new".to_owned(),
        "--init absent.pth --out new".to_owned(),
        "--patience 2 --out new".to_owned(),
    ] {
        let planned = desk.lgd(&format!("plan train {train} {flags}"));
        let real = desk.lgd(&format!("train {train} {flags}"));
        assert_eq!(error(&planned), error(&real), "{flags}");
        assert!(real.code != 0 && !desk.path("new").exists(), "{flags}");
    }
}
