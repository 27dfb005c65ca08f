//! `lgd export`, tested with ONNX Runtime: an exported student can be used as a teacher.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use lgd_data::bank::Bank;
use lgd_data::manifest::Verify;
use lgd_data::render::Normalization;
use lgd_extract::encoder::{Outputs, PixelBuffer};
use lgd_extract::{EncoderOptions, Runtime, Teacher};
use lgd_train::export::{OnnxOptions, to_onnx};
use lgd_train::run::Run;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

use crate::common::{CLASSES, Desk, third_party};

pub const SIDE: usize = 64;
pub const IMAGES: usize = 3;
pub const DIM: usize = 24;

/// The same tolerance as for students against torchvision, L2 over a tensor.
pub const TOLERANCE: f64 = 1e-4;

/// Pseudorandom numbers in -1..1.
pub fn noise(seed: usize) -> impl FnMut() -> f32 {
    let mut state = u32::try_from(seed).unwrap().wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    }
}

/// A student whose normalizations are not the identity, and whose convolutions keep the variance of their input, so that images
/// are not all alike at its end, as they are to a network that was never trained.
pub fn student(architecture: Architecture, head: Head) -> Student {
    let mut student = Student::new(StudentConfig::new(architecture, head, 0), &Device::Cpu).unwrap();
    let mut tensors = student.tensors().unwrap();
    for (number, (name, tensor)) in tensors.iter_mut().enumerate() {
        if tensor.dims().len() == 1 {
            let (bound, center) = match name {
                _ if name.ends_with("running_var") => (0.5, 1.0),
                _ if name.ends_with("weight") => (0.3, 1.0),
                _ => (0.2, 0.0),
            };
            let mut noise = noise(number);
            let values: Vec<f32> = (0..tensor.dims()[0]).map(|_| center + bound * noise()).collect();
            *tensor = Tensor::new(values, &Device::Cpu).unwrap();
        } else {
            let shape = tensor.dims().to_vec();
            let fan_in: usize = shape[1..].iter().product();
            let bound = (6.0 / f32::from(u16::try_from(fan_in).unwrap())).sqrt();
            let mut noise = noise(number);
            let values: Vec<f32> = (0..shape[0] * fan_in).map(|_| bound * noise()).collect();
            *tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        }
    }
    assert!(student.load(&tensors).unwrap().is_complete());
    student
}

/// Images `[N, S, S, 3]`, normalized, and the same images from 0 to 1 as `[N, 3, S, S]`.
pub fn images(side: usize, normalization: &Normalization) -> (Vec<f32>, Vec<f32>) {
    let mut noise = noise(99);
    let nhwc: Vec<f32> = (0..IMAGES * side * side * 3).map(|_| 0.5 + 0.5 * noise()).collect();
    let mut nchw = Vec::with_capacity(nhwc.len());
    for image in nhwc.chunks(side * side * 3) {
        nchw.extend((0..3).flat_map(|channel| image.iter().skip(channel).step_by(3)));
    }
    let normalize =
        |(at, value): (usize, &f32)| (value - normalization.mean[at % 3]) / normalization.std[at % 3];
    (nhwc.iter().enumerate().map(normalize).collect(), nchw)
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Dot products of all `rows` with all `others`, both of width `dim`.
pub fn products(rows: &[f32], others: &[f32], dim: usize) -> Vec<f32> {
    let product = |row: &[f32], other: &[f32]| row.iter().zip(other).map(|(x, y)| x * y).sum();
    let all = rows.chunks(dim).flat_map(|row| others.chunks(dim).map(move |other| product(row, other)));
    all.collect()
}

/// Runs `images` through ONNX Runtime; returns the unit vectors of output `embedding`, and output `raw` unchanged.
fn run_onnx(
    (model, side): (&Path, usize),
    images: &[f32],
    embedding: &str,
    raw: &str,
) -> (Vec<f32>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let image = format!(
        "model = {model:?}\nsize = {side}\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\noutput = '{embedding}'\nfeatures = '{raw}'\n"
    );
    fs::write(dir.path().join("teacher.toml"), format!("name = 'student'\n[image]\n{image}")).unwrap();
    let library = third_party("onnxruntime").join("libonnxruntime.so");
    let runtime = Runtime::load(Some(&library)).unwrap();
    let options = EncoderOptions { batch: Some(IMAGES), ..EncoderOptions::default() };
    let outputs = Outputs { features: true, tokens: false };
    let mut encoder = Teacher::open(dir.path()).unwrap().view_encoder(&runtime, &options, outputs).unwrap();
    let views = encoder.encode_views(&PixelBuffer::F32(images.to_vec()), IMAGES).unwrap();
    (views.embeddings.into_values(), views.features.unwrap().into_values())
}

pub fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let apart = norm(&mut got.iter().zip(expected).map(|(got, expected)| f64::from(got - expected)));
    apart / norm(&mut expected.iter().map(|&value| f64::from(value)))
}

