//! `lgd eval`: a student's figures by the selected protocols, and its teacher's if a cache is given.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, bail};
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::error::IoContext;
use lgd_data::manifest::{AtomicFile, Verify};
use lgd_data::source::{CaptionColumn, FieldNames, ImageSource, open_with};
use lgd_train::eval::{
    EvalInputs, EvalOptions, KnnSettings, LabeledImages, Predictions, ProbeSettings, Protocol, evaluate,
};
use lgd_train::inference::{ImageModel, ModelCard, OutputKind};
use lgd_train::predict::{PredictionRow, PredictionWriter, TableFormat};

use super::report::write_after_eval;
use super::{model, print, print_json, set_threads, source_notes, threads_or_all};
use crate::args::{EvalArgs, table_format};
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Labeled images, and their cache if there is one.
struct Labeled<'a> {
    images: &'a Path,
    source: Box<dyn ImageSource>,
    cache: Option<Cache>,
}

impl<'a> Labeled<'a> {
    /// Opens images with the fields `named` on the command line, else with those of their cache.
    fn open(images: &'a Path, cache: Option<&Path>, named: &FieldNames) -> anyhow::Result<Self> {
        let cache = cache.map(|dir| Cache::open(dir, Verify::Full)).transpose()?;
        let recorded = cache.as_ref().map(|cache| &cache.manifest().config.fields);
        let fields = recorded.filter(|_| named.is_empty()).unwrap_or(named);
        let source = open_with(images, CaptionColumn::Ignore, fields)
            .with_context(|| format!("cannot list the images in {}", images.display()))?;
        source_notes(images, source.listing());
        Ok(Self { images, source, cache })
    }

    fn borrow(&self) -> LabeledImages<'_> {
        LabeledImages { source: self.source.as_ref(), images: self.images, cache: self.cache.as_ref() }
    }
}

/// The bank of names: the one given, else the run's own if a protocol reads a bank, or if nothing says what to measure.
fn bank(args: &EvalArgs, student: &dyn ImageModel) -> anyhow::Result<Option<Bank>> {
    let reads_bank = match args.protocol.as_slice() {
        [] => args.train_images.is_none() && student.card().classes.is_none(),
        chosen => chosen.iter().any(|protocol| protocol.reads_bank()),
    };
    if args.bank.is_none() && !reads_bank {
        return Ok(None);
    }
    let bank = model::bank(args.bank.as_deref(), student)?;
    if let Some(own) = bank.as_ref().filter(|_| args.bank.is_none()) {
        say(format_args!("note: the names are those of {}, the run's own bank", own.dir().display()));
    }
    Ok(bank)
}

/// The protocols given on the command line, else the student's default protocol.
fn protocols(args: &EvalArgs, student: &ModelCard, bank: bool) -> Vec<Protocol> {
    if !args.protocol.is_empty() {
        return args.protocol.clone();
    }
    let suiting = Protocol::suiting(student, bank);
    let embeds = student.width(OutputKind::Embedding).is_some();
    let reason =
        if suiting == Protocol::Knn && embeds && !bank { ", because no --bank is given" } else { "" };
    say(format_args!("note: evaluated by {suiting}{reason}; --protocol chooses another"));
    vec![suiting]
}

/// Runs `lgd eval`.
pub fn run(args: &EvalArgs) -> anyhow::Result<Exit> {
    let format = args.predictions.as_deref().map(table_format).transpose()?;
    set_threads(args.model.threads)?;
    let mut student = model::open(&args.model)?;
    let bank = bank(args, student.as_ref())?;
    let fields = args.fields.names(None);
    let test = Labeled::open(&args.images, args.cache.as_deref(), &fields)?;
    let train = args
        .train_images
        .as_deref()
        .map(|images| Labeled::open(images, args.train_cache.as_deref(), &fields))
        .transpose()?;
    let inputs =
        EvalInputs { bank: bank.as_ref(), test: test.borrow(), train: train.as_ref().map(Labeled::borrow) };
    let options = EvalOptions {
        protocols: protocols(args, student.card(), bank.is_some()),
        center_fraction: args.center_fraction,
        resample: args.resample,
        knn: KnnSettings { neighbors: args.k, ..KnnSettings::default() },
        fractions: args.fractions.clone(),
        probe: ProbeSettings { seed: args.seed, ..ProbeSettings::default() },
        seeds: args.seeds,
        threads: threads_or_all(args.model.threads),
        ..EvalOptions::default()
    };
    let named = options.protocols.iter().any(|protocol| !protocol.reads_train());
    if args.predictions.is_some() && !named {
        bail!("--predictions needs names\nhint: add zero-shot, agreement or labels to --protocol");
    }
    let report = {
        let _progress = Progress::show("eval", "images");
        evaluate(student.as_mut(), &inputs, &options, &JOB)?
    };
    let caches =
        [Some(&test), train.as_ref()].into_iter().flatten().filter_map(|images| images.cache.as_ref());
    caches.into_iter().try_for_each(|cache| cache.require_unchanged(Verify::Length))?;
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
    if let (Some(path), Some(format), Some(predictions)) = (&args.predictions, format, &report.predictions) {
        write_predictions(path, format, predictions)?;
        say(format_args!("predictions by {}: {}", predictions.protocol, path.display()));
    }
    if args.json {
        print_json(&report)?
    } else {
        print(&report.to_table())?
    }
    if let Some(run) = &args.model.student.run {
        write_after_eval(run, &report);
    }
    Ok(Exit::Done)
}

/// Writes a row for every test image.
fn write_predictions(path: &Path, format: TableFormat, predictions: &Predictions) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    let labels = predictions.rows.iter().any(|(_, label, _)| label.is_some());
    let top_k = predictions.rows.first().map_or(1, |(.., top)| top.len());
    let write = |file| -> io::Result<AtomicFile> {
        let mut table = PredictionWriter::new(format, file, predictions.names.clone(), top_k, labels)?;
        for (path, label, top) in &predictions.rows {
            table.write(PredictionRow { path, label: label.as_deref(), top })?;
        }
        table.finish()
    };
    write(AtomicFile::create(path)?).during("write", path)?.commit()?;
    Ok(())
}
