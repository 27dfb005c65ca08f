//! `lgd report`: one HTML file about a run, a cache or a bank. `lgd train` and `lgd eval` write that of their run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::{ContentHash, FolderLock, Verify, read_manifest, write_atomic};
use lgd_data::source::{CaptionColumn, ImageSource, open_with};
use lgd_report::{Inputs, of_bank, of_cache, of_run};
use lgd_train::run::{RUN_VERSION, RunManifest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{print, set_threads};
use crate::args::ReportArgs;
use crate::exit::Exit;
use crate::say::say;
use crate::stores;

/// File name of a report in the folder that it describes.
const REPORT: &str = "report.html";
/// In a run folder: paths of the inputs of its report.
const INPUTS: &str = "inputs.json";
/// In a run folder: the latest evaluation.
const EVAL: &str = "eval.json";

/// Paths of what the report of a run shows besides the run. The file `inputs.json` keeps them for the next report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInputs {
    /// The cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The bank of names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank: Option<PathBuf>,
    /// The images of the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
}

impl RunInputs {
    /// The inputs of a training: of `banks`, the bank of names.
    pub fn of_training(cache: &Path, banks: &[PathBuf], images: Option<&Path>) -> Self {
        let bank = banks.iter().find(|dir| !KdepBank::is_kdep(dir)).map(PathBuf::as_path);
        let kept = |path: Option<&Path>| path.map(stores::recorded);
        Self { cache: kept(Some(cache)), bank: kept(bank), images: kept(images) }
    }

    /// The inputs that `dir` keeps; none if the file is missing or unreadable.
    fn kept(dir: &Path) -> Self {
        let text = fs::read(dir.join(INPUTS)).unwrap_or_default();
        let Self { cache, bank, images } = serde_json::from_slice(&text).unwrap_or_default();
        let [cache, bank, images] = [cache, bank, images].map(|path| path.map(stores::local));
        Self { cache, bank, images }
    }
}

/// Writes the report of the run in `dir` after its training, and keeps the paths of its inputs. A failure is a warning,
/// because the run itself is done.
pub fn write_after_training(dir: &Path, inputs: &RunInputs) {
    let kept = serde_json::to_vec_pretty(inputs).context("cannot write the inputs as JSON");
    write_for_run(dir, INPUTS, kept);
}

/// Writes the report of the run in `dir` after an evaluation, which is kept as `eval.json`. A failure is a warning,
/// because the evaluation itself is done.
pub fn write_after_eval(dir: &Path, eval: &impl Serialize) {
    let kept = serde_json::to_vec_pretty(eval).context("cannot write the evaluation as JSON");
    write_for_run(dir, EVAL, kept);
}

fn write_for_run(dir: &Path, name: &str, kept: anyhow::Result<Vec<u8>>) {
    if stores::is_fetched(dir) {
        say("note: nothing is written to a fetched run; keep this evaluation for `lgd report --eval`");
        return;
    }
    let written = || -> anyhow::Result<()> {
        let _lock = FolderLock::exclusive(dir)?;
        write_atomic(&dir.join(name), &kept?)?;
        let html = of_run(dir, &Opened::for_run(dir, &RunInputs::default())?.inputs())?;
        write_atomic(&dir.join(REPORT), html.as_bytes())?;
        Ok(())
    };
    match written() {
        Ok(()) => say(format_args!("report: {}", dir.join(REPORT).display())),
        Err(error) => {
            say(format_args!("warning: the report of {} was not written: {error:#}", dir.display()))
        }
    }
}

/// Runs `lgd report`.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    set_threads(args.threads)?;
    let path = &args.path;
    let given = RunInputs { cache: args.cache.clone(), bank: args.bank.clone(), images: args.images.clone() };
    let html = match Subject::of(path)? {
        Subject::Run => {
            let mut opened = Opened::for_run(path, &given)?;
            if let Some(file) = &args.eval {
                opened.eval = Some(read_json(file)?);
            }
            opened.printed = args.timings.as_deref().map(read_json).transpose()?;
            of_run(path, &opened.inputs())?
        }
        Subject::Cache => {
            refuse(&[("--cache", args.cache.is_some()), ("--eval", args.eval.is_some())], "a cache")?;
            let cache = Cache::open(path, Verify::Length)?;
            let mut opened =
                Opened { images: open_images(args.images.as_deref(), &cache)?, ..Opened::default() };
            opened.bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Length)).transpose()?;
            opened.printed = args.timings.as_deref().map(read_json).transpose()?;
            of_cache(&cache, &opened.inputs())?
        }
        Subject::Bank => {
            refuse(&[("--bank", args.bank.is_some()), ("--eval", args.eval.is_some())], "a bank")?;
            let mut opened = Opened::explicit(&given)?;
            opened.printed = args.timings.as_deref().map(read_json).transpose()?;
            of_bank(&Bank::open(path, Verify::Length)?, &opened.inputs())?
        }
    };
    let out = args.out.clone().unwrap_or_else(|| path.join(REPORT));
    write_atomic(&out, html.as_bytes())?;
    print(&out.display().to_string())?;
    Ok(Exit::Done)
}

/// What a folder holds.
enum Subject {
    Run,
    Cache,
    Bank,
}