#[test]
fn every_student_gives_in_onnx_runtime_what_it_gives_here() {
    let normalization = Normalization::IMAGENET;
    let (normalized, nchw) = images(SIDE, &normalization);
    let mut noise = noise(7);
    let prototypes: Vec<f32> = (0..5 * DIM).map(|_| noise()).collect();
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("student.onnx");
    for architecture in Architecture::ALL {
        let mut heads = vec![Head::Projection { dim: DIM }, Head::Classifier { classes: 10 }];
        // Without a head, students end in the pool, or in a neck.
        let ends = matches!(architecture, Architecture::ResNet18 | Architecture::MobileNetV3LargeLgd);
        heads.extend(ends.then_some(Head::None));
        for head in heads {
            let mut student = student(architecture, head);
            let embeds = matches!(head, Head::Projection { .. });
            let given = embeds.then_some((&prototypes[..], DIM));
            let options = OnnxOptions { prototypes: given, ..OnnxOptions::new(SIDE, normalization) };
            let onnx = to_onnx(&mut student, &options).unwrap();
            fs::write(&model, &onnx.bytes).unwrap();
            let shape = (IMAGES, SIDE, SIDE);
            let here = student.forward(Images::Normalized(&normalized), shape, Mode::Inference).unwrap();
            let last = here.embedding.as_ref().map(values);
            let check = |name: &str, got: &[f32], expected: &[f32]| {
                let error = error(got, expected);
                assert!(error < TOLERANCE, "{architecture} {head:?}: {name} is off by {error:.1e}");
            };
            match head {
                Head::Projection { .. } => {
                    let embedding = last.unwrap();
                    let (units, feature) = run_onnx((&model, SIDE), &nchw, "embedding", "feature");
                    check("feature", &feature, &values(&here.pooled));
                    check("embedding", &units, &embedding);
                    let (_, scores) = run_onnx((&model, SIDE), &nchw, "embedding", "scores");
                    check("scores", &scores, &products(&embedding, &prototypes, DIM));
                }
                Head::Classifier { .. } => {
                    check("logits", &run_onnx((&model, SIDE), &nchw, "feature", "logits").1, &last.unwrap());
                }
                Head::None => {
                    check(
                        "feature",
                        &run_onnx((&model, SIDE), &nchw, "feature", "feature").1,
                        &values(&here.pooled),
                    );
                }
            }
        }
    }
}

/// Command line of an untrained run; the output folder follows.
const TRAIN: &str =
    "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 0 --out";

/// Whether `file` has a metadata entry with this key and value.
fn has_metadata(file: &[u8], key: &str, value: &str) -> bool {
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 128, "two bytes of length");
    let field = [b"lgd.", key.as_bytes(), &[0x12, length], value.as_bytes()].concat();
    file.windows(field.len()).any(|bytes| bytes == field)
}

