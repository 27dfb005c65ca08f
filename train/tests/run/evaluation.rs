//! Evaluation end to end, with an untrained student and a teacher that is always right.

use std::path::Path;

use lgd_data::ArtifactError;
use lgd_data::cache::Cache;
use lgd_data::job::Job;
use lgd_data::manifest::Verify;
use lgd_data::view::{CenterCrop, CropRounding, ResizeMode};
use lgd_train::error::FailureKind;
use lgd_train::eval::{
    EvalError, EvalInput, EvalInputs, EvalOptions, EvalReport, LabeledImages, ProbeSettings, Protocol,
};
use lgd_train::inference::RunModel;
use lgd_train::run::{Run, RunError};
use lgd_train::trainer::{TrainInputs, train};

use crate::artifacts::{cache, cache_holding};
use crate::fixture::{Images, World, config, config_for, resuming};
use crate::objectives::keep;

fn untrained(world: &World) -> Run {
    let dir = world.path("run");
    train(&config(0), &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
    Run::open(&dir, Verify::Full).unwrap()
}

/// Evaluates the student of `run`.
pub fn evaluate(
    run: &Run,
    inputs: &EvalInputs<'_>,
    options: &EvalOptions,
    job: &Job,
) -> Result<EvalReport, EvalError> {
    let mut student = RunModel::open(Run::open(run.dir(), Verify::Length).unwrap()).unwrap();
    lgd_train::eval::evaluate(&mut student, inputs, options, job)
}

fn options() -> EvalOptions {
    let probe = ProbeSettings { epochs: 20, ..ProbeSettings::default() };
    EvalOptions { batch: 8, threads: 2, fractions: vec![0.1, 1.0], probe, ..EvalOptions::default() }
}

fn labeled(images: &Images) -> LabeledImages<'_> {
    LabeledImages { source: images, images: Path::new("images"), cache: None }
}

/// The report without the members that depend on the clock.
fn timeless(report: &EvalReport) -> serde_json::Value {
    let mut value = serde_json::to_value(report).unwrap();
    for name in ["seconds", "images_per_second"] {
        assert!(value.as_object_mut().unwrap().remove(name).is_some());
    }
    value
}

#[test]
fn all_protocols_with_caches_judge_teacher_and_student() {
    let world = World::new(30);
    let run = untrained(&world);
    let test_images = Images::new(21, 5);
    let test_cache = cache(&world.path("test-cache"), &test_images, 5);
    let inputs = EvalInputs {
        bank: Some(&world.bank),
        test: LabeledImages { cache: Some(&test_cache), ..labeled(&test_images) },
        train: Some(LabeledImages { cache: Some(&world.cache), ..labeled(&world.images) }),
    };
    let job = Job::new();
    let report = evaluate(&run, &inputs, &options(), &job).unwrap();
    // The last stage is that of the probes. The images were counted before.
    assert_eq!((job.stage().map(|stage| stage.name), job.total(), job.done()), (Some("probe"), 2, 2));
    assert_eq!((report.test.images, report.train.as_ref().unwrap().images, report.rejected()), (21, 30, 0));
    let zero_shot = report.zero_shot.as_ref().unwrap();
    assert_eq!(zero_shot.teacher, Some(100.0));
    // The teacher is always right, so to agree with it is to be right.
    assert_eq!(zero_shot.agreement, Some(zero_shot.student));
    let knn = report.knn.as_ref().unwrap();
    assert_eq!((knn.neighbors, knn.teacher), (20, Some(100.0)));
    assert_eq!(report.linear.iter().map(|probe| probe.labels).collect::<Vec<_>>(), [3, 30]);
    let details = &zero_shot.details;
    let classes: Vec<&str> = details.per_class.iter().map(|class| class.name.as_str()).collect();
    assert!(
        classes.iter().all(|name| ["red thing", "green thing", "blue thing"].contains(name)),
        "{classes:?}"
    );
    let right: u32 = details.per_class.iter().map(|class| class.right).sum();
    assert!((100.0 * f64::from(right) / 21.0 - zero_shot.student).abs() < 1e-9);
    assert_eq!(details.confusion.iter().map(|[.., count]| count).sum::<u32>(), 21);
    assert!(details.interval[0] <= zero_shot.student && zero_shot.student <= details.interval[1]);
    assert!(details.ece.is_some() && details.top5.is_none() && knn.details.ece.is_none());
    let predictions = report.predictions.as_ref().unwrap();
    let named = predictions.rows.iter().filter(|(_, label, top)| {
        let first = usize::try_from(top[0].category).unwrap();
        label.as_ref().unwrap().replace('_', " ") == predictions.names[first]
    });
    assert_eq!((predictions.rows.len(), named.count()), (21, usize::try_from(right).unwrap()));
    // A random network preserves colors, so a probe on all labels is far better than chance, 33%.
    assert!(report.linear[1].student > 60.0, "{report:?}");

    let table = report.to_table();
    let parts = ["zero-shot", "kNN", "linear probe, 10% of labels", "100.0", "21 images", "view 0"];
    for text in parts.into_iter().chain(["95% interval", "mean per class", "hardest by zero-shot"]) {
        assert!(table.contains(text), "{text} is missing in\n{table}");
    }
    let one_thread = EvalOptions { threads: 1, ..options() };
    assert_eq!(timeless(&report), timeless(&evaluate(&run, &inputs, &one_thread, &Job::new()).unwrap()));
}