impl Subject {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let kinds = [
            ("run.json", Self::Run),
            ("cache.json", Self::Cache),
            ("extract.json", Self::Cache),
            ("bank.json", Self::Bank),
        ];
        match kinds.into_iter().find(|(name, _)| path.join(name).exists()) {
            Some((_, subject)) => Ok(subject),
            None if path.join("kdep.json").exists() || path.join("align.json").exists() => bail!(
                "{}: a KDEP bank or a bridge has no report\nhint: `lgd inspect` summarizes it",
                path.display()
            ),
            None => bail!(
                "{}: no run, cache or bank\nhint: name a folder that holds run.json, cache.json or bank.json",
                path.display()
            ),
        }
    }
}

/// Fails for flags that the report of `subject` does not read.
fn refuse(flags: &[(&str, bool)], subject: &str) -> anyhow::Result<()> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag} is not read for the report of {subject}\nhint: leave it out"),
        None => Ok(()),
    }
}

/// Opened inputs.
#[derive(Default)]
struct Opened {
    cache: Option<Cache>,
    bank: Option<Bank>,
    images: Option<Box<dyn ImageSource>>,
    eval: Option<Value>,
    printed: Option<Value>,
    notes: Vec<String>,
}

impl Opened {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            cache: self.cache.as_ref(),
            bank: self.bank.as_ref(),
            images: self.images.as_deref(),
            eval: self.eval.as_ref(),
            printed: self.printed.as_ref(),
            notes: &self.notes,
        }
    }

    /// Opens what was named on the command line; all of it must open.
    fn explicit(given: &RunInputs) -> anyhow::Result<Self> {
        let cache = given.cache.as_deref().map(|dir| Cache::open(dir, Verify::Length)).transpose()?;
        let bank = given.bank.as_deref().map(|dir| Bank::open(dir, Verify::Length)).transpose()?;
        let images = match (&cache, given.images.as_deref()) {
            (Some(cache), images) => open_images(images, cache)?,
            (None, Some(_)) => bail!("--images needs the cache of these images\nhint: give --cache"),
            (None, None) => None,
        };
        Ok(Self { cache, bank, images, ..Self::default() })
    }

    /// Opens what was `given` for the run in `dir`, and the rest of what its training and its evaluation kept. Kept inputs
    /// that are gone or were replaced are notes.
    fn for_run(dir: &Path, given: &RunInputs) -> anyhow::Result<Self> {
        let (manifest, hash) =
            read_manifest::<RunManifest>(&dir.join("run.json"), RUN_VERSION, "the run's manifest")?;
        let kept = RunInputs::kept(dir);
        let mut notes = Vec::new();
        let cache = match &given.cache {
            Some(path) => Some(Cache::open(path, Verify::Length)?),
            None => keep(&mut notes, "cache", kept.cache.as_deref(), |path| {
                let cache = Cache::open(path, Verify::Length)?;
                require(cache.hash(), Some(manifest.cache))?;
                Ok(cache)
            }),
        };
        let bank = match &given.bank {
            Some(path) => Some(Bank::open(path, Verify::Length)?),
            None => keep(&mut notes, "bank", kept.bank.as_deref(), |path| {
                let bank = Bank::open(path, Verify::Length)?;
                require(bank.hash(), manifest.bank)?;
                Ok(bank)
            }),
        };
        let images = match (&cache, &given.images) {
            (Some(cache), Some(path)) => open_images(Some(path), cache)?,
            (None, Some(_)) => bail!("--images needs the cache of these images\nhint: give --cache"),
            // Stored views are shown without listing the images.
            (Some(cache), None) if cache.manifest().config.stored_views.is_none() => {
                keep(&mut notes, "source of images", kept.images.as_deref(), |path| {
                    open_images(Some(path), cache)
                })
                .flatten()
            }
            _ => None,
        };
        let eval = read_json(&dir.join(EVAL)).ok();
        let current = |eval: &Value| eval["run"].as_str().is_none_or(|run| run == hash.to_string());
        if eval.as_ref().is_some_and(|eval| !current(eval)) {
            notes.push(
                "The latest evaluation was made of an earlier state of this run, and is left out.".to_owned(),
            );
        }
        Ok(Self { cache, bank, images, eval: eval.filter(current), notes, printed: None })
    }
}

/// Opens a kept input; a failure becomes a note.
fn keep<T>(
    notes: &mut Vec<String>,
    what: &str,
    path: Option<&Path>,
    open: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> Option<T> {
    let path = path?;
    match open(path) {
        Ok(opened) => Some(opened),
        Err(error) => {
            let cause = error.to_string();
            let cause = cause.lines().next().unwrap_or_default();
            notes.push(format!("The {what} of the training, {}, is not shown: {cause}", path.display()));
            None
        }
    }
}

/// Fails if an input is not the one that the run was trained with.
fn require(got: ContentHash, expected: Option<ContentHash>) -> anyhow::Result<()> {
    if expected == Some(got) { Ok(()) } else { bail!("it was made anew since") }
}

fn open_images(path: Option<&Path>, cache: &Cache) -> anyhow::Result<Option<Box<dyn ImageSource>>> {
    let open = |path: &Path| {
        open_with(path, CaptionColumn::Ignore, &cache.manifest().config.fields)
            .with_context(|| format!("cannot list the images in {}", path.display()))
    };
    path.map(open).transpose()
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}
