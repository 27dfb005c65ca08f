//! Evaluation of a finished student: zero-shot, agreement with the teacher, its own classifier, k nearest neighbors, linear probe.
//!
//! The backbone is frozen and in inference mode. Every image is shown once, as a center crop. If there is a cache of
//! the same images, its view 0 is shown instead, and the teacher's embeddings of it are evaluated too.
//!
//! Results depend only on the run, the images and [`EvalOptions`], not on threads or chance.

mod classes;
mod crop;
mod error;
mod features;
mod knn;
mod labels;
mod matrix;
mod numbering;
mod probe;
mod protocol;
mod report;
mod zero_shot;

use std::path::Path;
use std::thread;
use std::time::Instant;

use candle_core::Device;
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, TeacherRecord};
use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_data::source::ImageSource;

use crate::run::{Run, RunManifest};
use crate::student::Head;
use crop::center_crops;
use features::{Extraction, Features};

pub use classes::{
    CategoryKeys, LabelMap, categories_of_classes, categories_of_labels, categories_of_source, normalize_name,
};
pub use error::{EvalError, EvalInput};
pub use knn::{KnnSettings, leave_one_out, nearest_neighbors};
pub use matrix::Matrix;
pub(crate) use matrix::{argmax, top1};
pub use probe::{Probe, ProbeSettings, linear_probe};
pub use protocol::Protocol;
pub use report::{
    AgreementReport, EvalReport, ImagesReport, KnnReport, LabelsReport, ProbeReport, ZeroShotReport,
};
pub use zero_shot::classify;

/// Labeled images, and their cache if the teacher has seen them.
#[derive(Clone, Copy)]
pub struct LabeledImages<'a> {
    /// The images.
    pub source: &'a dyn ImageSource,
    /// Their path, for messages.
    pub images: &'a Path,
    /// A cache of the same images by the run's teacher: its view 0 is shown, and the teacher is evaluated too.
    pub cache: Option<&'a Cache>,
}

/// A finished run, and the images that it is evaluated on.
pub struct EvalInputs<'a> {
    /// The finished run.
    pub run: &'a Run,
    /// A bank by the run's text encoder; zero-shot and agreement need one.
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
    /// Replaces the fraction of the center crop of images without a cache. Their crop is that of the other images' cache,
    /// else of the run's cache, else [`CenterCrop::default`](lgd_data::view::CenterCrop).
    pub center_fraction: Option<f32>,
    /// Settings of the vote.
    pub knn: KnnSettings,
    /// Shares of the training labels, one probe for each.
    pub fractions: Vec<f64>,
    /// Settings of the probe.
    pub probe: ProbeSettings,
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
            knn: KnnSettings::default(),
            fractions: vec![0.01, 0.1, 1.0],
            probe: ProbeSettings::default(),
            batch: 64,
            threads: thread::available_parallelism().map_or(1, usize::from),
            limits: DecodeLimits::default(),
        }
    }
}

