//! Runs with other objectives than LGD: the inputs they need, the records they write, and the inputs they refuse.

use candle_core::Device;
use lgd_data::bank::UnassignedSlots;
use lgd_data::cache::{Cache, TokenEncoding};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Verify};
use lgd_train::error::FailureKind;
use lgd_train::eval::{EvalError, EvalInputs, EvalOptions, EvalReport, LabeledImages, Protocol};
use lgd_train::loader::LoaderError;
use lgd_train::loader::labels::ClassRecord;
use lgd_train::objective::{CategoryWeights, InputError};
use lgd_train::run::{MetricsKind, MetricsLine, Run, RunError, TrainConfig};
use lgd_train::student::Head;
use lgd_train::trainer::{LoopSettings, TrainInputs, TrainReport, Watch, train};

use crate::artifacts::{bank, cache, everything, kdep_bank};
use crate::evaluation::evaluate;
use crate::fixture::{CLASSES, DIM, Images, World, config_for, masked, resuming};

/// Trains in the folder `name`. Also returns the lines of `metrics.jsonl`.
fn go(
    world: &World,
    inputs: &TrainInputs<'_>,
    config: &TrainConfig,
    name: &str,
) -> Result<(TrainReport, Vec<MetricsLine>), RunError> {
    let mut lines = Vec::new();
    let report = train(config, &resuming(), inputs, &world.path(name), &Job::new(), &mut |line| {
        lines.push(line.clone())
    })?;
    Ok((report, lines))
}

fn open(world: &World, name: &str) -> Run {
    Run::open(&world.path(name), Verify::Full).unwrap()
}

fn judge(run: &Run, protocol: Protocol, images: &Images, world: &World) -> Result<EvalReport, EvalError> {
    let test = LabeledImages { source: images, images: "images".as_ref(), cache: None };
    let bank = protocol.reads_bank().then_some(&world.bank);
    let inputs = EvalInputs { bank, test, train: None };
    let options = EvalOptions { protocols: vec![protocol], batch: 8, threads: 2, ..EvalOptions::default() };
    evaluate(run, &inputs, &options, &Job::new())
}

#[test]
fn a_seed_run_needs_no_bank() {
    let world = World::new(20);
    let config = config_for("seed", 3);
    let (report, lines) = go(&world, &world.inputs_for(&config, &world.images), &config, "seed").unwrap();
    assert_eq!(report.steps, 6);
    let epochs: Vec<&MetricsLine> = lines.iter().filter(|line| line.kind == MetricsKind::Epoch).collect();
    assert!(epochs.iter().all(|line| line.parts.keys().eq(["seed"])), "{epochs:?}");
    // The queue is empty at the first step only, and the loss is 0 then.
    assert!(epochs[0].loss > 0.0 && epochs[1].loss > epochs[0].loss, "{epochs:?}");

    let run = open(&world, "seed");
    let manifest = run.manifest();
    assert_eq!((manifest.bank, manifest.kdep_bank, manifest.classes.clone()), (None, None, None));
    assert_eq!(manifest.text_encoder, Some(ContentHash::of(b"text encoder")), "the teacher's");
    assert_eq!(manifest.head(), Head::Projection { dim: DIM });
    let report = judge(&run, Protocol::ZeroShot, &world.images, &world).unwrap();
    assert!(report.zero_shot.is_some(), "a bank made later judges it");
}

#[test]
fn a_combination_reports_all_terms_and_their_weighted_sum() {
    let world = World::new(20);
    let config = config_for("lgd:0.5,seed:2", 2);
    let (_, lines) = go(&world, &world.inputs(&world.images), &config, "both").unwrap();
    for line in lines {
        assert!(line.parts.keys().eq(["seed", "text", "visual"]), "{line:?}");
        let (lgd, seed) = (0.5 * (line.parts["text"] + line.parts["visual"]), line.parts["seed"]);
        assert!((line.loss - (0.5 * lgd + 2.0 * seed)).abs() < 1e-5, "{line:?}");
    }
}

