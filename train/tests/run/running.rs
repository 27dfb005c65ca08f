//! The run folder, and the report of training.

use std::fs;
use std::path::Path;

use candle_core::Device;
use lgd_data::ArtifactError;
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_train::error::FailureKind;
use lgd_train::run::{MetricsKind, MetricsLine, Run, RunError, TrainConfig};
use lgd_train::trainer::{LoopSettings, train};

use crate::fixture::{World, config, leave_unfinished, resuming};

#[test]
fn a_run_leaves_what_its_documentation_says() {
    let world = World::new(20);
    let dir = world.path("run");
    let mut lines: Vec<MetricsLine> = Vec::new();
    let settings = LoopSettings { existing: Existing::Refuse, ..resuming() };
    let job = Job::new();
    // With so few steps, a warm-up would hide the effect.
    let config = TrainConfig { warmup_epochs: 0, base_lr: 0.001, ..config(4) };
    let report = train(&config, &settings, &world.inputs(&world.images), &dir, &job, &mut |line| {
        lines.push(line.clone())
    });
    let report = report.unwrap();
    assert_eq!((report.steps, report.images, report.samples), (8, 64, 20));
    assert_eq!((job.total(), job.done()), (8, 8));
    assert!(report.images_per_second > 0.0 && (0.0..=1.0).contains(&report.data_wait));
    assert!(report.last_epoch_loss < report.first_epoch_loss, "{report:?}");

    let run = Run::open(&dir, Verify::Full).unwrap();
    let manifest = run.manifest();
    assert!(manifest.complete);
    assert_eq!(
        (manifest.config.clone(), manifest.cache, manifest.bank),
        (config.clone(), world.cache.hash(), Some(world.bank.hash()))
    );
    let text = fs::read_to_string(dir.join("config.toml")).unwrap();
    assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config, "{text}");
    let on_disk = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let on_disk: Vec<MetricsLine> = on_disk.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(on_disk.len(), lines.len());
    let epochs = on_disk.iter().filter(|line| line.kind == MetricsKind::Epoch);
    for line in epochs {
        let mean = 0.5 * (line.parts["text"] + line.parts["visual"]);
        assert!((line.loss - mean).abs() < 1e-5, "{line:?}");
    }
    assert_eq!(on_disk.iter().filter(|line| line.kind == MetricsKind::Step).count(), 4);
    assert_eq!(run.student(&Device::Cpu).unwrap().table().parameter_count(), report.parameters);
}

#[test]
fn an_occupied_folder_is_refused_and_can_be_overwritten() {
    let world = World::new(20);
    let dir = world.path("run");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    let go = |existing| {
        let settings = LoopSettings { existing, ..resuming() };
        train(&config(0), &settings, &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {})
    };
    let error = go(Existing::Refuse).unwrap_err();
    assert!(matches!(error, RunError::Occupied { what: "files", .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    go(Existing::Overwrite).unwrap();
    assert!(go(Existing::Refuse).is_err());
    let files = [
        "run.json",
        "config.toml",
        "metrics.jsonl",
        "metrics.csv",
        "student.safetensors",
        "best.safetensors",
        "checkpoints/best-000000002.safetensors",
        "checkpoints/step-000000002.safetensors",
    ];
    files.iter().for_each(|name| leave_unfinished(&dir.join(name)));
    go(Existing::Overwrite).unwrap();
    assert_eq!(fs::read_to_string(dir.join("notes.txt")).unwrap(), "mine");
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let left: Vec<String> = names(&dir).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(names(&dir.join("checkpoints")).is_empty());
}

#[test]
fn no_epochs_save_the_untrained_student_even_without_a_full_batch() {
    let world = World::new(4);
    let dir = world.path("untrained");
    let report =
        train(&config(0), &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
    assert_eq!((report.steps, report.images), (0, 0));
    assert_eq!((report.first_epoch_loss, report.last_epoch_loss), (None, None));
    Run::open(&dir, Verify::Full).unwrap().student(&Device::Cpu).unwrap();
}

#[test]
fn damaged_weights_are_refused() {
    let world = World::new(4);
    let dir = world.path("run");
    train(&config(0), &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
    let path = dir.join("student.safetensors");
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, flipped).unwrap();
    let error = Run::open(&dir, Verify::Full).unwrap_err();
    assert!(matches!(error, RunError::Artifact(ArtifactError::Hash { .. })), "{error}");
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let error = Run::open(&dir, Verify::Length).unwrap_err();
    assert!(matches!(error, RunError::Artifact(ArtifactError::Length { .. })), "{error}");
}

#[test]
fn an_unfinished_run_cannot_be_opened() {
    let world = World::new(20);
    let dir = world.path("run");
    let job = Job::new();
    job.interrupt();
    let error =
        train(&config(1), &resuming(), &world.inputs(&world.images), &dir, &job, &mut |_| {}).unwrap_err();
    assert!(matches!(error, RunError::Interrupted { step: 0, .. }), "{error}");
    let error = Run::open(&dir, Verify::Full).unwrap_err();
    assert!(matches!(error, RunError::Unfinished { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Artifact);
}

#[test]
fn a_loss_that_blows_up_names_the_step() {
    let world = World::new(20);
    let dir = world.path("run");
    let config = TrainConfig { base_lr: 1e30, start_lr: 1e30, ..config(4) };
    let error = train(&config, &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, RunError::NonFinite { .. } | RunError::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("step "), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
}

#[test]
fn initial_weights_are_taken_over_and_reported() {
    let world = World::new(4);
    let (first, second) = (world.path("first"), world.path("second"));
    let go = |config: &TrainConfig, dir: &Path| {
        train(config, &resuming(), &world.inputs(&world.images), dir, &Job::new(), &mut |_| {})
    };
    go(&config(0), &first).unwrap();
    let weights = first.join("student.safetensors");
    let warm = TrainConfig { init: Some(weights.clone()), seed: 77, ..config(0) };
    let report = go(&warm, &second).unwrap();
    let init = report.init.unwrap();
    assert!(init.is_complete() && !init.applied.is_empty());
    assert_eq!(
        Run::open(&second, Verify::Full).unwrap().manifest().init.as_ref().unwrap().applied,
        init.applied.len()
    );
    assert!(fs::read(&weights).unwrap() == fs::read(second.join("student.safetensors")).unwrap());

    let garbage = world.path("garbage.safetensors");
    fs::write(&garbage, b"no tensors here").unwrap();
    for path in [garbage, world.path("absent.safetensors")] {
        let error =
            go(&TrainConfig { init: Some(path.clone()), ..config(0) }, &world.path("third")).unwrap_err();
        assert!(matches!(&error, RunError::InitialWeights { path: named, .. } if *named == path), "{error}");
        assert_eq!(error.kind(), FailureKind::Artifact);
    }
}