/// Evaluates a finished student. `job` counts images and may interrupt.
///
/// # Errors
/// [`EvalError::MissingInput`] if a protocol lacks a bank, cache, training images or its head; [`EvalError::UnusedInput`] if no protocol
/// reads the bank or the training images; [`EvalError::Unlabeled`], [`EvalError::UnmatchedClasses`], [`EvalError::OutsidePositions`],
/// [`EvalError::UnknownClasses`], [`EvalError::NamedClasses`], [`EvalError::NumberedClasses`], [`EvalError::UntrainedClasses`] and
/// [`EvalError::ClassesDiffer`] if labels do not fit;
/// [`EvalError::NoCenterView`] and [`EvalError::CropsDiffer`] if views do not fit; [`EvalError::Run`] if the bank or a
/// cache comes from other encoders than the run's.
pub fn evaluate(inputs: &EvalInputs<'_>, options: &EvalOptions, job: &Job) -> Result<EvalReport, EvalError> {
    let start = Instant::now();
    let wants = |protocol| options.protocols.contains(&protocol);
    let needs_train = options.protocols.iter().copied().find(|protocol| protocol.reads_train());
    let truth = if wants(Protocol::ZeroShot) { Some(zero_shot_categories(inputs)?) } else { None };
    let compared = if wants(Protocol::Agreement) { Some(compared_bank(inputs)?) } else { None };
    let outputs = if wants(Protocol::Labels) { Some(labels::outputs(inputs)?) } else { None };
    let train = needs_train.map(|protocol| training_images(inputs, protocol)).transpose()?;
    let (train, neighbors) = train.unzip();
    require_read(inputs, options)?;
    for cache in train.iter().chain([&inputs.test]).filter_map(|images| images.cache) {
        require_teacher(inputs.run.manifest(), inputs.run.dir(), cache)?;
    }
    let (of_test, of_train) = center_crops(inputs, train.as_ref(), options.center_fraction)?;
    let mut student = inputs.run.student(&Device::Cpu)?;
    let format = inputs.run.manifest().input_format();
    let mut extraction = Extraction { student: &mut student, format, options, job };
    let labels = options.protocols.iter().any(|&protocol| protocol != Protocol::Agreement);
    let test_plan = extraction.plan(&inputs.test, labels, of_test)?;
    let train_plan = train.as_ref().map(|images| extraction.plan(images, true, of_train)).transpose()?;
    let total = test_plan.len() + train_plan.as_ref().map_or(0, |plan| plan.len());
    job.begin(u64::try_from(total).unwrap_or(u64::MAX));
    let test = extraction.run(test_plan)?;
    let train = train_plan.map(|plan| extraction.run(plan)).transpose()?;
    let feature_seconds = start.elapsed().as_secs_f64();

    let mut report = EvalReport::new(inputs, &test, train.as_ref());
    report.images_per_second = crate::run::per_second(total, feature_seconds);
    if let (Some(bank), Some(truth), Some(embedding)) = (inputs.bank, truth, &test.head) {
        report.zero_shot = Some(zero_shot::judge(&test, embedding, bank, &truth.classes(&test.labels))?);
        report.notes.extend(truth.note);
    }
    if let (Some(bank), Some(embedding), Some(teacher)) = (compared, &test.head, &test.teacher) {
        report.agreement = Some(zero_shot::compare(embedding, teacher, bank)?);
    }
    if let (Some(outputs), Some(logits)) = (outputs, &test.head) {
        report.labels = Some(labels::judge(logits, &outputs.classes(&test.labels)));
    }
    if let (Some(train), Some(truth)) = (&train, neighbors) {
        let labels = truth.classes(&test.labels);
        if wants(Protocol::Knn) {
            report.knn = Some(knn::judge(train, &test, &labels, options.knn, job)?);
        }
        if wants(Protocol::Linear) {
            report.linear = judge_probes(train, (&test.pooled, &labels), options, job)?;
        }
        report.notes.extend(truth.note);
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

fn judge_probes(
    train: &Features,
    (test, truth): (&Matrix, &[u32]),
    options: &EvalOptions,
    job: &Job,
) -> Result<Vec<ProbeReport>, EvalError> {
    let mut reports = Vec::with_capacity(options.fractions.len());
    job.begin_stage("probe", "probes", u64::try_from(options.fractions.len()).unwrap_or(u64::MAX));
    for &fraction in &options.fractions {
        if job.interrupted() {
            return Err(EvalError::Interrupted);
        }
        let probe = linear_probe((&train.pooled, &train.labels), fraction, &options.probe)?;
        let predicted = probe.classify(test)?;
        reports.push(ProbeReport::new(fraction, &probe, top1(&predicted, truth)));
        job.advance(1);
    }
    Ok(reports)
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

/// The category of each class of the test images.
fn zero_shot_categories(inputs: &EvalInputs<'_>) -> Result<LabelMap, EvalError> {
    let bank = bank_of_names(inputs, Protocol::ZeroShot)?;
    categories_of_source(inputs.test.source, inputs.test.images, &bank.manifest().record.categories)
}

/// The bank over which student and teacher are compared.
fn compared_bank<'a>(inputs: &EvalInputs<'a>) -> Result<&'a Bank, EvalError> {
    let protocol = Protocol::Agreement;
    let bank = bank_of_names(inputs, protocol)?;
    if inputs.test.cache.is_none() {
        return Err(EvalError::MissingInput { protocol, input: EvalInput::TeacherEmbeddings });
    }
    Ok(bank)
}

/// The bank for `protocol`, checked to be in the student's embedding space.
fn bank_of_names<'a>(inputs: &EvalInputs<'a>, protocol: Protocol) -> Result<&'a Bank, EvalError> {
    let missing = |input| EvalError::MissingInput { protocol, input };
    if !matches!(inputs.run.manifest().head(), Head::Projection { .. }) {
        return Err(missing(EvalInput::Embedding));
    }
    let bank = inputs.bank.ok_or_else(|| missing(EvalInput::Bank))?;
    inputs.run.require_space_of(bank)?;
    Ok(bank)
}

/// The training images for `protocol`, and the training label of each label of the test images.
fn training_images<'a>(
    inputs: &EvalInputs<'a>,
    protocol: Protocol,
) -> Result<(LabeledImages<'a>, LabelMap), EvalError> {
    let train = inputs.train.ok_or(EvalError::MissingInput { protocol, input: EvalInput::TrainImages })?;
    features::require_labels(&inputs.test)?;
    features::require_labels(&train)?;
    let labels = classes::labels_of_training(&inputs.test, &train)?;
    Ok((train, labels))
}

/// Fails if `cache`, whose samples are evaluated, comes from another teacher than the run in `dir`.
///
/// # Errors
/// [`ArtifactError::Mismatch`].
pub(crate) fn require_teacher(run: &RunManifest, dir: &Path, cache: &Cache) -> Result<(), ArtifactError> {
    let mismatch = |what: &str, expected: String, got: String| ArtifactError::Mismatch {
        path: dir.to_owned(),
        what: what.to_owned(),
        expected,
        got,
        hint: "evaluate with the teacher that the student was trained from",
    };
    let (expected, got) = (&run.teacher, &cache.manifest().config.teacher);
    if expected.image_model != got.image_model {
        let what = "the image model of the evaluation cache";
        return Err(mismatch(what, expected.image_model.to_string(), got.image_model.to_string()));
    }
    // Names may differ between folders, and the text encoder is not used here.
    let comparable = |teacher: &TeacherRecord| TeacherRecord {
        name: String::new(),
        text_encoder: None,
        ..teacher.clone()
    };
    if comparable(expected) != comparable(got) {
        let what = "the preparation or the output of the evaluation cache's teacher";
        return Err(mismatch(what, format!("{expected:?}"), format!("{got:?}")));
    }
    if run.dim != cache.dim() {
        let what = "the width of the evaluation cache";
        return Err(mismatch(what, run.dim.to_string(), cache.dim().to_string()));
    }
    Ok(())
}