#[test]
fn a_single_objective_has_its_weight() {
    let world = World::new(20);
    let loss = |objective: &str| {
        let config = config_for(objective, 1);
        let inputs = world.inputs_for(&config, &world.images);
        go(&world, &inputs, &config, objective).unwrap().1.pop().unwrap()
    };
    let line = loss("supervised:4");
    assert!((line.loss - 4.0 * line.parts["supervised"]).abs() < 1e-5, "{line:?}");
}

/// Keeps the images whose label is `wanted`.
pub(crate) fn keep(images: &mut Images, wanted: impl Fn(u32) -> bool) {
    let kept = (0..images.samples.len()).filter(|&at| images.samples[at].label.is_some_and(&wanted));
    let kept: Vec<usize> = kept.collect();
    images.samples = kept.iter().map(|&at| images.samples[at].clone()).collect();
    images.sizes = kept.iter().map(|&at| images.sizes[at]).collect();
    images.bytes = kept.iter().map(|&at| images.bytes[at].clone()).collect();
}

#[test]
fn a_supervised_run_ends_in_a_classifier_that_eval_judges() {
    let world = World::new(30);
    let config = TrainConfig { base_lr: 0.005, start_lr: 0.005, ..config_for("supervised", 30) };
    let (report, _) = go(&world, &world.inputs_for(&config, &world.images), &config, "labels").unwrap();
    assert!(report.last_epoch_loss < report.first_epoch_loss, "{report:?}");
    let run = open(&world, "labels");
    let names = CLASSES.map(str::to_owned).to_vec();
    assert_eq!(
        run.manifest().classes,
        Some(ClassRecord { count: 3, names: Some(names.clone()), untrained: vec![] })
    );
    assert_eq!(run.manifest().head(), Head::Classifier { classes: 3 });
    assert_eq!(run.student(&Device::Cpu).unwrap().embedding_dim(), Some(3));

    let right = |images: &Images| {
        let report = judge(&run, Protocol::Labels, images, &world).unwrap();
        assert!(report.to_table().contains("labels"), "{}", report.to_table());
        let labels = report.labels.unwrap();
        assert_eq!(labels.classes, 3);
        labels.student
    };
    let images = Images::new(21, 5);
    let plain = right(&images);
    assert!(plain > 60.0, "colors are learned, chance is 33: {plain}");
    // The same classes in another order, with other folder names: they are matched by name.
    let mut turned = images.clone();
    turned.class_names = Some(["blue_thing", "red thing", "Green Thing"].map(str::to_owned).to_vec());
    turned.samples.iter_mut().for_each(|sample| sample.label = sample.label.map(|label| (label + 1) % 3));
    assert!((right(&turned) - plain).abs() < 1e-9);
    // Not all classes need to be present: blue things alone are the third class, but the only one of their folder.
    let mut blue = images.clone();
    keep(&mut blue, |label| label == 2);
    let among_all = right(&blue);
    blue.class_names = Some(vec!["blue thing".to_owned()]);
    blue.samples.iter_mut().for_each(|sample| sample.label = Some(0));
    assert!((right(&blue) - among_all).abs() < 1e-9);

    for (names, unknown) in [(&["red_thing", "owl", "elk"][..], "owl, elk"), (&["owl"], "owl")] {
        let mut images = images.clone();
        keep(&mut images, |label| usize::try_from(label).unwrap() < names.len());
        images.class_names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let error = judge(&run, Protocol::Labels, &images, &world).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with(&format!("classes: {unknown}")), "{text}");
        let EvalError::UnknownClasses { known, .. } = &error else { panic!("{error}") };
        assert!(known.contains("green thing"), "{known}");
        assert_eq!(error.kind(), FailureKind::Usage);
    }
}

