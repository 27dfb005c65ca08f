//! `lgd train`: trains a student from a cache and the inputs of its objectives.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::Verify;
use lgd_data::source::{CaptionColumn, ImageSource, open_with};
use lgd_train::loader::labels::Labels;
use lgd_train::loader::origin::{Originals, StoredUse, ViewOrigin};
use lgd_train::objective::ObjectiveKind;
use lgd_train::optim::Unit;
use lgd_train::run::{MetricsKind, MetricsLine, RunError, TrainConfig};
use lgd_train::trainer::{LoopSettings, TrainInputs, TrainReport, Validation, Watch, train};

use super::objectives::settings;
use super::report::{RunInputs, write_after_training};
use super::{print_report, set_threads, threads_or_all};
use crate::args::TrainArgs;
use crate::exit::Exit;
use crate::progress::{JOB, Progress, time_left};
use crate::say::say;
use crate::stores;

/// Images per step if neither `--batch` nor the number of samples says otherwise.
const DEFAULT_BATCH: usize = 256;

/// The flag of the queue's length.
const QUEUE: &str = "--queue";

/// Most classes that a note lists.
const CLASSES_SHOWN: usize = 10;

/// The inputs of a training, opened.
pub(super) struct Opened<'a> {
    pub(super) config: TrainConfig,
    pub(super) cache: Cache,
    pub(super) banks: Banks,
    val_banks: Vec<Bank>,
    images: Shown<'a>,
    validation: Option<(Cache, Shown<'a>)>,
}

impl<'a> Opened<'a> {
    /// Checks the flags, opens the inputs and prints what is easy to miss.
    pub(super) fn open(args: &'a TrainArgs) -> anyhow::Result<Self> {
        set_threads(args.threads)?;
        args.require_held_out()?;
        // Wrong flags are found before the cache is read, which takes time.
        config(args, args.batch.unwrap_or(DEFAULT_BATCH))?.validate()?;
        let cache = Cache::open(&args.cache, Verify::Full)?;
        let samples = cache.manifest().samples();
        let mut config = config(args, batch_for(args, samples))?;
        config.objective_settings.shared.queue = queue_for(args, samples);
        config.validate()?;
        let banks = Banks::open(&args.bank)?;
        let val_banks = args.val_bank.iter().map(|dir| Bank::open(dir, Verify::Full));
        let val_banks = val_banks.collect::<Result<Vec<Bank>, _>>()?;
        note(&ViewOrigin::of(&cache.manifest().config, config.size, config.stored_views), &config);
        note_steps(&config, samples);
        note_untrained(&config, &cache)?;
        let images = Shown::open(&cache, args.images.as_deref(), &config)?;
        let validation = |dir| {
            let cache = Cache::open(dir, Verify::Full)?;
            let images = Shown::open(&cache, args.val_images.as_deref(), &config)?;
            anyhow::Ok((cache, images))
        };
        let validation = args.val_cache.as_deref().map(validation).transpose()?;
        Ok(Self { config, cache, banks, val_banks, images, validation })
    }

    pub(super) fn inputs(&self) -> TrainInputs<'_> {
        let validation = self.validation.as_ref();
        TrainInputs {
            cache: &self.cache,
            bank: self.banks.names.as_ref(),
            kdep: self.banks.kdep.as_ref(),
            originals: self.images.originals(),
            watch: Watch {
                banks: &self.val_banks,
                validation: validation
                    .map(|(cache, images)| Validation { cache, originals: images.originals() }),
            },
        }
    }
}

/// The settings of the training call.
pub(super) fn loop_settings(args: &TrainArgs) -> anyhow::Result<LoopSettings> {
    Ok(LoopSettings {
        existing: args.output.existing(),
        checkpoint_steps: args.checkpoint_steps,
        keep_checkpoints: args.keep_checkpoints,
        threads: threads_or_all(args.threads),
        device: args.device.open()?,
        noted: |text| say(format_args!("note: {text}")),
        recorded: stores::recorded,
        initialized: |path, loaded| say(format_args!("initial weights {}: {loaded}", path.display())),
        ..LoopSettings::default()
    })
}

