//! Limits that hold whatever the inputs: time to stop, rights, open files, memory, and numbers out of range.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Desk, Ran};

#[test]
fn sigterm_ends_a_training_within_seconds_in_the_middle_of_a_step() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    // One step takes far longer than the test waits.
    let train = "train --cache cache --images images --objective seed --student resnet18 --size 448 --batch 40 --batch-parts 20 --epochs 1 --out run";
    let mut command = desk.command();
    command.args(train.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while !desk.path("run/run.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "it trains");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let asked = Instant::now();
    let status = child.wait().unwrap();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(75));
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let metrics = fs::read_to_string(desk.path("run/metrics.jsonl")).unwrap_or_default();
    assert!(!metrics.contains("\"kind\":\"step\""), "it was in its first step: {metrics}");
    desk.lgd("verify run").ended(75, &[]).printed(&["run: unfinished; step 0"]);
}

/// Runs `lgd` as a user without rights, if this one has all: those of the superuser hide missing ones.
fn without_rights(desk: &Desk, line: &str) -> Option<Ran> {
    let binary = desk.path("lgd");
    fs::copy(env!("CARGO_BIN_EXE_lgd"), &binary).unwrap();
    fs::set_permissions(desk.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let is_root = desk.bash("id -u").stdout.trim() == "0";
    let user =
        if is_root { "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs " } else { "" };
    if desk.bash(&format!("{user}true")).code != 0 {
        return None;
    }
    Some(desk.bash(&format!("{user}{} {line}", binary.display())))
}

#[test]
fn a_folder_that_a_user_may_not_list_ends_the_command_with_its_name() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    fs::create_dir_all(desk.path("images/cat/more/deep")).unwrap();
    fs::copy(
        fs::read_dir(desk.path("images/dog")).unwrap().next().unwrap().unwrap().path(),
        desk.path("images/cat/more/deep/1.png"),
    )
    .unwrap();
    for (folder, mode) in [
        ("images/cat", 0o000),
        ("images/cat", 0o400),
        ("images/cat", 0o100),
        ("images/cat/more/deep", 0o000),
        ("images", 0o100),
    ] {
        let path = desk.path(folder);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let ran = without_rights(&desk, "extract --images images --teacher teacher --out cache");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let Some(ran) = ran else {
            // This user is root, and setpriv cannot make it another.
            let test = "a_folder_that_a_user_may_not_list_ends_the_command_with_its_name";
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("SKIPPED: {test}: run it as another user than root, or with setpriv\n").as_bytes(),
            );
            return;
        };
        ran.ended(2, &[folder, "Permission denied"]);
        assert!(!desk.path("cache").exists(), "{folder} {mode:o}");
    }
}

#[test]
fn more_archives_than_open_files_are_read() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("teacher", "linear.onnx");
    let pack = "mkdir shards; cd images; n=0; for turn in $(seq 15); do for file in */*.png; do \
                n=$((n+1)); cp $file $n.png; tar -cf ../shards/$n.tar $n.png; rm $n.png; done; done";
    desk.bash(pack).ended(0, &[]);
    let extract = "extract --images shards --teacher teacher --out cache";
    desk.bash(&format!("ulimit -n 96; lgd {extract}")).ended(0, &["extract: 150 samples"]);
    let train = "train --cache cache --images shards --objective seed --student mobilenet_v2 --size 32 --batch 50 --epochs 1 --out run";
    desk.bash(&format!("ulimit -n 96; lgd {train}")).ended(0, &["epoch 1/1"]);
}

#[test]
fn class_numbers_that_a_cache_cannot_store_are_refused_before_the_encoder_runs() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    // The encoder would not even open.
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.write("teacher/image.onnx", "no model");
    let image = fs::read_dir(desk.path("images/cat")).unwrap().next().unwrap().unwrap().file_name();
    let list = |label: u64| format!("path,label\nimages/cat/{},{label}\n", image.display());
    desk.write("list.csv", list(1 << 31));
    let extract = "extract --images list.csv --teacher teacher --out cache";
    desk.lgd(extract).ended(2, &["list.csv", "\"2147483648\" is not a class", "0 to 2147483647"]);
    desk.write("list.csv", list((1 << 31) - 1));
    desk.lgd(extract).ended(2, &["image.onnx"]);
}

#[test]
fn one_name_and_one_class_have_nothing_to_tell_apart() {
    let desk = Desk::new();
    desk.images("all", 0, 4);
    fs::create_dir(desk.path("images")).unwrap();
    fs::rename(desk.path("all/cat"), desk.path("images/cat")).unwrap();
    desk.teacher("teacher");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    let train = "train --cache cache --images images --objective supervised --student mobilenet_v2 --size 32 --batch 4 --epochs 1 --out run";
    desk.lgd(train)
        .ended(2, &["cache: all samples are of one class", "hint: label the images with two classes"]);
    desk.names("one.txt", &["cat"]);
    desk.lgd("bank --cache cache --teacher teacher --categories one.txt --out bank")
        .ended(2, &["\"cat\"", "hint:"]);
    assert!(!desk.path("bank/bank.json").exists());
}

#[test]
fn names_of_files_and_categories_are_printed_without_control_characters() {
    let desk = Desk::cache_and_bank();
    let train = "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 16 --epochs 1 --out run";
    desk.lgd(train).ended(0, &[]);
    let image = fs::read_dir(desk.path("images/cat")).unwrap().next().unwrap().unwrap().path();
    let odd = "odd/\u{1b}]0;title\u{7}\u{9b}2J\u{202e}.png";
    fs::create_dir(desk.path("odd")).unwrap();
    fs::copy(image, desk.path(odd)).unwrap();
    desk.write("odd/\u{1b}[1mcut.png", "x");
    let harmful = |text: &str| {
        text.contains(|letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}')
    };
    for line in [
        "predict --run run odd --format text --max-rejects 1",
        "predict --run run odd --out table.csv --max-rejects 1",
        "embed --run run odd --out x.npy --max-rejects 1",
        "extract --images odd --teacher teacher --out other --max-rejects 1",
        "inspect other",
        "inspect other --json",
        "verify other",
    ] {
        let ran = desk.lgd(line).ended(0, &[]);
        assert!(!harmful(&ran.stdout) && !harmful(&ran.stderr), "{line}: {:?} {:?}", ran.stdout, ran.stderr);
    }
    // A table is for programs, which read the name as it is.
    let table = fs::read_to_string(desk.path("table.csv")).unwrap();
    assert!(table.contains(odd), "{table:?}");
}
