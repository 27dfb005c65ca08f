//! Evaluation of a student: zero-shot, agreement with the teacher, its own classifier, k nearest neighbors, linear probe.
//!
//! The backbone is frozen and in inference mode. Every image is shown once, as a center crop. If there is a cache of
//! the same images, the teacher's embeddings of its view 0 are evaluated too.
//!
//! The student is a finished run or an exported file ([`ImageModel`]). Results depend only on the student, the images and
//! [`EvalOptions`], not on threads or chance.

mod classes;
mod crop;
mod details;
mod error;
mod features;
mod knn;
mod labels;
mod numbering;
mod probe;
mod protocol;
mod report;
mod table;
mod zero_shot;

use std::path::Path;
use std::thread;
use std::time::Instant;

use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, TeacherRecord};
use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_data::render::Resample;
use lgd_data::source::ImageSource;

use crate::inference::{ImageModel, OutputKind, top1};
use crate::predict::{Candidate, Categories, Classifier};
use crate::run::RunManifest;
use classes::Classes;
use crop::{center_crop, other_crop, other_filter};
use features::{Features, ImagePlan};

pub use crate::inference::Matrix;
pub use classes::{
    CategoryKeys, LabelMap, categories_of_classes, categories_of_labels, categories_of_source, normalize_name,
};
pub use details::{ClassReport, Details, wilson};
pub use error::{EvalError, EvalInput};
pub use knn::{KnnSettings, leave_one_out, nearest_neighbors};
pub use probe::{Probe, ProbeSettings, linear_probe};
pub use protocol::Protocol;
pub use report::{
    AgreementReport, EvalReport, ImagesReport, KnnReport, LabelsReport, Predictions, ProbeReport,
    REPORT_SCHEMA, SeedReport, ZeroShotReport,
};
pub use zero_shot::classify;

/// Labeled images, and their cache if the teacher has seen them.
#[derive(Clone, Copy)]
pub struct LabeledImages<'a> {
    /// The images.
    pub source: &'a dyn ImageSource,
    /// Their path, for messages.
    pub images: &'a Path,
    /// A cache of the same images by the student's teacher, whose embeddings of view 0 are evaluated too.
    pub cache: Option<&'a Cache>,
}

/// The images that a student is evaluated on, and a bank.
pub struct EvalInputs<'a> {
    /// A bank by the student's text encoder. Agreement needs one, and zero-shot unless the student brings scores.
    pub bank: Option<&'a Bank>,
    /// The images that are classified.
    pub test: LabeledImages<'a>,
    /// The images whose labels are known; kNN and the linear probe need them.
    pub train: Option<LabeledImages<'a>>,
}

/// Options of an evaluation.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// The protocols.
    pub protocols: Vec<Protocol>,
    /// Replaces the fraction of the center crop that the student is shown. The crop is that of its run, else of a cache,
    /// else [`CenterCrop::default`](lgd_data::view::CenterCrop).
    pub center_fraction: Option<f32>,
    /// Replaces the filter that the student's images are resized with, which is that of its run.
    pub resample: Option<Resample>,
    /// Settings of the vote.
    pub knn: KnnSettings,
    /// Shares of the training labels, one probe for each.
    pub fractions: Vec<f64>,
    /// Settings of the probe; its seed is the first one.
    pub probe: ProbeSettings,
    /// Number of seeds, from the probe's on, at least 1.
    pub seeds: u32,
    /// Images per forward pass.
    pub batch: usize,
    /// Threads that decode and render.
    pub threads: usize,
    /// Limits of decoding an image.
    pub limits: DecodeLimits,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self {
            protocols: vec![Protocol::ZeroShot, Protocol::Knn, Protocol::Linear],
            center_fraction: None,
            resample: None,
            knn: KnnSettings::default(),
            fractions: vec![0.01, 0.1, 1.0],
            probe: ProbeSettings::default(),
            seeds: 1,
            batch: 64,
            threads: thread::available_parallelism().map_or(1, usize::from),
            limits: DecodeLimits::default(),
        }
    }
}

/// What the chosen protocols need besides the images, checked before an image is opened.
struct Prepared<'a> {
    /// The names of zero-shot and agreement.
    names: Option<Classifier>,
    /// The category of each label, for zero-shot.
    categories: Option<LabelMap>,
    /// The bank of agreement.
    compared: Option<&'a Bank>,
    /// The student's own classifier, and its output for each label.
    labels: Option<(Classifier, LabelMap)>,
    /// The training images, and their label for each label of the test images.
    train: Option<(LabeledImages<'a>, LabelMap)>,
}

