//! A run that was stopped and resumed equals the uninterrupted one, bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::Device;
use lgd_data::job::Job;
use lgd_train::error::{FailureKind, TrainError};
use lgd_train::loader::LoaderError;
use lgd_train::objective::{CategoryWeights, VisualMode};
use lgd_train::run::{MetricsKind, MetricsLine, RunError, TrainConfig};
use lgd_train::student::{Architecture, Head, Images as Pixels, Mode, Student, StudentConfig};
use lgd_train::trainer::{LoopSettings, TrainReport, train};

use crate::artifacts::{bank, cache, everything};
use crate::fixture::{Images, World, config, config_for, leave_unfinished, masked, resuming};

fn run(
    world: &World,
    images: &Images,
    config: &TrainConfig,
    settings: &LoopSettings,
    dir: &Path,
    job: &Job,
) -> Result<TrainReport, RunError> {
    train(config, settings, &world.inputs_for(config, images), dir, job, &mut |_| {})
}

fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("student.safetensors")).unwrap()
}

/// Epoch, step, loss and parts of the epochs' lines.
fn epoch_lines(dir: &Path) -> Vec<(u32, usize, f64, Vec<f64>)> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<MetricsLine>(line).unwrap());
    let epochs = lines.filter(|line| line.kind == MetricsKind::Epoch);
    epochs.map(|line| (line.epoch, line.step, line.loss, line.parts.into_values().collect())).collect()
}

fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Every objective with its own state, and 20 samples: 2 steps per epoch, 4 samples dropped.
fn cases() -> [TrainConfig; 5] {
    let online = |mut config: TrainConfig| {
        let settings = &mut config.objective_settings.lgd;
        (settings.vsb, settings.vsb_momentum, settings.slots) =
            (VisualMode::Ema, 0.5, CategoryWeights::Views);
        config
    };
    // A queue of 20 is partly filled after one step of 8 and after two. Then the oldest entries are overwritten.
    let queue = |mut config: TrainConfig| {
        config.objective_settings.shared.queue = 20;
        config
    };
    [
        config(3),
        online(config(3)),
        queue(config_for("seed", 3)),
        queue(online(config_for("lgd:0.5,seed", 3))),
        queue(masked(3)),
    ]
}

#[test]
fn a_pass_that_is_stopped_changes_nothing() {
    let config = StudentConfig::new(Architecture::ResNet18, Head::Projection { dim: 8 }, 1);
    let mut student = Student::new(config, &Device::Cpu).unwrap();
    let before = student.engine().state().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let images: Vec<f32> = (0_u16..2 * 32 * 32 * 3).map(|value| f32::from(value % 17)).collect();
    let mode = Mode::Train { seed: 0, step: 0 };
    let forward = |student: &mut Student| student.forward(Pixels::Normalized(&images), (2, 32, 32), mode);
    student.engine().watch(Some(Arc::clone(&stop)));
    let output = forward(&mut student).unwrap();
    assert_ne!(student.engine().state().unwrap().buffers, before.buffers);
    stop.store(true, Ordering::Relaxed);
    let loss = output.embedding().unwrap().sum_all().unwrap();
    assert!(matches!(student.backward(&loss, false), Err(TrainError::Stopped)));
    assert_eq!(student.engine().state().unwrap(), before);
    student.engine().watch(Some(stop));
    assert!(matches!(forward(&mut student), Err(TrainError::Stopped)));
    assert_eq!(student.engine().state().unwrap(), before);
    student.engine().watch(None);
    forward(&mut student).unwrap();
}

#[test]
fn interrupted_in_the_middle_of_an_epoch() {
    let world = World::holding(20, everything);
    for (number, config) in cases().iter().enumerate() {
        let (whole, parts) = (world.path(&format!("whole{number}")), world.path(&format!("parts{number}")));
        let report = run(&world, &world.images, config, &resuming(), &whole, &Job::new()).unwrap();
        assert_eq!((report.steps, report.dropped_per_epoch, report.resumed_from), (6, 4, None));

        // Steps 1 and 5 are within an epoch, step 4 ends one.
        for stop in [1, 4, 5] {
            let job = Job::new();
            let mut observe = |line: &MetricsLine| {
                if line.kind == MetricsKind::Step && line.step == stop {
                    job.interrupt();
                }
            };
            let settings = LoopSettings { threads: 1, log_steps: 1, ..resuming() };
            let inputs = world.inputs_for(config, &world.images);
            let error = train(config, &settings, &inputs, &parts, &job, &mut observe).unwrap_err();
            assert!(matches!(error, RunError::Interrupted { step, .. } if step == stop), "{error}");
            assert_eq!(error.kind(), FailureKind::Interrupted);
            assert!(!parts.join("student.safetensors").exists());
        }
        let report = run(&world, &world.images, config, &resuming(), &parts, &Job::new()).unwrap();
        assert_eq!(report.resumed_from, Some(5));
        let lines = epoch_lines(&parts);
        assert_eq!(report.first_epoch_loss, Some(lines[0].2), "that of epoch 1, before the resumption");
        assert_eq!(report.last_epoch_loss, Some(lines[2].2));
        assert!(weights(&whole) == weights(&parts), "{} differs", config.objective);
        assert_eq!(epoch_lines(&whole), epoch_lines(&parts));
        assert_eq!(epoch_lines(&whole).len(), 3);
    }
}

