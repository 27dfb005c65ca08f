//! Trains a student: from a cache, images and the inputs of its objectives to a finished run.

mod holdout;
mod measure;
mod meter;
mod session;
mod statistics;
mod train_loop;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use candle_core::Device;
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, TeacherRecord, TokenRecord};
use lgd_data::image::DecodeLimits;
use lgd_data::job::Job;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use serde::Serialize;

use crate::initial;
use crate::load_report::LoadReport;
use crate::loader::batches::TrainingImages;
use crate::loader::origin::Originals;
use crate::loader::pixels::InputFormat;
use crate::loader::targets::TargetSource;
use crate::objective::{Inputs, Objective, Setup};
use crate::run::{
    self, InitRecord, InitialWeightsError, MetricsLine, RUN_VERSION, RunError, RunFolder, RunManifest,
    ScoreKind, TrainConfig,
};
use crate::student::{DecoderConfig, Extras, Head, Student, StudentConfig};
use holdout::HoldoutSet;
pub use holdout::{Validation, Watch};
pub use measure::{Measured, Rehearsal, rehearse};
use session::Session;
use statistics::Last;
use train_loop::TrainLoop;

/// The inputs of a run.
#[derive(Clone, Copy)]
pub struct TrainInputs<'a> {
    /// The views and the teacher's embeddings.
    pub cache: &'a Cache,
    /// A bank of names made from this cache, if an objective needs one.
    pub bank: Option<&'a Bank>,
    /// A KDEP bank made from this cache, if an objective needs one.
    pub kdep: Option<&'a KdepBank>,
    /// The images that the cache was extracted from. Not needed if the cache stores views of the student's size.
    pub originals: Option<Originals<'a>>,
    /// What to measure with after every epoch, if samples are held out or there is a validation set.
    pub watch: Watch<'a>,
}

impl TrainInputs<'_> {
    /// Fails if a file that the run reads has changed since it was verified. [`Verify::Full`] also hashes those files again
    /// that were hashed.
    fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        self.cache.require_unchanged(depth)?;
        self.bank.map_or(Ok(()), |bank| bank.require_unchanged(depth))?;
        self.kdep.map_or(Ok(()), |bank| bank.require_unchanged(depth))?;
        self.watch.banks.iter().try_for_each(|bank| bank.require_unchanged(depth))?;
        self.watch.validation.map_or(Ok(()), |validation| validation.cache.require_unchanged(depth))
    }
}

/// Settings of a training call. Of these, only the device changes the result.
#[derive(Clone, Debug)]
pub struct LoopSettings {
    /// The action if the folder already holds a run.
    pub existing: Existing,
    /// Steps between checkpoints, in addition to those at the end of every epoch.
    pub checkpoint_steps: Option<usize>,
    /// Steps between lines in `metrics.jsonl`, in addition to one per epoch; 0 for none.
    pub log_steps: usize,
    /// Threads that decode and render.
    pub threads: usize,
    /// Limits of decoding an image.
    pub limits: DecodeLimits,
    /// The device that the student trains on.
    pub device: Device,
    /// Whether a finished run keeps its latest training checkpoints.
    pub keep_checkpoints: bool,
    /// Called with every assumption about held-out samples, before the first step.
    pub noted: fn(&str),
    /// Called with the file and the outcome when initial weights are loaded, before the first step.
    pub initialized: fn(&Path, &LoadReport),
    /// Returns what the run records as the place of its bank: for a local folder, its absolute path.
    pub recorded: fn(&Path) -> PathBuf,
}

impl Default for LoopSettings {
    fn default() -> Self {
        Self {
            existing: Existing::Refuse,
            checkpoint_steps: None,
            log_steps: 50,
            threads: thread::available_parallelism().map_or(1, usize::from),
            limits: DecodeLimits::default(),
            device: Device::Cpu,
            keep_checkpoints: false,
            noted: |_| {},
            initialized: |_, _| {},
            recorded: absolute,
        }
    }
}

