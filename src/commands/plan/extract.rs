//! The plan of an extraction: a part of the images is extracted into a temporary folder.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{DecimalBytes, HumanCount};
use lgd_data::cache::{CacheBuilder, CacheConfig, CacheManifest, Partition};
use lgd_data::job::Pace;
use lgd_data::manifest::Existing;
use lgd_data::source::Subset;
use lgd_extract::pipeline::OutputEstimate;
use serde::Serialize;

use super::cache_bytes::{CacheSize, Part, Shards};
use super::estimate::{Stage, Throughput, duration, limit};
use super::watch::{Watch, available_memory};
use super::{memory_row, row, warn_of_memory};
use crate::args::ExtractArgs;
use crate::commands::extract::{Inputs, first_reject, open_inputs, space};
use crate::commands::{print_report, set_threads};
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::{say, warn};

/// Runs of neighboring samples that are measured. Neighbors, because sources read them together.
const RUNS: usize = 8;
/// Most parts that the measurement of the whole pipeline is divided into.
const PARTS: usize = 8;
/// Most bytes of the temporary cache.
const MOST_BYTES: usize = 256 << 20;
/// Most batches per session for the encoder alone.
const MOST_BATCHES: f64 = 10_000.0;

/// The plan of an extraction, without samples that an earlier run has extracted.
#[derive(Serialize)]
struct ExtractPlan {
    samples: u64,
    views: u16,
    rows: u64,
    shards: u64,
    parts: Vec<Part>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_memory_bytes: Option<u64>,
    /// Each alone, in views.
    stages: Vec<Stage>,
    limit: &'static str,
    /// All stages together, in views.
    throughput: Throughput,
    opening_seconds: f64,
    fitting_seconds: f64,
    seconds: f64,
    measured: MeasuredOn,
}

/// What was measured.
#[derive(Serialize)]
struct MeasuredOn {
    samples: usize,
    rejected: usize,
    seconds: f64,
}

/// The samples that are left to extract.
struct Left {
    shards: Vec<usize>,
    shard_samples: usize,
    samples: usize,
    /// Whether the projection of the tokens is there already.
    fitted: bool,
}

/// The half of every stretch of samples that a measurement takes, so that no two read the same files.
#[derive(Clone, Copy)]
enum Side {
    First,
    Last,
}

/// A measured extraction of a part of the samples.
struct Measured {
    size: CacheSize,
    rejected: usize,
    samples: usize,
    stages: Vec<Stage>,
    throughput: Throughput,
    fitting: f64,
    seconds: f64,
}

/// Plans `lgd extract`.
pub fn run(args: &ExtractArgs, budget: Duration) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    let (watch, opening) = (Watch::start(), Instant::now());
    let mut inputs = open_inputs(args)?;
    let opening = opening.elapsed().as_secs_f64();
    let (config, out) = (inputs.config.clone(), args.output.out.as_path());
    if let Some(tokens) = &config.tokens {
        space::tell_students(&config, tokens);
    }
    space::require_limit(&config, args.tokens_limit)?;
    let left = Left::of(&inputs, out)?;
    if left.samples == 0 {
        bail!("{}: all shards are there, nothing is left to plan", out.display());
    }
    let measured = measure(&mut inputs, &left, budget, &watch, args)?;
    let shards = left.shards(&config);
    let parts = measured.size.parts(&config, shards);
    let rows = shards.samples * u64::from(config.views);
    let plan = ExtractPlan {
        samples: shards.samples,
        views: config.views,
        rows,
        shards: shards.count,
        bytes: parts.iter().map(|part| part.bytes).sum(),
        free_bytes: space::free_bytes(out).map(|free| free + freed(out, inputs.existing)),
        memory_bytes: watch.peak().map(|peak| peak + measured.size.memory_growth(&config, shards)),
        available_memory_bytes: available_memory().zip(watch.peak()).map(|(free, own)| free + own),
        limit: limit(&measured.stages).map_or("", |stage| stage.name),
        stages: measured.stages,
        throughput: measured.throughput,
        opening_seconds: opening,
        fitting_seconds: measured.fitting,
        seconds: opening + measured.fitting + measured.throughput.seconds(rows),
        measured: MeasuredOn {
            samples: measured.samples,
            rejected: measured.rejected,
            seconds: measured.seconds,
        },
        parts,
    };
    plan.print(out);
    print_report(&args.report, &plan)?;
    plan.require_space(out)?;
    Ok(Exit::Done)
}