/// Runs `lgd train`.
pub fn run(args: &TrainArgs) -> anyhow::Result<Exit> {
    let opened = Opened::open(args)?;
    let settings = loop_settings(args)?;
    let report = {
        let _progress = Progress::show("train", "steps");
        train(&opened.config, &settings, &opened.inputs(), &args.output.out, &JOB, &mut |line| {
            if line.kind == MetricsKind::Epoch {
                say(epoch_line(line, args.epochs, &time_left()));
            }
        })?
    };
    summarize(&report, args);
    let written = RunInputs::of_training(&args.cache, &args.bank, args.images.as_deref());
    write_after_training(&args.output.out, &written);
    print_report(&args.report, &report)?;
    Ok(Exit::Done)
}

/// The batch: as given, or [`DEFAULT_BATCH`], but at most a quarter of the samples, so that an epoch of a small data set
/// has several steps. A smaller batch still has whole parts of at least two images.
fn batch_for(args: &TrainArgs, samples: usize) -> usize {
    let (quarter, parts) = (samples / 4, args.batch_parts);
    match args.batch {
        Some(batch) => batch,
        None if quarter >= DEFAULT_BATCH => DEFAULT_BATCH,
        None => (quarter / parts).max(2) * parts,
    }
}

/// The queue: as given, or the default, but at most a quarter of the samples, so that an entry is rarely one of the batch's
/// own samples. Objectives without a queue keep the default.
fn queue_for(args: &TrainArgs, samples: usize) -> usize {
    let queue = args.objective.settings.shared.queue;
    let reads = args.objective.objective.kinds().any(|kind| kind.spec().flags.contains(&QUEUE));
    if !reads || args.objective.typed.iter().any(|flag| flag == QUEUE) {
        return queue;
    }
    queue.min((samples / 4).max(1))
}

/// Prints the steps of an epoch and the samples that each epoch drops, and whether the batch is large for so few samples.
fn note_steps(config: &TrainConfig, samples: usize) {
    let batch = config.batch;
    let samples = samples - config.holdout.map_or(0, |holdout| holdout.count(samples));
    let (steps, dropped) = (samples / batch, samples % batch);
    // Runs without epochs or with a batch above the samples take no step; the latter fail with the reason.
    if config.epochs == 0 || steps == 0 {
        return;
    }
    let of_each = if dropped > 0 { ", others each time" } else { "" };
    say(format_args!(
        "note: an epoch has {steps} steps of {batch} images; it drops {dropped} of {samples} samples{of_each}"
    ));
    if batch > samples / 4 {
        say(
            "note: the batch is more than a quarter of the samples; a smaller --batch takes more steps per epoch",
        );
    }
}

/// The images of a cache, unless its stored views are shown. Images that are never opened are not listed, since listing
/// millions of them takes time.
struct Shown<'a>(Option<(Box<dyn ImageSource>, &'a Path)>);

impl<'a> Shown<'a> {
    fn open(cache: &Cache, images: Option<&'a Path>, config: &TrainConfig) -> anyhow::Result<Self> {
        let origin = ViewOrigin::of(&cache.manifest().config, config.size, config.stored_views);
        let images = images.filter(|_| origin.stored().is_none());
        let source = images.map(|path| {
            let source = open_with(path, CaptionColumn::Ignore, &cache.manifest().config.fields);
            let source = source.with_context(|| format!("cannot list the images in {}", path.display()));
            source.map(|source| (source, path))
        });
        Ok(Self(source.transpose()?))
    }

    fn originals(&self) -> Option<Originals<'_>> {
        self.0.as_ref().map(|(source, path)| Originals { source: source.as_ref(), path })
    }
}

