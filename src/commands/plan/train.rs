//! The plan of a training: its first steps are rehearsed in memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{DecimalBytes, HumanCount};
use lgd_data::job::Pace;
use lgd_data::manifest::FileEntry;
use lgd_train::loader::origin::ViewOrigin;
use lgd_train::objective::{Input, ObjectiveKind};
use lgd_train::trainer::{LoopSettings, Measured, Rehearsal, rehearse};
use serde::Serialize;

use super::estimate::{Stage, Throughput, duration, limit};
use super::watch::{Watch, available_memory};
use super::{memory_row, row, warn_of_memory};
use crate::args::TrainArgs;
use crate::commands::extract::space::free_bytes;
use crate::commands::print_report;
use crate::commands::train::{Opened, loop_settings};
use crate::exit::Exit;
use crate::progress::JOB;
use crate::say::{say, warn};

/// Images that are only evaluated in the time of one that is trained on: a pass forward is a third of a step.
const FORWARD: f64 = 3.0;

/// The plan of a training, without steps that an earlier run has done.
#[derive(Serialize)]
struct TrainPlan {
    /// Steps of the whole run, and those that are done.
    steps: usize,
    done: usize,
    epochs: u32,
    steps_per_epoch: usize,
    batch: usize,
    samples: usize,
    held_out: usize,
    evaluated: usize,
    dropped_per_epoch: usize,
    parameters: usize,
    /// What training reads, besides images.
    reads: Vec<Read>,
    checkpoint_bytes: u64,
    /// Bytes of the run folder, at most and at the end.
    bytes: u64,
    final_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_memory_bytes: Option<u64>,
    /// Each alone, in images.
    stages: Vec<Stage>,
    limit: &'static str,
    /// All stages together, in images.
    throughput: Throughput,
    /// Images that are evaluated, or that running statistics are estimated on.
    forward_images: usize,
    opening_seconds: f64,
    evaluation_seconds: f64,
    seconds: f64,
    measured: MeasuredOn,
}

/// A folder whose columns training reads in random order.
#[derive(Serialize)]
struct Read {
    path: PathBuf,
    bytes: u64,
}

/// What was measured.
#[derive(Serialize)]
struct MeasuredOn {
    images: u64,
    seconds: f64,
}

/// Plans `lgd train`.
pub fn run(args: &TrainArgs, budget: Duration) -> anyhow::Result<Exit> {
    let (watch, started) = (Watch::start(), Instant::now());
    let opened = Opened::open(args)?;
    let settings = loop_settings(args)?;
    let opening = started.elapsed();
    let out = args.output.out.as_path();
    let rehearsal = rehearse(&opened.config, &settings, &opened.inputs(), out, &JOB, budget)?;
    let Some(measured) = &rehearsal.measured else {
        bail!("{}: the run has no step left, nothing is left to plan", out.display());
    };
    let plan = TrainPlan {
        free_bytes: free_bytes(out),
        memory_bytes: watch.peak(),
        available_memory_bytes: available_memory().zip(watch.peak()).map(|(free, own)| free + own),
        reads: reads(&opened, args),
        ..TrainPlan::new(&rehearsal, measured, &settings, opening.as_secs_f64())
    };
    plan.print(out);
    print_report(&args.report, &plan)?;
    plan.require_space(out)?;
    Ok(Exit::Done)
}

impl TrainPlan {
    fn new(rehearsal: &Rehearsal, measured: &Measured, settings: &LoopSettings, opening: f64) -> Self {
        let report = &rehearsal.report;
        let stage = |name, pace: Pace, what| Stage { name, what, per_second: pace.per_second() };
        let device = if settings.device.is_cpu() { "cpu" } else { "cuda" };
        let stages = vec![
            stage("loading", measured.loading, format!("pixels and targets, {} threads", settings.threads)),
            stage("step", measured.step, format!("{device}, {} images", report.batch)),
        ];
        let slowest = if measured.loading.per_second() < measured.step.per_second() {
            measured.loading
        } else {
            measured.step
        };
        let together = if measured.together.is_empty() { vec![slowest] } else { measured.together.clone() };
        let throughput = Throughput::of(&together);
        let images = (report.steps - rehearsal.done) * report.batch;
        let forward = (FORWARD * measured.step.per_second()).min(measured.loading.per_second());
        let evaluation = rehearsal.forward_images as f64 / forward.max(f64::MIN_POSITIVE);
        let parts = || [measured.loading, measured.step].into_iter().chain(together.iter().copied());
        Self {
            steps: report.steps,
            done: rehearsal.done,
            epochs: report.epochs,
            steps_per_epoch: rehearsal.steps_per_epoch,
            batch: report.batch,
            samples: report.samples,
            held_out: report.held_out,
            evaluated: rehearsal.evaluated,
            dropped_per_epoch: report.dropped_per_epoch,
            parameters: report.parameters,
            reads: Vec::new(),
            checkpoint_bytes: rehearsal.checkpoint_bytes,
            bytes: rehearsal.folder_bytes.0,
            final_bytes: rehearsal.folder_bytes.1,
            free_bytes: None,
            memory_bytes: None,
            available_memory_bytes: None,
            limit: limit(&stages).map_or("", |stage| stage.name),
            stages,
            throughput,
            forward_images: rehearsal.forward_images,
            opening_seconds: opening,
            evaluation_seconds: evaluation,
            seconds: opening + throughput.seconds(images as u64) + evaluation,
            measured: MeasuredOn {
                images: parts().map(|part| part.units).sum(),
                seconds: parts().map(|part| part.seconds).sum(),
            },
        }
    }

