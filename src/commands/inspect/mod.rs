//! `lgd inspect`, for all kinds of artifact folders.

mod summary;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use lgd_data::align::ALIGN_VERSION;
use lgd_data::bank::BANK_VERSION;
use lgd_data::cache::Cache;
use lgd_data::kdep::KDEP_VERSION;
use lgd_data::manifest::{PLAN, Verify, read_manifest};
use lgd_train::run::RUN_VERSION;

use super::print;
use crate::args::InspectArgs;
use crate::escape::json_escaped;
use crate::exit::Exit;
use crate::say::{say, warn};
use summary::Summary;

const MANIFESTS: [&str; 6] = ["cache.json", PLAN, "bank.json", "kdep.json", "align.json", "run.json"];
pub(super) const HINT: &str =
    "hint: give a folder with a cache.json, bank.json, kdep.json, align.json or run.json";

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
        print(&json_escaped(text.trim_end()))?;
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