/// Prints the classes that a classifier cannot learn, because no sample that is trained on has them.
fn note_untrained(config: &TrainConfig, cache: &Cache) -> anyhow::Result<()> {
    if !config.objective.contain(ObjectiveKind::Supervised) {
        return Ok(());
    }
    let labels = Labels::read(cache, config.holdout).map_err(RunError::from)?;
    let untrained = labels.classes().untrained_words();
    if !untrained.is_empty() {
        let (count, names) = (untrained.len(), untrained.iter().take(CLASSES_SHOWN).cloned());
        let names: Vec<String> = names.collect();
        let more = if count > CLASSES_SHOWN { ", …" } else { "" };
        say(format_args!(
            "note: {count} classes have no sample to train on, so the student cannot learn them: {}{more}",
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
pub(super) struct Banks {
    pub(super) names: Option<Bank>,
    pub(super) kdep: Option<KdepBank>,
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

/// The paper's settings for this batch, overridden by those given on the command line.
fn config(args: &TrainArgs, batch: usize) -> anyhow::Result<TrainConfig> {
    let mut config = TrainConfig::new(args.student, args.size, args.epochs, batch, args.seed);
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
    (config.holdout, config.patience) = (args.holdout, args.patience);
    config.stored_views = if args.ignore_stored_views { StoredUse::Ignored } else { StoredUse::Fitting };
    Ok(config)
}

/// Widest line that fits a terminal of the usual width.
const COLUMNS: usize = 80;

/// An epoch in one line, `left` being the time that the run still takes.
fn epoch_line(line: &MetricsLine, epochs: u32, left: &str) -> String {
    let digits = if line.loss < 10.0 { 3 } else { 2 };
    let mut parts =
        vec![format!("epoch {}/{epochs}", line.epoch + 1), format!("loss {:.digits$}", line.loss)];
    if let Some(figures) = &line.holdout {
        parts.extend(figures.cosine.map(|cosine| format!("cos {cosine:.3}")));
        let percent = figures.agreement.first().map(|bank| ("agree", bank.percent));
        let percent = percent.or(figures.labels.map(|percent| ("right", percent)));
        let percent = percent.or(figures.knn.map(|percent| ("knn", percent)));
        parts.extend(percent.map(|(name, percent)| format!("{name} {percent:.1}%")));
    }
    parts.push(format!("{:.0} img/s", line.images_per_second));
    parts.push(format!("wait {:.0}%", 100.0 * line.data_wait));
    parts.push(format!("eta {left}"));
    let text = parts.join("  ");
    if text.len() > COLUMNS { parts.join(" ") } else { text }
}

fn summarize(report: &TrainReport, args: &TrainArgs) {
    let before = report.resumed_from.unwrap_or(0);
    let resumed = if before > 0 { format!(" after the {before} of an earlier run") } else { String::new() };
    let held_out = match report.holdout_seconds {
        seconds if seconds > 0.0 => {
            format!(", evaluating held-out samples {:.1}%", 100.0 * seconds / report.seconds)
        }
        _ => String::new(),
    };
    say(format_args!(
        "train: {} steps{resumed} in {:.1} s, {:.1} images/s, waiting for data {:.1}% of the time{held_out}; {}",
        report.steps.saturating_sub(before),
        report.seconds,
        report.images_per_second,
        100.0 * report.data_wait,
        args.output.out.display(),
    ));
    if let Some(epochs) = report.stopped_after {
        let patience = args.patience.unwrap_or_default();
        say(format_args!("stopped after epoch {epochs}: no better held-out score in {patience} epochs"));
    }
    if let Some(best) = &report.best {
        say(format_args!("best: epoch {}, held-out {}", best.epoch + 1, best.score.describe(best.value)));
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use lgd_train::run::{BankPercent, HoldoutFigures};

    use super::*;
    use crate::args::{Args, Command};

    fn line(epoch: u32, images_per_second: f64, holdout: Option<HoldoutFigures>) -> MetricsLine {
        MetricsLine {
            kind: MetricsKind::Epoch,
            epoch,
            step: 0,
            time: None,
            lr: 0.1,
            loss: 5.15171,
            parts: Default::default(),
            images_per_second,
            data_wait: 0.123,
            holdout,
        }
    }

    #[test]
    fn an_epoch_fits_a_line_of_a_terminal() {
        let text = epoch_line(&line(1, 470.4, None), 20, "3m");
        assert_eq!(text, "epoch 2/20  loss 5.152  470 img/s  wait 12%  eta 3m");
        let figures = |cosine: f64, percent: f64| {
            let agreement = vec![BankPercent { bank: "names".to_owned(), percent }];
            Some(HoldoutFigures { cosine: Some(cosine), agreement, ..HoldoutFigures::default() })
        };
        let text = epoch_line(&line(19, 1470.4, figures(0.4123, 61.34)), 200, "12m");
        assert_eq!(text, "epoch 20/200  loss 5.152  cos 0.412  agree 61.3%  1470 img/s  wait 12%  eta 12m");
        let widest =
            MetricsLine { loss: 12.3456, data_wait: 1.0, ..line(999, 12_345.0, figures(-0.5, 100.0)) };
        let text = epoch_line(&widest, 1000, "99h");
        assert_eq!(text.len(), COLUMNS, "{text}");
    }

    #[test]
    fn the_default_batch_is_at_most_a_quarter_of_the_samples_in_whole_parts() {
        let batch = |words: &[&str], samples| {
            let line = ["lgd", "train", "--cache", "c", "--out", "o"].iter().chain(words);
            let Command::Train(args) = Args::try_parse_from(line).unwrap().command else {
                panic!("train is not train")
            };
            batch_for(&args, samples)
        };
        let by_samples = [(5, 2), (300, 75), (1023, 255), (1024, 256), (1_000_000, 256)];
        for (samples, expected) in by_samples {
            assert_eq!(batch(&[], samples), expected, "{samples} samples");
        }
        assert_eq!(batch(&["--batch-parts", "2"], 300), 74);
        assert_eq!(batch(&["--batch-parts", "2"], 5), 4, "a part has at least two images");
        assert_eq!(batch(&["--batch", "64"], 100), 64, "a given batch is kept");
    }

    /// The published settings, resolved: docs/methods.md sections 1, 2 and 4.
    #[test]
    fn recipes_resolve_to_the_published_settings() {
        use lgd_train::objective::{ObjectiveSettings, QueueFill, VisualMode};
        use lgd_train::optim::{CosineFrom, ScheduleKind};
        use lgd_train::student::Architecture::{MobileNetV2, ResNet18};

        let resolved = |words: &str| {
            let mut root = Args::command();
            root.build();
            let line = format!("lgd train --cache c --out o {words}");
            let words = crate::config_file::expand(&root, line.split(' ').map(Into::into).collect()).unwrap();
            let Command::Train(args) = Args::try_parse_from(words).unwrap().command else {
                panic!("train is not train")
            };
            config(&args, args.batch.unwrap()).unwrap()
        };
        let mut lgd = TrainConfig::new(ResNet18, 224, 200, 2048, 0);
        (lgd.base_lr, lgd.start_lr, lgd.warmup_epochs, lgd.batch_parts) = (0.03 * 8.0, 0.03, 5, 8);
        lgd.schedule = ScheduleKind::Cosine { from: CosineFrom::Start };
        lgd.objective_settings.lgd.vsb = VisualMode::Ema;
        assert_eq!(resolved("--recipe lgd"), lgd);
        assert_eq!(resolved("--recipe lgd-90"), TrainConfig { epochs: 90, ..lgd.clone() });
        let flat = resolved("--recipe lgd --batch 256");
        assert_eq!((flat.base_lr, flat.start_lr, flat.batch_parts), (0.03, 0.03, 1));

        let mut kdep = TrainConfig::new(ResNet18, 224, 90, 512, 0);
        (kdep.base_lr, kdep.start_lr, kdep.warmup_epochs, kdep.batch_parts) = (0.3, 0.03, 0, 4);
        kdep.schedule = ScheduleKind::Step { every: 30, factor: 0.1 };
        kdep.optimizer.weight_decay = 5e-4;
        kdep.objective = "kdep:3".parse().unwrap();
        assert_eq!(resolved("--recipe kdep"), kdep);
        let other = resolved("--recipe kdep --student mobilenet_v2");
        let base_lr = 0.1;
        assert_eq!(other, TrainConfig { student: MobileNetV2, base_lr, ..kdep });

        let mut seed = TrainConfig::new(ResNet18, 224, 200, 256, 0);
        (seed.start_lr, seed.warmup_epochs, seed.schedule) = (0.03, 5, lgd.schedule);
        seed.objective = "seed".parse().unwrap();
        seed.objective_settings = ObjectiveSettings::default();
        seed.objective_settings.shared.queue_fill = QueueFill::Random;
        assert_eq!(resolved("--recipe seed"), seed);
    }

    #[test]
    fn the_default_queue_is_at_most_a_quarter_of_the_samples_if_it_is_read() {
        let queue = |words: &[&str], samples| {
            let line = ["lgd", "train", "--cache", "c", "--out", "o"].iter().chain(words);
            let Command::Train(args) = Args::try_parse_from(line).unwrap().command else {
                panic!("train is not train")
            };
            queue_for(&args, samples)
        };
        for objective in ["seed", "compress", "hgkd", "lgd,seed:0.5"] {
            let words = ["--objective", objective];
            assert_eq!([3, 400, 1_000_000].map(|samples| queue(&words, samples)), [1, 100, 65_536]);
        }
        assert_eq!(queue(&["--objective", "seed", "--queue", "300"], 400), 300, "a given queue is kept");
        assert_eq!(queue(&[], 400), 65_536, "lgd has no queue");
    }
}