#[test]
fn killed_between_two_checkpoints() {
    let world = World::new(20);
    let config = config(3);
    let (whole, parts) = (world.path("whole"), world.path("parts"));
    let settings = LoopSettings { checkpoint_steps: Some(1), ..resuming() };
    run(&world, &world.images, &config, &settings, &whole, &Job::new()).unwrap();

    // The 39th image read is broken, so the run ends in the third epoch, without warning, as if it were killed.
    let reads = AtomicUsize::new(0);
    let dying = world.images.hooked(move |_| (reads.fetch_add(1, Ordering::SeqCst) == 38).then(Vec::new));
    let error = run(&world, &dying, &config, &settings, &parts, &Job::new()).unwrap_err();
    assert!(matches!(error, RunError::Loader(LoaderError::Image { .. })), "{error}");
    // A killed process also leaves these: a half-written checkpoint, one that is not listed yet, an incomplete line.
    leave_unfinished(&parts.join("checkpoints/step-000000005.safetensors"));
    fs::write(parts.join("checkpoints/step-000000099.safetensors"), b"unlisted").unwrap();
    let metrics = fs::read_to_string(parts.join("metrics.jsonl")).unwrap();
    fs::write(parts.join("metrics.jsonl"), metrics + "{\"kind\":\"epo").unwrap();

    let report = run(&world, &world.images, &config, &settings, &parts, &Job::new()).unwrap();
    assert!(report.resumed_from.is_some_and(|step| (1..6).contains(&step)), "{report:?}");
    assert!(weights(&whole) == weights(&parts));
    assert_eq!(epoch_lines(&whole), epoch_lines(&parts));
    assert_eq!(
        checkpoints(&parts),
        ["step-000000005.safetensors", "step-000000006.safetensors"]
            .map(|name| parts.join("checkpoints").join(name))
    );
}

#[test]
fn a_damaged_checkpoint_is_refused_and_its_predecessor_named() {
    let world = World::new(20);
    let config = config(3);
    let (whole, parts) = (world.path("whole"), world.path("parts"));
    run(&world, &world.images, &config, &resuming(), &whole, &Job::new()).unwrap();
    let reads = AtomicUsize::new(0);
    let dying = world.images.hooked(move |_| (reads.fetch_add(1, Ordering::SeqCst) == 47).then(Vec::new));
    run(&world, &dying, &config, &resuming(), &parts, &Job::new()).unwrap_err();
    let [earlier, latest]: [PathBuf; 2] = checkpoints(&parts).try_into().unwrap();

    let good = fs::read(&latest).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (what, bad) in [("BLAKE3", flipped), ("bytes", good[..middle].to_vec()), ("bytes", Vec::new())] {
        fs::write(&latest, bad).unwrap();
        let error = run(&world, &world.images, &config, &resuming(), &parts, &Job::new()).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Artifact);
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(latest.to_str().unwrap()), "{text}");
        let RunError::DamagedCheckpoint { earlier: named, .. } = error else { panic!("{text}") };
        assert_eq!(named.as_deref(), Some(&*earlier));
        assert!(!parts.join("student.safetensors").exists());
    }

    // As the error says, the one before it is used.
    fs::remove_file(&latest).unwrap();
    let report = run(&world, &world.images, &config, &resuming(), &parts, &Job::new()).unwrap();
    assert_eq!(report.resumed_from, Some(2));
    assert!(weights(&whole) == weights(&parts));
    assert_eq!(epoch_lines(&whole), epoch_lines(&parts));
}

