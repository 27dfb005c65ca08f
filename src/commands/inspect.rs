//! `lgd inspect` and `lgd verify`: any artefact folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use indicatif::DecimalBytes;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;
use lgd_train::run::Run;

use super::print;
use crate::exit::Exit;

const HINT: &str = "hint: name a folder that holds cache.json, bank.json or run.json";

/// An artefact folder, told apart by its manifest.
enum Artefact {
    Cache(Cache),
    Bank(Bank),
    Run(Box<Run>),
}

impl Artefact {
    fn open(path: &Path, depth: Verify) -> anyhow::Result<Self> {
        if path.join("cache.json").exists() || path.join("extract.json").exists() {
            return Ok(Self::Cache(Cache::open(path, depth)?));
        }
        if path.join("bank.json").exists() {
            return Ok(Self::Bank(Bank::open(path, depth)?));
        }
        if path.join("run.json").exists() {
            return Ok(Self::Run(Box::new(Run::open(path, depth)?)));
        }
        bail!(
            "{}: no cache, bank or run\nhint: name a folder that holds cache.json, bank.json or run.json",
            path.display()
        )
    }
}

/// Prints the manifest as it stands, also that of unfinished work.
pub fn inspect(path: &Path) -> anyhow::Result<Exit> {
    for name in ["cache.json", "extract.json", "bank.json", "run.json"] {
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
            if let Some(format) = cache.manifest().config.stored_views {
                let (_, bytes) = cache.manifest().bytes();
                eprintln!("note: the views are stored ({format}), {}", DecimalBytes(bytes));
            }
        }
        print(text.trim_end())?;
        return Ok(Exit::Done);
    }
    bail!("{}: no cache, bank or run\n{HINT}", path.display())
}

/// Checks every byte.
pub fn verify(path: &Path) -> anyhow::Result<Exit> {
    let summary = match Artefact::open(path, Verify::Full)? {
        Artefact::Cache(cache) => {
            let samples = cache.views()?.samples();
            cache.verify_stored_views()?;
            let stored = cache.manifest().config.stored_views;
            let stored = stored.map(|format| format!("views stored ({format}), ")).unwrap_or_default();
            format!("{samples} samples, {} rows, {stored}hash {}", cache.rows(), cache.hash())
        }
        Artefact::Bank(bank) => {
            let rows = bank.targets()?.pseudo_category.len();
            format!("{} categories, {rows} rows, hash {}", bank.categories(), bank.hash())
        }
        Artefact::Run(run) => format!("step {}", run.manifest().step),
    };
    print(&format!("{}: intact; {summary}", path.display()))?;
    Ok(Exit::Done)
}
