//! Held-out samples: never trained on, evaluated after every epoch, and the best epoch's weights kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::Device;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_data::manifest::Verify;
use lgd_train::error::FailureKind;
use lgd_train::eval::{
    EvalInputs, EvalOptions, KnnSettings, LabeledImages, Matrix, Protocol, evaluate, leave_one_out,
};
use lgd_train::inference::RunModel;
use lgd_train::loader::batches::TrainingImages;
use lgd_train::loader::holdout::Holdout;
use lgd_train::loader::origin::StoredUse;
use lgd_train::run::{
    Checkpoint, HoldoutFigures, MetricsKind, MetricsLine, Run, RunError, ScoreKind, TrainConfig,
};
use lgd_train::student::{Images as Shown, Mode};
use lgd_train::trainer::{LoopSettings, TrainInputs, TrainReport, Validation, Watch, train};

use crate::artifacts::{cache, everything, kdep_bank};
use crate::fixture::{DIM, Images, VIEWS, World, config, config_for, masked, originals, resuming};

/// Eight of 28 samples are held out, so an epoch has two steps of 8 of the other 20.
const SAMPLES: usize = 28;
const HELD_OUT: Holdout = Holdout::Samples(8);

fn held(config: TrainConfig) -> TrainConfig {
    TrainConfig { holdout: Some(HELD_OUT), ..config }
}

fn go(config: &TrainConfig, inputs: &TrainInputs<'_>, dir: &Path) -> Result<TrainReport, RunError> {
    train(config, &resuming(), inputs, dir, &Job::new(), &mut |_| {})
}

fn lines(dir: &Path) -> Vec<MetricsLine> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The figures of every epoch.
fn figures(dir: &Path) -> Vec<HoldoutFigures> {
    let epochs = lines(dir).into_iter().filter(|line| line.kind == MetricsKind::Epoch);
    epochs.map(|line| line.holdout.unwrap()).collect()
}

fn student(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("student.safetensors")).unwrap()
}

#[test]
fn held_out_samples_are_shown_but_never_trained_on() {
    let world = World::new(SAMPLES);
    let held_out = HELD_OUT.choose(&world.cache.views().unwrap().keys);
    let reads: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&reads);
    let images = world.images.hooked(move |index| {
        seen.lock().unwrap().push(index);
        None
    });
    let config = held(config(5));
    let report = go(&config, &world.inputs(&images), &world.path("run")).unwrap();
    assert_eq!((report.samples, report.held_out, report.dropped_per_epoch), (SAMPLES, 8, 4));
    assert_eq!((report.steps, report.images), (10, 80));
    let reads = reads.lock().unwrap();
    for index in 0..SAMPLES {
        let count = reads.iter().filter(|read| **read == index).count();
        if held_out.contains(&index) {
            assert_eq!(count, 5, "sample {index} is evaluated once per epoch");
        }
    }
    // Ten steps; five evaluations; statistics from 2 batches after each epoch but the last, and from all 10 for the finished
    // student, which is evaluated after the last.
    assert_eq!(reads.len(), 80 + 5 * 8 + (4 * 2 + 10) * 8);

    // A held-out image is compared with the cache like any other.
    let changed =
        world.images.hooked(move |index| held_out.contains(&index).then(|| b"P6\n1 1\n255\nabc".to_vec()));
    let error = go(&config, &world.inputs(&changed), &world.path("changed")).unwrap_err();
    assert!(error.to_string().contains("the image changed since extraction"), "{error}");
    assert_eq!(go(&config, &world.inputs(&world.images), &world.path("run")).unwrap().images, 0, "finished");
}