#[test]
fn names_do_not_stand_for_a_classifiers_numbers_nor_numbers_for_its_names() {
    let world = World::new(9);
    let mut numbers = world.images.clone();
    numbers.class_names = None;
    let cache = cache(&world.path("numbers"), &numbers, 1);
    let inputs = TrainInputs { cache: &cache, bank: None, ..world.inputs(&numbers) };
    go(&world, &inputs, &config_for("supervised", 0), "run").unwrap();
    let run = open(&world, "run");
    assert_eq!(run.manifest().classes, Some(ClassRecord { count: 3, names: None, untrained: vec![] }));
    judge(&run, Protocol::Labels, &numbers, &world).unwrap();
    let mut some = numbers.clone();
    keep(&mut some, |label| label == 2);
    judge(&run, Protocol::Labels, &some, &world).unwrap();
    some.samples[0].label = Some(3);
    let error = judge(&run, Protocol::Labels, &some, &world).unwrap_err();
    assert!(matches!(error, EvalError::UnknownClasses { .. }), "{error}");
    assert!(error.to_string().contains("classes: 3"), "{error}");

    // As many names as numbers, then fewer.
    for count in [3, 2] {
        let mut named = world.images.clone();
        named.class_names = Some(CLASSES[..count].iter().map(|name| (*name).to_owned()).collect());
        keep(&mut named, |label| label < 2);
        let error = judge(&run, Protocol::Labels, &named, &world).unwrap_err();
        assert!(matches!(error, EvalError::NamedClasses { .. }), "{error}");
        assert_eq!(error.kind(), FailureKind::Usage);
        let text = error.to_string();
        for part in ["red_thing, green thing", "only numbers, 0 to 2"] {
            assert!(text.contains(part), "{text}");
        }
    }
    go(
        &world,
        &world.inputs_for(&config_for("supervised", 0), &world.images),
        &config_for("supervised", 0),
        "names",
    )
    .unwrap();
    let error = judge(&open(&world, "names"), Protocol::Labels, &numbers, &world).unwrap_err();
    assert!(matches!(error, EvalError::NumberedClasses { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    let text = error.to_string();
    assert!(text.ends_with("red_thing, green thing, blue thing"), "{text}");
    numbers.samples.iter_mut().for_each(|sample| sample.label = None);
    let error = judge(&open(&world, "names"), Protocol::Labels, &numbers, &world).unwrap_err();
    assert!(matches!(error, EvalError::Unlabeled { .. }), "{error}");
}

#[test]
fn protocols_that_the_student_has_no_head_for_are_refused() {
    let world = World::new(9);
    for (objective, protocol) in [("supervised", Protocol::ZeroShot), ("seed", Protocol::Labels)] {
        let config = config_for(objective, 0);
        go(&world, &world.inputs_for(&config, &world.images), &config, objective).unwrap();
        let error = judge(&open(&world, objective), protocol, &world.images, &world).unwrap_err();
        assert!(matches!(error, EvalError::MissingInput { .. }), "{error}");
        assert_eq!(error.kind(), FailureKind::Usage);
    }
}

#[test]
fn inputs_that_are_missing_or_that_nothing_reads_are_refused() {
    let world = World::new(9);
    let without = TrainInputs { bank: None, ..world.inputs(&world.images) };
    let refused = |objective: &str, inputs: &TrainInputs<'_>| {
        let error = go(&world, inputs, &config_for(objective, 0), "run").unwrap_err();
        assert!(matches!(error, RunError::Input(_)), "{error}");
        assert_eq!(error.kind(), FailureKind::Usage);
        assert!(!world.path("run").exists());
        error.to_string()
    };
    assert!(refused("lgd", &without).contains("lgd needs a bank of names"));
    assert!(refused("seed,lgd", &without).contains("lgd needs a bank of names"));
    assert!(refused("kdep", &without).contains("kdep needs a KDEP bank"));
    assert!(refused("caption", &without).contains("caption needs captions"));
    let error = refused("hgkd", &without);
    assert!(error.contains("hgkd needs the teacher's patch tokens"), "{error}");
    assert!(error.contains(&world.cache.dir().display().to_string()), "{error}");
    assert!(refused("seed", &world.inputs(&world.images)).contains("reads none"));
}

#[test]
fn a_kdep_bank_of_another_width_is_refused_with_its_path() {
    let world = World::holding(9, everything);
    let bank = kdep_bank(&world.path("kdep"), &world.cache, 7);
    let inputs = TrainInputs { bank: None, kdep: Some(&bank), ..world.inputs(&world.images) };
    let error = go(&world, &inputs, &config_for("kdep", 0), "run").unwrap_err();
    assert!(
        matches!(error, RunError::Input(InputError::TargetWidth { got: 7, expected: 1280, .. })),
        "{error}"
    );
    assert_eq!(error.kind(), FailureKind::Artifact);
    let text = error.to_string();
    assert!(text.starts_with(bank.dir().to_str().unwrap()), "{text}");
    assert!(!world.path("run").exists());
}

#[test]
fn slots_that_the_bank_keeps_are_not_dropped_by_a_setting() {
    let world = World::new(9);
    let mut manifest = world.bank.manifest().clone();
    manifest.record.unassigned_slots = UnassignedSlots::Kept;
    lgd_data::manifest::write_json(&world.path("bank").join("bank.json"), &manifest).unwrap();
    let keeping = lgd_data::bank::Bank::open(&world.path("bank"), Verify::Full).unwrap();
    let by_views = |config: &TrainConfig| {
        let mut config = config.clone();
        config.objective_settings.lgd.slots = CategoryWeights::Views;
        config
    };
    let (config, original) = (config_for("lgd", 0), world.inputs(&world.images));
    let kept = TrainInputs { bank: Some(&keeping), ..original };
    let error = go(&world, &kept, &by_views(&config), "run").unwrap_err();
    assert!(matches!(error, RunError::Input(InputError::KeptPrototypes { .. })), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    assert!(error.to_string().starts_with(keeping.dir().to_str().unwrap()), "{error}");
    assert!(!world.path("run").exists());
    go(&world, &kept, &config, "balanced").unwrap();
    go(&world, &original, &by_views(&config), "masked").unwrap();
}

#[test]
fn masked_images_need_two_cells() {
    let world = World::holding(9, everything);
    let inputs = TrainInputs { bank: None, ..world.inputs(&world.images) };
    for (size, part) in [(32, "two cells of 32 x 32 to mask, got 32 x 32"), (80, "multiples of 32")] {
        let config = TrainConfig { size, ..masked(1) };
        let error = go(&world, &inputs, &config, "run").unwrap_err();
        assert_eq!(error.kind(), FailureKind::Usage);
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("hint: the smallest square is 64 x 64"), "{text}");
        assert!(!world.path("run").exists(), "{size} px");
    }
    let (report, _) = go(&world, &inputs, &masked(1), "run").unwrap();
    let seed = config_for("seed", 0);
    let (plain, _) = go(&world, &world.inputs_for(&seed, &world.images), &seed, "seed").unwrap();
    assert_eq!(report.parameters, plain.parameters, "without the decoder's");
    let student = open(&world, "run").student(&Device::Cpu).unwrap();
    assert_eq!(student.table().parameter_count(), report.parameters);
}

#[test]
fn a_size_that_does_not_fit_is_refused_before_any_token_is_read() {
    let world = World::holding(9, everything);
    let path = world.path("cache").join("tokens-00000.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let inputs = TrainInputs { bank: None, ..world.inputs(&world.images) };
    let error =
        |size| go(&world, &inputs, &TrainConfig { size, ..masked(1) }, "run").unwrap_err().to_string();
    assert!(error(32).contains("got 32 x 32"), "{}", error(32));
    assert!(error(96).contains("for images of 96 x 96 cannot make 4 x 4 tokens"), "{}", error(96));
    // The size fits, so the tokens are read.
    assert!(error(64).contains("tokens-00000.parquet"), "{}", error(64));
}

#[test]
fn errors_of_projected_tokens_are_divided_by_the_teachers_width() {
    let losses = |teacher_dim: usize| {
        let world = World::holding(9, |config| {
            everything(config);
            let tokens = config.tokens.as_mut().unwrap();
            (tokens.teacher_dim, tokens.dim, tokens.fit_views) = (teacher_dim, 4, Some(9));
            tokens.encoding = TokenEncoding::Projected;
        });
        let (config, dir) = (masked(1), world.path("run"));
        let inputs = world.inputs_for(&config, &world.images);
        let mut lines = Vec::new();
        let settings = LoopSettings { log_steps: 1, ..resuming() };
        train(&config, &settings, &inputs, &dir, &Job::new(), &mut |line| lines.push(line.clone())).unwrap();
        lines.into_iter().next().unwrap().parts
    };
    // The same stored tokens, from a teacher twice as wide.
    let (four, eight) = (losses(4), losses(8));
    for term in ["hgkd_hidden", "hgkd_visible"] {
        let (four, eight) = (four[term], eight[term]);
        assert!(four > 0.0 && (four - 2.0 * eight).abs() < 1e-6 * four, "{term}: {four} {eight}");
    }
}

#[test]
fn labels_are_learned_only_where_every_sample_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut images = Images::new(20, 1);
    let make = |images: &Images, name: &str| -> Cache { cache(&dir.path().join(name), images, 1) };
    let run = |cache: &Cache, images: &Images, name: &str| {
        let originals = Some(crate::fixture::originals(images));
        let inputs = TrainInputs { cache, bank: None, kdep: None, originals, watch: Watch::default() };
        let dir = dir.path().join(name);
        train(&config_for("supervised", 0), &resuming(), &inputs, &dir, &Job::new(), &mut |_| {})?;
        Ok::<_, RunError>(Run::open(&dir, Verify::Full).unwrap().manifest().classes.clone())
    };
    images.class_names = None;
    images.samples[4].label = Some(6);
    let classes = run(&make(&images, "numbers"), &images, "a").unwrap();
    assert_eq!(
        classes,
        Some(ClassRecord { count: 7, names: None, untrained: vec![3, 4, 5] }),
        "as many as the largest label asks for"
    );
    images.samples[4].label = Some(2_000_000);
    let error = run(&make(&images, "sparse"), &images, "c").unwrap_err();
    assert!(
        matches!(
            error,
            RunError::Loader(LoaderError::SparseLabels { largest: 2_000_000, distinct: 4, limit: 1040, .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("hint: labels are names, or numbers from 0 to C-1"), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);
    (images.samples[4].label, images.samples[7].label) = (None, None);
    let error = run(&make(&images, "gaps"), &images, "b").unwrap_err();
    let key = &images.samples[4].key;
    assert!(
        matches!(&error, RunError::Loader(LoaderError::MissingLabels { key: first, missing: 2, .. }) if first == key),
        "{error}"
    );
}

#[test]
fn resuming_with_another_bank_or_none_is_refused() {
    let world = World::new(20);
    let config = config_for("lgd,seed", 1);
    go(&world, &world.inputs(&world.images), &config, "run").unwrap();
    // The same cache, but other target distributions.
    let other = bank(&world.path("other"), &world.cache);
    let mut record = other.manifest().clone();
    record.record.templates = vec!["a {}".to_owned()];
    lgd_data::manifest::write_json(&world.path("other").join("bank.json"), &record).unwrap();
    let other = lgd_data::bank::Bank::open(&world.path("other"), Verify::Full).unwrap();
    let inputs = TrainInputs { bank: Some(&other), ..world.inputs(&world.images) };
    let error = go(&world, &inputs, &config, "run").unwrap_err();
    assert!(matches!(error, RunError::Differs { .. }), "{error}");
    for part in ["the hash of the bank differs", &world.bank.hash().to_string(), &other.hash().to_string()] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