impl ExtractPlan {
    fn print(&self, out: &Path) {
        let Self { samples, views, rows, shards, .. } = self;
        let count = |number: &u64| HumanCount(*number);
        let plural = if *shards == 1 { "" } else { "s" };
        say(format_args!(
            "plan: {} samples x {views} views = {} rows in {shards} shard{plural}; {}",
            count(samples),
            count(rows),
            out.display()
        ));
        for Part { name, form, bytes } in &self.parts {
            let form = if form.is_empty() { String::new() } else { format!(" ({form})") };
            row(name, format_args!("{}{form}", DecimalBytes(*bytes)));
        }
        let free = self.free_bytes.map(|free| format!("; {} free", DecimalBytes(free))).unwrap_or_default();
        row("disk", format_args!("{}{free}", DecimalBytes(self.bytes)));
        memory_row(self.memory_bytes, self.available_memory_bytes);
        for Stage { name, what, per_second } in &self.stages {
            row(name, format_args!("{per_second:.1} views/s alone ({what})"));
        }
        row(
            "together",
            format_args!("{:.1} views/s; the limit is {}", self.throughput.per_second, self.limit),
        );
        row("time", duration(self.seconds, self.throughput.relative_error));
        let MeasuredOn { samples, rejected, seconds } = self.measured;
        let rejects = if rejected > 0 { format!(", {rejected} rejected") } else { String::new() };
        row(
            "measured",
            format_args!(
                "on {} of {} samples in {seconds:.1} s{rejects}",
                HumanCount(samples as u64),
                count(&self.samples)
            ),
        );
        warn_of_memory(self.memory_bytes, self.available_memory_bytes);
    }

    /// Fails if the disk has less room than the cache needs.
    fn require_space(&self, out: &Path) -> anyhow::Result<()> {
        let Some(free) = self.free_bytes.filter(|free| *free < self.bytes) else { return Ok(()) };
        let largest = self.parts.iter().max_by_key(|part| part.bytes).map_or("cache", |part| part.name);
        bail!(
            "the cache needs about {}, {} has {} free\nhint: make room; the largest part is {largest}",
            DecimalBytes(self.bytes),
            out.display(),
            DecimalBytes(free)
        )
    }
}

/// Bytes of the files that are deleted before the first shard is written.
fn freed(out: &Path, existing: Existing) -> u64 {
    let kinds = ["views-", "pixels-", "tokens-", "captions-"];
    if existing == Existing::Overwrite { space::bytes_of(out, &kinds) } else { 0 }
}

impl Left {
    /// The shards of the partition that the folder `out` lacks. Fails if extraction would.
    fn of(inputs: &Inputs, out: &Path) -> anyhow::Result<Self> {
        let Inputs { config, partition, existing, .. } = inputs;
        let (shards, fitted) = match CacheBuilder::started(out, config, *existing)? {
            Some(builder) => (builder.missing_shards(*partition)?, builder.projection()?.is_some()),
            None => ((0..config.shards()).filter(|&shard| partition.contains(shard)).collect(), false),
        };
        let mut left = Self { shards, shard_samples: config.shard_samples, samples: 0, fitted };
        left.samples = left.shards.iter().map(|&shard| left.samples_of(config, shard)).sum();
        Ok(left)
    }

    fn samples_of(&self, config: &CacheConfig, shard: usize) -> usize {
        self.shard_samples.min(config.samples - shard * self.shard_samples)
    }

    fn shards(&self, config: &CacheConfig) -> Shards {
        let largest = self.shards.iter().map(|&shard| self.samples_of(config, shard)).max();
        Shards {
            count: self.shards.len() as u64,
            samples: self.samples as u64,
            largest: largest.unwrap_or(0) as u64,
        }
    }