impl<'a> Prepared<'a> {
    fn new(
        model: &dyn ImageModel,
        inputs: &EvalInputs<'a>,
        options: &EvalOptions,
    ) -> Result<Self, EvalError> {
        let wants = |protocol| options.protocols.contains(&protocol);
        let mut names = None;
        let mut categories = None;
        if wants(Protocol::ZeroShot) {
            let classifier = names_of(model, inputs, Protocol::ZeroShot)?;
            categories = Some(zero_shot_categories(inputs, &classifier)?);
            names = Some(classifier);
        }
        let mut compared = None;
        if wants(Protocol::Agreement) {
            let protocol = Protocol::Agreement;
            let missing = |input| EvalError::MissingInput { protocol, input };
            let classifier = names_of(model, inputs, protocol)?;
            compared = Some(inputs.bank.ok_or_else(|| missing(EvalInput::Bank))?);
            inputs.test.cache.ok_or_else(|| missing(EvalInput::TeacherEmbeddings))?;
            names = Some(classifier);
        }
        let labels = wants(Protocol::Labels).then(|| -> Result<_, EvalError> {
            let outputs = labels::outputs(model, inputs)?;
            Ok((Classifier::of(model, None)?, outputs))
        });
        let needs_train = options.protocols.iter().copied().find(|protocol| protocol.reads_train());
        let train = needs_train.map(|protocol| training_images(model, inputs, protocol)).transpose()?;
        let prepared = Self { names, categories, compared, labels: labels.transpose()?, train };
        require_read(inputs, options)?;
        for images in prepared.train.iter().map(|(images, _)| images).chain([&inputs.test]) {
            require_teacher(model, inputs.bank, images)?;
        }
        Ok(prepared)
    }

    /// The outputs that the protocols read.
    fn outputs(&self, options: &EvalOptions) -> Vec<OutputKind> {
        let classifiers = self.names.iter().chain(self.labels.iter().map(|(classifier, _)| classifier));
        let mut outputs: Vec<OutputKind> = classifiers.map(Classifier::output).collect();
        let reads_feature = options.protocols.iter().any(|protocol| protocol.reads_train());
        outputs.extend(reads_feature.then_some(OutputKind::Feature));
        outputs
    }
}

