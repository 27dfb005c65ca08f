//! `lgd train`: trains a student from a cache and the inputs of its objectives.

use std::path::PathBuf;

use anyhow::{Context, bail};
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::Verify;
use lgd_data::source::{CaptionColumn, open_with};
use lgd_train::loader::labels::Labels;
use lgd_train::loader::origin::{Originals, StoredUse, ViewOrigin};
use lgd_train::objective::ObjectiveKind;
use lgd_train::optim::Unit;
use lgd_train::run::{MetricsKind, MetricsLine, RunError, TrainConfig};
use lgd_train::trainer::{LoopSettings, TrainInputs, TrainReport, train};

use super::objectives::settings;
use super::report::{RunInputs, write_after_training};
use super::{print_json, set_threads, threads_or_all};
use crate::args::TrainArgs;
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Most classes that a note lists.
const CLASSES_SHOWN: usize = 10;

/// Runs `lgd train`.
pub fn run(args: &TrainArgs) -> anyhow::Result<Exit> {
    set_threads(args.threads)?;
    let config = config(args)?;
    config.validate()?;
    let cache = Cache::open(&args.cache, Verify::Full)?;
    let banks = Banks::open(&args.bank)?;
    let origin = ViewOrigin::of(&cache.manifest().config, config.size, config.stored_views);
    note(&origin, &config);
    note_untrained(&config, &cache)?;
    // Images that are never opened are not listed, since listing millions of them takes time.
    let images = args.images.as_deref().filter(|_| origin.stored().is_none());
    let source = images.map(|path| {
        let source = open_with(path, CaptionColumn::Ignore, &cache.manifest().config.fields);
        source.with_context(|| format!("cannot list the images in {}", path.display()))
    });
    let source = source.transpose()?;
    let originals = source.as_deref().zip(images).map(|(source, path)| Originals { source, path });
    let inputs =
        TrainInputs { cache: &cache, bank: banks.names.as_ref(), kdep: banks.kdep.as_ref(), originals };
    let settings = LoopSettings {
        existing: args.output.existing(),
        checkpoint_steps: args.checkpoint_steps,
        threads: threads_or_all(args.threads),
        device: args.device.open()?,
        initialized: |path, loaded| say(format_args!("initial weights {}: {loaded}", path.display())),
        ..LoopSettings::default()
    };
    let report = {
        let _progress = Progress::show("train", "steps");
        train(&config, &settings, &inputs, &args.output.out, &JOB, &mut |line| {
            if line.kind == MetricsKind::Epoch {
                show_epoch(line, args.epochs);
            }
        })?
    };
    summarize(&report, args);
    write_after_training(
        &args.output.out,
        &RunInputs::of_training(&args.cache, &args.bank, args.images.as_deref()),
    );
    print_json(&report)?;
    Ok(Exit::Done)
}

/// Prints the classes that a classifier cannot learn, because no sample has them.
fn note_untrained(config: &TrainConfig, cache: &Cache) -> anyhow::Result<()> {
    if !config.objective.contain(ObjectiveKind::Supervised) {
        return Ok(());
    }
    let labels = Labels::read(cache).map_err(RunError::from)?;
    let untrained = labels.classes().untrained_words();
    if !untrained.is_empty() {
        let (count, names) = (untrained.len(), untrained.iter().take(CLASSES_SHOWN).cloned());
        let names: Vec<String> = names.collect();
        let more = if count > CLASSES_SHOWN { ", …" } else { "" };
        say(format_args!(
            "note: {count} classes have no sample, so the student cannot learn them: {}{more}",
            names.join(", ")
        ));
    }
    Ok(())
}

/// Prints consequences of the flags that are easy to miss: the source of views, the masks in a sum with `hgkd`, and
/// the smaller contrast of `caption` with batch parts.
fn note(origin: &ViewOrigin, config: &TrainConfig) {
    say(format_args!("note: {origin}"));
    let TrainConfig { objective, batch_parts, batch, .. } = config;
    if objective.contain(ObjectiveKind::Hgkd) && objective.kinds().count() > 1 {
        say("note: hgkd hides part of each view, from the other objectives too");
    }
    if *batch_parts > 1 && objective.contain(ObjectiveKind::Caption) {
        let part = batch / batch_parts;
        say(format_args!(
            "note: with --batch-parts {batch_parts} the objective caption contrasts {part} images at a time, not {batch}"
        ));
    }
}

/// The banks of `--bank`, by kind.
#[derive(Default)]
struct Banks {
    names: Option<Bank>,
    kdep: Option<KdepBank>,
}

impl Banks {
    fn open(dirs: &[PathBuf]) -> anyhow::Result<Self> {
        let mut banks = Self::default();
        for dir in dirs {
            let (kind, earlier) = if KdepBank::is_kdep(dir) {
                ("KDEP bank", banks.kdep.replace(KdepBank::open(dir, Verify::Full)?).is_some())
            } else {
                ("bank of names", banks.names.replace(Bank::open(dir, Verify::Full)?).is_some())
            };
            if earlier {
                bail!("{} is a second {kind}\nhint: --bank takes one bank of each kind", dir.display());
            }
        }
        Ok(banks)
    }
}

/// The paper's settings, overridden by those given on the command line.
fn config(args: &TrainArgs) -> anyhow::Result<TrainConfig> {
    let mut config = TrainConfig::new(args.student, args.size, args.epochs, args.batch, args.seed);
    if let Some(lr) = args.lr {
        config.base_lr = lr;
        config.start_lr = TrainConfig::default_start_lr(lr);
    } else {
        args.optimizer.require_default_lr()?;
    }
    config.start_lr = args.start_lr.unwrap_or(config.start_lr);
    if let Some(warmup) = args.warmup_epochs {
        config.warmup_epochs = warmup;
    }
    if args.start_lr.is_some() && config.warmup_epochs == 0 {
        bail!(
            "--start-lr is where the warm-up starts, which takes 0 epochs\nhint: leave it out, or give --warmup-epochs"
        );
    }
    config.schedule = args.schedule()?;
    config.lr_unit = if args.lr_per_step { Unit::Step } else { Unit::Epoch };
    config.optimizer = args.optimizer.settings()?;
    config.batch_parts = args.batch_parts;
    config.objective.clone_from(&args.objective.objective);
    config.objective_settings = settings(&args.objective)?;
    config.init.clone_from(&args.init);
    config.stored_views = if args.ignore_stored_views { StoredUse::Ignored } else { StoredUse::Fitting };
    Ok(config)
}

fn show_epoch(line: &MetricsLine, epochs: u32) {
    let parts: Vec<String> = line.parts.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    say(format_args!(
        "epoch {}/{epochs}: loss {:.4} ({}), lr {:.4}, {:.1} images/s, waiting for data {:.1}% of the time",
        line.epoch + 1,
        line.loss,
        parts.join(", "),
        line.lr,
        line.images_per_second,
        100.0 * line.data_wait
    ));
}

fn summarize(report: &TrainReport, args: &TrainArgs) {
    let before = report.resumed_from.unwrap_or(0);
    let resumed = if before > 0 { format!(" after the {before} of an earlier run") } else { String::new() };
    say(format_args!(
        "train: {} steps{resumed} in {:.1} s, {:.1} images/s, waiting for data {:.1}% of the time; {}",
        report.steps.saturating_sub(before),
        report.seconds,
        report.images_per_second,
        100.0 * report.data_wait,
        args.output.out.display(),
    ));
}