#[test]
fn without_caches_a_center_crop_is_shown_and_bad_images_are_counted() {
    let world = World::new(30);
    let run = untrained(&world);
    let broken = world.images.hooked(|index| (index == 4).then(|| b"P6\n20 24\n255\nshort".to_vec()));
    let inputs = EvalInputs { bank: Some(&world.bank), test: labeled(&broken), train: None };
    let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..options() };
    let job = Job::new();
    let report = evaluate(&run, &inputs, &options, &job).unwrap();
    assert_eq!((report.test.images, report.rejected(), job.rejected()), (29, 1, 1));
    assert_eq!(report.test.rejects[0].key, world.images.samples[4].key);
    assert_eq!(report.test.view, "center crop 0.875");
    assert_eq!(report.zero_shot.as_ref().unwrap().teacher, None);
    assert!(report.knn.is_none() && report.linear.is_empty());
    assert!(report.to_table().contains("1 rejected"));
}

#[test]
fn agreement_needs_neither_labels_nor_matching_names() {
    let world = World::new(12);
    let run = untrained(&world);
    let ask = |images: &Images, protocols: &[Protocol]| {
        let test = LabeledImages { cache: Some(&world.cache), ..labeled(images) };
        let inputs = EvalInputs { bank: Some(&world.bank), test, train: None };
        let options = EvalOptions { protocols: protocols.to_vec(), ..options() };
        evaluate(&run, &inputs, &options, &Job::new())
    };
    let known = ask(&world.images, &[Protocol::ZeroShot, Protocol::Agreement]).unwrap();
    let expected = known.zero_shot.as_ref().unwrap().agreement;
    assert_eq!(known.agreement.as_ref().map(|found| found.student), expected);
    assert!(known.to_table().contains("same choice as the teacher"));

    let mut strange = world.images.clone();
    strange.class_names = None;
    strange.samples.iter_mut().for_each(|sample| sample.label = None);
    let found = ask(&strange, &[Protocol::Agreement]).unwrap();
    assert_eq!(found.agreement.as_ref().map(|found| found.student), expected);
    assert_eq!((found.test.images, found.rejected()), (12, 0));
    // With a protocol that needs labels, an image without one is a reject, whichever protocol comes first.
    strange.samples[0].label = Some(0);
    let found = ask(&strange, &[Protocol::Agreement, Protocol::ZeroShot]).unwrap();
    assert_eq!((found.test.images, found.rejected()), (1, 11));
}

#[test]
fn classes_that_are_no_categories_are_listed() {
    let world = World::new(9);
    let run = untrained(&world);
    let mut images = world.images.clone();
    images.class_names = Some(["RED THING", "owl", "elk"].map(str::to_owned).to_vec());
    let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..options() };
    let ask = |images: &Images| {
        let inputs = EvalInputs { bank: Some(&world.bank), test: labeled(images), train: None };
        evaluate(&run, &inputs, &options, &Job::new()).unwrap_err()
    };
    let error = ask(&images);
    assert!(
        matches!(&error, EvalError::UnmatchedClasses { classes, .. } if *classes == ["owl", "elk"]),
        "{error}"
    );
    assert_eq!(error.kind(), FailureKind::Usage);

    images.class_names = None;
    images.samples[3].label = Some(7);
    let error = ask(&images);
    assert!(matches!(&error, EvalError::OutsidePositions { classes, .. } if *classes == ["7"]), "{error}");
    assert!(error.to_string().ends_with("the 3 names, 0 to 2, and these are not: 7"), "{error}");
    images.samples.iter_mut().for_each(|sample| sample.label = sample.label.map(|label| label % 3 + 1));
    let error = ask(&images);
    assert!(error.to_string().ends_with("not: 3; they seem to be counted from 1"), "{error}");

    images.samples.iter_mut().for_each(|sample| sample.label = None);
    let error = ask(&images);
    let key = images.samples[0].key.clone();
    assert!(matches!(&error, EvalError::Unlabeled { key: named, count: 9, .. } if *named == key), "{error}");
}