#[test]
fn watching_changes_no_bit_of_the_student() {
    let world = World::new(20);
    let other = Images::new(12, 9);
    let val_cache = cache(&world.path("val"), &other, 5);
    let validation = Validation { cache: &val_cache, originals: Some(originals(&other)) };
    let watch = Watch { banks: &[], validation: Some(validation) };
    let mut averaged = config(3);
    averaged.optimizer.ema = Some(0.5);
    for (number, config) in [config(3), averaged].iter().enumerate() {
        let (plain, watched) =
            (world.path(&format!("plain{number}")), world.path(&format!("watched{number}")));
        go(config, &world.inputs(&world.images), &plain).unwrap();
        let inputs = TrainInputs { watch, ..world.inputs(&world.images) };
        let report = go(config, &inputs, &watched).unwrap();
        assert!(student(&plain) == student(&watched));
        assert!(!plain.join("best.safetensors").exists());
        assert_eq!(report.held_out, 0);
        assert!(report.holdout_seconds > 0.0 && report.holdout_seconds < report.seconds);
        let figures = figures(&watched);
        assert_eq!(figures.len(), 3);
        assert!(figures.iter().all(|figures| figures.samples == 12));
        assert!(lines(&plain).iter().all(|line| line.holdout.is_none() && line.time.is_some()));
    }
    let text = fs::read_to_string(world.path("plain0").join("run.json")).unwrap();
    for absent in ["holdout", "patience", "best", "validation", "stopped_after"] {
        assert!(!text.contains(absent), "{absent} is not written without a holdout");
    }
}

/// `lgd eval` on a validation set gives the figures of the last epoch.
#[test]
fn the_last_figures_are_those_of_an_evaluation() {
    let world = World::new(20);
    let other = Images::new(60, 9);
    let val_cache = cache(&world.path("val"), &other, 5);
    let banks = [Bank::open(&world.path("bank"), Verify::Full).unwrap()];
    let validation = Validation { cache: &val_cache, originals: Some(originals(&other)) };
    let watch = Watch { banks: &banks, validation: Some(validation) };
    let mut config = config_for("seed", 3);
    config.optimizer.ema = Some(0.5);
    let dir = world.path("run");
    let inputs = TrainInputs { watch, ..world.inputs_for(&config, &world.images) };
    go(&config, &inputs, &dir).unwrap();
    let last = figures(&dir).pop().unwrap();
    let open_last = || {
        let mut run = Run::open(&dir, Verify::Full).unwrap();
        assert_eq!(run.checkpoint(), Checkpoint::Best);
        run.select(Checkpoint::Last).unwrap();
        run
    };
    let (run, mut model) = (open_last(), RunModel::open(open_last()).unwrap());
    let inputs = EvalInputs {
        bank: Some(&world.bank),
        test: LabeledImages { source: &other, images: Path::new("images"), cache: Some(&val_cache) },
        train: None,
    };
    let protocols = vec![Protocol::ZeroShot, Protocol::Agreement];
    let options = EvalOptions { protocols, threads: 2, ..EvalOptions::default() };
    let report = evaluate(&mut model, &inputs, &options, &Job::new()).unwrap();
    assert_eq!((last.agreement.len(), last.agreement[0].bank.as_str()), (1, "bank"));
    assert_eq!(last.agreement[0].percent, report.agreement.unwrap().student);
    assert_eq!(last.zero_shot[0].percent, report.zero_shot.unwrap().student);

    // The other figures, from the student's outputs for the same views.
    let format = run.manifest().input_format();
    let (limits, originals) = (DecodeLimits::default(), Some(originals(&other)));
    let images = TrainingImages::open(&val_cache, originals, format, StoredUse::Fitting, limits).unwrap();
    let mut student = run.student(&Device::Cpu).unwrap();
    let (mut pooled, mut cosines) = (Vec::new(), Vec::new());
    let samples: Vec<usize> = (0..60).collect();
    images
        .visit(&samples, 0, (7, 2), |samples, rgb| {
            let shown = Shown::Pixels { rgb, normalization: &format.normalization };
            let output = student.forward(shown, (samples.len(), 16, 16), Mode::Inference)?;
            pooled.extend(output.pooled.flatten_all()?.to_vec1::<f32>()?);
            for (sample, row) in samples.iter().zip(output.embedding().unwrap().to_vec2::<f32>()?) {
                let mut teacher = vec![0.0; DIM];
                val_cache.embeddings().copy_row(sample * usize::from(VIEWS), &mut teacher);
                let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let norms = product(&row, &row) * product(&teacher, &teacher);
                cosines.push(f64::from(product(&row, &teacher) / norms.sqrt()));
            }
            Ok::<_, RunError>(())
        })
        .unwrap();
    assert!((last.cosine.unwrap() - cosines.iter().sum::<f64>() / 60.0).abs() < 1e-5, "{last:?}");
    let labels: Vec<u32> = other.samples.iter().map(|sample| sample.label.unwrap()).collect();
    let voted = leave_one_out((&Matrix::new(1280, pooled), &labels), KnnSettings::default()).unwrap();
    let right = voted.iter().zip(&labels).filter(|(voted, label)| voted == label).count();
    assert_eq!(last.knn.unwrap(), 100.0 * f64::from(u32::try_from(right).unwrap()) / 60.0);
}