    fn print(&self, out: &Path) {
        let count = |number: usize| HumanCount(number as u64);
        let Self { steps, done, epochs, steps_per_epoch, batch, .. } = self;
        let left = if *done > 0 { format!(", {} of them done", count(*done)) } else { String::new() };
        say(format_args!(
            "plan: {} steps of {batch} images, {steps_per_epoch} in each of {epochs} epochs{left}; {}",
            count(*steps),
            out.display()
        ));
        let trained = self.samples - self.held_out;
        let evaluated = match self.evaluated {
            0 => String::new(),
            evaluated => format!("; {} evaluated after every epoch", count(evaluated)),
        };
        row("samples", format_args!("{} trained on{evaluated}", count(trained)));
        row("parameters", count(self.parameters));
        for Read { path, bytes } in &self.reads {
            row("reads", format_args!("{} from {}", DecimalBytes(*bytes), path.display()));
        }
        row("checkpoint", DecimalBytes(self.checkpoint_bytes));
        let free = self.free_bytes.map(|free| format!("; {} free", DecimalBytes(free))).unwrap_or_default();
        let (most, end) = (DecimalBytes(self.bytes), DecimalBytes(self.final_bytes));
        row("disk", format_args!("{most} at most, {end} at the end{free}"));
        memory_row(self.memory_bytes, self.available_memory_bytes);
        for Stage { name, what, per_second } in &self.stages {
            row(name, format_args!("{per_second:.1} images/s alone ({what})"));
        }
        row(
            "together",
            format_args!("{:.1} images/s; the limit is {}", self.throughput.per_second, self.limit),
        );
        row("time", duration(self.seconds, self.throughput.relative_error));
        let MeasuredOn { images, seconds } = self.measured;
        row("measured", format_args!("on {} images in {seconds:.1} s", HumanCount(images)));
        self.warn();
    }

    /// Warns of costs that the measured batches do not show.
    fn warn(&self) {
        warn_of_memory(self.memory_bytes, self.available_memory_bytes);
        let reads: u64 = self.reads.iter().map(|read| read.bytes).sum();
        if self.available_memory_bytes.is_some_and(|available| reads > available) {
            warn(
                "warning: training reads more than fits in memory, in random order; the disk may make it slower than measured",
            );
        }
    }

    /// Fails if the disk has less room than the run needs.
    fn require_space(&self, out: &Path) -> anyhow::Result<()> {
        let Some(free) = self.free_bytes.filter(|free| *free < self.bytes) else { return Ok(()) };
        bail!(
            "the run needs about {}, {} has {} free\nhint: make room",
            DecimalBytes(self.bytes),
            out.display(),
            DecimalBytes(free)
        )
    }
}

/// The folders that training reads, with the bytes of the files that the objectives need.
fn reads(opened: &Opened<'_>, args: &TrainArgs) -> Vec<Read> {
    let Opened { cache, config, banks, .. } = opened;
    let manifest = cache.manifest();
    let needs =
        |input: Input| config.objective.kinds().any(|kind: ObjectiveKind| kind.spec().needs.contains(&input));
    let (views, stored) = manifest.bytes();
    let origin = ViewOrigin::of(&manifest.config, config.size, config.stored_views);
    let parts = [
        (true, views),
        (origin.stored().is_some(), stored),
        (needs(Input::Tokens), manifest.token_bytes()),
        (needs(Input::Captions), manifest.caption_bytes()),
    ];
    let bytes = parts.iter().filter(|(read, _)| *read).map(|(_, bytes)| bytes).sum();
    let sum = |files: &[FileEntry]| files.iter().map(|file| file.bytes).sum();
    let of_cache = Read { path: args.cache.clone(), bytes };
    let names = banks.names.as_ref();
    let names = names.map(|bank| Read { path: bank.dir().to_owned(), bytes: sum(&bank.manifest().targets) });
    let kdep = banks.kdep.as_ref();
    let kdep = kdep.map(|bank| Read { path: bank.dir().to_owned(), bytes: sum(&bank.manifest().targets) });
    [Some(of_cache), names, kdep].into_iter().flatten().collect()
}