/// Evaluates a student. `job` counts images and may interrupt.
///
/// # Errors
/// [`EvalError::MissingInput`] if a protocol lacks a bank, cache, training images or an output; [`EvalError::UnusedInput`] if no protocol
/// reads the bank or the training images; [`EvalError::Unlabeled`], [`EvalError::UnmatchedClasses`], [`EvalError::OutsidePositions`],
/// [`EvalError::UnknownClasses`], [`EvalError::NamedClasses`], [`EvalError::NumberedClasses`], [`EvalError::UntrainedClasses`] and
/// [`EvalError::ClassesDiffer`] if labels do not fit;
/// [`EvalError::NoCenterView`] if a cache has no plain view; [`EvalError::Run`] if the bank or a
/// cache comes from other encoders than the run's; [`EvalError::Inference`] if the student cannot be run.
pub fn evaluate(
    model: &mut dyn ImageModel,
    inputs: &EvalInputs<'_>,
    options: &EvalOptions,
    job: &Job,
) -> Result<EvalReport, EvalError> {
    let start = Instant::now();
    let prepared = Prepared::new(model, inputs, options)?;
    let train = prepared.train.as_ref().map(|(images, _)| images);
    let crop = center_crop(model, inputs, train, options.center_fraction)?;
    let labeled = options.protocols.iter().any(|&protocol| protocol != Protocol::Agreement);
    let test_plan = ImagePlan::new(&inputs.test, labeled, crop)?;
    let train_plan = train.map(|images| ImagePlan::new(images, true, crop)).transpose()?;
    let total = test_plan.len() + train_plan.as_ref().map_or(0, ImagePlan::len);
    job.begin(u64::try_from(total).unwrap_or(u64::MAX));
    let kept = prepared.outputs(options);
    let test = test_plan.run(model, &kept, options, job)?;
    let train_features =
        train_plan.map(|plan| plan.run(model, &[OutputKind::Feature], options, job)).transpose()?;
    let feature_seconds = start.elapsed().as_secs_f64();

    let mut report = EvalReport::new(model, inputs, options, &test, train_features.as_ref());
    report.images_per_second = crate::run::per_second(total, feature_seconds);
    let sets = || [Some(&inputs.test), train].into_iter().flatten();
    report.notes.extend(sets().filter_map(|set| other_crop(set, crop)));
    let trained = model.card().resample;
    let filter = options.resample.unwrap_or(trained);
    report.notes.extend(sets().filter_map(|set| other_filter(set, filter)));
    if filter != trained {
        report
            .notes
            .push(format!("the images are resized with {filter}; the student was trained with {trained}"));
    }
    judge_names(&mut report, &prepared, inputs, &test)?;
    if let (Some((train, truth)), Some(known)) = (&prepared.train, &train_features) {
        judge_features(&mut report, (train, truth, known), &test, options, job)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Zero-shot, agreement and the student's own classifier.
fn judge_names(
    report: &mut EvalReport,
    prepared: &Prepared<'_>,
    inputs: &EvalInputs<'_>,
    test: &Features,
) -> Result<(), EvalError> {
    if let Some(classifier) = &prepared.names {
        let top = zero_shot::candidates(test, classifier)?;
        if let Some(truth) = &prepared.categories {
            let categories = truth.classes(&test.labels);
            report.zero_shot = Some(zero_shot::judge(test, &top, (classifier, inputs.bank), &categories)?);
            report.notes.extend(truth.note.clone());
        }
        if let (Some(bank), Some(teacher)) = (prepared.compared, &test.teacher) {
            report.agreement = Some(zero_shot::compare(&top, teacher, bank)?);
        }
        report.notes.extend(classifier.notes.iter().cloned());
        let protocol = if prepared.categories.is_some() { Protocol::ZeroShot } else { Protocol::Agreement };
        report.predictions = Some(predictions(protocol, classifier, inputs, test, top));
    }
    if let Some((classifier, outputs)) = &prepared.labels {
        let top = zero_shot::candidates(test, classifier)?;
        report.labels = Some(labels::judge(&top, classifier, &outputs.classes(&test.labels)));
        report
            .predictions
            .get_or_insert_with(|| predictions(Protocol::Labels, classifier, inputs, test, top));
    }
    Ok(())
}

/// kNN and the linear probes.
fn judge_features(
    report: &mut EvalReport,
    (train, truth, known): (&LabeledImages<'_>, &LabelMap, &Features),
    test: &Features,
    options: &EvalOptions,
    job: &Job,
) -> Result<(), EvalError> {
    let labels = truth.classes(&test.labels);
    let kind = OutputKind::Feature;
    let (Some(known_rows), Some(rows)) = (known.output(kind), test.output(kind)) else { return Ok(()) };
    if options.protocols.contains(&Protocol::Knn) {
        let classes = Classes::of(train.source.class_names());
        let word = |label| classes.word(label);
        let (known, test) = ((known, known_rows), (test, rows));
        report.knn = Some(knn::judge(known, test, (&labels, &word), options.knn, job)?);
    }
    if options.protocols.contains(&Protocol::Linear) {
        report.linear = judge_probes((known_rows, &known.labels), (rows, &labels), options, job)?;
    }
    report.notes.extend(truth.note.clone());
    Ok(())
}

fn judge_probes(
    train: (&Matrix, &[u32]),
    (test, truth): (&Matrix, &[u32]),
    options: &EvalOptions,
    job: &Job,
) -> Result<Vec<ProbeReport>, EvalError> {
    let mut reports = Vec::with_capacity(options.fractions.len());
    job.begin_stage("probe", "probes", u64::try_from(options.fractions.len()).unwrap_or(u64::MAX));
    for &fraction in &options.fractions {
        let (mut labels, mut seeds) = (0, Vec::new());
        for number in 0..options.seeds.max(1) {
            if job.interrupted() {
                return Err(crate::inference::InferenceError::Interrupted.into());
            }
            let seed = options.probe.seed.wrapping_add(u64::from(number));
            let settings = ProbeSettings { seed, ..options.probe.clone() };
            let probe = linear_probe(train, fraction, &settings)?;
            labels = probe.labels;
            seeds.push(SeedReport::new(seed, &probe, top1(&probe.classify(test)?, truth)));
        }
        reports.push(ProbeReport::new(fraction, labels, truth.len(), seeds));
        job.advance(1);
    }
    Ok(reports)
}

/// The names that `protocol` predicts for every image.
fn predictions(
    protocol: Protocol,
    classifier: &Classifier,
    inputs: &EvalInputs<'_>,
    test: &Features,
    top: Vec<Vec<Candidate>>,
) -> Predictions {
    let (samples, classes) = (inputs.test.source.samples(), Classes::of(inputs.test.source.class_names()));
    let row = |(&position, top): (&usize, Vec<Candidate>)| {
        let sample = &samples[position];
        (sample.key.clone(), sample.label.map(|label| classes.word(label)), top)
    };
    Predictions {
        protocol,
        names: classifier.categories().names().into_iter().map(str::to_owned).collect(),
        rows: test.positions.iter().zip(top).map(row).collect(),
    }
}

/// Fails if no protocol reads the bank or the training images: the report would name them as if they had an effect.
fn require_read(inputs: &EvalInputs<'_>, options: &EvalOptions) -> Result<(), EvalError> {
    let read = |by: fn(Protocol) -> bool| options.protocols.iter().any(|&protocol| by(protocol));
    let given = [
        (EvalInput::Bank, inputs.bank.is_some(), read(Protocol::reads_bank)),
        (EvalInput::TrainImages, inputs.train.is_some(), read(Protocol::reads_train)),
    ];
    match given.into_iter().find(|(_, given, read)| *given && !read) {
        Some((input, ..)) => {
            let chosen: Vec<&str> = options.protocols.iter().map(|protocol| protocol.name()).collect();
            Err(EvalError::UnusedInput { input, chosen: chosen.join(",") })
        }
        None => Ok(()),
    }
}

/// The names of zero-shot and agreement: those of the bank, else those that the student brings.
fn names_of(
    model: &dyn ImageModel,
    inputs: &EvalInputs<'_>,
    protocol: Protocol,
) -> Result<Classifier, EvalError> {
    let missing = |input| EvalError::MissingInput { protocol, input };
    let card = model.card();
    let embeds = card.width(OutputKind::Embedding).is_some();
    let scores =
        [OutputKind::Scores, OutputKind::Probabilities].iter().any(|kind| card.width(*kind).is_some());
    match inputs.bank {
        Some(_) if !embeds => Err(missing(EvalInput::Embedding)),
        None if card.classes.is_some() || !(embeds || scores) => Err(missing(EvalInput::Embedding)),
        None if !scores => Err(missing(EvalInput::Bank)),
        bank => Ok(Classifier::of(model, bank)?),
    }
}

/// The category of each class of the test images.
fn zero_shot_categories(inputs: &EvalInputs<'_>, classifier: &Classifier) -> Result<LabelMap, EvalError> {
    let (source, images) = (inputs.test.source, inputs.test.images);
    match classifier.categories() {
        Categories::Bank(categories) => categories_of_source(source, images, categories),
        names @ Categories::Names(_) => categories_of_source(source, images, &names.names()),
    }
}

/// The training images for `protocol`, and the training label of each label of the test images.
fn training_images<'a>(
    model: &dyn ImageModel,
    inputs: &EvalInputs<'a>,
    protocol: Protocol,
) -> Result<(LabeledImages<'a>, LabelMap), EvalError> {
    let missing = |input| EvalError::MissingInput { protocol, input };
    model.card().width(OutputKind::Feature).ok_or_else(|| missing(EvalInput::Feature))?;
    let train = inputs.train.ok_or_else(|| missing(EvalInput::TrainImages))?;
    features::require_labels(&inputs.test)?;
    features::require_labels(&train)?;
    let labels = classes::labels_of_training(&inputs.test, &train)?;
    Ok((train, labels))
}

/// Fails if a cache comes from another teacher than the run's. An exported file does not record its teacher's model: then
/// the cache must at least have the width of the bank.
fn require_teacher(
    model: &dyn ImageModel,
    bank: Option<&Bank>,
    images: &LabeledImages<'_>,
) -> Result<(), EvalError> {
    let Some(cache) = images.cache else { return Ok(()) };
    if let Some(run) = model.run() {
        return Ok(require_teacher_of(run.manifest(), run.dir(), cache)?);
    }
    match bank {
        Some(bank) if bank.dim() != cache.dim() => {
            let (expected, got) = (bank.dim().to_string(), cache.dim().to_string());
            Err(mismatch(bank.dir(), WIDTH, expected, got).into())
        }
        _ => Ok(()),
    }
}

/// Fails if `cache`, whose samples are evaluated, comes from another teacher than the run in `dir`.
///
/// # Errors
/// [`ArtifactError::Mismatch`].
pub(crate) fn require_teacher_of(run: &RunManifest, dir: &Path, cache: &Cache) -> Result<(), ArtifactError> {
    let (expected, got) = (&run.teacher, &cache.manifest().config.teacher);
    if expected.image_model != got.image_model {
        let what = "the image model of the evaluation cache";
        return Err(mismatch(dir, what, expected.image_model.to_string(), got.image_model.to_string()));
    }
    // Names may differ between folders, older caches do not record the crop, and the text encoder is not used here.
    let comparable = |teacher: &TeacherRecord| TeacherRecord {
        name: String::new(),
        text_encoder: None,
        center: None,
        ..teacher.clone()
    };
    if comparable(expected) != comparable(got) {
        let what = "the preparation or the output of the evaluation cache's teacher";
        return Err(mismatch(dir, what, format!("{expected:?}"), format!("{got:?}")));
    }
    if run.dim != cache.dim() {
        return Err(mismatch(dir, WIDTH, run.dim.to_string(), cache.dim().to_string()));
    }
    Ok(())
}

/// What differs if a cache has another width than expected.
const WIDTH: &str = "the width of the evaluation cache";

fn mismatch(path: &Path, what: &str, expected: String, got: String) -> ArtifactError {
    let (path, what) = (path.to_owned(), what.to_owned());
    let hint = "evaluate with the teacher that the student was trained from";
    ArtifactError::Mismatch { path, what, expected, got, hint }
}