#[test]
fn a_finished_run_becomes_a_file_that_scores_names() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    let teacher = desk.teacher("teacher").join("teacher.toml");
    let settings = fs::read_to_string(&teacher).unwrap();
    // Distinctive numbers, which cannot match by chance.
    let other =
        settings.replace("mean = [0.485, ", "mean = [0.3, ").replace("std = [0.229, ", "std = [0.4, ");
    fs::write(&teacher, other).unwrap();
    desk.names("names.txt", &CLASSES);
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out banks/ten").ended(0, &[]);
    // A student that is hardly trained gives all images one embedding, which no teacher may.
    let train = TRAIN.replace("--epochs 0", "--epochs 8");
    desk.lgd(&format!("{train} run --bank banks/ten")).ended(0, &[]);
    let export = "export --run run --bank banks/ten --out new/student.onnx";
    let report = desk.lgd(export).ended(0, &[]).json();
    assert_eq!(report["inputs"][0]["shape"], serde_json::json!(["batch", 3, 32, 32]), "{report}");
    let names: Vec<&str> =
        report["outputs"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["embedding", "feature", "probabilities", "scores"]);
    assert_eq!(report["outputs"][3]["shape"], serde_json::json!(["batch", 10]), "{report}");
    assert_eq!(report["names"], serde_json::json!(CLASSES));

    let path = desk.path("new/student.onnx");
    let file = fs::read(&path).unwrap();
    assert_eq!(report["bytes"], file.len());
    for (key, value) in [
        ("categories", &*serde_json::to_string(&CLASSES).unwrap()),
        ("resample", "bicubic"),
        ("architecture", "mobilenet_v2"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("size", "32"),
        ("crop", r#"{"fraction":0.875,"resize":"shortest","rounding":"half-even"}"#),
        ("mean", "[0.3,0.456,0.406]"),
        ("std", "[0.4,0.224,0.225]"),
        ("tau_student", "0.2"),
        ("template", r#"["a photo of a {}."]"#),
    ] {
        assert!(has_metadata(&file, key, value), "{key}: {value}");
    }
    let run = Run::open(&desk.path("run"), Verify::Full).unwrap();
    let bank = Bank::open(&desk.path("banks/ten"), Verify::Full).unwrap();
    assert!(has_metadata(&file, "run", &run.hash().to_string()));
    assert!(has_metadata(&file, "bank", &bank.hash().to_string()));

    let normalization = run.manifest().teacher.normalization;
    assert_eq!((normalization.mean[0], normalization.std[0]), (0.3, 0.4));
    let (normalized, nchw) = images(32, &normalization);
    let mut student = run.student(&Device::Cpu).unwrap();
    let here = student.forward(Images::Normalized(&normalized), (IMAGES, 32, 32), Mode::Inference).unwrap();
    let expected = products(&values(here.embedding().unwrap()), bank.tsb(), bank.dim());
    let scores = |path: &Path| run_onnx((path, 32), &nchw, "embedding", "scores").1;
    assert!(error(&scores(&path), &expected) < TOLERANCE, "{:?} is not {expected:?}", scores(&path));

    let occupied =
        desk.lgd(export).ended(2, &["student.onnx already holds something", "hint: give --overwrite"]);
    assert!(occupied.stdout.is_empty());
    let fixed = desk.lgd(&format!("{export} --overwrite --batch 3")).ended(0, &[]).json();
    assert_eq!(fixed["inputs"][0]["shape"], serde_json::json!([3, 3, 32, 32]), "{fixed}");
    assert_eq!(fixed["outputs"][3]["shape"], serde_json::json!([3, 10]), "{fixed}");
    assert!(error(&scores(&path), &expected) < TOLERANCE);
    desk.lgd("export --run run --out new --overwrite")
        .ended(2, &["new already holds other files", "hint: give the name"]);
}

#[test]
fn names_need_an_embedding_of_their_space() {
    let desk = Desk::cache_and_bank();
    desk.lgd(&format!("{TRAIN} labels --objective supervised")).ended(0, &[]);
    desk.lgd("export --run labels --bank banks/ten --out labels.onnx")
        .ended(2, &["a score for every name needs", "hint: export this one without --bank"]);
    let report = desk.lgd("export --run labels --out labels.onnx").ended(0, &[]).json();
    for (at, name) in [(1, "logits"), (2, "probabilities")] {
        let expected = serde_json::json!({"name": name, "dtype": "f32", "shape": ["batch", 10]});
        assert_eq!(report["outputs"][at], expected);
    }
    assert_eq!(report["names"], serde_json::json!(CLASSES));

    desk.lgd(&format!("{TRAIN} run --bank banks/ten")).ended(0, &[]);
    let settings = fs::read_to_string(desk.path("teacher/teacher.toml")).unwrap();
    desk.write("teacher/teacher.toml", settings.replace("align = \"bridge\"", ""));
    desk.lgd("align --teacher teacher --categories names.txt --cache cache --out teacher/another")
        .ended(0, &[]);
    desk.write("teacher/teacher.toml", settings.replace("align = \"bridge\"", "align = \"another\""));
    let other =
        "bank --cache cache --teacher teacher --categories names.txt --other-text-encoder --out banks/other";
    desk.lgd(other).ended(0, &[]);
    for command in ["export --out run.onnx", "eval --images images"] {
        desk.lgd(&format!("{command} --run run --bank banks/other"))
            .ended(3, &["banks/other: the text encoder", "hint: give a bank made with"]);
    }

    desk.tiny_teacher("tiny", "linear.onnx");
    desk.lgd("extract --images images --teacher tiny --out tiny-cache").ended(0, &[]);
    let seed = format!("{TRAIN} seed --objective seed").replace("--cache cache", "--cache tiny-cache");
    desk.lgd(&seed).ended(0, &[]);
    desk.lgd("export --run seed --bank banks/ten --out seed.onnx")
        .ended(3, &["banks/ten: the width of the embeddings", "hint: give a bank made with"]);
    assert!(!desk.path("seed.onnx").exists() && !desk.path("run.onnx").exists());
    desk.lgd("export --run cache --out seed.onnx").ended(3, &["run.json is missing", "hint:"]);
}

#[test]
fn a_student_without_a_head_gives_its_feature() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    let teacher = desk.teacher("teacher").join("teacher.toml");
    let settings = fs::read_to_string(&teacher).unwrap();
    assert!(settings.contains("features = "), "{settings}");
    desk.lgd("extract --images images --teacher teacher --features --out cache").ended(0, &[]);
    desk.lgd("bank --target kdep --cache cache --dim 1280 --out banks/kdep").ended(0, &[]);
    desk.lgd(&format!("{TRAIN} run --objective kdep --bank banks/kdep")).ended(0, &[]);
    let report = desk.lgd("export --run run --out student.onnx").ended(0, &[]).json();
    assert_eq!(
        report["outputs"],
        serde_json::json!([{"name": "feature", "dtype": "f32", "shape": ["batch", 1280]}])
    );
    assert!(report.get("names").is_none(), "{report}");
}