#[test]
fn what_is_missing_or_does_not_belong_is_named() {
    let world = World::new(9);
    let run = untrained(&world);
    let inputs = EvalInputs { bank: None, test: labeled(&world.images), train: None };
    for protocol in Protocol::ALL {
        let options = EvalOptions { protocols: vec![protocol], ..options() };
        let error = evaluate(&run, &inputs, &options, &Job::new()).unwrap_err();
        assert!(matches!(error, EvalError::MissingInput { protocol: of, .. } if of == protocol), "{error}");
    }
    let mut other = world.images.clone();
    other.class_names = Some(["a", "b", "c"].map(str::to_owned).to_vec());
    let inputs = EvalInputs { train: Some(labeled(&other)), ..inputs };
    let options = EvalOptions { protocols: vec![Protocol::Knn], ..options() };
    let error = evaluate(&run, &inputs, &options, &Job::new()).unwrap_err();
    assert!(matches!(error, EvalError::UntrainedClasses { .. }), "{error}");

    let empty = world.images.hooked(|_| Some(Vec::new()));
    let inputs = EvalInputs { bank: Some(&world.bank), test: labeled(&empty), train: None };
    let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..options };
    let error = evaluate(&run, &inputs, &options, &Job::new()).unwrap_err();
    assert!(matches!(error, EvalError::NoImages { images_listed: 9, .. }), "{error}");
}

#[test]
fn what_no_protocol_reads_is_refused() {
    let world = World::new(9);
    let run = untrained(&world);
    let ask = |protocols: &[Protocol], bank: bool, train: bool| {
        let bank = bank.then_some(&world.bank);
        let train = train.then_some(labeled(&world.images));
        let inputs = EvalInputs { bank, test: labeled(&world.images), train };
        let options = EvalOptions { protocols: protocols.to_vec(), ..options() };
        evaluate(&run, &inputs, &options, &Job::new())
    };
    let refused = |protocols: &[Protocol], bank: bool, train: bool, unused: EvalInput, part: &str| {
        let error = ask(protocols, bank, train).unwrap_err();
        assert!(matches!(error, EvalError::UnusedInput { input, .. } if input == unused), "{error}");
        assert_eq!(error.kind(), FailureKind::Usage);
        assert!(error.to_string().contains(part), "{error}");
    };
    let part = "a bank of names is given, and the protocol knn,linear";
    refused(&[Protocol::Knn, Protocol::Linear], true, true, EvalInput::Bank, part);
    let part = "a set of labeled training images is given";
    refused(&[Protocol::ZeroShot], true, true, EvalInput::TrainImages, part);
    let report = ask(&[Protocol::Knn], false, true).unwrap();
    assert!(report.bank.is_none() && report.knn.is_some(), "{report:?}");
    assert_eq!(ask(&[Protocol::ZeroShot, Protocol::Knn], true, true).unwrap().bank, Some(world.bank.hash()));
}

#[test]
fn the_student_is_shown_one_crop_with_and_without_caches() {
    let world = World::new(9);
    let run = untrained(&world);
    let whole = cache_holding(&world.path("whole"), &world.images, 1, |config| {
        config.center = Some(CenterCrop::shortest(1.0))
    });
    let ask = |test: Option<&Cache>, train: Option<&Cache>, asked: Option<f32>| {
        let test = LabeledImages { cache: test, ..labeled(&world.images) };
        let train = Some(LabeledImages { cache: train, ..labeled(&world.images) });
        let inputs = EvalInputs { bank: None, test, train };
        let options = EvalOptions { protocols: vec![Protocol::Knn], center_fraction: asked, ..options() };
        evaluate(&run, &inputs, &options, &Job::new()).unwrap()
    };
    let shown = |report: &EvalReport| [report.test.view.clone(), report.train.clone().unwrap().view];
    let alone = ask(None, None, None);
    assert_eq!(shown(&alone), ["center crop 0.875"; 2]);
    assert_eq!(shown(&ask(None, None, Some(0.5))), ["center crop 0.5"; 2]);
    // The crop of the run, which its cache has.
    let (cached, plain) = ("the cache's view 0, center crop 0.875", "center crop 0.875");
    let same = ask(Some(&world.cache), None, None);
    assert_eq!((shown(&same), &same.notes), ([cached, plain].map(str::to_owned), &vec![]));
    // Another cache changes the teacher's figures, not what the student is shown.
    let other = ask(Some(&whole), Some(&world.cache), None);
    assert_eq!(shown(&other), [plain, cached]);
    let note =
        "whole: the teacher's figures are those of center crop 1; the student is shown center crop 0.875";
    assert!(other.notes.len() == 1 && other.notes[0].ends_with(note), "{:?}", other.notes);
    let student = |report: &EvalReport| report.knn.as_ref().unwrap().student;
    assert_eq!([student(&same), student(&other)], [student(&alone); 2]);
    let whole_cached = "the cache's view 0, center crop 1";
    assert_eq!(shown(&ask(Some(&whole), None, Some(1.0))), [whole_cached, "center crop 1"]);
}

