//! The runtime, teachers with fixture models, and encoded images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lgd_extract::{ExtractError, Runtime, Teacher};
use tempfile::TempDir;

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The ONNX Runtime library. If it is missing the test fails, since nothing here can be tested without it.
pub fn runtime() -> Runtime {
    let default = root()
        .join("third_party/onnxruntime")
        .join(format!("libonnxruntime{}", std::env::consts::DLL_SUFFIX));
    let path = std::env::var_os("ORT_DYLIB_PATH").map_or(default, PathBuf::from);
    Runtime::load(Some(&path)).unwrap_or_else(|error| panic!("these tests need ONNX Runtime:\n{error}"))
}

/// A teacher folder whose `[image]` names a fixture model and has additional `keys`.
pub fn image_teacher(model: &str, keys: &str) -> Result<Teacher, ExtractError> {
    let toml = format!(
        "name = 'tiny'\n[image]\nmodel = '{FIXTURES}/{model}.onnx'\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n{keys}\n"
    );
    teacher(&toml).1
}

/// A teacher folder whose `[text]` names a fixture model and has additional `keys`.
pub fn text_teacher(model: &str, keys: &str) -> Result<Teacher, ExtractError> {
    let toml = format!(
        "[text]\nmodel = '{FIXTURES}/{model}.onnx'\ntokenizer = '{FIXTURES}/tokenizer.json'\n{keys}\n"
    );
    teacher(&toml).1
}

/// A teacher folder whose `[image]` names a fixture model and has additional `keys`, with the text encoder `bert`.
pub fn both_teacher(model: &str, keys: &str) -> Result<Teacher, ExtractError> {
    let toml = format!(
        "name = 'tiny'\n[image]\nmodel = '{FIXTURES}/{model}.onnx'\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n{keys}\n\
         [text]\nmodel = '{FIXTURES}/bert.onnx'\ntokenizer = '{FIXTURES}/tokenizer.json'\ncontext_length = 8\n\
         output = 'text_embeds'\n"
    );
    teacher(&toml).1
}

fn teacher(toml: &str) -> (TempDir, Result<Teacher, ExtractError>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("teacher.toml"), toml).unwrap();
    let teacher = Teacher::open(dir.path());
    (dir, teacher)
}

/// The reference evaluator's values for an output of a model.
pub fn expected(model: &str, output: &str) -> Vec<f32> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/expected.json")).unwrap();
    let mut all: HashMap<String, HashMap<String, Vec<f32>>> = serde_json::from_str(&text).unwrap();
    all.remove(model).unwrap().remove(output).unwrap()
}

/// The same pixels as those of `pixels` in make_models.py.
#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
pub fn pixels(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.4).collect()
}

pub fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.iter().map(|value| value / norm).collect()
}

pub fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance, "element {index}: expected {expected}, got {got}");
    }
}

/// A binary PPM file.
pub fn ppm(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let mut bytes = format!("P6 {width} {height} 255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            bytes.extend(pixel(x, y));
        }
    }
    bytes
}
