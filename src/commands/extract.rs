//! `lgd extract`: images and a teacher to a cache.

use std::path::Path;

use anyhow::{Context, bail};
use indicatif::DecimalBytes;
use lgd_data::cache::{CacheBuilder, CacheManifest, Encoding, Existing, Partition, Reject, StoredFormat};
use lgd_data::image::DecodeLimits;
use lgd_data::source::{Rejected, open_source};
use lgd_extract::pipeline::{StoredEstimate, ViewPlan};
use lgd_extract::{EncoderOptions, ExtractOptions, ExtractSummary, Extractor, Runtime, Teacher};
use serde::Serialize;

use super::{print_json, set_threads};
use crate::args::{ExtractArgs, StoreViews};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_views: Option<StoredReport>,
}

#[derive(Serialize)]
struct StoredReport {
    #[serde(flatten)]
    format: StoredFormat,
    bytes: u64,
    bytes_per_view: f64,
}

/// Runs the command.
pub fn run(args: &ExtractArgs) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    require_apart(args)?;
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
        decode_threads: if args.decode_threads == 0 { args.runtime.threads } else { args.decode_threads },
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
    if let Some((format, stored)) =
        config.stored_views.zip(extractor.estimate_stored(source.as_ref(), &config, partition))
    {
        announce(format, &stored, &args.output.out)?;
    }
    let builder = CacheBuilder::open(&args.output.out, config, existing(args, partition)?)?;
    let summary = {
        let _progress = Progress::show("extract", "samples");
        extractor.extract(source.as_ref(), &builder, partition, &JOB)?
    };
    let listed: Vec<Reject> = source.rejected().iter().map(listed_reject).collect();
    let manifest = builder.finalize(&listed)?;
    summarise(&summary, args);
    if manifest.is_none() {
        eprintln!(
            "note: other parts of the cache are still to do; the last one to finish writes the manifest"
        );
    }
    let report = report(&summary, manifest.as_ref());
    print_json(&report)?;
    if let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.rows == 0) {
        let rejects = args.output.out.join("rejects.jsonl");
        bail!(
            "{}: not one of the {} samples can be used\nhint: {} says why; a list is comma-separated, path[,label]",
            args.images.display(),
            manifest.config.samples,
            rejects.display(),
        );
    }
    Ok(exit(args, &summary, manifest.as_ref()))
}

/// States what the stored views will take, and refuses where the disk has less than that.
fn announce(format: StoredFormat, stored: &StoredEstimate, out: &Path) -> anyhow::Result<()> {
    let about = if stored.exact { "" } else { "about " };
    let (views, each, all) = (stored.views, stored.bytes_per_view, DecimalBytes(stored.bytes()));
    let free = free_bytes(out);
    let room = free.map(|free| format!("; the disk has {} free", DecimalBytes(free))).unwrap_or_default();
    eprintln!("stored views ({format}): {views} x {about}{each} bytes = {about}{all}{room}");
    // What an earlier run has stored is both among the bytes and no longer free.
    match free {
        Some(free) if stored.bytes() > free.saturating_add(already_stored(out)) => bail!(
            "the stored views need {about}{all}, {} has {} free\nhint: make room, or give a smaller --store-size or --store-views jpeg",
            out.display(),
            DecimalBytes(free)
        ),
        _ => Ok(()),
    }
}

/// Bytes of the stored views that the folder holds already.
fn already_stored(out: &Path) -> u64 {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let stored = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pixels-"));
    stored.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Bytes that may be written to the disk of `out`, a folder that need not exist yet; `None` where the system does not tell.
#[cfg(unix)]
fn free_bytes(out: &Path) -> Option<u64> {
    let absolute = std::path::absolute(out).ok()?;
    let stat = absolute.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes that may be written to the disk of `out`; `None` where the system does not tell.
#[cfg(not(unix))]
fn free_bytes(_out: &Path) -> Option<u64> {
    None
}

fn summarise(summary: &ExtractSummary, args: &ExtractArgs) {
    let seconds = summary.elapsed.as_secs_f64();
    eprintln!(
        "extract: {} samples x {} views in {seconds:.1} s, {:.1} views/s, {} rejected; {}",
        summary.samples,
        args.views,
        summary.views as f64 / seconds.max(f64::MIN_POSITIVE),
        summary.rejected,
        args.output.out.display(),
    );
}

/// Refuses an output folder inside the images: the cache's files would be listed as images the next time.
fn require_apart(args: &ExtractArgs) -> anyhow::Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute(&args.output.out).starts_with(absolute(&args.images)) {
        bail!(
            "{} lies in the images\nhint: give an output folder outside {}",
            args.output.out.display(),
            args.images.display()
        );
    }
    Ok(())
}

/// An entry that could not be listed is a reject like any other.
fn listed_reject(entry: &Rejected) -> Reject {
    Reject { key: entry.key.clone(), reason: entry.reason.to_owned(), detail: entry.detail.clone() }
}

fn view_plan(args: &ExtractArgs) -> ViewPlan {
    ViewPlan {
        views: args.views,
        center_fraction: args.with_center.then_some(args.center_fraction),
        policy: args.policy,
        seed: args.seed,
        stored: args.store_views.map(|encoding| StoredFormat {
            size: args.store_size,
            encoding: match encoding {
                StoreViews::Raw => Encoding::Raw,
                StoreViews::Jpeg => Encoding::Jpeg { quality: args.store_quality },
            },
        }),
    }
}

/// The parts of a shared cache are started by the same command, so finding the folder begun is no surprise to them.
fn existing(args: &ExtractArgs, partition: Partition) -> anyhow::Result<Existing> {
    Ok(match args.output.existing() {
        Existing::Refuse if partition.is_shared() => Existing::Resume,
        Existing::Overwrite if partition.is_shared() => {
            bail!(
                "--overwrite would delete what the other parts have done\nhint: delete the old cache once, before the parts start"
            )
        }
        existing => existing,
    })
}

fn report(summary: &ExtractSummary, manifest: Option<&CacheManifest>) -> Report {
    let seconds = summary.elapsed.as_secs_f64();
    let cache = manifest.map(|manifest| {
        let (bytes, stored) = manifest.bytes();
        let per_view = |bytes: u64| bytes as f64 / manifest.rows.max(1) as f64;
        let stored_report = |format| StoredReport { format, bytes: stored, bytes_per_view: per_view(stored) };
        CacheReport {
            samples: manifest.samples(),
            rows: manifest.rows,
            rejected: manifest.rejected,
            bytes,
            bytes_per_view: per_view(bytes),
            stored_views: manifest.config.stored_views.map(stored_report),
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
        Some(manifest) => (manifest.rejected as u64, (manifest.samples() + manifest.rejected) as u64),
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
