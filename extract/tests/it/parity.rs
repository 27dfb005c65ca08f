//! Teacher folders as the real tools save them, without `teacher.toml` (but for `convnext-optimum`, whose graph ends in a
//! map): the values that they resolve to, and embeddings compared with those of the tools' own processors.
//!
//! `tests/parity/make.py` writes the folders with random weights, the goldens, and the values that each tool uses;
//! `tests/parity/processors.py` the files of image processors without a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lgd_data::image::{DecodeLimits, RgbImage, decode};
use lgd_data::render::{Resample, render};
use lgd_data::view::{CropOffset, View};
use lgd_extract::encoder::Embeddings;
use lgd_extract::teacher::ImageSettings;
use lgd_extract::{EncoderOptions, ExtractError, ImageEncoder, Teacher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::common::runtime;

const PARITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity");

/// Smallest cosine between an image's embedding and the tool's. Another resize or crop gives less than 0.999 for most
/// photographs, which `check_power` in `common.py` asserts.
const IMAGE_COSINE: f64 = 0.9995;
/// Smallest cosine between a prompt's embedding and the tool's.
const TEXT_COSINE: f64 = 0.9999;
/// Largest difference of a pixel from the tool's, in u8 levels.
const LEVELS: u8 = 4;
/// Photographs whose pixels are stored: PNG files, since decoders of JPEG differ by more than resizers do.
const KEPT: [usize; 2] = [1, 5];

/// All folders; [`every_folder_is_tested`] compares them with those on disk.
const FAMILIES: [&str; 26] = [
    "clip-optimum",
    "clip-transformers5",
    "clip-transformersjs",
    "convnext-optimum",
    "dinov2-optimum",
    "dinov2-registers-transformers5",
    "dinov3-transformers5",
    "openclip-clip",
    "openclip-clipa",
    "openclip-eva02-longest",
    "openclip-siglip-squash",
    "sentence-cls",
    "sentence-dense",
    "sentence-mean",
    "sentence-optimum",
    "siglip-spiece-alone",
    "siglip-transformersjs",
    "siglip2-optimum",
    "siglip2-transformers5",
    "timm-convnext",
    "timm-eva02",
    "timm-mobilenetv4",
    "timm-resnet",
    "timm-vit",
    "vit-classifier-optimum",
    "vit-optimum",
];

/// Processors that no resize and crop of an RGB image is equal to, and a part of each refusal.
const REFUSED: [(&str, &str); 5] = [
    ("dpt", "aspect ratio"),
    ("imagegpt", "preprocessor_config.json"),
    ("mobilevit", "BGR"),
    ("perceiver", "PerceiverImageProcessor"),
    ("vilt", "ViltImageProcessor"),
];

#[derive(Deserialize)]
struct Manifest {
    expect: Expect,
}

/// What the tool's own code resolves.
#[derive(Deserialize)]
struct Expect {
    image: Option<ExpectedImage>,
    /// A word of the refusal, if the folder's prompts cannot be read.
    text_refused: Option<String>,
}

#[derive(Deserialize)]
struct ExpectedImage {
    size: u32,
    mode: String,
    resize: u32,
    offset: String,
    mean: [f32; 3],
    std: [f32; 3],
    resample: String,
}

/// The tool's embeddings, one row per photograph and per prompt.
#[derive(Deserialize)]
struct Goldens {
    images: Option<Vec<Vec<f32>>>,
    prompts: Option<Vec<Vec<f32>>>,
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn family_dir(family: &str) -> PathBuf {
    Path::new(PARITY).join("fixtures").join(family)
}

fn image(path: &Path) -> RgbImage {
    decode(&std::fs::read(path).unwrap(), &DecodeLimits::default()).unwrap()
}

/// The photographs in the order of their names.
fn photographs() -> Vec<RgbImage> {
    let listing = std::fs::read_dir(Path::new(PARITY).join("photos")).unwrap();
    let paths: BTreeSet<PathBuf> = listing.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 20);
    paths.iter().map(|path| image(path)).collect()
}

fn resample_name(resample: Resample) -> &'static str {
    match resample {
        Resample::Nearest => "nearest",
        Resample::Bilinear => "bilinear",
        Resample::Bicubic => "bicubic",
        Resample::Lanczos => "lanczos",
    }
}

fn check_normalization(settings: &ImageSettings, mean: [f32; 3], std: [f32; 3]) {
    let got = settings.normalization;
    let close =
        |got: [f32; 3], expected: [f32; 3]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(close(got.mean, mean) && close(got.std, std), "expected {mean:?}, {std:?}, got {got:?}");
}

