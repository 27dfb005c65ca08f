//! Artifacts that were truncated, modified, mixed up or partly written are never accepted as whole.

use std::fs;

use crate::common::{Desk, Ran, cut, flip_a_bit};

const TRAIN: &str = "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 1";

#[test]
fn a_damaged_cache_or_bank_is_refused_by_every_command_that_reads_it() {
    let desk = Desk::cache_and_bank();
    let bank = "bank --cache cache --teacher teacher --categories names.txt --out banks/x --overwrite";
    let train = format!("{TRAIN} --out runs/x --overwrite");
    for (file, commands) in [
        ("cache/views-00000.parquet", vec![bank, &train, "verify cache"]),
        ("cache/cache.json", vec![bank, &train, "verify cache"]),
        ("banks/ten/targets-00000.parquet", vec![&train, "verify banks/ten"]),
        ("banks/ten/bank.safetensors", vec![&train, "verify banks/ten"]),
    ] {
        let path = desk.path(file);
        let whole = fs::read(&path).unwrap();
        for damage in [flip_a_bit, cut] {
            damage(&path);
            for command in &commands {
                desk.lgd(command).ended(3, &["error:"]);
            }
            fs::write(&path, &whole).unwrap();
        }
        fs::remove_file(&path).unwrap();
        desk.lgd(commands[0]).ended(3, &["error:"]);
        fs::write(&path, &whole).unwrap();
    }
    desk.lgd(&train).ended(0, &[]);
}

#[test]
fn a_damaged_student_is_refused() {
    let desk = Desk::cache_and_bank();
    let train = format!("{TRAIN} --out runs/a");
    desk.lgd(&train).ended(0, &[]);
    let student = desk.path("runs/a/student.safetensors");
    let whole = fs::read(&student).unwrap();
    for damage in [flip_a_bit, cut] {
        damage(&student);
        desk.lgd("eval --run runs/a --images images --bank banks/ten").ended(3, &["student.safetensors"]);
        desk.lgd("verify runs/a").ended(3, &["student.safetensors"]);
        fs::write(&student, &whole).unwrap();
    }
}

/// Runs `lgd` and sends it a signal once `file` has content. Stops waiting if `lgd` ends first or after 5 minutes.
fn stop_once(desk: &Desk, line: &str, file: &str, signal: &str) -> Ran {
    desk.bash(&format!(
        "{} {line} & pid=$!; n=0; \
         while [ ! -s {file} ] && kill -0 $pid && [ $((n += 1)) -le 15000 ]; do sleep 0.02; done; \
         kill -{signal} $pid; wait $pid",
        env!("CARGO_BIN_EXE_lgd")
    ))
}

#[test]
fn a_damaged_checkpoint_of_an_interrupted_run_is_refused_by_name() {
    let desk = Desk::cache_and_bank();
    let train = "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 8 --epochs 200 --out runs/cut";
    stop_once(&desk, train, "runs/cut/metrics.jsonl", "INT").ended(75, &[]);
    let entries = fs::read_dir(desk.path("runs/cut/checkpoints")).unwrap();
    let latest = entries.map(|entry| entry.unwrap().path()).max().unwrap();
    let name = latest.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("step-") && name.ends_with(".safetensors"), "{name}");
    let whole = fs::read(&latest).unwrap();
    for damage in [flip_a_bit, cut] {
        damage(&latest);
        desk.lgd(&format!("{train} --resume")).ended(3, &[name, "damaged checkpoint", "hint:"]);
        fs::write(&latest, &whole).unwrap();
    }
}

#[test]
fn a_bank_of_another_cache_is_refused_with_both_hashes() {
    let desk = Desk::cache_and_bank();
    desk.lgd("extract --images images --teacher teacher --views 2 --seed 1 --out other").ended(0, &[]);
    let hash = |path: &str| {
        let text = desk.lgd(&format!("verify {path}")).ended(0, &[]).stdout;
        text.trim().rsplit(' ').next().unwrap().to_owned()
    };
    let (cache, other) = (hash("cache"), hash("other"));
    assert_ne!(cache, other);
    let train =
        "train --cache other --images images --bank banks/ten --size 32 --batch 16 --epochs 1 --out runs/x";
    desk.lgd(train).ended(3, &[&cache, &other, "hint:"]);
}

