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

use super::print;
use crate::exit::Exit;

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
            eprintln!("note: the extraction is not finished; go on with `lgd extract --resume`");
        }
        if name == "cache.json" {
            let cache = Cache::open(path, Verify::Length)?;
            for (file, condition) in cache.embeddings().not_in_place() {
                eprintln!("note: {} is not read in place: {condition}", file.display());
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
        eprintln!("note: the views are stored ({format}), {}", DecimalBytes(manifest.bytes().1));
    }
    if let Some((column, record)) = cache.features()?.zip(config.features.as_ref()) {
        let bytes = 2 * column.rows() as u64 * record.dim as u64;
        eprintln!("note: features of {} are cached ({}), {}", record.dim, record.output, DecimalBytes(bytes));
    }
    if let Some(record) = &config.tokens {
        let kept = manifest.token_projection.as_ref();
        let kept =
            kept.map(|kept| format!(", {:.1}% of the variance", 100.0 * kept.explained)).unwrap_or_default();
        eprintln!("note: tokens are cached ({record}{kept}), {}", DecimalBytes(manifest.token_bytes()));
        eprintln!("note: {}", record.student_sizes());
    }
    if let Some(record) = &config.captions {
        let from = if record.text_encoder.is_some() { "the text encoder" } else { "the list" };
        let bytes = DecimalBytes(manifest.caption_bytes());
        eprintln!("note: captions are cached (embeddings of {} from {from}), {bytes}", record.dim);
    }
    for absent in cache.absent_columns() {
        eprintln!("warning: {absent}");
    }
    Ok(())
}

/// What a cache holds besides views and embeddings, every byte of it checked, in words that end in a comma and a blank.
fn verify_optional(cache: &Cache) -> anyhow::Result<String> {
    cache.verify_stored_views()?;
    let stored = cache.manifest().config.stored_views.map(|format| format!("views stored ({format}), "));
    let features = cache.features()?.map(|features| format!("features of {}, ", features.width()));
    let tokens = cache.tokens()?.map(|tokens| format!("tokens ({}), ", tokens.record()));
    let captions = cache.captions()?.map(|captions| format!("{} captions, ", captions.rows()));
    Ok([stored, features, tokens, captions].into_iter().flatten().collect())
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