/// Compares the resolved image settings with the tool's.
fn check_settings(settings: &ImageSettings, encoder: &ImageEncoder, expected: &ExpectedImage) {
    assert_eq!(encoder.size(), expected.size, "size");
    let center = settings.center.unwrap_or_else(|| panic!("no resize and crop, expected {}", expected.mode));
    assert_eq!((center.resize.name(), center.length(expected.size)), (&*expected.mode, expected.resize));
    // The offset has no effect if nothing is cropped.
    let crops = expected.mode == "shortest";
    assert!(
        !crops || center.offset == CropOffset::from_name(&expected.offset).unwrap(),
        "{:?}",
        center.offset
    );
    let close =
        |got: [f32; 3], expected: [f32; 3]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(settings.normalization.mean, expected.mean), "{:?}", settings.normalization);
    assert!(close(settings.normalization.std, expected.std), "{:?}", settings.normalization);
    assert_eq!(resample_name(settings.resample), expected.resample);
}

/// Largest difference of `rendered` from the tool's pixels in `folder`.
fn difference(folder: &Path, number: usize, rendered: &RgbImage) -> u8 {
    let tools = image(&folder.join(format!("pixels-{number:02}.png")));
    assert_eq!((rendered.width(), rendered.height()), (tools.width(), tools.height()));
    let pairs = rendered.pixels().iter().zip(tools.pixels());
    pairs.map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap_or(0)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    assert_eq!(a.len(), b.len(), "width of the embedding");
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The rows below `least`, with their cosines.
fn differing(rows: &Embeddings, expected: &[Vec<f32>], least: f64) -> Vec<(usize, f64)> {
    assert_eq!(rows.rows(), expected.len());
    let cosines = expected.iter().enumerate().map(|(row, expected)| (row, cosine(rows.row(row), expected)));
    // NaN is below every bound.
    cosines.filter(|(_, cosine)| cosine.is_nan() || *cosine < least).collect()
}

fn check_images(family: &str, teacher: &Teacher, expected: &ExpectedImage, goldens: &[Vec<f32>]) {
    let settings = teacher.image().unwrap();
    let photographs = photographs();
    let options = EncoderOptions { batch: Some(photographs.len()), ..EncoderOptions::default() };
    let mut encoder = teacher.image_encoder(&runtime(), &options).unwrap();
    check_settings(&settings, &encoder, expected);

    let view = View::of_center(settings.center.unwrap());
    let (mut batch, mut scratch) = (encoder.new_batch(), Vec::new());
    for (number, photograph) in photographs.iter().enumerate() {
        let rendered = render(photograph, &view, encoder.size(), encoder.resample()).unwrap();
        if KEPT.contains(&number) {
            let levels = difference(&family_dir(family), number, &rendered);
            assert!(levels <= LEVELS, "photograph {number} differs by {levels} levels");
        }
        let start = number * encoder.image_len();
        batch.normalize(start, &rendered, encoder.normalization(), encoder.layout(), &mut scratch).unwrap();
    }
    let embeddings = encoder.encode(&batch, photographs.len()).unwrap();
    let wrong = differing(&embeddings, goldens, IMAGE_COSINE);
    assert!(wrong.is_empty(), "photographs and their cosines: {wrong:?}");
}

fn check_prompts(teacher: &Teacher, goldens: &[Vec<f32>]) {
    let prompts: Vec<String> = read(&Path::new(PARITY).join("prompts.json"));
    let mut encoder = teacher.text_encoder(&runtime(), &EncoderOptions::default()).unwrap();
    let texts = encoder.encode_texts(&prompts).unwrap();
    let wrong = differing(&texts.embeddings, goldens, TEXT_COSINE);
    let wrong: Vec<_> = wrong.into_iter().map(|(row, cosine)| (&prompts[row], cosine)).collect();
    assert!(wrong.is_empty(), "prompts and their cosines: {wrong:?}");
}

fn check(family: &str) {
    assert!(FAMILIES.contains(&family));
    let dir = family_dir(family);
    let manifest: Manifest = read(&dir.join("manifest.json"));
    let goldens: Goldens = read(&dir.join("goldens.json"));
    let teacher = Teacher::open(&dir.join("teacher")).unwrap_or_else(|error| panic!("{error}"));
    if let Some(expected) = &manifest.expect.image {
        check_images(family, &teacher, expected, &goldens.images.unwrap());
    }
    match (&manifest.expect.text_refused, &goldens.prompts) {
        (Some(word), _) => {
            let error = teacher.text_encoder(&runtime(), &EncoderOptions::default()).unwrap_err();
            assert!(error.to_string().contains(word.as_str()), "{word} is not in: {error}");
        }
        (None, Some(goldens)) => check_prompts(&teacher, goldens),
        (None, None) => {}
    }
}

#[test]
fn every_folder_is_tested() {
    let listing = std::fs::read_dir(Path::new(PARITY).join("fixtures")).unwrap();
    let folders: BTreeSet<String> =
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, FAMILIES.map(str::to_owned).into());
}

