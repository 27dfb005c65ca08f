//! The main workflow, from images and names to an evaluated student.

use std::fs;
use std::process::Command;

use crate::common::{CLASSES, Desk, root, third_party};

const TRAIN: &str =
    "train --cache cache --images images --bank banks/ten --student resnet18 --size 32 --batch 16";

#[test]
fn images_and_names_become_a_measured_student() {
    let desk = Desk::cache_and_bank();
    let bank = desk
        .lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/again")
        .ended(0, &[]);
    assert_eq!(bank.json()["prompts"]["reused"], 10, "a rerun encodes nothing");
    assert_eq!(bank.json()["prompts"]["encoded"], 0);

    let train = desk.lgd(&format!("{TRAIN} --epochs 2 --lr 0.01 --out runs/a")).ended(0, &["epoch 2/2"]);
    assert_eq!(train.json()["steps"], 4, "40 samples make two whole batches of 16 per epoch");
    desk.lgd("verify runs/a").ended(0, &[]);
    desk.lgd("verify cache").ended(0, &[]);
    desk.lgd("verify banks/ten").ended(0, &[]);
    desk.lgd("inspect cache")
        .ended(0, &[])
        .printed(&["2 per image: the center crop (0.875), then moco-v2, seed 0"]);
    let told = [
        "10: airplane, automobile, ",
        "80 rows, every probability kept",
        " per category",
        "a photo of a {}.",
    ];
    desk.lgd("inspect banks/ten").ended(0, &[]).printed(&told);
    let told = ["step 4 of 4, finished", "lgd:1", "resnet18, embeddings of ", "student.safetensors, "];
    desk.lgd("inspect runs/a").ended(0, &[]).printed(&told);

    desk.images("test", 4, 3);
    desk.lgd("extract --images test --teacher teacher --with-center --out test-cache")
        .ended(0, &["view 0: shortest side to 183, center 160, assumed 0.875\n"]);
    let eval = desk.lgd(
        "eval --run runs/a --images test --cache test-cache --train-images images --train-cache cache \
         --bank banks/ten --protocol zero-shot,knn,linear --json",
    );
    let report = eval.ended(0, &[]).json();
    let teacher = report["zero_shot"]["teacher"].as_f64().unwrap();
    assert!(teacher > 40.0, "the teacher is right on well over half of CIFAR-10, here {teacher}");
    assert!(report["zero_shot"]["student"].is_number() && report["knn"]["student"].is_number(), "{report}");
    assert_eq!(report["linear"].as_array().unwrap().len(), 3);
}

#[test]
fn a_bank_needs_neither_images_nor_the_image_encoder() {
    let desk = Desk::cache_and_bank();
    let before = fs::read(desk.path("banks/ten/bank.safetensors")).unwrap();
    fs::remove_dir_all(desk.path("images")).unwrap();
    fs::remove_file(desk.path("teacher/image.onnx")).unwrap();
    desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/ten --overwrite")
        .ended(0, &[]);
    assert_eq!(before, fs::read(desk.path("banks/ten/bank.safetensors")).unwrap());
    desk.names("other.txt", &["airliner", "jeep", "sparrow"]);
    let other = desk.lgd("bank --cache cache --teacher teacher --categories other.txt --out banks/three");
    assert_eq!(other.ended(0, &[]).json()["prompts"]["encoded"], 3);
}

#[test]
fn the_artifacts_open_in_pyarrow_polars_and_duckdb() {
    let desk = Desk::cache_and_bank();
    let names: Vec<String> = (0..300).map(|number| format!("thing number {number}")).collect();
    desk.names("many.txt", &names.iter().map(String::as_str).collect::<Vec<_>>());
    desk.lgd("bank --cache cache --teacher teacher --categories many.txt --out banks/many").ended(0, &[]);
    for bank in ["banks/ten", "banks/many"] {
        let output = Command::new(third_party("venv/bin/python"))
            .arg(root().join("scripts/check-interop.py"))
            .args([desk.path("cache"), desk.path(bank)])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{bank}: {text}");
    }
}

#[test]
fn partitions_of_a_shared_cache_make_the_same_bytes_as_one_run() {
    let desk = Desk::new();
    desk.images("images", 0, 7);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = "extract --images images --teacher teacher --views 3 --batch 4 --shard-samples 16";
    desk.lgd(&format!("{extract} --out whole")).ended(0, &[]);
    for part in [2, 0] {
        desk.lgd(&format!("{extract} --partition {part}/3 --out parts --decode-threads 1")).ended(0, &[]);
    }
    // The last part as task 2 of a Slurm array of tasks 1 to 3.
    let array =
        "SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_ID=2";
    desk.bash(&format!("{array} lgd {extract} --partition auto --out parts"))
        .ended(0, &["note: --partition auto is 1/3 by SLURM_ARRAY_TASK_ID"]);
    for entry in fs::read_dir(desk.path("whole")).unwrap() {
        let name = entry.unwrap().file_name();
        let (a, b) = (desk.path("whole").join(&name), desk.path("parts").join(&name));
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{}", name.display());
    }
}