#[test]
fn images_are_shown_as_the_runs_teacher_saw_them() {
    let world = World::new(9);
    let squash = CenterCrop { fraction: 1.0, resize: ResizeMode::Squash, rounding: CropRounding::Floor };
    let squashed =
        cache_holding(&world.path("squashed"), &world.images, 1, |config| config.center = Some(squash));
    // A cache without a center view records the crop of its teacher.
    let drawn = cache_holding(&world.path("drawn"), &world.images, 1, |config| {
        config.center = None;
        config.teacher.center = Some(squash);
    });
    let knn = |run: &Run, test: Option<&Cache>, center_fraction: Option<f32>| {
        let test = LabeledImages { cache: test, ..labeled(&world.images) };
        let inputs = EvalInputs { bank: None, test, train: Some(labeled(&world.images)) };
        let options = EvalOptions { protocols: vec![Protocol::Knn], center_fraction, ..options() };
        evaluate(run, &inputs, &options, &Job::new()).unwrap()
    };
    for (name, of) in [("squashed-run", &squashed), ("drawn-run", &drawn)] {
        let inputs = TrainInputs { cache: of, ..world.inputs_for(&config_for("seed", 0), &world.images) };
        let dir = world.path(name);
        train(&config_for("seed", 0), &resuming(), &inputs, &dir, &Job::new(), &mut |_| {}).unwrap();
        let run = Run::open(&dir, Verify::Full).unwrap();
        assert_eq!(run.manifest().center, Some(squash), "{name}");
        let report = knn(&run, None, None);
        assert_eq!(report.test.view, "center crop 1, squash, rounding floor");
        let cached = knn(&run, Some(&squashed), None);
        assert_eq!(cached.test.view, "the cache's view 0, center crop 1, squash, rounding floor");
        assert_eq!(cached.knn.unwrap().student, report.knn.unwrap().student, "the same pixels");
        assert_eq!(knn(&run, None, Some(0.5)).test.view, "center crop 0.5, squash, rounding floor");
    }
}

#[test]
fn several_seeds_give_a_mean_and_a_deviation() {
    let world = World::new(30);
    let run = untrained(&world);
    let test_images = Images::new(21, 5);
    let ask = |seed: u64, seeds: u32| {
        let inputs =
            EvalInputs { bank: None, test: labeled(&test_images), train: Some(labeled(&world.images)) };
        let probe = ProbeSettings { seed, ..options().probe };
        let options = EvalOptions {
            protocols: vec![Protocol::Linear],
            fractions: vec![0.2],
            probe,
            seeds,
            ..options()
        };
        evaluate(&run, &inputs, &options, &Job::new()).unwrap()
    };
    let three = ask(4, 3);
    let probe = &three.linear[0];
    let alone: Vec<f64> = (4..7).map(|seed| ask(seed, 1).linear[0].student).collect();
    assert_eq!(probe.seeds.iter().map(|seed| seed.student).collect::<Vec<_>>(), alone);
    assert_eq!((three.seed, probe.seeds[2].seed), (4, 6));
    let mean = alone.iter().sum::<f64>() / 3.0;
    let variance = alone.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>() / 2.0;
    assert!((probe.student - mean).abs() < 1e-9);
    assert!((probe.deviation.unwrap() - variance.sqrt()).abs() < 1e-9);
    assert!(three.to_table().contains("3 seeds"));
}

