//! Files that change while a run trains on them: the run ends with an error that names the file, and is not sealed.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{CLASSES, Desk};

const TRAIN: &str =
    "train --student mobilenet_v2 --size 32 --batch 8 --epochs 4000 --cache cache --bank banks/ten";

/// A training that writes checkpoints all the time.
struct Training {
    child: Child,
}

impl Training {
    /// Starts `line` and waits for a checkpoint of it.
    fn start(desk: &Desk, line: &str, out: &str) -> Self {
        let mut command = desk.command();
        command.args(format!("{line} --out {out}").split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let listed = || fs::read_to_string(desk.path(out).join("run.json")).unwrap_or_default();
        let before = listed();
        let (mut training, from) = (Self { child: command.spawn().unwrap() }, Instant::now());
        while listed() == before || !listed().contains("checkpoints/step-") {
            assert!(
                training.child.try_wait().unwrap().is_none() && from.elapsed() < Duration::from_secs(300)
            );
            sleep(Duration::from_millis(10));
        }
        training
    }

    /// Waits for the end, which must come soon, and returns the exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let from = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if from.elapsed() > Duration::from_secs(120) {
                self.child.kill().unwrap();
            }
            sleep(Duration::from_millis(10));
        }
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

/// Images, a cache of two shards and a bank of the ten names; another bank of as many names.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.teacher("teacher");
    desk.names("names.txt", &CLASSES);
    desk.names("others.txt", &CLASSES.map(|name| ["old ", name].concat()).each_ref().map(String::as_str));
    let stored = "--store-views raw --store-size 32 --shard-samples 32";
    desk.lgd(&format!("extract --images images --teacher teacher --views 2 {stored} --out cache"))
        .ended(0, &[]);
    for (names, bank) in [("names", "ten"), ("others", "others")] {
        let line =
            format!("bank --cache cache --teacher teacher --categories {names}.txt --out banks/{bank}");
        desk.lgd(&line).ended(0, &[]);
    }
    desk
}

#[test]
fn targets_and_views_that_change_under_a_run_end_it_and_are_named() {
    let desk = desk();
    let targets = "banks/ten/targets-00001.parquet";
    type Change = fn(&Desk, &str);
    let write_over: Change = |desk, path| {
        let other = fs::read(desk.path(&path.replace("ten", "others"))).unwrap();
        fs::write(desk.path(path), other).unwrap();
    };
    let replace: Change = |desk, path| {
        fs::copy(desk.path(path), desk.path("copy")).unwrap();
        fs::rename(desk.path("copy"), desk.path(path)).unwrap();
    };
    let cut: Change = |desk, path| {
        OpenOptions::new().write(true).open(desk.path(path)).unwrap().set_len(300).unwrap();
    };
    let cases: [(&str, Change); 5] = [
        (targets, write_over),
        (targets, replace),
        (targets, cut),
        ("cache/views-00000.parquet", cut),
        ("cache/pixels-00001.parquet", cut),
    ];
    for (number, (path, change)) in cases.into_iter().enumerate() {
        let (out, whole) = (format!("runs/{number}"), fs::read(desk.path(path)).unwrap());
        let training = Training::start(&desk, TRAIN, &out);
        change(&desk, path);
        let (code, text) = training.end();
        assert_eq!(code, Some(3), "{path}, case {number}: {text}");
        let name = path.rsplit('/').next().unwrap();
        assert!(text.contains("error: ") && text.contains(name), "{path}, case {number}: {text}");
        let run = fs::read_to_string(desk.path(&out).join("run.json")).unwrap();
        assert!(run.contains("\"complete\": false"), "{run}");
        // Restored, it goes on: the checkpoints are from before the change.
        fs::write(desk.path(path), whole).unwrap();
        let resumed = Training::start(&desk, &format!("{TRAIN} --resume"), &out);
        let pid = resumed.child.id();
        desk.bash(&format!("kill -INT {pid}"));
        assert_eq!(resumed.end().0, Some(75), "{path}");
    }
}

#[test]
fn a_mapped_file_that_is_cut_between_checkpoints_ends_the_run_with_its_name() {
    let desk = desk();
    // The teacher's embeddings are read at every step, and a checkpoint is due every ten, so only the signal can tell.
    let line = TRAIN.replace("--batch 8 --epochs 4000", "--batch 4 --epochs 4000 --objective seed");
    let line = line.replace(" --bank banks/ten", "");
    let training = Training::start(&desk, &line, "runs/seed");
    let file = OpenOptions::new().write(true).open(desk.path("cache/views-00000.parquet")).unwrap();
    file.set_len(0).unwrap();
    let (code, text) = training.end();
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("error: cache/views-00000.parquet") && text.contains("hint:"), "{text}");
}