#[test]
fn an_interrupted_training_goes_on_where_it_was() {
    let desk = Desk::cache_and_bank();
    let train = "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 8 --epochs 12";
    desk.lgd(&format!("{train} --out runs/whole")).ended(0, &[]);
    let stopped = desk.bash(&format!(
        "{} {train} --out runs/cut & pid=$!; n=0; \
         while [ ! -s runs/cut/metrics.jsonl ] && kill -0 $pid && [ $((n += 1)) -le 15000 ]; do sleep 0.02; done; \
         kill -INT $pid; wait $pid",
        env!("CARGO_BIN_EXE_lgd")
    ));
    stopped.ended(75, &[]);
    desk.lgd(&format!("{train} --out runs/cut")).ended(2, &["--resume"]);
    desk.lgd(&format!("{train} --out runs/cut --resume")).ended(0, &[]);
    assert_eq!(
        fs::read(desk.path("runs/whole/student.safetensors")).unwrap(),
        fs::read(desk.path("runs/cut/student.safetensors")).unwrap(),
        "a resumed run ends in the same bits"
    );
}

#[test]
fn templates_come_from_flags_or_a_file() {
    let desk = Desk::cache_and_bank();
    let templates = third_party("clip/imagenet_templates.txt");
    let bank = format!(
        "bank --cache cache --teacher teacher --categories names.txt --out banks/clip --templates {}",
        templates.display()
    );
    assert_eq!(desk.lgd(&bank).ended(0, &[]).json()["prompts"]["total"], 800);
    desk.write("bad.txt", "a photo of a {}.\na drawing\n");
    desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/x --templates bad.txt")
        .ended(2, &["bad.txt", "2"]);
    let list = CLASSES.map(|name| format!("\"{name}\": [\"picture of one {name}\"]")).join(", ");
    desk.write("names.json", format!("{{{list}}}"));
    let json =
        desk.lgd("bank --cache cache --teacher teacher --categories names.json --json-prompts --out banks/y");
    assert_eq!(json.ended(0, &[]).json()["prompts"]["total"], 10);
}

#[test]
fn parts_that_start_together_do_not_disturb_each_other() {
    for round in 0..10 {
        let desk = Desk::new();
        desk.images("images", 0, 2);
        desk.tiny_teacher("teacher", "linear.onnx");
        let extract =
            "extract --images images --teacher teacher --views 2 --batch 4 --shard-samples 4 --out parts";
        let parts = (0..4).map(|part| format!("lgd {extract} --partition {part}/4 >/dev/null & p{part}=$!;"));
        let wait = (0..4).map(|part| format!("wait $p{part} || exit;"));
        let line = parts.chain(wait).collect::<Vec<_>>().join(" ");
        desk.bash(&line).ended(0, &[]);
        let report = desk.lgd("verify parts").ended(0, &[]);
        assert!(report.stdout.contains("20 samples, 40 rows"), "round {round}: {}", report.stdout);
        desk.lgd(&format!("{extract} --partition 0/4 --overwrite")).ended(2, &["other parts"]);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    let train = "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 1 --objective seed";
    for (line, code) in [
        ("extract --images images --teacher teacher --out c", 0),
        (&format!("{train} --out run"), 0),
        ("inspect nowhere", 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = desk.command().args(line.split(' ')).stderr(writer).output().unwrap().status;
        assert_eq!(status.code(), Some(code), "{line}, nobody at standard error");
    }
    desk.lgd("verify run").ended(0, &[]);
    desk.bash("lgd inspect nowhere 2>&1 | true; exit ${PIPESTATUS[0]}").ended(2, &[]);
    for line in [
        "inspect cache",
        "verify cache",
        "objectives",
        "objectives --json",
        "extract --images images --teacher teacher --out b",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = desk.command().args(line.split(' ')).stdout(writer).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("error"), "{line}: {text}");
    }
    desk.lgd("verify b").ended(0, &[]);
    // A full disk, unlike a closed pipe, is an error.
    desk.bash("lgd objectives > /dev/full").ended(2, &["cannot write to standard output"]);
}

#[test]
fn a_plan_that_got_lost_does_not_let_old_shards_into_a_new_cache() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = "extract --images images --teacher teacher --batch 4 --shard-samples 8";
    desk.lgd(&format!("{extract} --partition 0/3 --seed 1 --out mixed")).ended(0, &[]);
    fs::remove_file(desk.path("mixed/extract.json")).unwrap();
    desk.lgd(&format!("{extract} --seed 2 --out mixed")).ended(0, &[]);
    desk.lgd(&format!("{extract} --seed 2 --out clean")).ended(0, &[]);
    let bytes = |name: &str| fs::read(desk.path(name).join("cache.json")).unwrap();
    assert_eq!(bytes("mixed"), bytes("clean"));
}