#[test]
fn resuming_with_other_settings_or_inputs_is_refused() {
    let world = World::new(20);
    let dir = world.path("run");
    run(&world, &world.images, &config(1), &resuming(), &dir, &Job::new()).unwrap();
    let mut other = config(1);
    other.objective_settings.lgd.alpha = 0.25;
    let error = run(&world, &world.images, &other, &resuming(), &dir, &Job::new()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the setting alpha differs: expected 0.5, got 0.25")
            && matches!(error, RunError::Differs { .. }),
        "{text}"
    );
    assert_eq!(error.kind(), FailureKind::Artifact);
    let other = config_for("lgd:2", 1);
    let error = run(&world, &world.images, &other, &resuming(), &dir, &Job::new()).unwrap_err();
    assert!(error.to_string().contains("objective differs: expected \"lgd:1\", got \"lgd:2\""), "{error}");

    let cache = cache(&world.path("cache2"), &world.images, 2);
    let bank = bank(&world.path("bank2"), &cache);
    let inputs =
        lgd_train::trainer::TrainInputs { cache: &cache, bank: Some(&bank), ..world.inputs(&world.images) };
    let error = train(&config(1), &resuming(), &inputs, &dir, &Job::new(), &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&world.cache.hash().to_string()) && text.contains(&cache.hash().to_string()),
        "{text}"
    );

    let inputs = lgd_train::trainer::TrainInputs { bank: Some(&bank), ..world.inputs(&world.images) };
    let error =
        train(&config(1), &resuming(), &inputs, &world.path("new"), &Job::new(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the hash of the cache differs"), "{error}");
    assert_eq!(error.kind(), FailureKind::Artifact);
    assert!(!world.path("new").exists());
}

#[test]
fn resuming_a_finished_run_does_nothing() {
    let world = World::new(20);
    let dir = world.path("run");
    run(&world, &world.images, &config(1), &resuming(), &dir, &Job::new()).unwrap();
    let before = fs::read(dir.join("run.json")).unwrap();
    let loss = epoch_lines(&dir)[0].2;
    let report = run(&world, &world.images, &config(1), &resuming(), &dir, &Job::new()).unwrap();
    assert_eq!((report.resumed_from, report.images), (Some(2), 0));
    assert_eq!((report.first_epoch_loss, report.last_epoch_loss), (Some(loss), Some(loss)));
    assert_eq!(fs::read(dir.join("run.json")).unwrap(), before);
}

#[test]
fn a_finished_student_that_is_gone_or_damaged_is_made_again() {
    let world = World::new(20);
    let mut config = config(1);
    config.optimizer.ema = Some(0.5);
    let dir = world.path("run");
    let go = || run(&world, &world.images, &config, &resuming(), &dir, &Job::new());
    go().unwrap();
    let files = ["run.json", "metrics.jsonl", "config.toml", "student.safetensors"];
    let content = || files.map(|name| fs::read(dir.join(name)).unwrap());
    let before = content();
    let student = dir.join("student.safetensors");
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let losses: [&dyn Fn(&Path); 2] = [&|path: &Path| fs::remove_file(path).unwrap(), &damage];
    for lose in losses {
        lose(&student);
        let report = go().unwrap();
        assert_eq!((report.resumed_from, report.images), (Some(2), 0));
        assert!(content() == before);
    }

    // A damaged file is refused if no checkpoint holds its content, or if there are no checkpoints.
    let refused = |path: &Path| {
        let error = go().unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.kind(), FailureKind::Artifact);
    };
    let metrics = dir.join("metrics.jsonl");
    damage(&metrics);
    refused(&metrics);
    damage(&metrics);
    go().unwrap();
    fs::remove_dir_all(dir.join("checkpoints")).unwrap();
    go().unwrap();
    damage(&student);
    refused(&student);
}

/// Written by lgd 0.1, before settings were grouped by objective.
const OLD: &str = include_str!("../goldens/config-0.1.toml");

#[test]
fn a_configuration_of_an_earlier_version_is_read_and_written_with_the_same_members() {
    let config: TrainConfig = toml::from_str(OLD).unwrap();
    let mut expected = TrainConfig::new(Architecture::MobileNetV2, 32, 4, 8, 0);
    (expected.base_lr, expected.start_lr) = (0.01, TrainConfig::default_start_lr(0.01));
    expected.objective = "lgd,seed:0.5".parse().unwrap();
    let settings = &mut expected.objective_settings;
    (settings.lgd.alpha, settings.lgd.slots) = (0.25, CategoryWeights::Views);
    (settings.lgd.vsb, settings.lgd.vsb_momentum) = (VisualMode::Ema, 0.9);
    (settings.shared.student_temperature, settings.shared.queue) = (0.3, 24);
    settings.seed.teacher_temperature = 0.05;
    assert_eq!(config, expected);
    let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
    let mut written = table(&toml::to_string(&config).unwrap());
    for later in ["queue_fill", "compress_temperature"] {
        assert!(written.remove(later).is_some(), "{later}");
    }
    assert_eq!(written, table(OLD));
}
