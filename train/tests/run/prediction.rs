//! Prediction: probabilities, rejects, the run's own bank, and images from several arguments.

use std::fs;
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::image::{DecodeLimits, RgbImage};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Verify, write_json};
use lgd_data::render::Resample;
use lgd_data::source::{FieldNames, ImageSource};
use lgd_data::view::CenterCrop;
use lgd_train::error::FailureKind;
use lgd_train::eval::{EvalInputs, EvalOptions, LabeledImages, Protocol, evaluate};
use lgd_train::inference::{
    ImageModel, InferenceError, InferenceOptions, ModelCard, ModelFailure, OutputKind, RunModel,
};
use lgd_train::predict::{Candidate, Classifier, ImageArguments, PredictError, embed, predict};
use lgd_train::run::Run;
use lgd_train::trainer::train;

use crate::fixture::{Images, World, config, config_for, picture, resuming};

fn run_of(world: &World, name: &str, tau: f32) -> Run {
    let dir = world.path(name);
    let mut config = config(0);
    config.objective_settings.shared.student_temperature = tau;
    train(&config, &resuming(), &world.inputs(&world.images), &dir, &Job::new(), &mut |_| {}).unwrap();
    Run::open(&dir, Verify::Full).unwrap()
}

fn options() -> InferenceOptions {
    InferenceOptions { batch: 4, threads: 2, limits: DecodeLimits::default(), resample: None }
}

/// Keys and candidates of all images, and the keys of the rejects.
fn predicted(
    model: &mut dyn ImageModel,
    bank: Option<&Bank>,
    images: &dyn ImageSource,
    top_k: usize,
) -> (Vec<(String, Vec<Candidate>)>, Vec<String>) {
    let classifier = Classifier::of(model, bank).unwrap();
    let mut all = Vec::new();
    let feed = (images, CenterCrop::default());
    let rejects = predict(model, &classifier, feed, top_k, &options(), &Job::new(), &mut |prediction| {
        all.push((prediction.key.to_owned(), prediction.top));
        Ok(())
    });
    (all, rejects.unwrap().into_iter().map(|reject| reject.key).collect())
}

