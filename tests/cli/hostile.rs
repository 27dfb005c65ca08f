//! Files that would hang the program: FIFOs and devices under the names of images and models, and a model without an end.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Desk, root, third_party};

/// Waits for the end of a process, at most `limit` long.
fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("no end after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `lgd`, which must not hang, and returns its exit code and standard error.
fn run(desk: &Desk, line: &str) -> (Option<i32>, String) {
    let mut command = desk.command();
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let status = wait(&mut child, Duration::from_secs(60));
    let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    (status.code(), text)
}

fn mkfifo(desk: &Desk, name: &str) {
    let path = desk.path(name);
    let _ = std::fs::remove_file(&path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn fifos_and_devices_are_no_files() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.write("list.csv", "path\nimages/cat/fifo.png\nimages/cat/device.png\n");
    mkfifo(&desk, "images/cat/fifo.png");
    std::os::unix::fs::symlink("/dev/zero", desk.path("images/cat/device.png")).unwrap();
    let teacher = third_party("teacher");
    let extract = format!("extract --teacher {} --max-rejects 1", teacher.display());
    let (code, text) = run(&desk, &format!("{extract} --images images --out cache"));
    assert_eq!(code, Some(0), "{text}");
    let rejects = std::fs::read_to_string(desk.path("cache/rejects.jsonl")).unwrap();
    assert_eq!(rejects.lines().filter(|line| line.contains("not-a-file")).count(), 2, "{rejects}");
    let (code, text) = run(&desk, &format!("{extract} --images list.csv --out other"));
    assert!(code.is_some(), "{text}");
    let rejects = std::fs::read_to_string(desk.path("other/rejects.jsonl")).unwrap_or(text);
    assert!(rejects.contains("not an ordinary file"), "{rejects}");
    for file in ["image.onnx", "text.onnx", "tokenizer.json", "teacher.toml"] {
        desk.teacher("damaged");
        mkfifo(&desk, &format!("damaged/{file}"));
        let (code, text) = run(&desk, "teacher damaged");
        assert!(code != Some(0) && code.is_some(), "{file}: {text}");
        std::fs::remove_dir_all(desk.path("damaged")).unwrap();
    }
    for name in ["names.txt", "names.csv", "a.tar", "a.parquet"] {
        mkfifo(&desk, name);
        let line = match name.starts_with("names") {
            true => {
                format!("bank --cache cache --teacher {} --categories {name} --out bank", teacher.display())
            }
            false => format!("{extract} --images {name} --out third"),
        };
        let (code, text) = run(&desk, &line);
        assert!(code != Some(0) && text.contains("not an ordinary file"), "{name}: {text}");
    }
}

#[test]
fn a_model_without_an_end_stops_on_request() {
    let desk = Desk::new();
    let model = root().join("extract/tests/fixtures/endless.onnx");
    let toml = format!(
        "name = 'endless'\n[image]\nmodel = '{}'\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n",
        model.display()
    );
    desk.write("teacher/teacher.toml", toml);
    let mut command = desk.command();
    command.args(["teacher", "teacher"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "it runs");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = wait(&mut child, Duration::from_secs(20));
    assert_eq!(status.code(), Some(75));
}

#[test]
fn names_of_files_move_no_terminal() {
    let desk = Desk::new();
    desk.write("images/a\u{1b}]0;title\u{7}/1.png", "x");
    let teacher = third_party("teacher").display().to_string();
    let images = "images/a\u{1b}]0;title\u{7}/absent";
    let (_, text) = run(&desk, &format!("extract --images {images} --teacher {teacher} --out cache"));
    assert!(text.contains("a\\u{1b}]0;title\\u{7}"), "{text:?}");
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    let (code, text) = run(&desk, "train --cache cache --out run --threads 100000");
    assert!(code == Some(2) && text.contains("expected at most 1024 threads"), "{text}");
}