/// The outcome of a run. Times and throughput are those of this call, which may have resumed an earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct TrainReport {
    /// Steps of the whole run.
    pub steps: usize,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Samples in the cache.
    pub samples: usize,
    /// Those that are held out and not trained on.
    pub held_out: usize,
    /// Samples per step.
    pub batch: usize,
    /// The source of the pixels, in words.
    pub views: String,
    /// Samples in the last, incomplete batch of an epoch, which is dropped.
    pub dropped_per_epoch: usize,
    /// Number of trainable values of the finished student and its head, without a decoder.
    pub parameters: usize,
    /// Steps that were already done when this call started.
    pub resumed_from: Option<usize>,
    /// Images that went through the student in this call.
    pub images: usize,
    /// Seconds that this call took, including opening and checkpoints.
    pub seconds: f64,
    /// Throughput in images per second over the steps of this call.
    pub images_per_second: f64,
    /// Share of the steps' time spent waiting for data, 0 to 1.
    pub data_wait: f64,
    /// Seconds of this call spent on evaluating held-out samples.
    pub holdout_seconds: f64,
    /// The best epoch by its score on held-out samples, if there are some.
    pub best: Option<BestEpoch>,
    /// Epochs after which the run stopped early, because the score had not improved.
    pub stopped_after: Option<u32>,
    /// Mean loss of the run's first epoch; `None` if the run has no epochs.
    pub first_epoch_loss: Option<f64>,
    /// Mean loss of its last epoch.
    pub last_epoch_loss: Option<f64>,
    /// The outcome of loading initial weights, if this call loaded some.
    pub init: Option<LoadReport>,
}

/// The best epoch of a run.
#[derive(Clone, Debug, Serialize)]
pub struct BestEpoch {
    /// Epoch, from 0.
    pub epoch: u32,
    /// The figure by which epochs are compared.
    pub score: ScoreKind,
    /// Its value.
    pub value: f32,
}

/// Trains the student that `config` describes into the run folder `dir`. `observe` receives every line of
/// `metrics.jsonl` when it is written. `job` counts steps and may interrupt.
///
/// # Errors
/// [`RunError::Interrupted`] after a checkpoint was written, or any other [`RunError`].
pub fn train(
    config: &TrainConfig,
    settings: &LoopSettings,
    inputs: &TrainInputs<'_>,
    dir: &Path,
    job: &Job,
    observe: &mut dyn FnMut(&MetricsLine),
) -> Result<TrainReport, RunError> {
    let start = Instant::now();
    let Parts { student, objective, targets } = Parts::open(config, settings, inputs)?;
    let ready = Ready::open(config, settings, inputs, dir, (student, objective), &targets)?;
    let Ready { images, manifest, held_out, mut session, init } = ready;
    let mut report = begun(&manifest, &images, &session.student);
    let mut folder = RunFolder::open(dir, manifest, settings.existing)?;
    if let Some((record, loaded)) = init {
        (settings.initialized)(&record.path, &loaded);
        folder.record_init(record)?;
        report.init = Some(loaded);
    }
    job.begin(u64::try_from(report.steps).unwrap_or(u64::MAX));
    if folder.is_finished()? {
        job.skip(job.total());
        report.resumed_from = Some(report.steps);
    } else {
        let mut running = TrainLoop::open(config, settings, (dir, inputs), &mut folder, job, held_out)?;
        running.restore(&mut session, &targets, &mut report)?;
        let (metrics, epochs) = running.run(&mut session, &images, observe, &mut report)?;
        let student = match running.take_finished() {
            Some(student) => student,
            None => {
                session.take_average()?;
                let done = folder.manifest().steps_per_epoch * usize::try_from(epochs).unwrap_or(usize::MAX);
                let last = Last { steps: done, batches: statistics::AT_THE_END };
                statistics::reestimate(&mut session, &images, config, settings.threads, last)?;
                session.student.to_safetensors(&folder.manifest().weights_metadata())?
            }
        };
        // What was verified at the start must have been true to the end. Otherwise the run is not sealed.
        inputs.require_unchanged(Verify::Full)?;
        folder.finish(&student, metrics, epochs)?;
        if !settings.keep_checkpoints {
            folder.remove_checkpoints()?;
        }
    }
    let run = folder.manifest();
    (report.epochs, report.stopped_after) = (run.epochs(), run.stopped_after);
    report.steps = run.steps_per_epoch * usize::try_from(run.epochs()).unwrap_or(usize::MAX);
    report.best =
        run.best.as_ref().map(|best| BestEpoch { epoch: best.epoch, score: best.score, value: best.value });
    // Only the file has the losses of epochs from before the run was resumed.
    (report.first_epoch_loss, report.last_epoch_loss) =
        run::epoch_losses(&folder.metrics_path(), run.epochs())?;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// The parts of a run that its configuration and inputs determine.
struct Parts<'a> {
    /// The student without its head.
    student: StudentConfig,
    objective: Box<dyn Objective>,
    targets: TargetSource<'a>,
}

