//! `lgd verify`, for all kinds of artifact folders, finished or not.

use std::ffi::OsString;
use std::path::Path;

use anyhow::bail;
use clap::Parser;
use lgd_data::align::Align;
use lgd_data::bank::Bank;
use lgd_data::cache::{Cache, CacheConfig, CacheSurvey, Encoding, TokenEncoding};
use lgd_data::kdep::KdepBank;
use lgd_data::manifest::{PLAN, Verify};
use lgd_data::view::Policy;
use lgd_train::run::{Run, RunError};

use super::inspect::HINT;
use super::{extract, print};
use crate::args::{Args, Command, VerifyArgs};
use crate::escape::shell_word;
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
        return survey(args);
    }
    if args.images.is_some() {
        bail!(
            "{}: only a cache is made again from images\nhint: leave out --images and --teacher",
            path.display()
        );
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

/// Checks every file of a cache, finished or not, and makes the damaged and missing ones if the images and the teacher are
/// given. Else, it prints the command that does.
fn survey(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let path = &args.path;
    let survey = Cache::survey(path)?;
    let exit = tell(path, &survey)?;
    let made_of = args.images.as_deref().zip(args.teacher.as_deref());
    let CacheSurvey { config, damage, .. } = survey;
    let words = command(path, &config, made_of);
    let line: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    let line = line.join(" ");
    let does =
        if damage.is_empty() { "the missing shards" } else { "these shards again, to the same bytes," };
    match made_of {
        _ if exit == Exit::Done => Ok(exit),
        None => {
            say(format_args!("hint: this makes {does} and keeps the others: {line}"));
            Ok(exit)
        }
        Some(_) => {
            say(format_args!("note: this makes {does} and keeps the others: {line}"));
            let onnxruntime =
                args.onnxruntime.iter().flat_map(|path| ["--onnxruntime".into(), word_of(path)]);
            let Command::Extract(extract) =
                Args::try_parse_from(words.into_iter().chain(onnxruntime))?.command
            else {
                bail!("{line}: expected a command that extracts")
            };
            extract::make(&extract)?;
            tell(path, &Cache::survey(path)?)
        }
    }
}

/// Prints the state of a cache and its damage.
fn tell(path: &Path, survey: &CacheSurvey) -> anyhow::Result<Exit> {
    let CacheSurvey { config, complete, finished, damage } = survey;
    let state = match complete {
        true => "complete".to_owned(),
        false => format!("unfinished; {finished} of {} shards are finished", config.shards()),
    };
    let intact = if damage.is_empty() { ", intact" } else { "" };
    print(&format!("{}: {state}{intact}", path.display()))?;
    for error in damage {
        let message = error.to_string();
        warn(format_args!("error: {}", message.lines().next().unwrap_or_default()));
    }
    Ok(match (damage.is_empty(), complete) {
        (false, _) => Exit::Artifact,
        (true, false) => Exit::Interrupted,
        (true, true) => Exit::Done,
    })
}

/// The command that continues or repairs the cache in `path`, word by word. A cache does not record the paths of its images
/// and teacher, `made_of`.
fn command(path: &Path, config: &CacheConfig, made_of: Option<(&Path, &Path)>) -> Vec<OsString> {
    let (images, teacher) = made_of.unwrap_or((Path::new("IMAGES"), Path::new("TEACHER")));
    let mut words: Vec<OsString> = ["lgd", "extract", "--images"].map(OsString::from).into();
    words.extend([word_of(images), "--teacher".into(), word_of(teacher)]);
    let mut add = |flags: &str| words.extend(flags.split(' ').map(OsString::from));
    add(&format!("--views {} --seed {}", config.views, config.seed));
    if let Some(center) = config.center {
        add(&format!("--with-center --center-fraction {}", center.fraction));
    }
    // The manifest does not say whether this is the teacher's own filter; given, it is the same.
    add(&format!("--resample {}", config.teacher.resample));
    if config.policy != Policy::MocoV2 {
        add(&format!("--policy {}", config.policy.name()));
    }
    if let Some(stored) = config.stored_views {
        add(&match stored.encoding {
            Encoding::Raw => format!("--store-views raw --store-size {}", stored.size),
            Encoding::Jpeg { quality } => {
                format!("--store-views jpeg --store-size {} --store-quality {quality}", stored.size)
            }
        });
    }
    if config.features.is_some() {
        add("--features");
    }
    if let Some(tokens) = &config.tokens {
        add(&match (tokens.encoding, tokens.fit_views) {
            (TokenEncoding::F16, _) => "--tokens f16".to_owned(),
            (TokenEncoding::Int8, _) => "--tokens int8".to_owned(),
            (TokenEncoding::Projected, views) => {
                format!("--tokens svd:{} --tokens-fit-views {}", tokens.dim, views.unwrap_or_default())
            }
        });
    }
    if config.captions.is_some() {
        add("--captions");
    }
    add(&format!("--batch {} --shard-samples {}", config.batch, config.shard_samples));
    if config.device != "cpu" {
        add(&format!("--device {}:0", config.device));
    }
    for (flag, field) in [
        ("--image-field", &config.fields.image),
        ("--label-field", &config.fields.label),
        ("--caption-field", &config.fields.caption),
    ] {
        words.extend(field.iter().flat_map(|name| [OsString::from(flag), name.into()]));
    }
    words.extend(["--out".into(), word_of(path), "--resume".into()]);
    words
}

/// A path as a word that is not taken for a flag.
fn word_of(path: &Path) -> OsString {
    let is_flag = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    if is_flag { Path::new(".").join(path).into() } else { path.into() }
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
