//! Running statistics after a short run: inference must compute what training computes from the statistics of a batch.

use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_train::loader::batches::{StreamPlan, TrainingImages};
use lgd_train::loader::origin::StoredUse;
use lgd_train::loader::pixels::InputFormat;
use lgd_train::run::TrainConfig;
use lgd_train::student::{Architecture, Head, Images, Mode, Regularization, Student, StudentConfig};
use lgd_train::trainer::train;

use crate::fixture::{DIM, World, config, originals, resuming};

const SIZE: u32 = 32;
const SIDE: usize = 32;
const SAMPLES: usize = 80;
const BATCH: usize = 16;
/// Ten epochs of five steps.
const EPOCHS: u32 = 10;

/// Trains `config`; returns the finished student, without dropout.
fn trained(world: &World, config: &TrainConfig) -> Student {
    let dir = world.path(config.student.name());
    let report =
        train(config, &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
    assert_eq!(report.steps, 50);
    let head = Head::Projection { dim: DIM };
    let config = StudentConfig {
        regularization: Regularization::NONE,
        ..StudentConfig::new(config.student, head, config.seed)
    };
    let mut student = Student::new(config, &candle_core::Device::Cpu).unwrap();
    let bytes = std::fs::read(dir.join("student.safetensors")).unwrap();
    assert!(student.load_safetensors(&bytes).unwrap().is_complete());
    student
}

/// A view of every sample at the student's size.
fn pixels(world: &World) -> (Vec<u8>, InputFormat) {
    let teacher = &world.cache.manifest().config.teacher;
    let format = InputFormat { size: SIZE, resample: teacher.resample, normalization: teacher.normalization };
    let (originals, limits) = (Some(originals(&world.images)), DecodeLimits::default());
    let images = TrainingImages::open(&world.cache, originals, format, StoredUse::Fitting, limits).unwrap();
    let plan = StreamPlan { batch: SAMPLES, epochs: 1, seed: 1, done: 0 };
    let batch = images.stream(plan, 2, |batches| batches.next_batch()).unwrap().unwrap();
    (batch.images.to_vec(), format)
}

/// Mean cosine of the embeddings of inference and of training.
fn cosine(student: &mut Student, rgb: &[u8], format: &InputFormat) -> f32 {
    let images = Images::Pixels { rgb, normalization: &format.normalization };
    let mut embeddings = |mode| {
        let output = student.forward(images, (SAMPLES, SIDE, SIDE), mode).unwrap();
        output.embedding().unwrap().to_vec2::<f32>().unwrap()
    };
    let (inference, training) = (embeddings(Mode::Inference), embeddings(Mode::Train { seed: 0, step: 0 }));
    let dot = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    inference.iter().zip(&training).map(dot).sum::<f32>() / f32::from(u16::try_from(SAMPLES).unwrap())
}

fn check(students: &[Architecture], ema: Option<f32>) {
    let world = World::new(SAMPLES);
    let (rgb, format) = pixels(&world);
    for &student in students {
        let mut config = TrainConfig { student, size: SIZE, batch: BATCH, ..config(EPOCHS) };
        config.optimizer.ema = ema;
        let cosine = cosine(&mut trained(&world, &config), &rgb, &format);
        eprintln!("{student}: mean cosine of inference and training {cosine:.4}");
        assert!(cosine > 0.95, "{student}: {cosine:.4}");
    }
}

#[test]
fn after_fifty_steps_inference_computes_what_training_does() {
    check(&Architecture::ALL, None);
}

#[test]
fn averaged_weights_have_statistics_of_their_own() {
    check(&[Architecture::MobileNetV2, Architecture::MobileNetV3Large], Some(0.9));
}
