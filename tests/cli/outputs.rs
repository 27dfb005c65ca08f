//! Outputs that are single files: whole or absent, never written through a link, and of two writers the file of one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::Desk;

/// Commands that write a single file, by the file. The run and the bank are those of [`desk`].
const COMMANDS: [(&str, &str); 9] = [
    ("student.onnx", "export --run run --out student.onnx --overwrite"),
    ("student.pth", "export --run run --layout torchvision --format pth --out student.pth --overwrite"),
    ("table.csv", "predict --run run images --out table.csv --overwrite"),
    ("table.parquet", "predict --run run images --out table.parquet --overwrite"),
    ("features.npy", "embed --run run images --out features.npy --overwrite"),
    ("features.parquet", "embed --run run images --out features.parquet --overwrite"),
    ("features.safetensors", "embed --run run images --out features.safetensors --overwrite"),
    ("page.html", "report run --out page.html"),
    ("eval.jsonl", "eval --run run --images images --bank banks/ten --predictions eval.jsonl"),
];

fn desk() -> Desk {
    let desk = Desk::cache_and_bank();
    let train = "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 16 --epochs 1 --out run";
    desk.lgd(train).ended(0, &[]);
    desk
}

/// Names in a folder, other than those that the desk starts with.
fn names(desk: &Desk) -> Vec<String> {
    let entries = fs::read_dir(desk.path("")).unwrap().map(|entry| entry.unwrap());
    let known = ["banks", "cache", "images", "names.txt", "run", "teacher"];
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| !known.contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn a_full_disk_leaves_the_old_file_or_none() {
    let desk = desk();
    for (file, line) in COMMANDS {
        // A limit on file size, in blocks of 1,024 bytes, makes writes fail as on a full disk.
        let limited = format!("trap '' XFSZ; ulimit -f 1; lgd {line}");
        let list = if file.ends_with(".npy") { vec!["features.keys.txt".to_owned()] } else { Vec::new() };
        desk.bash(&limited).ended(3, &["cannot write", "File too large"]);
        assert_eq!(names(&desk), [""; 0], "{file}");
        desk.write(file, "old");
        desk.bash(&limited).ended(3, &["cannot write", "File too large"]);
        assert_eq!(names(&desk), [file], "{file}");
        assert_eq!(fs::read_to_string(desk.path(file)).unwrap(), "old", "{file}");
        desk.lgd(line).ended(0, &[]);
        assert_ne!(fs::read(desk.path(file)).unwrap(), b"old", "{file}");
        for name in list.iter().map(String::as_str).chain([file]) {
            fs::remove_file(desk.path(name)).unwrap();
        }
        assert_eq!(names(&desk), [""; 0], "{file}");
    }
}

#[test]
fn a_link_under_the_name_is_replaced_and_not_followed() {
    let desk = desk();
    let precious = desk.write("precious", "content");
    for (file, line) in COMMANDS {
        for target in ["precious", "absent"] {
            symlink(target, desk.path(file)).unwrap();
            desk.lgd(line).ended(0, &[]);
            assert!(fs::symlink_metadata(desk.path(file)).unwrap().is_file(), "{file}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "content", "{file}");
            assert!(!desk.path("absent").exists(), "{file}");
            fs::remove_file(desk.path(file)).unwrap();
        }
    }
}

fn start(desk: &Desk, line: &str) -> Child {
    let mut command = desk.command();
    command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn of_two_writers_at_once_the_file_is_that_of_one() {
    let desk = desk();
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    for (line, file, list) in [
        ("export --run run --size SIDE --out FILE", "x.onnx", None),
        ("predict --run run images --top-k COUNT --out FILE", "x.csv", None),
        ("embed --run run images/CLASS --out FILE", "x.safetensors", None),
        ("embed --run run images/CLASS --out FILE", "x.npy", Some("x.keys.txt")),
        ("report FOLDER --out FILE", "x.html", None),
    ] {
        let line = |which: usize, folder: &str| {
            let line = line
                .replace("SIDE", ["32", "64"][which])
                .replace("COUNT", ["1", "4"][which])
                .replace("CLASS", ["cat", "dog"][which])
                .replace("FOLDER", ["cache", "banks/ten"][which]);
            line.replace("FILE", &format!("{folder}/{file}"))
        };
        let made = |folder: &str| {
            let folder = desk.path(folder);
            (read(&folder.join(file)), list.map(|list| read(&folder.join(list))))
        };
        let alone = [0, 1].map(|which| {
            let folder = format!("alone-{which}");
            fs::create_dir(desk.path(&folder)).unwrap();
            desk.lgd(&line(which, &folder)).ended(0, &[]);
            made(&folder)
        });
        assert!(alone[0] != alone[1], "{file}");
        fs::create_dir(desk.path("both")).unwrap();
        for round in 0..6 {
            let mut jobs = [0, 1].map(|which| start(&desk, &line(which, "both")));
            let codes = jobs.each_mut().map(|job| job.wait().unwrap().code());
            assert!(codes.contains(&Some(0)), "{file}, round {round}: {codes:?}");
            assert!(alone.contains(&made("both")), "{file}, round {round}: {codes:?}");
            let left = fs::read_dir(desk.path("both")).unwrap().count();
            assert_eq!(left, 1 + usize::from(list.is_some()), "{file}, round {round}");
            fs::remove_dir_all(desk.path("both")).unwrap();
            fs::create_dir(desk.path("both")).unwrap();
        }
        for folder in ["both", "alone-0", "alone-1"] {
            fs::remove_dir_all(desk.path(folder)).unwrap();
        }
    }
}
