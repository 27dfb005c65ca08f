//! `lgd verify`, for all kinds of artifact folders, finished or not.

use std::path::Path;

use anyhow::bail;
use lgd_data::align::Align;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, CacheConfig, CacheSurvey, Encoding, TokenEncoding};
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::{PLAN, Verify};
use lgd_data::view::Policy;
use lgd_train::run::{Run, RunError};

use super::inspect::HINT;
use super::print;
use crate::args::VerifyArgs;
use crate::exit::Exit;
use crate::hints;
use crate::say::{say, warn};

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
        if path.join("cache.json").exists() {
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

/// Runs `lgd verify`.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let path = &args.path;
    let is_unfinished_cache = !path.join("cache.json").exists() && path.join(PLAN).exists();
    if is_unfinished_cache || (args.repair && path.join("cache.json").exists()) {
        return survey(path);
    }
    match verify(path) {
        Err(error) if args.repair => {
            say(
                "note: only the shards of a cache can be made one by one; run the command that made this folder again, with --overwrite",
            );
            Err(error)
        }
        verified => verified,
    }
}

/// Checks every byte of an artifact against its manifest.
fn verify(path: &Path) -> anyhow::Result<Exit> {
    let summary = match Artifact::open(path, Verify::Full) {
        Ok(Artifact::Cache(cache)) => {
            let samples = cache.views()?.samples();
            let optional = verify_optional(&cache)?;
            format!("{samples} samples, {} rows, {optional}hash {}", cache.rows(), cache.hash())
        }
        Ok(Artifact::Bank(bank)) => {
            let rows = bank.targets()?.pseudo_category.len();
            format!("{} categories, {rows} rows, hash {}", bank.categories(), bank.hash())
        }
        Ok(Artifact::Kdep(bank)) => {
            let rows = bank.targets()?.rows();
            format!("KDEP targets of width {}, {rows} rows, hash {}", bank.dim(), bank.hash())
        }
        Ok(Artifact::Align(align)) => {
            let bridge = align.bridge();
            format!("a bridge of {} to {} values, hash {}", bridge.text_dim(), bridge.dim(), align.hash())
        }
        Ok(Artifact::Run(run)) => format!("step {}", run.manifest().step),
        Err(error) if matches!(error.downcast_ref(), Some(RunError::Unfinished { .. })) => {
            let step = Run::verify_unfinished(path)?;
            print(&format!("{}: unfinished; step {step}, its checkpoints are intact", path.display()))?;
            say("hint: the command that started it continues it with --resume");
            return Ok(Exit::Interrupted);
        }
        Err(error) => return Err(error),
    };
    print(&format!("{}: intact; {summary}", path.display()))?;
    Ok(Exit::Done)
}

/// Checks every file of a cache, finished or not, and says how to make the damaged ones again.
fn survey(path: &Path) -> anyhow::Result<Exit> {
    let CacheSurvey { config, complete, finished, damage } = Cache::survey(path)?;
    let state = match complete {
        true => "complete".to_owned(),
        false => format!("unfinished; {finished} of {} shards are finished", config.shards()),
    };
    let intact = if damage.is_empty() { ", intact" } else { "" };
    print(&format!("{}: {state}{intact}", path.display()))?;
    if complete && damage.is_empty() {
        return Ok(Exit::Done);
    }
    for error in &damage {
        let message = error.to_string();
        warn(format_args!("error: {}", message.lines().next().unwrap_or_default()));
    }
    let does =
        if damage.is_empty() { "the missing shards" } else { "these shards again, to the same bytes," };
    say(format_args!("hint: this makes {does} and keeps the others: {}", command(path, &config)));
    Ok(if damage.is_empty() { Exit::Interrupted } else { Exit::Artifact })
}

/// The command that continues or repairs the cache in `path`. A cache does not record the paths of its images and teacher.
fn command(path: &Path, config: &CacheConfig) -> String {
    let mut flags = vec![format!("--views {}", config.views), format!("--seed {}", config.seed)];
    if let Some(center) = config.center {
        flags.push(format!("--with-center --center-fraction {}", center.fraction));
    }
    // The manifest does not say whether this is the teacher's own filter; given, it is the same.
    flags.push(format!("--resample {}", config.teacher.resample));
    if config.policy != Policy::MocoV2 {
        flags.push(format!("--policy {}", config.policy.name()));
    }
    if let Some(stored) = config.stored_views {
        flags.push(match stored.encoding {
            Encoding::Raw => format!("--store-views raw --store-size {}", stored.size),
            Encoding::Jpeg { quality } => {
                format!("--store-views jpeg --store-size {} --store-quality {quality}", stored.size)
            }
        });
    }
    if config.features.is_some() {
        flags.push("--features".to_owned());
    }
    if let Some(tokens) = &config.tokens {
        flags.push(match (tokens.encoding, tokens.fit_views) {
            (TokenEncoding::F16, _) => "--tokens f16".to_owned(),
            (TokenEncoding::Int8, _) => "--tokens int8".to_owned(),
            (TokenEncoding::Projected, views) => {
                format!("--tokens svd:{} --tokens-fit-views {}", tokens.dim, views.unwrap_or_default())
            }
        });
    }
    if config.captions.is_some() {
        flags.push("--captions".to_owned());
    }
    for (flag, field) in [
        ("--image-field", &config.fields.image),
        ("--label-field", &config.fields.label),
        ("--caption-field", &config.fields.caption),
    ] {
        flags.extend(field.as_ref().map(|name| format!("{flag} {name}")));
    }
    flags.push(format!("--batch {} --shard-samples {}", config.batch, config.shard_samples));
    if config.device != "cpu" {
        flags.push(format!("--device {}:0", config.device));
    }
    format!(
        "lgd extract --images IMAGES --teacher TEACHER {} --out {} --resume",
        flags.join(" "),
        path.display()
    )
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