/// Mean and standard deviation that a processor has in effect.
#[derive(Deserialize)]
struct Normalized {
    mean: [f32; 3],
    std: [f32; 3],
}

/// A teacher whose model takes any size, with the processor file of `processors/NAME`.
fn teacher_with_processor(name: &str) -> (TempDir, Result<ImageSettings, ExtractError>) {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    copy(&family_dir("vit-optimum").join("teacher"), "model.onnx");
    copy(&Path::new(PARITY).join("processors").join(name), "preprocessor_config.json");
    let settings = Teacher::open(dir.path()).and_then(|teacher| teacher.image());
    (dir, settings)
}

#[test]
fn every_processor_is_read_right_or_refused() {
    let photographs = photographs();
    let listing = std::fs::read_dir(Path::new(PARITY).join("processors")).unwrap();
    let names: BTreeSet<String> =
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(REFUSED.iter().all(|(name, _)| names.contains(*name)));
    for name in &names {
        let folder = Path::new(PARITY).join("processors").join(name);
        let (_dir, settings) = teacher_with_processor(name);
        if let Some((_, word)) = REFUSED.iter().find(|(refused, _)| refused == name) {
            let error = settings.err().unwrap_or_else(|| panic!("{name} is taken")).to_string();
            assert!(error.contains(word) && error.contains("hint:"), "{name}: {error}");
            continue;
        }
        let settings = settings.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Normalized = read(&folder.join("normalization.json"));
        check_normalization(&settings, expected.mean, expected.std);
        for number in KEPT {
            let view = View::of_center(settings.center.unwrap());
            let size = settings.size.unwrap();
            let rendered = render(&photographs[number], &view, size, settings.resample).unwrap();
            let levels = difference(&folder, number, &rendered);
            assert!(levels <= LEVELS, "{name}: photograph {number} differs by {levels} levels");
        }
    }
}

#[test]
fn clip_optimum() {
    check("clip-optimum");
}

#[test]
fn clip_transformers5() {
    check("clip-transformers5");
}

#[test]
fn clip_transformersjs() {
    check("clip-transformersjs");
}

#[test]
fn convnext_optimum() {
    check("convnext-optimum");
}

#[test]
fn dinov2_optimum() {
    check("dinov2-optimum");
}

#[test]
fn dinov2_registers_transformers5() {
    check("dinov2-registers-transformers5");
}

#[test]
fn dinov3_transformers5() {
    check("dinov3-transformers5");
}

#[test]
fn openclip_clip() {
    check("openclip-clip");
}

#[test]
fn openclip_clipa() {
    check("openclip-clipa");
}

#[test]
fn openclip_eva02_longest() {
    check("openclip-eva02-longest");
}

#[test]
fn openclip_siglip_squash() {
    check("openclip-siglip-squash");
}

#[test]
fn sentence_cls() {
    check("sentence-cls");
}

#[test]
fn sentence_dense() {
    check("sentence-dense");
}

#[test]
fn sentence_mean() {
    check("sentence-mean");
}

#[test]
fn sentence_optimum() {
    check("sentence-optimum");
}

#[test]
fn siglip_spiece_alone() {
    check("siglip-spiece-alone");
}

#[test]
fn siglip_transformersjs() {
    check("siglip-transformersjs");
}

#[test]
fn siglip2_optimum() {
    check("siglip2-optimum");
}

#[test]
fn siglip2_transformers5() {
    check("siglip2-transformers5");
}

#[test]
fn timm_convnext() {
    check("timm-convnext");
}

#[test]
fn timm_eva02() {
    check("timm-eva02");
}

#[test]
fn timm_mobilenetv4() {
    check("timm-mobilenetv4");
}

#[test]
fn timm_resnet() {
    check("timm-resnet");
}

#[test]
fn timm_vit() {
    check("timm-vit");
}

#[test]
fn vit_classifier_optimum() {
    check("vit-classifier-optimum");
}

#[test]
fn vit_optimum() {
    check("vit-optimum");
}
