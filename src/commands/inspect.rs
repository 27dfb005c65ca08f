//! `lgd inspect` and `lgd verify`: any artefact folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use indicatif::DecimalBytes;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::Verify;
use lgd_train::run::Run;

use super::{kept_variance, print};
use crate::exit::Exit;
use crate::say::say;

const HINT: &str = "hint: name a folder that holds cache.json, bank.json, kdep.json or run.json";

/// An artefact folder, told apart by its manifest.
enum Artefact {
    Cache(Box<Cache>),
    Bank(Bank),
    Kdep(KdepBank),
    Run(Box<Run>),
}

impl Artefact {
    fn open(path: &Path, depth: Verify) -> anyhow::Result<Self> {
        if path.join("cache.json").exists() || path.join("extract.json").exists() {
            return Ok(Self::Cache(Box::new(Cache::open(path, depth)?)));
        }
        if path.join("bank.json").exists() {
            return Ok(Self::Bank(Bank::open(path, depth)?));
        }
        if KdepBank::is_kdep(path) {
            return Ok(Self::Kdep(KdepBank::open(path, depth)?));
        }
        if path.join("run.json").exists() {
            return Ok(Self::Run(Box::new(Run::open(path, depth)?)));
        }
        bail!("{}: no cache, bank or run\n{HINT}", path.display())
    }
}

/// Prints the manifest as it stands, also that of unfinished work.
pub fn inspect(path: &Path) -> anyhow::Result<Exit> {
    for name in ["cache.json", "extract.json", "bank.json", "kdep.json", "run.json"] {
        let manifest = path.join(name);
        if !manifest.exists() {
            continue;
        }
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        if name == "extract.json" {
            say("note: the extraction is not finished; go on with `lgd extract --resume`");
        }
        if name == "cache.json" {
            let cache = Cache::open(path, Verify::Length)?;
            for (file, condition) in cache.embeddings().not_in_place() {
                say(format_args!("note: {} is not read in place: {condition}", file.display()));
            }
            note_optional(&cache)?;
        }
        print(text.trim_end())?;
        return Ok(Exit::Done);
    }
    bail!("{}: no cache, bank or run\n{HINT}", path.display())
}

/// Tells what the cache holds besides views and embeddings.
fn note_optional(cache: &Cache) -> anyhow::Result<()> {
    let (manifest, config) = (cache.manifest(), &cache.manifest().config);
    if let Some(format) = config.stored_views {
        say(format_args!("note: the views are stored ({format}), {}", DecimalBytes(manifest.bytes().1)));
    }
    if let Some((column, record)) = cache.features()?.zip(config.features.as_ref()) {
        let bytes = 2 * column.rows() as u64 * record.dim as u64;
        say(format_args!(
            "note: features of {} are cached ({}), {}",
            record.dim,
            record.output,
            DecimalBytes(bytes)
        ));
    }
    if let Some(record) = &config.tokens {
        let kept = kept_variance(manifest).map(|kept| format!(", {kept}")).unwrap_or_default();
        say(format_args!(
            "note: tokens are cached ({record}{kept}), {}",
            DecimalBytes(manifest.token_bytes())
        ));
        say(format_args!("note: {}", record.student_sizes()));
    }
    if let Some(record) = &config.captions {
        let from = if record.text_encoder.is_some() { "the text encoder" } else { "the list" };
        let bytes = DecimalBytes(manifest.caption_bytes());
        say(format_args!("note: captions are cached (embeddings of {} from {from}), {bytes}", record.dim));
    }
    for absent in cache.absent_columns() {
        say(format_args!("warning: {absent}"));
    }
    Ok(())
}

/// What a cache holds besides views and embeddings, every byte of it checked, in words that end in a comma and a blank. A column that
/// is absent or damaged does not keep the others from being checked.
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
        say(format_args!("error: {fault}"));
    }
    Err(last.into())
}

/// Checks every byte.
pub fn verify(path: &Path) -> anyhow::Result<Exit> {
    let summary = match Artefact::open(path, Verify::Full)? {
        Artefact::Cache(cache) => {
            let samples = cache.views()?.samples();
            let optional = verify_optional(&cache)?;
            format!("{samples} samples, {} rows, {optional}hash {}", cache.rows(), cache.hash())
        }
        Artefact::Bank(bank) => {
            let rows = bank.targets()?.pseudo_category.len();
            format!("{} categories, {rows} rows, hash {}", bank.categories(), bank.hash())
        }
        Artefact::Kdep(bank) => {
            let rows = bank.targets()?.rows();
            format!("KDEP targets of width {}, {rows} rows, hash {}", bank.dim(), bank.hash())
        }
        Artefact::Run(run) => format!("step {}", run.manifest().step),
    };
    print(&format!("{}: intact; {summary}", path.display()))?;
    Ok(Exit::Done)
}