#[test]
fn the_best_epoch_is_kept_and_opened() {
    let world = World::new(SAMPLES);
    let dir = world.path("run");
    // A learning rate so high that the student becomes worse now and then.
    let config = held(TrainConfig { base_lr: 0.2, warmup_epochs: 0, ..config(8) });
    let report = go(&config, &world.inputs(&world.images), &dir).unwrap();
    let scores: Vec<(f64, f64)> =
        figures(&dir).iter().map(|figures| (figures.agreement[0].percent, figures.cosine.unwrap())).collect();
    let better = |a: (f64, f64), b: (f64, f64)| a.0 > b.0 || (a.0 == b.0 && a.1 > b.1);
    let mut expected = 0;
    for epoch in 1..scores.len() {
        if better(scores[epoch], scores[expected]) {
            expected = epoch;
        }
    }
    let best = report.best.unwrap();
    assert_eq!(
        (usize::try_from(best.epoch).unwrap(), best.score),
        (expected, ScoreKind::Agreement),
        "{scores:?}"
    );
    assert!((f64::from(best.value) - scores[expected].0).abs() < 1e-4);

    let mut run = Run::open(&dir, Verify::Full).unwrap();
    assert_eq!((run.checkpoint(), run.epochs()), (Checkpoint::Best, best.epoch + 1));
    assert!(run.weights().ends_with("best.safetensors"));
    run.student(&Device::Cpu).unwrap();
    run.select(Checkpoint::Last).unwrap();
    assert_eq!(run.epochs(), 8);
    assert!(run.weights().ends_with("student.safetensors"));

    fs::write(dir.join("best.safetensors"), b"damaged").unwrap();
    assert!(Run::open(&dir, Verify::Length).is_err());
    let plain = world.path("plain");
    go(&TrainConfig { holdout: None, ..config }, &world.inputs(&world.images), &plain).unwrap();
    let mut run = Run::open(&plain, Verify::Full).unwrap();
    assert_eq!(run.checkpoint(), Checkpoint::Last);
    let error = run.select(Checkpoint::Best).unwrap_err();
    assert!(matches!(error, RunError::NoBest { .. }), "{error}");
}

#[test]
fn best_weights_are_those_that_a_shorter_run_ends_with() {
    let world = World::new(SAMPLES);
    let constant = |epochs| {
        let schedule = lgd_train::optim::ScheduleKind::Constant;
        held(TrainConfig { schedule, warmup_epochs: 0, base_lr: 0.4, ..config(epochs) })
    };
    let dir = world.path("run");
    let best = go(&constant(6), &world.inputs(&world.images), &dir).unwrap().best.unwrap();
    let shorter = world.path("shorter");
    go(&constant(best.epoch + 1), &world.inputs(&world.images), &shorter).unwrap();
    assert!(fs::read(dir.join("best.safetensors")).unwrap() == student(&shorter));
}

