//! One writer per folder, and no file elsewhere is touched: two processes in one folder, and links in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use lgd_data::manifest::FolderLock;

use crate::common::{CLASSES, Desk};

/// Starts `lgd` without waiting for it.
fn start(desk: &Desk, line: &str) -> Child {
    let mut command = desk.command();
    command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Names and contents of the files in a folder.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> = entries.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn every_command_that_writes_a_folder_is_refused_while_another_process_writes_to_it() {
    let desk = Desk::cache_of_everything();
    let bank = "bank --cache cache --teacher teacher --categories names.txt --prompts prompts";
    desk.lgd(&format!("{bank} --out banks/ten")).ended(0, &[]);
    let train = "train --cache cache --images list.csv --bank banks/ten --student mobilenet_v2 --size 32 --batch 16 --epochs 1";
    desk.lgd(&format!("{train} --out runs/a")).ended(0, &[]);
    let extract = "extract --images list.csv --teacher teacher --out out --overwrite";
    let align = "align --cache cache --teacher teacher --categories names.txt --prompts prompts --out out --overwrite";
    fs::create_dir(desk.path("out")).unwrap();
    let commands = [
        extract.to_owned(),
        format!("{} --partition 1/4", extract.replace(" --overwrite", "")),
        format!("{bank} --out out --overwrite"),
        "bank --cache cache --target kdep --dim 32 --out out --overwrite".to_owned(),
        align.to_owned(),
        format!("{train} --out out --overwrite"),
        "export --run runs/a --layout timm --out out --overwrite".to_owned(),
    ];
    for command in &commands {
        let lock = FolderLock::exclusive(&desk.path("out")).unwrap();
        desk.lgd(command).ended(2, &["out", "another process", "hint:"]);
        assert_eq!(files(&desk.path("out")), [(".lock".to_owned(), Vec::new())], "{command}");
        drop(lock);
        desk.lgd(command).ended(0, &[]);
        assert!(!desk.path("out/.lock").exists(), "{command}");
        fs::remove_dir_all(desk.path("out")).unwrap();
        fs::create_dir(desk.path("out")).unwrap();
    }
    let lock = FolderLock::exclusive(&desk.path("teacher")).unwrap();
    desk.lgd("teacher teacher --write --overwrite").ended(2, &["teacher", "another process"]);
    drop(lock);
    desk.lgd("teacher teacher --write --overwrite").ended(0, &[]);
}

#[test]
fn of_two_banks_in_one_folder_one_is_refused_or_both_run_one_after_the_other() {
    let desk = Desk::cache_and_bank();
    let mut reversed = CLASSES;
    reversed.reverse();
    desk.names("reversed.txt", &reversed);
    let bank = |names: &str, out: &str| {
        format!("bank --cache cache --teacher teacher --categories {names}.txt --prompts prompts --out {out}")
    };
    let alone = ["names", "reversed"].map(|names| {
        desk.lgd(&bank(names, &format!("banks/{names}"))).ended(0, &[]);
        files(&desk.path("banks").join(names))
    });
    for round in 0..12 {
        let out = format!("banks/both-{round}");
        let mut jobs = ["names", "reversed"].map(|names| start(&desk, &bank(names, &out)));
        let codes = jobs.each_mut().map(|job| job.wait().unwrap().code().unwrap());
        let winner = codes.iter().position(|&code| code == 0).expect("one of them writes its bank");
        assert_eq!(codes[1 - winner], 2, "round {round}: the other finds a writer or a bank");
        assert_eq!(files(&desk.path(&out)), alone[winner], "round {round}");
    }
}

#[test]
fn of_two_extractions_in_one_folder_one_is_refused_or_both_run_one_after_the_other() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = |seed: usize, out: &str| {
        format!(
            "extract --images images --teacher teacher --views 3 --seed {seed} --batch 4 --shard-samples 8 --out {out} --overwrite"
        )
    };
    let alone = [1, 2].map(|seed| {
        desk.lgd(&extract(seed, &format!("alone-{seed}"))).ended(0, &[]);
        files(&desk.path(&format!("alone-{seed}")))
    });
    for round in 0..12 {
        let mut jobs = [1, 2].map(|seed| start(&desk, &extract(seed, "both")));
        let codes = jobs.each_mut().map(|job| job.wait().unwrap().code().unwrap());
        assert!(
            codes.contains(&0) && codes.iter().all(|code| [0, 2].contains(code)),
            "round {round}: {codes:?}"
        );
        let made = files(&desk.path("both"));
        let winners = alone.iter().zip(codes).filter(|&(_, code)| code == 0);
        assert!(winners.into_iter().any(|(files, _)| *files == made), "round {round}: {codes:?}");
    }
}

#[test]
fn a_lock_that_links_elsewhere_empties_nothing() {
    let desk = Desk::cache_and_bank();
    let precious = desk.write("precious", "content");
    for command in [
        "extract --images images --teacher teacher --out out",
        "bank --cache cache --teacher teacher --categories names.txt --out out",
        "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 16 --epochs 1 --out out",
    ] {
        fs::create_dir(desk.path("out")).unwrap();
        symlink(&precious, desk.path("out/.lock")).unwrap();
        desk.lgd(command).ended(3, &["out/.lock", "got a link", "hint: delete the link"]);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "content", "{command}");
        fs::remove_file(desk.path("out/.lock")).unwrap();
        desk.lgd(command).ended(0, &[]);
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
}

#[test]
fn files_that_are_links_are_replaced_and_their_targets_kept() {
    let desk = Desk::new();
    let precious = desk.write("precious", "content");
    fs::create_dir(desk.path("man")).unwrap();
    symlink(&precious, desk.path("man/lgd.1")).unwrap();
    desk.lgd("manual --out man").ended(0, &[]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "content");
    let page = fs::symlink_metadata(desk.path("man/lgd.1")).unwrap();
    assert!(page.is_file() && page.len() > 1000);
}