impl<'a> Parts<'a> {
    /// Checks the configuration and the inputs, and opens the columns that the objective reads.
    fn open(
        config: &TrainConfig,
        settings: &LoopSettings,
        inputs: &TrainInputs<'a>,
    ) -> Result<Self, RunError> {
        config.validate()?;
        holdout::check(config, &inputs.watch)?;
        let inputs = Inputs::open(inputs.cache, inputs.bank, inputs.kdep, &config.objective)?;
        let setup = Setup {
            inputs,
            settings: &config.objective_settings,
            student: config.student,
            seed: config.seed,
            device: &settings.device,
        };
        config.objective.check(&setup)?;
        let student = headless(config, &inputs)?;
        let objective = config.objective.build(&setup)?;
        let targets = TargetSource::open(inputs, objective.columns(), config.holdout)?;
        Ok(Self { student, objective, targets })
    }
}

/// A run that is ready to start. Its folder is not opened yet.
struct Ready<'a> {
    images: TrainingImages<'a>,
    manifest: RunManifest,
    held_out: Option<HoldoutSet<'a>>,
    session: Session,
    /// Initial weights that the student got.
    init: Option<(InitRecord, LoadReport)>,
}

impl<'a> Ready<'a> {
    /// Opens the images and makes the student. `dir`: the run folder, which is only read.
    fn open(
        config: &TrainConfig,
        settings: &LoopSettings,
        inputs: &TrainInputs<'a>,
        dir: &Path,
        (student, objective): (StudentConfig, Box<dyn Objective>),
        targets: &'a TargetSource<'a>,
    ) -> Result<Self, RunError> {
        let images = open_images(config, settings, inputs.cache, inputs.originals)?.with_targets(targets);
        let held_out = holdout::held_out(config, &images, settings);
        let images = if held_out.is_empty() { images } else { images.without(&held_out) };
        let manifest = manifest(config, settings, inputs, targets, &images)?;
        let held_out = HoldoutSet::open(config, settings, inputs, (&images, held_out), &manifest, dir)?;
        let student = StudentConfig { head: manifest.head(), ..student };
        let mut session = Session::new(config, student, objective, inputs.cache, &settings.device)?;
        // A checkpoint holds everything. The file of initial weights may have been deleted since.
        let goes_on = settings.existing == Existing::Resume && RunFolder::holds_checkpoint(dir);
        let init = config.init.as_deref().filter(|_| !goes_on);
        let init = init.map(|path| load_initial(&mut session.student, path)).transpose()?;
        Ok(Self { images, manifest, held_out, session, init })
    }
}

/// The student of a run without its head, with the outputs that the chosen objectives read. Reads only the cache's
/// manifest, so that images and tokens that do not fit are refused before any token is read.
fn headless(config: &TrainConfig, inputs: &Inputs<'_>) -> Result<StudentConfig, RunError> {
    let wanted = config.objective.outputs();
    let side = usize::try_from(config.size).unwrap_or(usize::MAX);
    let decoder = || {
        let &TokenRecord { rows, columns, dim, .. } = inputs.tokens()?;
        Ok::<_, RunError>(DecoderConfig { rows, columns, dim, height: side, width: side })
    };
    let decoder = wanted.tokens.then(decoder).transpose()?;
    let extras = Extras { raw_pooled: wanted.raw_pooled, decoder };
    let student = StudentConfig { extras, ..StudentConfig::new(config.student, Head::None, config.seed) };
    student.validate()?;
    Ok(student)
}

