//! `lgd extract`: makes a cache from images and a teacher.

mod report;
pub(super) mod space;

use std::path::Path;

use anyhow::{Context, bail};
use lgd_data::cache::{
    CacheBuilder, CacheConfig, CacheManifest, Encoding, Partition, Reject, StoredFormat, TokenRecord,
};
use lgd_data::image::DecodeLimits;
use lgd_data::manifest::Existing;
use lgd_data::source::{CaptionColumn, ImageSource, Rejected, open_with};
use lgd_data::view::{CENTER_FRACTION, CenterCrop};
use lgd_extract::pipeline::{TokenStorage, ViewPlan};
use lgd_extract::teacher::ImageSettings;
use lgd_extract::{EncoderOptions, ExtractOptions, ExtractSummary, Extractor, Teacher};

use super::{kept_variance, print_report, set_threads, source_notes};
use crate::args::{ExtractArgs, PartitionArg, StoreTokens, StoreViews};
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::{say, warn};
use crate::stores;

/// Default number of views that a projection is fitted to.
const FIT_VIEWS: usize = 2048;

/// The inputs of an extraction, opened and checked.
pub(super) struct Inputs {
    pub(super) source: Box<dyn ImageSource>,
    pub(super) extractor: Extractor,
    pub(super) views: ViewPlan,
    pub(super) config: CacheConfig,
    pub(super) partition: Partition,
    pub(super) existing: Existing,
}

/// Opens the inputs of an extraction, and prints what was assumed. The output folder is not touched.
pub(super) fn open_inputs(args: &ExtractArgs) -> anyhow::Result<Inputs> {
    refuse_unread(args)?;
    require_apart(args)?;
    let source = open(args)?;
    let teacher = super::teacher::open(&args.teacher)?;
    let (center, center_source) = center_view(args, &teacher.image()?).unzip();
    let views = view_plan(args, center);
    let extractor = open_extractor(args, &teacher, source.as_ref())?;
    let partition = args.partition.map_or(Ok(Partition::WHOLE), PartitionArg::resolve)?;
    let shard_samples = extractor.aligned_shard_samples(args.shard_samples, args.views);
    let config = extractor.cache_config(source.as_ref(), &views, shard_samples);
    require_caption_width(args, source.as_ref(), &config)?;
    if let Some((crop, origin)) = center.zip(center_source) {
        say(format_args!("view 0: {}, {origin}", crop.describe(config.teacher.size)));
    }
    let existing = existing(args, partition)?;
    Ok(Inputs { source, extractor, views, config, partition, existing })
}

/// Makes what the output folder lacks, and prints a summary. The manifest is `None` if other parts are not complete.
pub(super) fn make(args: &ExtractArgs) -> anyhow::Result<(ExtractSummary, Option<CacheManifest>)> {
    let Inputs { source, mut extractor, config, partition, existing, .. } = open_inputs(args)?;
    let stored = extractor.estimate_stored(source.as_ref(), &config, partition);
    space::announce(&config, stored.as_ref(), partition, existing, args.tokens_limit, &args.output.out)?;
    let builder = CacheBuilder::open_part(&args.output.out, config, existing, partition)?
        .with_left_aside(source.listing().left_aside.clone());
    // Finished shards are hashed here, before the encoder runs.
    builder.missing_shards(partition)?;
    for damage in builder.damage() {
        say(format_args!("note: damaged, and made again: {damage}"));
    }
    let summary = {
        let _progress = Progress::show("extract", "samples");
        extractor.extract(source.as_ref(), &builder, partition, &JOB)?
    };
    let listed: Vec<Reject> = source.listing().rejected.iter().map(listed_reject).collect();
    let manifest = builder.finalize(&listed)?;
    summarize(&summary, manifest.as_ref(), args);
    if manifest.is_none() {
        say("note: other parts of the cache are not complete; the last one writes the manifest");
    }
    Ok((summary, manifest))
}

/// Runs `lgd extract`.
pub fn run(args: &ExtractArgs) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    let (summary, manifest) = make(args)?;
    print_report(&args.report, &report::report(&summary, manifest.as_ref()))?;
    if let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.rows == 0) {
        let rejects = args.output.out.join("rejects.jsonl");
        bail!(
            "{}: none of the {} samples can be used{}\nhint: {} has the reason for each",
            args.images.display(),
            manifest.config.samples,
            first_reject(&rejects).map(|first| format!("; the first is {first}")).unwrap_or_default(),
            rejects.display(),
        );
    }
    Ok(exit(args, &summary, manifest.as_ref()))
}

