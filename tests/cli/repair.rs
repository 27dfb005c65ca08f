//! One damaged shard costs one shard: resumed extractions and `lgd verify --repair`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{Desk, cut, flip_a_bit};

const EXTRACT: &str = "extract --images images --teacher teacher --views 3 --seed 5 --batch 4 --shard-samples 8 --store-views jpeg --store-size 16";

/// Images and a tiny teacher, and a whole cache of five shards.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd(&format!("{EXTRACT} --out whole")).ended(0, &[]);
    desk
}

/// Names and contents of the files in a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (name, bytes) in files(from) {
        fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn a_resumed_extraction_makes_damaged_shards_again() {
    let desk = desk();
    desk.lgd(&format!("{EXTRACT} --out part --partition 0/2")).ended(0, &[]);
    for (number, file) in
        ["views-00000.parquet", "pixels-00002.parquet", "views-00004.json"].into_iter().enumerate()
    {
        for damage in [flip_a_bit, cut] {
            let out = desk.path("out");
            copy(&desk.path("part"), &out);
            damage(&out.join(file));
            desk.lgd("verify out")
                .ended(3, &["error: out/", file, "hint: this makes these shards again"])
                .printed(&["unfinished; 3 of 5 shards are finished"]);
            desk.lgd(&format!("{EXTRACT} --out out --resume"))
                .ended(0, &["note: damaged, and made again: out/", file]);
            assert!(files(&out) == files(&desk.path("whole")), "case {number}");
            fs::remove_dir_all(out).unwrap();
        }
    }
    desk.lgd("verify part").ended(75, &["hint: this makes the missing shards"]).printed(&["intact"]);
}

#[test]
fn a_damaged_complete_cache_is_repaired_to_the_same_bytes_by_the_printed_command() {
    let desk = desk();
    desk.lgd("verify whole --repair").ended(0, &[]).printed(&["whole: complete, intact"]);
    copy(&desk.path("whole"), &desk.path("out"));
    flip_a_bit(&desk.path("out/views-00001.parquet"));
    fs::remove_file(desk.path("out/pixels-00003.parquet")).unwrap();
    fs::write(desk.path("out/rejects.jsonl"), "junk").unwrap();
    let ran = desk.lgd("verify out --repair").ended(
        3,
        &[
            "out/views-00001.parquet: expected",
            "out/pixels-00003.parquet is missing",
            "out/rejects.jsonl: expected 0",
        ],
    );
    let command = ran.stderr.lines().find_map(|line| line.split_once("keeps the others: lgd ")).unwrap().1;
    let command = command.replace("IMAGES", "images").replace("TEACHER", "teacher");
    let ran = desk.lgd(&command).ended(0, &["out/views-00001.parquet", "out/pixels-00003.parquet"]);
    assert!(ran.stderr.contains("extract: 16 samples"), "two shards of eight samples: {}", ran.stderr);
    assert!(files(&desk.path("out")) == files(&desk.path("whole")));
    desk.lgd("verify out").ended(0, &[]).printed(&["intact"]);
}

#[test]
fn a_cache_is_repaired_in_place_if_the_inputs_are_given() {
    let desk = desk();
    // Every path has a space, a quote and a sign that the shell reads.
    let [images, teacher, out] = ["im 'ages", "teach $er", "my cache; x"].map(str::to_owned);
    fs::rename(desk.path("images"), desk.path(&images)).unwrap();
    fs::rename(desk.path("teacher"), desk.path(&teacher)).unwrap();
    copy(&desk.path("whole"), &desk.path(&out));
    let verify = |words: &[&str]| desk.lgd_of(&[&["verify", &out, "--repair"], words].concat());
    let inputs = ["--images", &images, "--teacher", &teacher];
    let intact = format!("{out}: complete, intact");
    verify(&inputs).ended(0, &[]).printed(&[&intact]);

    flip_a_bit(&desk.path(&out).join("views-00001.parquet"));
    fs::remove_file(desk.path(&out).join("pixels-00003.parquet")).unwrap();
    let ran = verify(&[]).ended(3, &["views-00001.parquet: expected", "pixels-00003.parquet is missing"]);
    let command =
        ran.stderr.lines().find_map(|line| line.split_once("keeps the others: ")).unwrap().1.to_owned();
    let ran = verify(&inputs).ended(0, &["note: this makes these shards again", "extract: 16 samples"]);
    assert!(ran.stdout.ends_with(&format!("{intact}\n")) && !ran.stdout.contains('{'), "{}", ran.stdout);
    assert!(files(&desk.path(&out)) == files(&desk.path("whole")));

    // The printed command is one that a shell can run.
    fs::remove_file(desk.path(&out).join("views-00000.parquet")).unwrap();
    let command = command.replace("IMAGES", r#""im 'ages""#).replace("TEACHER", "'teach $er'");
    desk.bash(&command).ended(0, &["extract: 8 samples"]);
    assert!(files(&desk.path(&out)) == files(&desk.path("whole")));

    // An unfinished cache is finished.
    fs::remove_dir_all(desk.path(&out)).unwrap();
    let named = EXTRACT.split(' ').map(|word| match word {
        "images" => images.as_str(),
        "teacher" => teacher.as_str(),
        word => word,
    });
    let words: Vec<&str> = named.chain(["--out", &out, "--partition", "0/2"]).collect();
    desk.lgd_of(&words).ended(0, &[]);
    verify(&inputs).ended(0, &["note: this makes the missing shards"]).printed(&[&intact]);
    assert!(files(&desk.path(&out)) == files(&desk.path("whole")));

    desk.lgd_of(&["verify", &out, "--images", &images, "--teacher", &teacher]).ended(2, &["--repair"]);
    verify(&["--images", &images]).ended(2, &["--teacher"]);
    desk.lgd_of(&["verify", &teacher, "--repair", "--images", &images, "--teacher", &teacher])
        .ended(2, &["only a cache is made again", "hint: leave out"]);
}

#[test]
fn a_shard_that_cannot_be_made_again_to_the_same_bytes_is_left() {
    let desk = desk();
    copy(&desk.path("whole"), &desk.path("out"));
    flip_a_bit(&desk.path("out/views-00000.parquet"));
    let before = files(&desk.path("out"));
    // The first image of the first shard becomes another one under the same name.
    let folder = |class: &str| {
        let mut paths: Vec<_> = fs::read_dir(desk.path("images").join(class))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.remove(0)
    };
    fs::copy(folder("truck"), folder("airplane")).unwrap();
    desk.lgd(&format!("{EXTRACT} --out out --resume"))
        .ended(3, &["views-00000.parquet", "made again", "hint:"]);
    assert!(files(&desk.path("out")) == before);
}

#[test]
fn an_unfinished_run_is_verified() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    let train = "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 4000 --objective seed --out run";
    desk.bash(&format!(
        "{} {train} & pid=$!; while [ ! -s run/metrics.jsonl ] && kill -0 $pid; do sleep 0.02; done; kill -INT $pid; wait $pid",
        env!("CARGO_BIN_EXE_lgd")
    ))
    .ended(75, &[]);
    desk.lgd("verify run").ended(75, &["--resume"]).printed(&["run: unfinished; step ", "intact"]);
    let entries = fs::read_dir(desk.path("run/checkpoints")).unwrap();
    flip_a_bit(&entries.map(|entry| entry.unwrap().path()).max().unwrap());
    desk.lgd("verify run").ended(3, &["checkpoints/step-"]);
}
