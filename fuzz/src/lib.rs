//! The bodies of the fuzz targets: the functions that read outside input, as the program calls them. An error is a good end.
//!
//! `tests/cli/fuzz_corpus.rs` includes this file and runs every target on its corpus, without a sanitizer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lgd_bank::{Categories, NameForm, ReadOptions, Templates};
use lgd_data::cache::Cache;
use lgd_data::column::MappedColumn;
use lgd_data::image::DecodeLimits;
use lgd_data::manifest::{Verify, write_json};
use lgd_data::source::{CaptionColumn, FieldNames};
use lgd_train::checkpoint::{Progress, Stateful, encode, restore};
use lgd_train::objective::{Seed, SeedConstants, TeacherQueue};
use lgd_train::optim::OptimizerSettings;
use lgd_train::safetensors_file;
use lgd_train::student::{Architecture, Head, Student, StudentConfig};

/// A target by the name of its program and of the folder of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("categories", categories),
    ("checkpoints", checkpoints),
    ("columns", columns),
    ("images", images),
    ("lists", lists),
    ("manifests", manifests),
    ("parquet", parquet),
    ("tar", tar),
    ("teacher", teacher),
    ("templates", templates),
    ("tokenizer", tokenizer),
    ("weights", weights),
];

/// Largest decoded image: small, so that a run tries many.
const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 20, max_bytes: 1 << 22 };

thread_local! {
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A folder in memory that lives as long as the process.
fn folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let made = folder.get_or_insert_with(|| {
            tempfile::Builder::new().prefix("lgd-fuzz").tempdir_in("/dev/shm").expect("/dev/shm is writable")
        });
        made.path().to_owned()
    })
}

/// Writes the input to a file of this name.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("/dev/shm is writable");
    path
}

/// Every image format.
pub fn images(bytes: &[u8]) {
    let _ = lgd_data::image::decode_with_transparency(bytes, &LIMITS);
}

/// Lists a source with captions, and reads all samples.
fn source(path: &Path) {
    for captions in [CaptionColumn::Ignore, CaptionColumn::Read] {
        let Ok(source) = lgd_data::source::open_with(path, captions, &FieldNames::default()) else {
            continue;
        };
        for index in 0..source.samples().len() {
            let _ = source.read(index, 1 << 22);
        }
    }
}

/// TAR archives.
pub fn tar(bytes: &[u8]) {
    source(&file("images.tar", bytes));
}

/// Parquet files with images.
pub fn parquet(bytes: &[u8]) {
    source(&file("images.parquet", bytes));
}

/// Lists of images; the first byte selects the format.
pub fn lists(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let name = ["list.csv", "list.tsv", "list.jsonl", "list.txt"][usize::from(kind) % 4];
    source(&file(name, bytes));
}

/// Lists of categories; the first byte selects format and options.
pub fn categories(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let name = ["names.txt", "names.csv", "names.json", "names.jsonl", "names.yaml", "names.tsv"]
        [usize::from(kind) % 6];
    let names = if kind & 0x40 == 0 { NameForm::default() } else { NameForm::Verbatim };
    let _ = Categories::read(&file(name, bytes), ReadOptions { names, ..ReadOptions::default() });
}

/// Prompt templates.
pub fn templates(bytes: &[u8]) {
    let _ = Templates::read(&file("templates.txt", bytes));
}

/// Files that describe a teacher; the first byte selects the file. The models beside it are empty: none is opened.
pub fn teacher(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let names = [
        "teacher.toml",
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "open_clip_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "1_Pooling/config.json",
    ];
    let dir = folder().join("teacher");
    fs::create_dir_all(dir.join("1_Pooling")).expect("/dev/shm is writable");
    for model in ["image.onnx", "text.onnx"] {
        fs::write(dir.join(model), b"").expect("/dev/shm is writable");
    }
    let path = dir.join(names[usize::from(kind) % names.len()]);
    fs::write(&path, bytes).expect("/dev/shm is writable");
    if let Ok(teacher) = lgd_extract::Teacher::open(&dir) {
        let _ = (teacher.image(), teacher.text(), teacher.text_model());
    }
    let _ = fs::remove_file(path);
}