    /// Positions of `count` samples in the listing, or of all that are left: evenly spaced runs, ascending.
    fn positions(&self, count: usize, side: Side) -> Vec<usize> {
        let count = count.min(self.samples);
        let gaps = self.samples - count;
        let runs = (0..RUNS).flat_map(|run| {
            let before = match side {
                Side::First => run * gaps / RUNS,
                Side::Last => (run + 1) * gaps / RUNS,
            };
            before + run * count / RUNS..before + (run + 1) * count / RUNS
        });
        // Only the last shard of the listing may have fewer samples.
        runs.map(|at| self.shards[at / self.shard_samples] * self.shard_samples + at % self.shard_samples)
            .collect()
    }
}

/// Measures the stages alone, then extracts samples into a temporary folder.
fn measure(
    inputs: &mut Inputs,
    left: &Left,
    budget: Duration,
    watch: &Watch,
    args: &ExtractArgs,
) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let encoder = time_encoder(inputs, budget / 5)?;
    let images = time_images(inputs, left, budget / 5)?;
    let (a, b) = (encoder.per_second(), images.per_second());
    // On the CPU, both stages share the cores.
    let expected = if args.runtime.device.is_cpu() { a * b / (a + b).max(f64::EPSILON) } else { a.min(b) };
    let count = sample_count(inputs, expected * budget.as_secs_f64() / 2.0).min(left.samples);

    let subset = Subset::new(inputs.source.as_ref(), left.positions(count, Side::Last));
    let config = inputs.extractor.cache_config(&subset, &inputs.views, left.shard_samples);
    let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
    let builder = CacheBuilder::open(dir.path(), config, Existing::Refuse)?;
    let summary = {
        let _progress = Progress::show("plan", "samples");
        inputs.extractor.extract(&subset, &builder, Partition::WHOLE, &JOB)?
    };
    let ended = Instant::now();
    let manifest = builder.finalize(&[])?.context("the measured cache is not complete")?;
    require_usable(&manifest, dir.path(), args)?;

    let run = summary.elapsed.saturating_sub(summary.fitting);
    let views = count as u64 * u64::from(manifest.config.views);
    let parts = parts(watch, (ended.checked_sub(run).unwrap_or(ended), count), unit(inputs), views);
    let whole = Pace { units: views, seconds: run.as_secs_f64() };
    let writing = Pace { units: views, seconds: summary.writing.as_secs_f64() };
    let device = &args.runtime.device;
    let stage = |name, pace: Pace, what| Stage { name, what, per_second: pace.per_second() };
    let stages = vec![
        stage(
            "images",
            images,
            format!("read, decode and render, {} threads", inputs.extractor.decode_threads()),
        ),
        stage("encoder", encoder, format!("{device}, {} sessions", inputs.extractor.sessions())),
        stage("writing", writing, "the cache's files".to_owned()),
    ];
    let fitted = |config: &CacheConfig| config.fitted_views().filter(|_| !left.fitted).unwrap_or(0) as f64;
    let more = fitted(&inputs.config) / fitted(&manifest.config).max(1.0);
    Ok(Measured {
        size: CacheSize::measure(dir.path(), &manifest),
        rejected: manifest.rejected,
        samples: count,
        stages,
        // In the first part, the pipeline fills.
        throughput: match parts.as_slice() {
            [_, rest @ ..] if rest.len() > 1 => Throughput::of(rest),
            _ => Throughput::new(whole, &parts),
        },
        fitting: summary.fitting.as_secs_f64() * more,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The encoder alone. The first batches are slower, and are measured only if they take all the time.
fn time_encoder(inputs: &mut Inputs, budget: Duration) -> anyhow::Result<Pace> {
    let first = inputs.extractor.time_encoder(1)?;
    let batches = budget.as_secs_f64() / first.seconds.max(f64::EPSILON);
    if batches < 1.0 || JOB.interrupted() {
        return Ok(first);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and limited")]
    Ok(inputs.extractor.time_encoder(batches.min(MOST_BATCHES) as usize)?)
}

/// Reading, decoding and rendering alone.
fn time_images(inputs: &Inputs, left: &Left, budget: Duration) -> anyhow::Result<Pace> {
    let time = |count, side| {
        let subset = Subset::new(inputs.source.as_ref(), left.positions(count, side));
        inputs.extractor.time_preparing(&subset, &inputs.config, &JOB)
    };
    let few = RUNS * inputs.extractor.decode_threads();
    let first = time(few, Side::First)?;
    let samples = first.per_second() * budget.as_secs_f64() / f64::from(inputs.config.views);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a cast saturates")]
    let samples = samples as usize;
    Ok(if samples <= few { first } else { time(samples, Side::First)? })
}

/// Samples that fill one batch of every session.
fn unit(inputs: &Inputs) -> usize {
    let batches = inputs.extractor.sessions() * inputs.extractor.encoder().batch();
    batches.div_ceil(usize::from(inputs.config.views))
}

/// Samples with about `views` views, in whole batches of all sessions and at least one each, within [`MOST_BYTES`].
fn sample_count(inputs: &Inputs, views: f64) -> usize {
    let config = &inputs.config;
    let outputs = OutputEstimate::of(config, Partition::WHOLE);
    let stored = config.stored_views.map_or(0, |format| format.pixel_bytes().unwrap_or(0));
    let outputs = outputs.features.unwrap_or(0) + outputs.tokens.unwrap_or(0);
    let per_view = 2 * config.dim + stored + usize::try_from(outputs).unwrap_or(usize::MAX);
    let most = MOST_BYTES / per_view.saturating_mul(usize::from(config.views)).max(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a cast saturates")]
    let wanted = (views / f64::from(config.views)) as usize;
    let unit = unit(inputs);
    (wanted.min(most) / unit).max(1) * unit
}

/// The pace of up to [`PARTS`] parts of the extraction of `count` samples with `views` views, which began at `start`. `unit`:
/// samples that are encoded at the same time.
fn parts(watch: &Watch, (start, count): (Instant, usize), unit: usize, views: u64) -> Vec<Pace> {
    let parts = (count / unit).clamp(1, PARTS);
    let marks: Vec<u64> = (1..=parts).map(|part| (part * count / parts) as u64).collect();
    let passed = watch.passed(start, &marks);
    let from = std::iter::once(&start).chain(&passed);
    let pace = |(from, to): (&Instant, &Instant)| Pace {
        units: views / parts as u64,
        seconds: to.duration_since(*from).as_secs_f64(),
    };
    from.zip(&passed).map(pace).collect()
}

/// Fails if no measured sample can be used.
fn require_usable(manifest: &CacheManifest, dir: &Path, args: &ExtractArgs) -> anyhow::Result<()> {
    if manifest.rows > 0 {
        if manifest.rejected > 0 {
            let first = first_reject(&dir.join("rejects.jsonl")).unwrap_or_default();
            warn(format_args!(
                "warning: {} measured samples are rejected; the first is {first}",
                manifest.rejected
            ));
        }
        return Ok(());
    }
    let first = first_reject(&dir.join("rejects.jsonl"));
    bail!(
        "{}: none of the {} measured samples can be used{}",
        args.images.display(),
        manifest.rejected,
        first.map(|first| format!("; the first is {first}")).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(shards: &[usize], shard_samples: usize, samples: usize) -> Left {
        Left { shards: shards.to_vec(), shard_samples, samples, fitted: false }
    }

    #[test]
    fn measured_samples_are_runs_from_all_of_the_shards_that_are_left() {
        let whole = left(&[0, 1, 2, 3], 20, 80);
        let positions = whole.positions(16, Side::First);
        assert_eq!(positions[..6], [0, 1, 10, 11, 20, 21]);
        let others = whole.positions(16, Side::Last);
        assert_eq!(others[..6], [8, 9, 18, 19, 28, 29]);
        assert_eq!(whole.positions(500, Side::Last), (0..80).collect::<Vec<_>>());

        let some = left(&[1, 3], 20, 34);
        let positions = some.positions(34, Side::First);
        assert_eq!(positions, (20..40).chain(60..74).collect::<Vec<_>>());
    }

    #[test]
    fn every_count_of_samples_is_met_without_duplicates() {
        for samples in [1, 5, 8, 23] {
            let left = left(&[0, 1, 2], 8, samples);
            for count in 1..=samples {
                for side in [Side::First, Side::Last] {
                    let mut positions = left.positions(count, side);
                    assert!(positions.is_sorted(), "{positions:?}");
                    positions.dedup();
                    assert_eq!(positions.len(), count, "{count} of {samples}");
                }
            }
        }
    }
}