#[test]
fn patience_ends_a_run_and_the_end_is_recorded() {
    let world = World::new(SAMPLES);
    // At this learning rate nothing changes but the running statistics.
    let still = TrainConfig { base_lr: 1e-30, start_lr: 1e-31, ..config(40) };
    let config = TrainConfig { patience: Some(2), ..held(still) };
    let dir = world.path("run");
    let report = go(&config, &world.inputs(&world.images), &dir).unwrap();
    let epochs = report.stopped_after.unwrap();
    let best = report.best.unwrap();
    assert_eq!((epochs, report.epochs), (best.epoch + 3, best.epoch + 3));
    assert_eq!(report.steps, 2 * usize::try_from(epochs).unwrap());
    assert_eq!(figures(&dir).len(), usize::try_from(epochs).unwrap());
    assert!(report.last_epoch_loss.is_some());
    let run = Run::open(&dir, Verify::Full).unwrap();
    assert_eq!((run.manifest().stopped_after, run.manifest().epochs()), (Some(epochs), epochs));
    let again = go(&config, &world.inputs(&world.images), &dir).unwrap();
    assert_eq!((again.images, again.stopped_after), (0, Some(epochs)));

    let error = go(&TrainConfig { holdout: None, ..config }, &world.inputs(&world.images), &world.path("no"));
    let error = error.unwrap_err();
    assert!(error.to_string().contains("patience is 2, expected absent if nothing is held out"), "{error}");
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bytes() {
    let world = World::holding(SAMPLES, everything);
    let mut averaged = config_for("lgd:0.5,seed", 5);
    averaged.optimizer.ema = Some(0.5);
    let patient = TrainConfig { patience: Some(2), base_lr: 0.1, ..config(5) };
    for (number, config) in [averaged, patient, masked(5)].into_iter().map(held).enumerate() {
        let (whole, parts) = (world.path(&format!("whole{number}")), world.path(&format!("parts{number}")));
        let inputs = world.inputs_for(&config, &world.images);
        go(&config, &inputs, &whole).unwrap();
        // Steps 3 and 5 are within an epoch, step 4 ends one.
        for stop in [3, 4, 5] {
            let job = Job::new();
            let settings = LoopSettings { threads: 1, log_steps: 1, ..resuming() };
            let mut observe = |line: &MetricsLine| {
                if line.kind == MetricsKind::Step && line.step == stop {
                    job.interrupt();
                }
            };
            let error = train(&config, &settings, &inputs, &parts, &job, &mut observe).unwrap_err();
            assert!(matches!(error, RunError::Interrupted { .. }), "{error}");
        }
        // A process that is killed after the best weights were written leaves a file that nothing lists.
        fs::write(parts.join("checkpoints/best-000000099.safetensors"), b"unlisted").unwrap();
        go(&config, &inputs, &parts).unwrap();
        for file in ["student.safetensors", "best.safetensors"] {
            assert!(
                fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(),
                "{number}: {file}"
            );
        }
        assert_eq!(figures(&whole), figures(&parts));
        let best = |dir: &Path| Run::open(dir, Verify::Full).unwrap().manifest().best.clone();
        assert_eq!(best(&whole), best(&parts));
        assert!(!parts.join("checkpoints/best-000000099.safetensors").exists());
    }
}

#[test]
fn a_checkpoint_that_was_deleted_with_its_epoch_changes_nothing() {
    let world = World::new(SAMPLES);
    let config = held(TrainConfig { base_lr: 0.1, ..config(6) });
    let (whole, parts) = (world.path("whole"), world.path("parts"));
    let inputs = world.inputs(&world.images);
    go(&config, &inputs, &whole).unwrap();
    let reads = AtomicUsize::new(0);
    // Four epochs read 16 images to train on, 16 for statistics and 8 held-out ones each. The fifth breaks off.
    let dying = world.images.hooked(move |_| (reads.fetch_add(1, Ordering::SeqCst) == 175).then(Vec::new));
    go(&config, &world.inputs(&dying), &parts).unwrap_err();
    let mut files: Vec<_> =
        fs::read_dir(parts.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("step-"));
    fs::remove_file(files.iter().max().unwrap()).unwrap();
    go(&config, &inputs, &parts).unwrap();
    assert!(student(&whole) == student(&parts));
    assert!(
        fs::read(whole.join("best.safetensors")).unwrap()
            == fs::read(parts.join("best.safetensors")).unwrap()
    );
    assert_eq!(figures(&whole), figures(&parts));
}

#[test]
fn every_student_is_measured_by_what_it_learns() {
    let world = World::holding(SAMPLES, everything);
    let kdep = kdep_bank(&world.path("kdep-bank"), &world.cache, 1280);
    let of = |objective: &str| {
        let config = held(config_for(objective, 1));
        let dir = world.path(objective);
        let kdep = (objective == "kdep").then_some(&kdep);
        go(&config, &TrainInputs { kdep, ..world.inputs_for(&config, &world.images) }, &dir).unwrap();
        let best = Run::open(&dir, Verify::Full).unwrap().manifest().best.clone().unwrap();
        (figures(&dir).pop().unwrap(), best.score)
    };
    let (figures, score) = of("kdep");
    assert!(figures.cosine.is_some() && figures.agreement.is_empty() && figures.knn.is_some(), "{figures:?}");
    assert_eq!(score, ScoreKind::Cosine);
    let (figures, score) = of("seed");
    assert!(
        figures.cosine.is_some() && figures.agreement.is_empty() && figures.labels.is_none(),
        "{figures:?}"
    );
    assert_eq!(score, ScoreKind::Cosine);
    let (figures, score) = of("supervised");
    assert!(figures.cosine.is_none() && figures.labels.is_some() && figures.knn.is_some(), "{figures:?}");
    assert_eq!(score, ScoreKind::Labels);
    let (figures, score) = of("lgd");
    let names: BTreeSet<&str> =
        figures.agreement.iter().chain(&figures.zero_shot).map(|bank| bank.bank.as_str()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["bank"]);
    assert_eq!(score, ScoreKind::Agreement);
}

#[test]
fn what_cannot_be_held_out_or_measured_is_refused() {
    let world = World::new(20);
    let all = TrainConfig { holdout: Some(Holdout::Samples(14)), ..config(1) };
    let error = go(&all, &world.inputs(&world.images), &world.path("a")).unwrap_err();
    assert!(error.to_string().contains("6 samples do not fill one batch of 8"), "{error}");

    let mut nameless = Images::new(20, 4);
    nameless.class_names = None;
    nameless.samples.iter_mut().for_each(|sample| sample.label = None);
    let val: Cache = cache(&world.path("val"), &nameless, 3);
    let kdep_cache = crate::artifacts::cache_holding(&world.path("features"), &world.images, 1, everything);
    let kdep = kdep_bank(&world.path("kdep-bank"), &kdep_cache, 1280);
    let validation = Some(Validation { cache: &val, originals: Some(originals(&nameless)) });
    let inputs = TrainInputs {
        cache: &kdep_cache,
        bank: None,
        kdep: Some(&kdep),
        watch: Watch { banks: &[], validation },
        ..world.inputs(&world.images)
    };
    let error = go(&config_for("kdep", 1), &inputs, &world.path("b")).unwrap_err();
    assert!(matches!(error, RunError::NothingToMeasure { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    let error = go(&held(config_for("kdep", 1)), &inputs, &world.path("b")).unwrap_err();
    assert!(
        error.to_string().contains("holdout is 8, expected absent if there is a validation set"),
        "{error}"
    );
    assert!(!world.path("b").exists());
}

#[test]
fn a_finished_run_keeps_no_checkpoint_unless_asked_to() {
    let world = World::new(SAMPLES);
    let config = held(config(2));
    for (name, keep_checkpoints, expected) in [("dropped", false, 0), ("kept", true, 2)] {
        let dir = world.path(name);
        let settings = LoopSettings { keep_checkpoints, ..resuming() };
        train(&config, &settings, &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
        assert_eq!(fs::read_dir(dir.join("checkpoints")).unwrap().count(), expected, "{name}");
        let run = Run::open(&dir, Verify::Full).unwrap();
        assert_eq!((run.manifest().checkpoints.len(), run.manifest().step), (expected, 4));
    }
    assert!(student(&world.path("dropped")) == student(&world.path("kept")));
}