#[test]
fn numbers_that_stand_for_positions_in_a_bank_are_noted() {
    let world = World::new(9);
    let run = untrained(&world);
    let notes = |images: &Images| {
        let inputs = EvalInputs { bank: Some(&world.bank), test: labeled(images), train: None };
        let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..options() };
        evaluate(&run, &inputs, &options, &Job::new()).unwrap().notes
    };
    assert!(notes(&world.images).is_empty());
    let mut numbers = world.images.clone();
    numbers.class_names = None;
    let expected = "labels are positions among the 3 names, 0 = red thing, 1 = green thing, 2 = blue thing";
    assert_eq!(notes(&numbers), [expected]);
    // Caches and sources made elsewhere may number folders of numbers in bytewise order: 0, 1, 10, 2.
    let mut folders = world.images.clone();
    folders.class_names = Some(["0", "1", "10", "2"].map(str::to_owned).to_vec());
    for sample in &mut folders.samples {
        sample.label = sample.label.map(|label| if label == 2 { 3 } else { label });
    }
    assert_eq!(notes(&folders), [expected]);
}

#[test]
fn a_test_set_of_some_classes_is_matched_by_name() {
    let world = World::new(30);
    let run = untrained(&world);
    let ask = |test: &Images, train: &Images| {
        let inputs = EvalInputs { bank: None, test: labeled(test), train: Some(labeled(train)) };
        let options = EvalOptions { protocols: vec![Protocol::Knn, Protocol::Linear], ..options() };
        evaluate(&run, &inputs, &options, &Job::new())
    };
    let figures = |report: &EvalReport| {
        let probes = report.linear.iter().map(|probe| probe.student);
        [report.knn.as_ref().unwrap().student].into_iter().chain(probes).collect::<Vec<_>>()
    };
    // Blue things alone: the third class of three, and the only folder of their own set.
    let mut blue = Images::new(21, 5);
    keep(&mut blue, |label| label == 2);
    let expected = ask(&blue, &world.images).unwrap();
    let note = "the test images have 1 of the 3 classes of the training images, matched by name";
    assert_eq!(expected.notes, [note]);
    let mut alone = blue.clone();
    alone.class_names = Some(vec!["Blue_Thing".to_owned()]);
    alone.samples.iter_mut().for_each(|sample| sample.label = Some(0));
    let report = ask(&alone, &world.images).unwrap();
    assert_eq!((figures(&report), &report.notes), (figures(&expected), &expected.notes));

    // Numbers are the same classes whether or not a set calls them names.
    let mut train = world.images.clone();
    train.class_names = Some(["0", "10", "2"].map(str::to_owned).to_vec());
    let mut test = blue.clone();
    test.class_names = None;
    let report = ask(&test, &train).unwrap();
    assert_eq!(figures(&report), figures(&expected));
    assert!(report.notes[0].ends_with("matched by number"), "{:?}", report.notes);
    test.samples[0].label = Some(1);
    let error = ask(&test, &train).unwrap_err();
    assert!(matches!(&error, EvalError::UntrainedClasses { classes, .. } if *classes == ["1"]), "{error}");

    // A class without training images is refused, although both sets have a folder for it.
    let mut few = world.images.clone();
    keep(&mut few, |label| label < 2);
    let error = ask(&blue, &few).unwrap_err();
    assert!(error.to_string().ends_with("do not have these classes: blue thing"), "{error}");
    let error = ask(&test, &few).unwrap_err();
    assert!(matches!(&error, EvalError::ClassesDiffer { .. }), "{error}");
    assert!(
        error.to_string().contains("training images are names (red_thing, green thing), those"),
        "{error}"
    );
    few.samples.iter_mut().for_each(|sample| sample.label = None);
    assert!(matches!(ask(&blue, &few).unwrap_err(), EvalError::Unlabeled { .. }));
}

#[test]
fn an_evaluation_cache_of_another_teacher_is_refused() {
    let world = World::new(9);
    let run = untrained(&world);
    let foreign = world.path("foreign");
    cache(&foreign, &world.images, 3);
    let manifest = foreign.join("cache.json");
    let mut altered = Cache::open(&foreign, Verify::Full).unwrap().manifest().clone();
    let other = lgd_data::manifest::ContentHash::of(b"another model");
    altered.config.teacher.image_model = other;
    lgd_data::manifest::write_json(&manifest, &altered).unwrap();
    let (ours, theirs) = (run.manifest().teacher.image_model.to_string(), other.to_string());
    let foreign = Cache::open(&foreign, Verify::Full).unwrap();
    let test = LabeledImages { cache: Some(&foreign), ..labeled(&world.images) };
    let inputs = EvalInputs { bank: Some(&world.bank), test, train: None };
    let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..options() };
    let error = evaluate(&run, &inputs, &options, &Job::new()).unwrap_err();
    let EvalError::Run(run) = &error else { panic!("{error}") };
    assert!(matches!(**run, RunError::Artifact(ArtifactError::Mismatch { .. })), "{error}");
    assert!(error.to_string().contains(&ours) && error.to_string().contains(&theirs), "{error}");
}
