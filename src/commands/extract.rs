//! `lgd extract`: images and a teacher to a cache.

use anyhow::Context;
use lgd_data::cache::{CacheBuilder, CacheManifest, Existing, Partition};
use lgd_data::image::DecodeLimits;
use lgd_data::source::open_source;
use lgd_extract::pipeline::ViewPlan;
use lgd_extract::{EncoderOptions, ExtractOptions, ExtractSummary, Extractor, Runtime, Teacher};
use serde::Serialize;

use super::{print_json, set_threads};
use crate::args::ExtractArgs;
use crate::exit::Exit;
use crate::progress::{JOB, Progress};

/// What the command prints.
#[derive(Serialize)]
struct Report {
    /// Samples of this run, K views each.
    samples: u64,
    rejected: u64,
    views: u64,
    seconds: f64,
    views_per_second: f64,
    /// The whole cache, once every shard is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheReport>,
}

#[derive(Serialize)]
struct CacheReport {
    samples: usize,
    rows: usize,
    rejected: usize,
    bytes: u64,
    bytes_per_view: f64,
}

/// Runs the command.
pub fn run(args: &ExtractArgs) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    let source = open_source(&args.images)
        .with_context(|| format!("cannot list the images in {}", args.images.display()))?;
    let teacher = Teacher::open(&args.teacher)?;
    let runtime = Runtime::load(args.runtime.onnxruntime.as_deref())?;
    let options = ExtractOptions {
        encoder: EncoderOptions {
            device: args.runtime.device.clone(),
            batch: args.batch,
            threads: args.runtime.threads,
        },
        decode_threads: args.decode_threads,
        limits: DecodeLimits::default(),
        ..ExtractOptions::default()
    };
    let mut extractor = Extractor::open(&teacher, &runtime, options)?;
    for warning in extractor.encoder().warnings() {
        eprintln!("warning: {warning}");
    }
    let partition = args.partition.unwrap_or(Partition::WHOLE);
    let shard_samples = extractor.aligned_shard_samples(args.shard_samples, args.views);
    let config = extractor.cache_config(source.as_ref(), &view_plan(args), shard_samples);
    let builder = CacheBuilder::open(&args.output.out, config, existing(args, partition))?;
    let summary = {
        let _progress = Progress::show("extract", "samples");
        extractor.extract(source.as_ref(), &builder, partition, &JOB)?
    };
    let manifest = builder.finalize()?;
    if manifest.is_none() {
        eprintln!(
            "note: other parts of the cache are still to do; the last one to finish writes the manifest"
        );
    }
    for reject in source.rejected() {
        eprintln!("warning: {} was left out of the listing: {}", reject.key, reject.detail);
    }
    let report = report(&summary, manifest.as_ref());
    let exit = exit(args, &summary, manifest.as_ref());
    print_json(&report)?;
    Ok(exit)
}

fn view_plan(args: &ExtractArgs) -> ViewPlan {
    ViewPlan {
        views: args.views,
        center_fraction: args.with_center.then_some(args.center_fraction),
        policy: args.policy,
        seed: args.seed,
    }
}

/// The parts of a shared cache are started by the same command, so finding the folder begun is no surprise to them.
fn existing(args: &ExtractArgs, partition: Partition) -> Existing {
    match args.output.existing() {
        Existing::Refuse if partition.is_shared() => Existing::Resume,
        existing => existing,
    }
}

fn report(summary: &ExtractSummary, manifest: Option<&CacheManifest>) -> Report {
    let seconds = summary.elapsed.as_secs_f64();
    let cache = manifest.map(|manifest| {
        let bytes = manifest.shards.iter().map(|shard| shard.file.bytes).sum();
        CacheReport {
            samples: manifest.samples(),
            rows: manifest.rows,
            rejected: manifest.rejected,
            bytes,
            bytes_per_view: bytes as f64 / manifest.rows.max(1) as f64,
        }
    });
    Report {
        samples: summary.samples,
        rejected: summary.rejected,
        views: summary.views,
        seconds,
        views_per_second: summary.views as f64 / seconds.max(f64::MIN_POSITIVE),
        cache,
    }
}

/// Rejects are judged over the whole cache where it is complete, over this run's samples otherwise.
fn exit(args: &ExtractArgs, summary: &ExtractSummary, manifest: Option<&CacheManifest>) -> Exit {
    let (rejected, samples) = match manifest {
        Some(manifest) => (manifest.rejected as u64, manifest.config.samples as u64),
        None => (summary.rejected, summary.samples + summary.rejected),
    };
    if rejected > 0 {
        eprintln!(
            "note: {rejected} of {samples} samples were rejected; see {}/rejects.jsonl",
            args.output.out.display()
        );
    }
    if rejected as f64 > args.max_rejects * samples as f64 { Exit::Rejects } else { Exit::Done }
}
