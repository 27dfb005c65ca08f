//! A small data set, the binary, and its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn third_party(part: &str) -> PathBuf {
    let path = root().join("third_party").join(part);
    assert!(path.exists(), "{} is missing\nhint: run scripts/setup", path.display());
    path
}

/// Exit code and output of a run of the binary.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks the exit code, and that standard error contains all of `parts`.
    #[track_caller]
    pub fn ended(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "standard error:\n{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
        self
    }

    /// Checks that standard output contains all of `parts`.
    pub fn printed(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "{part:?} is not in:\n{}", self.stdout);
        }
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A temporary folder for one test, which contains the binary's working directory.
pub struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs `lgd` in this folder with the words of `line` as arguments.
    pub fn lgd(&self, line: &str) -> Ran {
        self.lgd_of(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `lgd` in this folder with these arguments.
    pub fn lgd_of(&self, words: &[&str]) -> Ran {
        Ran::new(&self.command().args(words).output().unwrap())
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lgd"));
        command.current_dir(self.dir.path());
        command.env("ORT_DYLIB_PATH", third_party("onnxruntime").join("libonnxruntime.so"));
        command
    }

    /// Runs a bash line in this folder, with `lgd` defined as the binary.
    pub fn bash(&self, line: &str) -> Ran {
        let script = format!("lgd() {{ {} \"$@\"; }}; {line}", env!("CARGO_BIN_EXE_lgd"));
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(self.dir.path());
        command.env("ORT_DYLIB_PATH", third_party("onnxruntime").join("libonnxruntime.so"));
        Ran::new(&command.output().unwrap())
    }

    /// Runs a Python script in this folder, with the packages of `scripts/setup venv`.
    pub fn python(&self, script: &str) -> Ran {
        let mut command = Command::new(third_party("venv/bin/python"));
        Ran::new(&command.args(["-c", script]).current_dir(self.dir.path()).output().unwrap())
    }

    /// Writes `images/CLASS/*.png`: `per_class` training images of every class, starting at image `first` of each.
    pub fn images(&self, name: &str, first: usize, per_class: usize) {
        for class in CLASSES {
            let from = third_party("cifar10/train").join(class);
            let mut files: Vec<_> = fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            let to = self.path(name).join(class);
            fs::create_dir_all(&to).unwrap();
            for file in &files[first..first + per_class] {
                fs::copy(file, to.join(file.file_name().unwrap())).unwrap();
            }
        }
    }

    /// Copies the demo's teacher, so that a test may damage it.
    pub fn teacher(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        fs::create_dir_all(&to).unwrap();
        fs::create_dir(to.join("bridge")).unwrap();
        let bridge = ["bridge/align.json", "bridge/align.safetensors"];
        for file in ["teacher.toml", "image.onnx", "text.onnx", "tokenizer.json"].into_iter().chain(bridge) {
            fs::copy(third_party("teacher").join(file), to.join(file)).unwrap();
        }
        to
    }

    /// Writes a teacher with one of the extract crate's tiny image models, which map 8 x 8 pixels to 4 numbers.
    pub fn tiny_teacher(&self, name: &str, model: &str) {
        let fixtures = root().join("extract/tests/fixtures");
        let toml = "name = \"tiny\"\n[image]\nmodel = \"image.onnx\"\nsize = 8\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n";
        self.write(&format!("{name}/teacher.toml"), toml);
        fs::copy(fixtures.join(model), self.path(name).join("image.onnx")).unwrap();
    }

    /// Writes a category file with one name per line.
    pub fn names(&self, name: &str, names: &[&str]) {
        self.write(name, names.join("\n") + "\n");
    }

    /// Images, the real teacher, a cache of two views, and a bank of the ten names.
    pub fn cache_and_bank() -> Self {
        let desk = Self::new();
        desk.images("images", 0, 4);
        desk.teacher("teacher");
        desk.names("names.txt", &CLASSES);
        desk.lgd("extract --images images --teacher teacher --views 2 --with-center --out cache")
            .ended(0, &[]);
        desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/ten").ended(0, &[]);
        desk
    }

    /// Images with labels and captions (`list.csv`), names, the real teacher at 128 pixels, and a cache of two views
    /// with features, captions and tokens: the inputs of all objectives. A student of 64 pixels matches the grid of 4
    /// x 4 tokens by doubling its own.
    pub fn cache_of_everything() -> Self {
        let desk = Self::new();
        desk.images("images", 0, 4);
        let teacher = desk.teacher("teacher").join("teacher.toml");
        let settings = fs::read_to_string(&teacher).unwrap().replace("size = 160", "size = 128");
        fs::write(&teacher, settings).unwrap();
        let mut list = "path,label,caption\n".to_owned();
        for class in CLASSES {
            let files = fs::read_dir(desk.path("images").join(class)).unwrap();
            let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
            names.sort();
            for name in names {
                list += &format!("images/{class}/{},{class},a small picture of a {class}\n", name.display());
            }
        }
        desk.write("list.csv", list);
        desk.names("names.txt", &CLASSES);
        let extract =
            "extract --images list.csv --teacher teacher --views 2 --with-center --features --captions";
        desk.lgd(&format!("{extract} --tokens svd:16 --out cache")).ended(0, &[]);
        desk
    }
}

/// Flips one bit in the middle of a file.
pub fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Truncates a file to half its length.
pub fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