#[test]
fn a_full_disk_ends_the_job_and_leaves_nothing_half_written() {
    let desk = Desk::cache_and_bank();
    // A limit on file size, in blocks of 1,024 bytes, makes writes fail as on a full disk.
    let limited = |line: &str| desk.bash(&format!("trap '' XFSZ; ulimit -f 16; lgd {line}"));
    limited("extract --images images --teacher teacher --views 2 --out full").ended(3, &["hint: make room"]);
    assert!(!desk.path("full/cache.json").exists() && !desk.path("full/views-00000.parquet").exists());
    let leftovers = fs::read_dir(desk.path("full")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(leftovers.collect::<Vec<_>>(), ["extract.json"]);
    desk.lgd("extract --images images --teacher teacher --views 2 --out full --resume").ended(0, &[]);
    desk.lgd("verify full").ended(0, &[]);

    limited("bank --cache cache --teacher teacher --categories names.txt --out banks/full")
        .ended(3, &["hint:"]);
    assert!(!desk.path("banks/full/bank.json").exists());
    limited(&format!("{TRAIN} --out runs/full")).ended(3, &["hint:"]);
    assert!(!desk.path("runs/full/student.safetensors").exists());
}

#[test]
fn an_occupied_folder_is_refused_until_told_otherwise() {
    let desk = Desk::cache_and_bank();
    let extract = "extract --images images --teacher teacher --views 2 --with-center --out cache";
    desk.lgd(extract).ended(2, &["already holds a cache", "--overwrite"]);
    desk.lgd(&format!("{extract} --resume")).ended(0, &[]);
    desk.lgd(&format!("{extract} --seed 5 --resume")).ended(3, &["seed", "expected 0, got 5"]);
    let bank = "bank --cache cache --teacher teacher --categories names.txt --out banks/ten";
    desk.lgd(bank).ended(2, &["already holds a bank"]);
    desk.lgd(&format!("{bank} --overwrite")).ended(0, &[]);
}

#[test]
fn a_killed_extraction_leaves_no_cache_and_resumes() {
    let desk = Desk::new();
    desk.images("images", 0, 60);
    desk.teacher("teacher");
    let extract = "extract --images images --teacher teacher --views 1 --shard-samples 64 --out";
    stop_once(&desk, &format!("{extract} cut"), "cut/views-00001.json", "KILL");
    assert!(!desk.path("cut/cache.json").exists());
    desk.lgd("verify cut")
        .ended(75, &["hint: this makes the missing shards", "--resume"])
        .printed(&["cut: unfinished; ", " of 10 shards are finished, intact"]);
    desk.lgd(&format!("{extract} cut --resume")).ended(0, &[]);
    desk.lgd(&format!("{extract} whole")).ended(0, &[]);
    let bytes = |folder: &str| fs::read(desk.path(folder).join("cache.json")).unwrap();
    assert_eq!(bytes("cut"), bytes("whole"));
}

#[test]
fn a_flip_anywhere_in_a_manifest_is_found() {
    let desk = Desk::cache_and_bank();
    desk.lgd(&format!("{TRAIN} --out runs/a")).ended(0, &[]);
    for (file, folder) in
        [("cache/cache.json", "cache"), ("banks/ten/bank.json", "banks/ten"), ("runs/a/run.json", "runs/a")]
    {
        let path = desk.path(file);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(41) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            desk.lgd(&format!("verify {folder}")).ended(3, &["error:"]);
        }
        fs::write(&path, &whole).unwrap();
        desk.lgd(&format!("verify {folder}")).ended(0, &[]);
    }
}

#[test]
fn a_failed_bank_leaves_the_old_one_in_place() {
    let desk = Desk::cache_and_bank();
    let segment = fs::read_dir(desk.path("banks/prompts")).unwrap().next().unwrap().unwrap().path();
    let segment = fs::read_dir(segment).unwrap().next().unwrap().unwrap().path();
    flip_a_bit(&segment);
    let bank = "bank --cache cache --teacher teacher --categories names.txt --out banks/ten --overwrite";
    desk.lgd(bank).ended(3, &["hint: delete this file"]);
    desk.lgd("verify banks/ten").ended(0, &[]);
}
