//! `lgd eval`: a student's figures by the selected protocols, and its teacher's if a cache is given.

use std::path::Path;

use anyhow::Context;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;
use lgd_data::source::{CaptionColumn, FieldNames, ImageSource, open_with};
use lgd_train::eval::{EvalInputs, EvalOptions, LabeledImages, ProbeSettings, Protocol, evaluate};
use lgd_train::run::Run;
use lgd_train::student::Head;

use super::report::write_after_eval;
use super::{print, print_json, set_threads, source_notes, threads_or_all};
use crate::args::EvalArgs;
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

/// The protocols given on the command line, else the run's default protocol.
fn protocols(args: &EvalArgs, run: &Run) -> Vec<Protocol> {
    if !args.protocol.is_empty() {
        return args.protocol.clone();
    }
    let (head, bank) = (run.manifest().head(), args.bank.is_some());
    let suiting = Protocol::suiting(head, bank);
    let want = if matches!(head, Head::Projection { .. }) && !bank { ", for want of a --bank" } else { "" };
    say(format_args!("note: judged by {suiting}{want}; --protocol chooses another"));
    vec![suiting]
}

/// Runs `lgd eval`.
pub fn run(args: &EvalArgs) -> anyhow::Result<Exit> {
    set_threads(args.threads)?;
    let run = Run::open(&args.run, Verify::Full)?;
    let bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Full)).transpose()?;
    let fields = args.fields.names(None);
    let test = Labeled::open(&args.images, args.cache.as_deref(), &fields)?;
    let train = args
        .train_images
        .as_deref()
        .map(|images| Labeled::open(images, args.train_cache.as_deref(), &fields))
        .transpose()?;
    let inputs = EvalInputs {
        run: &run,
        bank: bank.as_ref(),
        test: test.borrow(),
        train: train.as_ref().map(Labeled::borrow),
    };
    let options = EvalOptions {
        protocols: protocols(args, &run),
        center_fraction: args.center_fraction,
        threads: threads_or_all(args.threads),
        probe: ProbeSettings { seed: args.seed, ..ProbeSettings::default() },
        ..EvalOptions::default()
    };
    let report = {
        let _progress = Progress::show("eval", "images");
        evaluate(&inputs, &options, &JOB)?
    };
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
    if args.json {
        print_json(&report)?
    } else {
        print(&report.to_table())?
    }
    write_after_eval(&args.run, &report);
    Ok(Exit::Done)
}
