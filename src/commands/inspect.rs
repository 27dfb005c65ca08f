//! `lgd inspect` and `lgd verify`: any artefact folder.

use std::path::Path;

use anyhow::bail;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;
use lgd_train::run::Run;

use super::{print, print_json};
use crate::exit::Exit;

/// An artefact folder, told apart by its manifest.
enum Artefact {
    Cache(Cache),
    Bank(Bank),
    Run(Run),
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
            return Ok(Self::Run(Run::open(path, depth)?));
        }
        bail!(
            "{}: no cache, bank or run\nhint: name a folder that holds cache.json, bank.json or run.json",
            path.display()
        )
    }
}

/// Prints the manifest.
pub fn inspect(path: &Path) -> anyhow::Result<Exit> {
    match Artefact::open(path, Verify::Length)? {
        Artefact::Cache(cache) => {
            for (file, condition) in cache.embeddings().not_in_place() {
                eprintln!("note: {} is not read in place: {condition}", file.display());
            }
            print_json(cache.manifest())?;
        }
        Artefact::Bank(bank) => print_json(bank.manifest())?,
        Artefact::Run(run) => print_json(run.manifest())?,
    }
    Ok(Exit::Done)
}

/// Checks every byte.
pub fn verify(path: &Path) -> anyhow::Result<Exit> {
    let summary = match Artefact::open(path, Verify::Full)? {
        Artefact::Cache(cache) => {
            let samples = cache.views()?.samples();
            format!("cache: {samples} samples, {} rows, hash {}", cache.rows(), cache.hash())
        }
        Artefact::Bank(bank) => {
            let rows = bank.targets()?.pseudo_category.len();
            format!("bank: {} categories, {rows} rows, hash {}", bank.categories(), bank.hash())
        }
        Artefact::Run(run) => format!("run: step {}", run.manifest().step),
    };
    print(&format!("{}: intact; {summary}", path.display()))?;
    Ok(Exit::Done)
}