/// `tokenizer.json`, and a prompt in its tokens.
pub fn tokenizer(bytes: &[u8]) {
    let dir = folder().join("text");
    fs::create_dir_all(&dir).expect("/dev/shm is writable");
    fs::write(dir.join("text.onnx"), b"").expect("/dev/shm is writable");
    fs::write(dir.join("teacher.toml"), "[text]\ncontext_length = 16\npad_id = 0\n")
        .expect("/dev/shm is writable");
    fs::write(dir.join("tokenizer.json"), bytes).expect("/dev/shm is writable");
    let teacher = lgd_extract::Teacher::open(&dir).expect("teacher.toml is valid");
    let _ = teacher.text().expect("there is a text model").tokenize("a photo of a cat");
}

/// Manifests; the first byte selects the kind. Whoever can write a folder can write a manifest that ends in its own hash, so
/// JSON gets one.
pub fn manifests(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let dir = folder().join("artifact");
    fs::create_dir_all(&dir).expect("/dev/shm is writable");
    let kind = usize::from(kind) % 5;
    let path = dir.join(["cache.json", "bank.json", "kdep.json", "run.json", "extract.json"][kind]);
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => {
            write_json(&path, &value).expect("/dev/shm is writable");
        }
        Err(_) => fs::write(&path, bytes).expect("/dev/shm is writable"),
    }
    match kind {
        0 => drop((Cache::open(&dir, Verify::Length), Cache::survey(&dir))),
        1 => drop(lgd_data::bank::Bank::open(&dir, Verify::Length)),
        2 => drop(lgd_data::kdep::KdepBank::open(&dir, Verify::Length)),
        3 => drop((
            lgd_train::run::Run::open(&dir, Verify::Length),
            lgd_train::run::Run::verify_unfinished(&dir),
        )),
        _ => drop(Cache::survey(&dir)),
    }
    fs::remove_file(path).expect("/dev/shm is writable");
}

/// Embedding columns of a cache, mapped or decoded.
pub fn columns(bytes: &[u8]) {
    let path = file("views.parquet", bytes);
    if let Ok(column) = MappedColumn::<f32>::open(&[path], "embedding", 16) {
        let rows: Vec<usize> = (0..column.rows().min(64)).collect();
        let mut out = vec![0.0; rows.len() * 16];
        column.copy_rows(rows, &mut out);
    }
}

/// Weights to start from: safetensors, or an archive of torch.save.
pub fn weights(bytes: &[u8]) {
    let _ = lgd_train::initial::read(bytes);
}

/// Width of the embeddings in the queue of [`Run`].
const QUEUE_DIM: usize = 4;

/// The state of a run of SEED, into which checkpoints are restored.
struct Run {
    student: Student,
    objective: Seed,
    optimizer: OptimizerSettings,
    /// The student's entries of a valid checkpoint.
    weights: BTreeMap<String, Tensor>,
}

impl Run {
    fn new() -> Self {
        let config = StudentConfig::new(Architecture::MobileNetV2, Head::Projection { dim: QUEUE_DIM }, 0);
        let student = Student::new(config, &Device::Cpu).expect("the student is valid");
        let queue = TeacherQueue::new(8, QUEUE_DIM, &Device::Cpu).expect("the queue is valid");
        let objective = Seed::new(SeedConstants::default(), queue).expect("the constants are valid");
        let mut run =
            Self { student, objective, optimizer: OptimizerSettings::default(), weights: BTreeMap::new() };
        let bytes = encode(&mut run.stateful(), &Progress::default()).expect("a new run has a state");
        let entries =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).expect("a checkpoint is valid");
        run.weights = entries.into_iter().filter(|(name, _)| name.starts_with("student/")).collect();
        run
    }

    fn stateful(&mut self) -> Stateful<'_> {
        Stateful { student: &mut self.student, optimizer: &self.optimizer, objective: &mut self.objective }
    }

    fn restore(&mut self, bytes: &[u8]) {
        let read =
            &mut |rows: &[usize]| Ok(Tensor::zeros((rows.len(), QUEUE_DIM), DType::F32, &Device::Cpu)?);
        let _ = restore(bytes, Path::new("step-000000001.safetensors"), &mut self.stateful(), read);
    }
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// Checkpoints: as they are, and with the weights of a student, which would be too large for an input.
pub fn checkpoints(bytes: &[u8]) {
    RUN.with_borrow_mut(|run| {
        let run = run.get_or_insert_with(Run::new);
        run.restore(bytes);
        let Ok(entries) = candle_core::safetensors::load_buffer(bytes, &Device::Cpu) else { return };
        let mut all = run.weights.clone();
        all.extend(entries);
        if let Ok(whole) = safetensors_file::to_bytes(&all, &BTreeMap::new()) {
            run.restore(&whole);
        }
    });
}
