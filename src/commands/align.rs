//! `lgd align`: fits the bridge from a text encoder to the space of a teacher that has no language.

use std::collections::BTreeSet;

use anyhow::bail;
use lgd_bank::{
    AlignReport, AlignRequest, Categories, Head, ImageTargets, PromptEncoder, RidgePenalty, build_align,
};
use lgd_data::align::Accuracy;
use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;
use lgd_train::eval::{CategoryKeys, EvalError, categories_of_labels};

use super::bank::prompts::{self, Encoder};
use super::{print_report, set_threads};
use crate::args::AlignArgs;
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Most names that a note lists.
const SHOWN: usize = 10;

/// Runs `lgd align`.
pub fn run(args: &AlignArgs) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    let categories = prompts::categories(&args.categories, &args.prompts.names)?;
    let templates = prompts::templates(&args.prompts.names)?;
    let ridge = args.ridge.map(RidgePenalty::new).transpose()?;
    let source = Source::open(args, &categories)?;
    let teacher = super::teacher::open(&args.teacher)?;
    let text = prompts::text_encoder(&teacher, &args.runtime)?;
    let mut encoder = Encoder { recorded_as: Vec::new(), text };
    let request = AlignRequest {
        categories: &categories,
        templates: &templates,
        prompt_cache: &prompts::folder(&args.prompts, &args.out),
        images: source.targets(),
        ridge,
        out: &args.out,
        existing: args.existing(),
    };
    let report = {
        let _progress = Progress::show("align", "rows");
        let encoder: &mut dyn PromptEncoder = &mut encoder;
        build_align(&request, encoder, &JOB)?
    };
    summarize(&report, args);
    print_report(&args.report, &report)?;
    Ok(Exit::Done)
}

/// The image side, opened.
enum Source {
    /// A cache, and the category of each of its samples.
    Cache(Box<Cache>, Vec<Option<u32>>),
    Head(Head),
}

impl Source {
    fn open(args: &AlignArgs, categories: &Categories) -> anyhow::Result<Self> {
        if let Some(path) = &args.head {
            let head = Head::read(path, args.head_tensor.as_deref(), categories.len())?;
            say(format_args!(
                "head: {} of {}, {} rows of {}",
                head.tensor(),
                path.display(),
                head.rows(),
                head.dim()
            ));
            return Ok(Self::Head(head));
        }
        let Some(dir) = &args.cache else { bail!("one of --cache and --head is required") };
        let cache = Cache::open(dir, Verify::Full)?;
        let labels = cache.views()?.labels;
        let known: BTreeSet<u32> = labels.iter().copied().flatten().collect();
        if known.is_empty() {
            bail!(
                "{}: the cache has no labels\nhint: extract labeled images, such as one folder per class, or give the teacher's classifier with --head",
                dir.display()
            );
        }
        let keys = categories.as_slice().iter().map(|category| CategoryKeys {
            name: category.name(),
            keys: category.keys(),
            number: category.number(),
        });
        let classes = cache.manifest().config.class_names.as_deref();
        let map = match categories_of_labels(&known, classes, dir, keys) {
            Err(EvalError::UnmatchedClasses { classes, .. }) => bail!(
                "{}: these classes of the cache are not in {}: {}\nhint: add their names to the category file; case, spaces, _ and - do not count",
                dir.display(),
                args.categories.display(),
                classes.join(", ")
            ),
            map => map?,
        };
        if let Some(note) = &map.note {
            say(format_args!("note: {note}"));
        }
        let category = |label: Option<u32>| label.and_then(|label| map.classes(&[label]).first().copied());
        let of_samples = labels.into_iter().map(category).collect();
        Ok(Self::Cache(Box::new(cache), of_samples))
    }

    fn targets(&self) -> ImageTargets<'_> {
        match self {
            Self::Cache(cache, categories) => ImageTargets::Cache { cache, categories },
            Self::Head(head) => ImageTargets::Head(head),
        }
    }
}

fn summarize(report: &AlignReport, args: &AlignArgs) {
    let AlignReport { categories, text_dim, dim, ridge, held_out, .. } = report;
    let ridge_from = if args.ridge.is_some() { "given" } else { "cross-validation" };
    say(format_args!(
        "align: {categories} categories, {text_dim} to {dim} values, ridge {ridge:.3} ({ridge_from}); {}",
        args.out.display()
    ));
    notes(report);
    let (what, centered) = match &args.cache {
        Some(_) => (format!("{} images", held_out.decisions), "with --center image"),
        None => (format!("{} names and their rows", held_out.decisions), "with rows centered"),
    };
    say(format_args!("on held-out classes: {what}, mean cosine {:.3}", held_out.cosine));
    let line = |label: &str, accuracy: Accuracy| {
        say(format_args!(
            "  {label:<20}  {:>5.1}% among those held out together, {:>5.1}% among all",
            100.0 * accuracy.among_held_out,
            100.0 * accuracy.among_all
        ));
    };
    line("as they are", held_out.plain);
    line(centered, held_out.centered);
    line("by chance", held_out.chance);
    let cache = args.cache.as_deref().map_or_else(|| "CACHE".into(), |cache| cache.display().to_string());
    let center = if report.center.is_some() { " --center image" } else { "" };
    say(format_args!(
        "use it: lgd bank --cache {cache} --teacher {} --align {}{center} --categories NAMES --out BANK",
        args.teacher.display(),
        args.out.display()
    ));
    if args.head.is_some() {
        say(
            "note: the classifier's rows replaced images here; if you have labeled images, compare with and without --center image on them",
        );
    }
}

/// Says what was left out, cut, or could not be decided.
fn notes(report: &AlignReport) {
    if !report.left_out.is_empty() {
        let shown: Vec<&str> = report.left_out.iter().take(SHOWN).map(String::as_str).collect();
        let more = if report.left_out.len() > shown.len() { ", ..." } else { "" };
        say(format_args!(
            "note: skipped {} categories without an image: {}{more}",
            report.left_out.len(),
            shown.join(", ")
        ));
    }
    if report.unlabeled > 0 {
        say(format_args!("note: skipped {} images without a label", report.unlabeled));
    }
    if report.prompts.cut > 0 {
        say(format_args!(
            "note: {} of {} prompts were cut: they exceed the text encoder's context",
            report.prompts.cut, report.prompts.distinct
        ));
    }
    let ends = [report.candidates.first(), report.candidates.last()];
    if report.candidates.len() > 1 && ends.iter().flatten().any(|end| end.ridge == report.ridge) {
        say(format_args!(
            "note: cross-validation chose the end of its range, ridge {}; try values beyond it with --ridge",
            report.ridge
        ));
    }
}
