//! `lgd inspect` and `lgd verify`, for all kinds of artifact folders.

mod summary;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use lgd_data::align::{ALIGN_VERSION, Align};
use lgd_data::bank::{BANK_VERSION, Bank};
use lgd_data::cache::Cache;
use lgd_data::kdep::{KDEP_VERSION, KdepBank};
use lgd_data::manifest::{PLAN, Verify, read_manifest};
use lgd_train::run::{RUN_VERSION, Run};

use super::print;
use crate::args::InspectArgs;
use crate::exit::Exit;
use crate::hints;
use crate::say::{say, warn};
use summary::Summary;

const MANIFESTS: [&str; 6] = ["cache.json", PLAN, "bank.json", "kdep.json", "align.json", "run.json"];
const HINT: &str = "hint: give a folder with a cache.json, bank.json, kdep.json, align.json or run.json";

/// An opened artifact folder. Its manifest's name determines the kind.
enum Artifact {
    Cache(Box<Cache>),
    Bank(Bank),
    Kdep(KdepBank),
    Align(Align),
    Run(Box<Run>),
}

impl Artifact {
    fn open(path: &Path, depth: Verify) -> anyhow::Result<Self> {
        if path.join("cache.json").exists() || path.join(PLAN).exists() {
            return Ok(Self::Cache(Box::new(Cache::open(path, depth)?)));
        }
        if path.join("bank.json").exists() {
            return Ok(Self::Bank(Bank::open(path, depth)?));
        }
        if KdepBank::is_kdep(path) {
            return Ok(Self::Kdep(KdepBank::open(path, depth)?));
        }
        if Align::is_align(path) {
            return Ok(Self::Align(Align::open(path, depth)?));
        }
        if path.join("run.json").exists() {
            return Ok(Self::Run(Box::new(Run::open(path, depth)?)));
        }
        bail!("{} holds no cache, bank, bridge or run\n{HINT}", path.display())
    }
}

/// Prints a summary of an artifact, or its manifest. Works for unfinished artifacts too.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<Exit> {
    let path = &args.path;
    let manifest = MANIFESTS.iter().find(|name| path.join(name).exists());
    let Some(&name) = manifest else {
        bail!("{} holds no cache, bank, bridge or run\n{HINT}", path.display())
    };
    if name == PLAN {
        say("note: the extraction is not finished; continue with `lgd extract --resume`");
    }
    if args.json || name == PLAN {
        let file = path.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        print(text.trim_end())?;
    } else {
        print(&summary(path, name)?.to_string())?;
    }
    Ok(Exit::Done)
}

fn summary(path: &Path, name: &str) -> anyhow::Result<Summary> {
    let file = path.join(name);
    Ok(match name {
        "cache.json" => {
            let cache = Cache::open(path, Verify::Length)?;
            warn_about(&cache);
            Summary::of_cache(&cache)
        }
        "bank.json" => {
            let (manifest, hash) = read_manifest(&file, BANK_VERSION, "the bank's manifest")?;
            Summary::of_bank(&manifest, hash)
        }
        "kdep.json" => {
            let (manifest, hash) = read_manifest(&file, KDEP_VERSION, "the bank's manifest")?;
            Summary::of_kdep(&manifest, hash)
        }
        "align.json" => {
            let (manifest, hash) = read_manifest(&file, ALIGN_VERSION, "the bridge's manifest")?;
            Summary::of_align(&manifest, hash)
        }
        _ => {
            let (manifest, hash) = read_manifest(&file, RUN_VERSION, "the run's manifest")?;
            Summary::of_run(path, &manifest, hash)
        }
    })
}

/// Reports cache files that are not in their original condition.
fn warn_about(cache: &Cache) {
    for (file, condition) in cache.embeddings().not_in_place() {
        say(format_args!("note: {} is not read in place: {condition}", file.display()));
    }
    for absent in cache.absent_columns() {
        warn(format_args!("warning: {absent}"));
    }
}

/// Verifies every byte of the cache's optional columns and describes them. The returned text, unless empty, ends in a
/// comma and a space. A missing or damaged column does not stop the verification of the others.
fn verify_optional(cache: &Cache) -> anyhow::Result<String> {
    let stored = cache.manifest().config.stored_views;
    let columns = [
        cache.verify_stored_views().map(|()| stored.map(|format| format!("views stored ({format}), "))),
        cache.features().map(|found| found.map(|features| format!("features of {}, ", features.width()))),
        cache.tokens().map(|found| found.map(|tokens| format!("tokens ({}), ", tokens.record()))),
        cache.captions().map(|found| found.map(|captions| format!("{} captions, ", captions.rows()))),
    ];
    let (mut words, mut faults) = (String::new(), Vec::new());
    for column in columns {
        match column {
            Ok(found) => words.extend(found),
            Err(fault) => faults.push(fault),
        }
    }
    let Some(last) = faults.pop() else { return Ok(words) };
    for fault in faults {
        warn(format_args!("error: {}", hints::hinted(&fault)));
    }
    Err(last.into())
}

/// Checks every byte of an artifact against its manifest.
pub fn verify(path: &Path) -> anyhow::Result<Exit> {
    let summary = match Artifact::open(path, Verify::Full)? {
        Artifact::Cache(cache) => {
            let samples = cache.views()?.samples();
            let optional = verify_optional(&cache)?;
            format!("{samples} samples, {} rows, {optional}hash {}", cache.rows(), cache.hash())
        }
        Artifact::Bank(bank) => {
            let rows = bank.targets()?.pseudo_category.len();
            format!("{} categories, {rows} rows, hash {}", bank.categories(), bank.hash())
        }
        Artifact::Kdep(bank) => {
            let rows = bank.targets()?.rows();
            format!("KDEP targets of width {}, {rows} rows, hash {}", bank.dim(), bank.hash())
        }
        Artifact::Align(align) => {
            let bridge = align.bridge();
            format!("a bridge of {} to {} values, hash {}", bridge.text_dim(), bridge.dim(), align.hash())
        }
        Artifact::Run(run) => format!("step {}", run.manifest().step),
    };
    print(&format!("{}: intact; {summary}", path.display()))?;
    Ok(Exit::Done)
}
