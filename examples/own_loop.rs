//! A custom training loop: student, batches of a cache, objective and optimizer, without run folders and checkpoints.
//!
//! ```text
//! cargo run --release --example own_loop -- CACHE IMAGES STUDENT.safetensors
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use candle_core::Device;
use lgd_data::cache::Cache;
use lgd_data::image::DecodeLimits;
use lgd_data::manifest::Verify;
use lgd_data::source::open_source;
use lgd_train::loader::batches::{Batch, StreamPlan, TrainingImages};
use lgd_train::loader::origin::{Originals, StoredUse};
use lgd_train::loader::pixels::InputFormat;
use lgd_train::loader::targets::TargetSource;
use lgd_train::objective::{Inputs, Objective, ObjectiveSettings, Objectives, Setup};
use lgd_train::optim::OptimizerSettings;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

/// The settings of this loop.
pub(crate) struct Settings {
    /// Side of the student's square input, px.
    pub(crate) size: u32,
    /// Samples per step.
    pub(crate) batch: usize,
    /// Number of passes over the samples.
    pub(crate) epochs: u32,
    /// Learning rate.
    pub(crate) lr: f32,
}

const STUDENT: Architecture = Architecture::ResNet18;
const SEED: u64 = 0;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cache, images, out] = &args[..] else {
        anyhow::bail!("usage: own_loop CACHE IMAGES STUDENT.safetensors")
    };
    let cache = Cache::open(Path::new(cache), Verify::Length)?;
    let path = Path::new(images);
    let source = open_source(path)?;
    let settings = Settings { size: 64, batch: 64, epochs: 2, lr: 0.01 };
    let originals = Originals { source: &*source, path };
    let (mut student, losses) = train(&cache, Some(originals), &settings)?;
    for (step, loss) in losses.iter().enumerate() {
        writeln!(io::stdout(), "step {step}: loss {loss:.4}")?;
    }
    fs::write(out, student.to_safetensors(&Default::default())?).with_context(|| format!("write {out}"))
}

/// Trains a student on the views of `cache`; returns it with the loss of every step. `originals` is required unless
/// the cache stores views of the student's size.
pub(crate) fn train(
    cache: &Cache,
    originals: Option<Originals<'_>>,
    settings: &Settings,
) -> Result<(Student, Vec<f32>)> {
    let device = Device::Cpu;
    // SEED reads only embeddings. Any other `Objective`, such as that of the example own_objective, can be used here.
    let objectives: Objectives = "seed".parse()?;
    let setup = Setup {
        inputs: Inputs::open(cache, None, None, &objectives)?,
        settings: &ObjectiveSettings::default(),
        student: STUDENT,
        seed: SEED,
        device: &device,
    };
    objectives.check(&setup)?;
    let mut objective = objectives.build(&setup)?;
    let mut student =
        Student::new(StudentConfig::new(STUDENT, Head::Projection { dim: cache.dim() }, SEED), &device)?;

    // The loader renders the views that the teacher saw, at the student's size, and reads the columns that the
    // objective needs.
    let teacher = &cache.manifest().config.teacher;
    let format =
        InputFormat { size: settings.size, resample: teacher.resample, normalization: teacher.normalization };
    let targets = TargetSource::open(setup.inputs, objective.columns(), None)?;
    let images = TrainingImages::open(cache, originals, format, StoredUse::Fitting, DecodeLimits::default())?
        .with_targets(&targets);
    let plan = StreamPlan { batch: settings.batch, epochs: settings.epochs, seed: SEED, done: 0 };
    let threads = thread::available_parallelism().map_or(1, usize::from);

    let mut losses = Vec::new();
    images.stream(plan, threads, |batches| {
        while let Some(batch) = batches.next_batch()? {
            let number = u64::try_from(losses.len())?;
            losses.push(step(&mut student, &mut *objective, &batch, &format, (number, settings.lr))?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok((student, losses))
}

/// Runs step `number` (from 0) at learning rate `lr`; returns its loss.
fn step(
    student: &mut Student,
    objective: &mut dyn Objective,
    batch: &Batch,
    format: &InputFormat,
    (number, lr): (u64, f32),
) -> Result<f32> {
    let side = usize::try_from(format.size)?;
    let images = Images::Pixels { rgb: &batch.images, normalization: &format.normalization };
    let mode = Mode::Train { seed: SEED, step: number };
    let output = student.forward(images, (batch.rows.len(), side, side), mode)?;
    let loss = objective.loss(&output, &batch.targets)?;
    student.backward(&loss.total, false)?;
    // Updates are numbered from 1.
    let update = OptimizerSettings::default().update(student.table(), lr, number + 1);
    student.update(&update)?;
    // Adds the batch to SEED's queue.
    objective.after_step(&batch.targets)?;
    Ok(loss.total.to_scalar()?)
}