/// The key and the reason of the first row of `rejects.jsonl`.
pub(super) fn first_reject(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let reject: serde_json::Value = serde_json::from_str(text.lines().next()?).ok()?;
    Some(format!("{}: {}", reject["key"].as_str()?, reject["detail"].as_str()?))
}

/// Lists the images, with their captions if those are to be cached.
fn open(args: &ExtractArgs) -> anyhow::Result<Box<dyn ImageSource>> {
    let captions = if args.captions { CaptionColumn::Read } else { CaptionColumn::Ignore };
    let source = open_with(&args.images, captions, &args.fields.names(args.caption_field.as_deref()))
        .with_context(|| format!("cannot list the images in {}", args.images.display()))?;
    if source.listing().ignores_captions {
        say(format_args!(
            "note: the captions in {} are not cached without --captions",
            args.images.display()
        ));
    }
    source_notes(&args.images, source.listing());
    Ok(source)
}

/// Fails for a setting of projected tokens without projected tokens: it would silently have no effect.
fn refuse_unread(args: &ExtractArgs) -> anyhow::Result<()> {
    if args.tokens_fit_views.is_some() && !matches!(args.tokens, Some(StoreTokens::Svd(_))) {
        bail!(
            "--tokens-fit-views has no effect without --tokens svd:DIM\nhint: leave it out, or give --tokens svd:DIM"
        );
    }
    Ok(())
}

/// Opens the teacher's encoders for all outputs to be cached.
fn open_extractor(
    args: &ExtractArgs,
    teacher: &Teacher,
    source: &dyn ImageSource,
) -> anyhow::Result<Extractor> {
    let runtime = super::runtime(args.runtime.onnxruntime.as_deref())?;
    let options = ExtractOptions {
        encoder: EncoderOptions {
            device: args.runtime.device.clone(),
            batch: args.batch,
            threads: args.runtime.threads,
        },
        decode_threads: if args.decode_threads == 0 { args.runtime.threads } else { args.decode_threads },
        limits: DecodeLimits::default(),
        resample: args.resample,
        features: args.features,
        rewrite_details: Some(stores::shown),
        tokens: args.tokens.map(|tokens| match tokens {
            StoreTokens::F16 => TokenStorage::F16,
            StoreTokens::Int8 => TokenStorage::Int8,
            StoreTokens::Svd(dim) => {
                TokenStorage::Projected { dim, fit_views: args.tokens_fit_views.unwrap_or(FIT_VIEWS) }
            }
        }),
        ..ExtractOptions::default()
    };
    let extractor = Extractor::open(teacher, &runtime, options)?;
    for warning in extractor.encoder().warnings() {
        warn(format_args!("warning: {warning}"));
    }
    if !args.captions {
        return Ok(extractor);
    }
    let extractor = extractor.with_captions(teacher, &runtime, source)?;
    for note in extractor.caption_notes() {
        say(format_args!("note: {note}"));
    }
    Ok(extractor)
}

/// Fails if captions and the teacher's embeddings differ in width: no objective could compare them.
fn require_caption_width(
    args: &ExtractArgs,
    source: &dyn ImageSource,
    config: &CacheConfig,
) -> anyhow::Result<()> {
    let Some(captions) = config.captions.as_ref().filter(|captions| captions.dim != config.dim) else {
        return Ok(());
    };
    let (expected, got) = (config.dim, captions.dim);
    if captions.text_encoder.is_some() {
        bail!(
            "{}: the text encoder gives {got} values, the image encoder {expected}\nhint: leave out --captions, or use a teacher whose \
             text encoder shares the image encoder's space",
            args.teacher.display()
        );
    }
    let line = source.listing().first_line.map(|line| format!(", line {line}")).unwrap_or_default();
    bail!(
        "{}{line}: expected a caption_embedding of {expected} numbers, as the teacher's embeddings have, got {got}\nhint: embed the \
         captions with the teacher's text encoder, or give texts in a column caption",
        args.images.display()
    )
}

