//! What the fuzz targets call: the functions that read outside input, as the program calls them. An error is a good end.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use lgd_bank::{Categories, NameForm, ReadOptions, Templates};
use lgd_data::column::MappedColumn;
use lgd_data::image::DecodeLimits;
use lgd_data::manifest::Verify;
use lgd_data::source::{CaptionColumn, FieldNames};

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
        let Ok(source) = lgd_data::source::open_with(path, captions, &FieldNames::default()) else { continue };
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
    let name = ["names.txt", "names.csv", "names.json", "names.jsonl", "names.yaml", "names.tsv"][usize::from(kind) % 6];
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

/// Manifests; the first byte selects the kind.
pub fn manifests(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let dir = folder().join("artifact");
    fs::create_dir_all(&dir).expect("/dev/shm is writable");
    let name = ["cache.json", "bank.json", "kdep.json", "run.json"][usize::from(kind) % 4];
    fs::write(dir.join(name), bytes).expect("/dev/shm is writable");
    match kind % 4 {
        0 => drop(lgd_data::cache::Cache::open(&dir, Verify::Length)),
        1 => drop(lgd_data::bank::Bank::open(&dir, Verify::Length)),
        2 => drop(lgd_data::kdep::KdepBank::open(&dir, Verify::Length)),
        _ => drop(lgd_train::run::Run::open(&dir, Verify::Length)),
    }
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