/// The views of `cache` as the student is shown them, without targets.
fn open_images<'a>(
    config: &TrainConfig,
    settings: &LoopSettings,
    cache: &Cache,
    originals: Option<Originals<'a>>,
) -> Result<TrainingImages<'a>, RunError> {
    let &TeacherRecord { resample, normalization, .. } = &cache.manifest().config.teacher;
    let format = InputFormat { size: config.size, resample, normalization };
    Ok(TrainingImages::open(cache, originals, format, config.stored_views, settings.limits)?)
}

/// The manifest of a run that has not started.
fn manifest(
    config: &TrainConfig,
    settings: &LoopSettings,
    inputs: &TrainInputs<'_>,
    targets: &TargetSource<'_>,
    images: &TrainingImages<'_>,
) -> Result<RunManifest, RunError> {
    let teacher = &inputs.cache.manifest().config.teacher;
    Ok(RunManifest {
        format_version: RUN_VERSION,
        config: config.clone(),
        cache: inputs.cache.hash(),
        bank: inputs.bank.map(Bank::hash),
        bank_dir: inputs.bank.map(|bank| (settings.recorded)(bank.dir())),
        kdep_bank: inputs.kdep.map(KdepBank::hash),
        text_encoder: inputs.bank.map(|bank| bank.manifest().record.text_encoder).or(teacher.text_encoder),
        centered: inputs.bank.and_then(|bank| bank.manifest().record.center),
        classes: targets.classes().cloned(),
        device: if settings.device.is_cpu() { "cpu" } else { "cuda" }.to_owned(),
        teacher: teacher.clone(),
        center: inputs.cache.manifest().config.center.or(teacher.center),
        dim: inputs.cache.dim(),
        samples: images.views().samples(),
        stored_views: images.origin().stored(),
        steps_per_epoch: images.steps_per_epoch(config.batch, config.epochs)?,
        step: 0,
        complete: false,
        validation: inputs.watch.validation.map(|validation| validation.cache.hash()),
        best: None,
        stopped_after: None,
        init: None,
        checkpoints: Vec::new(),
        files: Vec::new(),
    })
}

/// The absolute path of a folder, or the path itself if the working directory is gone.
fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

/// The report of a run before its first step in this call.
fn begun(run: &RunManifest, images: &TrainingImages<'_>, student: &Student) -> TrainReport {
    let RunManifest { config, steps_per_epoch, .. } = run;
    TrainReport {
        steps: steps_per_epoch * usize::try_from(config.epochs).unwrap_or(usize::MAX),
        epochs: config.epochs,
        samples: images.views().samples(),
        held_out: images.views().samples() - images.samples(),
        batch: config.batch,
        views: images.origin().to_string(),
        dropped_per_epoch: images.samples() - steps_per_epoch * config.batch,
        parameters: student.encoder_parameter_count(),
        resumed_from: None,
        images: 0,
        seconds: 0.0,
        images_per_second: 0.0,
        data_wait: 0.0,
        holdout_seconds: 0.0,
        best: None,
        stopped_after: None,
        first_epoch_loss: None,
        last_epoch_loss: None,
        init: None,
    }
}

/// Loads the file at `path` into `student`. Tensors of a head that the file lacks keep their random initialization.
fn load_initial(student: &mut Student, path: &Path) -> Result<(InitRecord, LoadReport), RunError> {
    let wrong = |source: InitialWeightsError| RunError::InitialWeights {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let bytes = fs::read(path).map_err(|error| wrong(error.into()))?;
    let report = initial::load(student, &bytes).map_err(wrong)?;
    let record = InitRecord {
        path: path.to_owned(),
        blake3: ContentHash::of(&bytes),
        applied: report.applied.len(),
        missing: report.missing.clone(),
        unused: report.unused.clone(),
        mismatched: report.mismatched.iter().map(|tensor| tensor.name.clone()).collect(),
    };
    Ok((record, report))
}