#[test]
fn predictions_are_those_of_eval_with_the_probabilities_of_the_runs_temperature() {
    let world = World::new(10);
    let mut margins = Vec::new();
    for tau in [0.2, 0.05] {
        let run = run_of(&world, &format!("run-{tau}"), tau);
        let bank = run.own_bank(Verify::Full).unwrap().unwrap();
        assert_eq!(bank.hash(), world.bank.hash());
        let mut model = RunModel::open(run).unwrap();
        let (rows, rejects) = predicted(&mut model, Some(&bank), &world.images, 3);
        assert_eq!((rows.len(), rejects.len()), (10, 0));

        let test = LabeledImages { source: &world.images, images: world.dir.path(), cache: None };
        let inputs = EvalInputs { bank: Some(&bank), test, train: None };
        let of_eval = EvalOptions { protocols: vec![Protocol::ZeroShot], batch: 3, ..EvalOptions::default() };
        let report = evaluate(&mut model, &inputs, &of_eval, &Job::new()).unwrap();
        let evaluated = report.predictions.unwrap();
        for ((key, top), (of_eval, _, their_top)) in rows.iter().zip(&evaluated.rows) {
            assert_eq!((key, top[0].category), (of_eval, their_top[0].category));
            assert!((top[0].probability - their_top[0].probability).abs() < 1e-5);
        }

        // The same by hand, from embeddings and prototypes.
        let feed = (&world.images as &dyn ImageSource, CenterCrop::default());
        let (_, embeddings, _) =
            embed(&mut model, OutputKind::Embedding, feed, &options(), &Job::new()).unwrap();
        for ((_, top), embedding) in rows.iter().zip(embeddings.iter()) {
            let scores: Vec<f64> = bank
                .tsb()
                .chunks(bank.dim())
                .map(|row| row.iter().zip(embedding).map(|(a, b)| f64::from(a * b)).sum::<f64>())
                .collect();
            let mass: f64 = scores.iter().map(|score| (score / f64::from(tau)).exp()).sum();
            for candidate in top {
                let score = scores[usize::try_from(candidate.category).unwrap()];
                let expected = (score / f64::from(tau)).exp() / mass;
                assert!((f64::from(candidate.probability) - expected).abs() < 1e-5, "{candidate:?}");
            }
            assert!((top.iter().map(|one| one.probability).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        margins.push(rows[0].1[0].probability - rows[0].1[2].probability);
    }
    assert!(margins[1] > margins[0], "a lower temperature is surer: {margins:?}");
}

#[test]
fn a_bank_that_is_gone_or_made_again_is_named() {
    let world = World::new(9);
    let run = run_of(&world, "run", 0.2);
    let bank = world.path("bank");
    fs::rename(&bank, world.path("moved")).unwrap();
    let error = run.own_bank(Verify::Full).unwrap_err();
    assert!(matches!(&error, ArtifactError::Missing { path, .. } if *path == bank), "{error}");
    fs::rename(world.path("moved"), &bank).unwrap();
    let mut manifest = world.bank.manifest().clone();
    manifest.record.categories[0].name = "another thing".to_owned();
    write_json(&bank.join("bank.json"), &manifest).unwrap();
    let error = run.own_bank(Verify::Length).unwrap_err();
    assert!(matches!(&error, ArtifactError::Mismatch { .. }), "{error}");
}

#[test]
fn students_without_names_say_what_they_have() {
    let world = World::new(9);
    let dir = world.path("seed");
    let config = config_for("seed", 0);
    let inputs = world.inputs_for(&config, &world.images);
    train(&config, &resuming(), &inputs, &dir, &Job::new(), &mut |_| {}).unwrap();
    let model = RunModel::open(Run::open(&dir, Verify::Full).unwrap()).unwrap();
    assert!(model.run().unwrap().own_bank(Verify::Full).unwrap().is_none());
    let error = Classifier::of(&model, None).unwrap_err();
    assert!(matches!(error, PredictError::NoBank { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Usage);

    let dir = world.path("labels");
    let config = config_for("supervised", 0);
    let inputs = world.inputs_for(&config, &world.images);
    train(&config, &resuming(), &inputs, &dir, &Job::new(), &mut |_| {}).unwrap();
    let mut model = RunModel::open(Run::open(&dir, Verify::Full).unwrap()).unwrap();
    let error = Classifier::of(&model, Some(&world.bank)).unwrap_err();
    assert!(error.to_string().contains("no embedding; it has feature ["), "{error}");
    let (rows, _) = predicted(&mut model, None, &world.images, 9);
    assert!(rows.iter().all(|(_, top)| top.len() == 3));
    let feed = (&world.images as &dyn ImageSource, CenterCrop::default());
    let error = embed(&mut model, OutputKind::Embedding, feed, &options(), &Job::new()).unwrap_err();
    assert!(matches!(error, PredictError::NoOutput { .. }), "{error}");
}

/// A model whose scores are the mean of red and of green; NaN for images that are mostly blue.
struct Colors(ModelCard);

impl Colors {
    fn new() -> Self {
        Self(ModelCard {
            path: PathBuf::from("colors.onnx"),
            hash: ContentHash::of(b"colors"),
            student: None,
            epochs: None,
            size: 4,
            resample: Resample::Bilinear,
            center: None,
            outputs: vec![(OutputKind::Scores, 2)],
            temperature: None,
            names: Some(vec!["red".to_owned(), "green".to_owned()]),
            classes: None,
            notes: Vec::new(),
        })
    }
}

impl ImageModel for Colors {
    fn card(&self) -> &ModelCard {
        &self.0
    }

    fn infer(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ModelFailure> {
        let mean = |image: &RgbImage, channel: usize| {
            image.pixels().iter().skip(channel).step_by(3).map(|&value| f32::from(value)).sum::<f32>()
                / 4080.0
        };
        let scores = |image: &RgbImage| {
            let [red, green, blue] = [0, 1, 2].map(|channel| mean(image, channel));
            if blue > red.max(green) { [f32::NAN, 0.0] } else { [red, green] }
        };
        Ok(vec![images.iter().flat_map(scores).collect()])
    }
}

#[test]
fn outputs_that_are_not_finite_are_rejects_and_assumptions_are_noted() {
    let images = Images::new(9, 4);
    let mut model = Colors::new();
    let classifier = Classifier::of(&model, None).unwrap();
    assert_eq!(classifier.notes.len(), 1);
    assert!(classifier.notes[0].contains("probabilities assume 0.2"), "{:?}", classifier.notes);
    let (rows, rejects) = predicted(&mut model, None, &images, 1);
    let is_blue = |key: &String| key.starts_with("blue");
    assert_eq!((rows.len(), rejects.len(), rejects.iter().all(is_blue)), (6, 3, true));
    for (key, top) in &rows {
        assert_eq!(top[0].category, u32::from(key.starts_with("green")), "{key}");
    }
    // The same in an evaluation: the images are not counted as wrong.
    let test = LabeledImages { source: &images, images: "images".as_ref(), cache: None };
    let mut named = Colors::new();
    named.0.names = Some(vec!["red thing".to_owned(), "green thing".to_owned()]);
    let inputs = EvalInputs { bank: None, test, train: None };
    let options = EvalOptions { protocols: vec![Protocol::ZeroShot], ..EvalOptions::default() };
    let error = evaluate(&mut named, &inputs, &options, &Job::new()).unwrap_err();
    assert!(error.to_string().contains("not categories of the bank: blue thing"), "{error}");
    named.0.names = Some(["red thing", "green thing"].map(str::to_owned).to_vec());
    let mut two = images.clone();
    crate::objectives::keep(&mut two, |label| label < 2);
    two.samples.push(images.samples[2].clone());
    two.bytes.push(images.bytes[2].clone());
    let last = two.samples.len() - 1;
    two.samples[last].label = Some(0);
    let test = LabeledImages { source: &two, images: "images".as_ref(), cache: None };
    let inputs = EvalInputs { bank: None, test, train: None };
    let report = evaluate(&mut named, &inputs, &options, &Job::new()).unwrap();
    let shot = report.zero_shot.unwrap();
    assert_eq!((shot.student, report.test.images, report.test.rejects.len()), (100.0, 6, 1));
    assert_eq!(report.test.rejects[0].reason, "nan-output");
    assert_eq!((report.run, report.onnx), (None, Some(ContentHash::of(b"colors"))));
}

#[test]
fn several_arguments_are_one_source_and_a_bad_file_is_a_reject() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), bytes).unwrap();
        path(name)
    };
    let red = picture(1, 0, 0, (20, 24));
    let green = picture(1, 1, 1, (20, 24));
    let one = write("one.ppm", &red);
    write("folder/a/x.ppm", &green);
    write("folder/b/y.ppm", &red);
    // Neither an image nor anything else: the content decides, not the name.
    let broken = write("broken", b"not an image");
    let paths = [one, path("folder"), broken];
    let images = ImageArguments::open(&paths, &FieldNames::default(), Path::to_owned).unwrap();
    let mut model = Colors::new();
    let (rows, rejects) = predicted(&mut model, None, &images, 1);
    let expected = [("one.ppm", 0), ("folder/a/x.ppm", 1), ("folder/b/y.ppm", 0)];
    let expected = expected.map(|(name, category)| (path(name).display().to_string(), category));
    let got: Vec<(String, u32)> = rows.into_iter().map(|(key, top)| (key, top[0].category)).collect();
    assert_eq!(got, expected);
    assert_eq!(rejects, [path("broken").display().to_string()]);
    assert_eq!(images.sources().map(|(number, _)| number).collect::<Vec<_>>(), [1]);
    assert!(ImageArguments::open(&[path("absent.jpg")], &FieldNames::default(), Path::to_owned).is_err());
    assert!(images.read(4, 10).is_err() && images.read(0, 10).is_err());
}

#[test]
fn an_interrupted_job_stops() {
    let images = Images::new(9, 4);
    let mut model = Colors::new();
    let classifier = Classifier::of(&model, None).unwrap();
    let job = Job::new();
    job.interrupt();
    let feed = (&images as &dyn ImageSource, CenterCrop::default());
    let error = predict(&mut model, &classifier, feed, 1, &options(), &job, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, PredictError::Inference(InferenceError::Interrupted)), "{error}");
    assert_eq!(error.kind(), FailureKind::Interrupted);
}
