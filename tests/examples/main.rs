//! The examples, on small synthetic caches, and the student in plain Candle compared with the trained student.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod world;

#[expect(dead_code, reason = "`main` is the example's")]
#[path = "../../examples/candle_student.rs"]
mod candle_student;
#[expect(dead_code, reason = "`main` is the example's")]
#[path = "../../examples/own_loop.rs"]
mod own_loop;
#[expect(dead_code, reason = "`main` is the example's")]
#[path = "../../examples/own_objective.rs"]
mod own_objective;
#[expect(dead_code, reason = "`main` is the example's")]
#[path = "../../examples/read_cache.rs"]
mod read_cache;

use std::fs;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use lgd_data::job::Job;
use lgd_data::manifest::Verify;
use lgd_train::objective::ObjectiveKind;
use lgd_train::run::{Run, TrainConfig};
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};
use lgd_train::trainer::{LoopSettings, TrainInputs, Watch, train};

use crate::candle_student::CandleStudent;
use crate::world::{DIM, NAMES, SIDE, bank, cache, noise, solid_image};

/// Tolerance between two implementations of the same f32 network.
const TOLERANCE: f32 = 1e-4;

/// Whether every value differs by less than [`TOLERANCE`].
fn agree(a: &Tensor, b: &Tensor) -> bool {
    let differences = (a - b).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    differences.iter().all(|difference| difference.abs() < TOLERANCE)
}

/// `values` times `exp(noise / 10)`, which keeps variances positive; zeros become `noise / 10`.
fn scattered(values: &Tensor, noise: &Tensor) -> candle_core::Result<Tensor> {
    let noise = (noise * 0.1)?;
    values.eq(0.0)?.where_cond(&noise, &(values * noise.exp()?)?)
}

/// A ResNet-18 at 64 px, with running statistics that are not the initial ones.
#[test]
fn the_student_in_plain_candle_is_the_one_that_trained() {
    let (batch, side) = (2, 64);
    let config = StudentConfig::new(Architecture::ResNet18, Head::Projection { dim: 24 }, 5);
    let mut student = Student::new(config, &Device::Cpu).unwrap();
    let pixels = noise(1, batch * side * side * 3);
    for step in 0..4 {
        let mode = Mode::Train { seed: 0, step };
        student.forward(Images::Normalized(&pixels), (batch, side, side), mode).unwrap();
    }
    // The initial vectors of a layer are constant, which would hide a wrong channel order.
    let mut tensors = student.tensors().unwrap();
    for (seed, tensor) in (10..).zip(tensors.values_mut().filter(|tensor| tensor.rank() == 1)) {
        let noise = Tensor::from_vec(noise(seed, tensor.dims()[0]), tensor.dims(), &Device::Cpu).unwrap();
        *tensor = scattered(tensor, &noise).unwrap();
    }
    assert!(student.load(&tensors).unwrap().is_complete());
    let output = student.forward(Images::Normalized(&pixels), (batch, side, side), Mode::Inference).unwrap();

    let weights = student.to_safetensors(&Default::default()).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    let plain = CandleStudent::load(&weights, 24).unwrap();
    let images = Tensor::from_vec(pixels, (batch, side, side, 3), &Device::Cpu).unwrap();
    let images = images.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let (features, embedding) = plain.forward(&images).unwrap();

    assert!(agree(&output.pooled, &features), "{} {features}", output.pooled);
    assert!(agree(output.embedding().unwrap(), &embedding), "{} {embedding}", output.embedding().unwrap());
}

/// All crops of a single-color image are the same, so lgd's own student must give the same scores.
#[test]
fn a_finished_run_scores_an_image_in_plain_candle() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir.path().join("cache"));
    let bank = bank(&dir.path().join("bank"), &cache);
    let config = TrainConfig {
        objective: ObjectiveKind::Seed.to_string().parse().unwrap(),
        ..TrainConfig::new(Architecture::ResNet18, SIDE, 0, 8, 3)
    };
    let inputs =
        TrainInputs { cache: &cache, bank: None, kdep: None, originals: None, watch: Watch::default() };
    let run = dir.path().join("run");
    train(&config, &LoopSettings::default(), &inputs, &run, &Job::new(), &mut |_| {}).unwrap();
    let image = dir.path().join("image.ppm");
    let color = [200, 90, 30];
    fs::write(&image, solid_image(color, (40, 50))).unwrap();
    let scores = candle_student::score(&run, bank.dir(), &image).unwrap();

    let side = usize::try_from(SIDE).unwrap();
    let rgb = color.repeat(side * side);
    let run = Run::open(&run, Verify::Full).unwrap();
    let images = Images::Pixels { rgb: &rgb, normalization: &run.manifest().teacher.normalization };
    let mut student = run.student(&Device::Cpu).unwrap();
    let output = student.forward(images, (1, side, side), Mode::Inference).unwrap();
    let embedding = output.embedding().unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap();
    let expected = bank.tsb().chunks(DIM).map(|t| t.iter().zip(&embedding).map(|(t, s)| t * s).sum::<f32>());
    let mut expected: Vec<_> = NAMES.into_iter().zip(expected).collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_eq!(scores.len(), NAMES.len());
    for ((name, score), (expected_name, expected)) in scores.iter().zip(expected) {
        assert!(name == expected_name && (score - expected).abs() < TOLERANCE, "{scores:?}");
    }
}

#[test]
fn a_cache_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    cache(dir.path());
    let mut out = Vec::new();
    read_cache::print_cache(dir.path(), 2, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    for part in
        ["samples    16, 2 views each", "embeddings [32, 8]", "tokens     no", "0001", "row 3: Center"]
    {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    assert!(!out.contains("row 4:"), "{out}");
}

#[test]
fn an_objective_of_ones_own_is_minimized() {
    let losses = own_objective::overfit(10).unwrap();
    assert_eq!(losses.len(), 10);
    assert!(losses[9] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn a_loop_of_ones_own_trains_and_its_student_can_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let settings = own_loop::Settings { size: SIDE, batch: 8, epochs: 2, lr: 0.01 };
    let (mut student, losses) = own_loop::train(&cache, None, &settings).unwrap();
    // The queue is empty at the first step.
    assert_eq!((losses.len(), losses[0]), (4, 0.0));
    assert!(losses[1..].iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
    let initial = StudentConfig::new(student.architecture(), student.head(), 0);
    let mut loaded = Student::new(initial, &Device::Cpu).unwrap();
    let head = |student: &mut Student| student.tensors().unwrap().remove("head.2.weight").unwrap();
    assert!(!agree(&head(&mut loaded), &head(&mut student)), "the head has not moved");
    let report = loaded.load_safetensors(&student.to_safetensors(&Default::default()).unwrap()).unwrap();
    assert!(report.is_complete(), "{report:?}");
}