fn summarize(summary: &ExtractSummary, manifest: Option<&CacheManifest>, args: &ExtractArgs) {
    let seconds = summary.elapsed.as_secs_f64();
    say(format_args!(
        "extract: {} samples x {} views in {seconds:.1} s, {:.1} views/s, {} rejected; {}",
        summary.samples,
        args.views,
        summary.views as f64 / seconds.max(f64::MIN_POSITIVE),
        summary.rejected,
        args.output.out.display(),
    ));
    let projected = manifest.and_then(|all| kept_variance(all).zip(all.config.tokens.as_ref()));
    if let Some((kept, TokenRecord { dim, teacher_dim, .. })) = projected {
        say(format_args!("tokens: {dim} of {teacher_dim} values keep {kept}"));
    }
    if summary.cut_captions > 0 {
        say(format_args!(
            "note: {} captions are longer than the text encoder's context and are cut\nhint: shorten them, or, if the model takes \
             more tokens, set context_length in teacher.toml",
            summary.cut_captions
        ));
    }
    if summary.transparent > 0 {
        say(format_args!(
            "note: {} of {} images have transparent pixels; alpha is dropped, and the stored colors are used",
            summary.transparent,
            summary.samples + summary.rejected
        ));
    }
}

/// Fails if the output folder is inside the images: the next run would list the cache's files as images.
fn require_apart(args: &ExtractArgs) -> anyhow::Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute(&args.output.out).starts_with(absolute(&args.images)) {
        bail!(
            "{}: the output folder is in the folder of images, and a later run would list its files\nhint: give --out outside {}",
            args.output.out.display(),
            args.images.display()
        );
    }
    Ok(())
}

/// Converts an entry that could not be listed to a reject of the cache.
fn listed_reject(entry: &Rejected) -> Reject {
    Reject { key: entry.key.clone(), reason: entry.reason.to_owned(), detail: stores::shown(&entry.detail) }
}

fn view_plan(args: &ExtractArgs, center: Option<CenterCrop>) -> ViewPlan {
    ViewPlan {
        views: args.views,
        center,
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

/// The crop of view 0 with its origin, in words; `None` without `--with-center`. `--center-fraction` replaces the
/// fraction alone: resize and offset remain the teacher's.
fn center_view(args: &ExtractArgs, image: &ImageSettings) -> Option<(CenterCrop, String)> {
    let origin = || image.center_source.clone().unwrap_or_else(|| "the teacher's files".to_owned());
    args.with_center.then(|| match (args.center_fraction, image.center) {
        (Some(fraction), crop) => {
            (CenterCrop { fraction, ..crop.unwrap_or_default() }, "--center-fraction".to_owned())
        }
        (None, Some(crop)) => (crop, origin()),
        (None, None) => (CenterCrop::default(), format!("assumed {CENTER_FRACTION}")),
    })
}

/// The policy for the output folder. All parts of a shared cache run the same command, and a scheduler starts a task again, so
/// a started cache is expected.
fn existing(args: &ExtractArgs, partition: Partition) -> anyhow::Result<Existing> {
    let shared = partition.is_shared() || matches!(args.partition, Some(PartitionArg::Auto(_)));
    Ok(match args.output.existing() {
        Existing::Refuse if shared => Existing::Resume,
        Existing::Overwrite if shared => {
            bail!(
                "--overwrite with --partition would delete the shards of other parts\nhint: delete the old cache once, before the parts \
                 start"
            )
        }
        existing => existing,
    })
}

/// The exit code. The share of rejects is that of the whole cache if it is complete, else that of this run.
fn exit(args: &ExtractArgs, summary: &ExtractSummary, manifest: Option<&CacheManifest>) -> Exit {
    let (rejected, samples) = match manifest {
        Some(manifest) => (manifest.rejected as u64, (manifest.samples() + manifest.rejected) as u64),
        None => (summary.rejected, summary.samples + summary.rejected),
    };
    // The list of rejects is written with the manifest.
    let list = args.output.out.join("rejects.jsonl");
    let list = manifest.map(|_| format!("; see {}", list.display())).unwrap_or_default();
    if rejected > 0 {
        say(format_args!("note: {rejected} of {samples} samples were rejected{list}"));
    }
    if rejected as f64 > args.max_rejects * samples as f64 { Exit::Rejects } else { Exit::Done }
}
