//! URLs on the command line. Inputs are fetched before the command runs, images while it runs, and outputs are stored after
//! it. The command sees local paths; messages show the URLs.

mod paths;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ArgMatches;
use lgd_store::{Access, Output, Session, Settings, is_url};
use lgd_train::objective::{Input, Objectives};

use crate::args::{
    AlignArgs, BankArgs, BankTarget, Command, EmbedArgs, EvalArgs, ExportArgs, ExtractArgs, ModelArgs,
    PlannedJob, PredictArgs, PromptArgs, ReportArgs, StoreArgs, TrainArgs,
};
use crate::progress::JOB;
use crate::say::say;

pub use paths::{is_fetched, local, named, recorded, shown};

/// Flags that take URLs, by command.
const FLAGS: [(&str, &[&str]); 10] = [
    ("extract", &["images", "out"]),
    ("align", &["cache", "categories", "out"]),
    ("bank", &["cache", "categories", "align", "out"]),
    ("train", &["cache", "images", "bank", "val_cache", "val_images", "val_bank", "out"]),
    ("eval", &["run", "onnx", "images", "cache", "train_images", "train_cache", "bank", "predictions"]),
    ("predict", &["run", "onnx", "images", "bank", "out"]),
    ("embed", &["run", "onnx", "images", "bank", "out"]),
    ("export", &["run", "bank", "out"]),
    ("report", &["path", "cache", "bank", "images", "out"]),
    ("inspect", &["path"]),
];

/// Fields of a cache's manifest with files that a copy may lack.
const PIXELS: &str = "pixels";
const TOKENS: [&str; 2] = ["tokens", "token_projection"];
const CAPTIONS: &str = "captions";
const OPTIONAL: [&str; 4] = [PIXELS, TOKENS[0], TOKENS[1], CAPTIONS];

/// Field of a run's manifest with files that a finished run does not need.
const CHECKPOINTS: [&str; 1] = ["checkpoints"];

/// The fetched inputs of a command, and the outputs to store.
pub struct Stores {
    session: Session,
    outputs: Vec<Output>,
}

/// Replaces the URLs in `command` by local paths; `None` if there is none.
///
/// # Errors
/// A flag that takes no URL has one; an input cannot be fetched; an output is already there.
pub fn resolve(
    matches: &ArgMatches,
    args: &StoreArgs,
    command: &mut Command,
) -> anyhow::Result<Option<Stores>> {
    if !require_supported(matches, "lgd")? {
        return Ok(None);
    }
    let settings = Settings {
        dir: args.store_cache.clone().or_else(default_dir).context(
            "there is no folder for fetched files: neither XDG_CACHE_HOME nor HOME is set\nhint: give --store-cache",
        )?,
        limit: args.store_limit,
        stop: || JOB.interrupted(),
        say: |line| say(line),
    };
    let mut stores = Stores { session: Session::open(settings)?, outputs: Vec::new() };
    stores.resolve(command)?;
    paths::register(stores.session.names());
    Ok(Some(stores))
}

/// The folder of fetched files without `--store-cache`.
fn default_dir() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    Some(cache?.join("lgd").join("store"))
}

/// Whether there is a URL among the paths on the command line. Fails if its flag takes none.
fn require_supported(matches: &ArgMatches, command: &str) -> anyhow::Result<bool> {
    let mut found = false;
    for id in matches.ids().map(|id| id.as_str()) {
        // Arguments of other types are no paths.
        let Ok(Some(paths)) = matches.try_get_many::<PathBuf>(id) else { continue };
        let Some(url) = paths.into_iter().find(|path| is_url(path)) else { continue };
        // The flags of verify are those of inspect.
        let name = if command == "verify" { "inspect" } else { command };
        if !FLAGS.iter().any(|(command, ids)| *command == name && ids.contains(&id)) {
            bail!(
                "{}: --{} of `lgd {command}` takes no URL\nhint: copy it, and give a local path",
                url.display(),
                id.replace('_', "-")
            );
        }
        found = true;
    }
    match matches.subcommand() {
        Some((command, matches)) => Ok(require_supported(matches, command)? || found),
        None => Ok(found),
    }
}

impl Stores {
    /// Stores the outputs, which the command has made.
    ///
    /// # Errors
    /// Another writer was faster; the store failed.
    pub fn store(&self) -> anyhow::Result<()> {
        for output in &self.outputs {
            self.session.store(output)?;
        }
        Ok(())
    }

    fn resolve(&mut self, command: &mut Command) -> anyhow::Result<()> {
        match command {
            Command::Extract(args) => self.extract(args, true),
            Command::Align(args) => self.align(args),
            Command::Bank(args) => self.bank(args),
            Command::Train(args) => self.train(args, true),
            Command::Plan(args) => match &mut args.job {
                PlannedJob::Extract(args) => self.extract(args, false),
                PlannedJob::Train(args) => self.train(args, false),
            },
            Command::Eval(args) => self.eval(args),
            Command::Predict(args) => self.predict(args),
            Command::Embed(args) => self.embed(args),
            Command::Export(args) => self.export(args),
            Command::Report(args) => self.report(args),
            Command::Inspect(args) => self.artifact(&mut args.path, &[&OPTIONAL[..], &CHECKPOINTS].concat()),
            Command::Verify(args) => {
                if args.repair && is_url(&args.path) {
                    bail!("--repair takes no URL\nhint: copy the cache, and repair the copy");
                }
                self.fresh(&mut args.path)
            }
            Command::Teacher(_) | Command::Objectives(_) | Command::Completions(_) | Command::Manual(_) => {
                Ok(())
            }
        }
    }

    fn extract(&mut self, args: &mut ExtractArgs, makes: bool) -> anyhow::Result<()> {
        if args.partition.is_some() && is_url(&args.output.out) {
            bail!(
                "--partition with a URL as --out: the parts would not find each other's shards\nhint: give a shared folder as --out"
            );
        }
        self.images(&mut args.images, Access::InOrder)?;
        self.output(&mut args.output.out, "cache.json", args.output.overwrite, makes)
    }

    fn align(&mut self, args: &mut AlignArgs) -> anyhow::Result<()> {
        self.artifacts(&mut args.cache, &OPTIONAL)?;
        self.file(&mut args.categories)?;
        self.keep_prompts(&mut args.prompts, &args.out);
        self.output(&mut args.out, "align.json", args.overwrite, true)
    }

    fn bank(&mut self, args: &mut BankArgs) -> anyhow::Result<()> {
        let manifest = match args.target()? {
            BankTarget::Names { .. } => "bank.json",
            BankTarget::Kdep { .. } => "kdep.json",
        };
        self.artifact(&mut args.cache, &OPTIONAL)?;
        self.artifacts(&mut args.align, &[])?;
        args.categories.iter_mut().try_for_each(|path| self.file(path))?;
        self.keep_prompts(&mut args.prompts, &args.out);
        self.output(&mut args.out, manifest, args.overwrite, true)
    }

    /// Keeps the prompt embeddings beside the fetched files: those beside an output are deleted with the local one.
    fn keep_prompts(&self, args: &mut PromptArgs, out: &Path) {
        if is_url(out) && args.prompts.is_none() {
            args.prompts = Some(self.session.dir().join("prompts"));
        }
    }

    fn train(&mut self, args: &mut TrainArgs, makes: bool) -> anyhow::Result<()> {
        let skipped = unread(&args.objective.objective, args.ignore_stored_views);
        self.artifact(&mut args.cache, &skipped)?;
        self.artifacts(&mut args.val_cache, &skipped)?;
        self.artifacts(&mut args.bank, &[])?;
        self.artifacts(&mut args.val_bank, &[])?;
        for images in args.images.iter_mut().chain(&mut args.val_images) {
            self.images(images, Access::Random)?;
        }
        self.output(&mut args.output.out, "run.json", args.output.overwrite, makes)
    }

    fn model(&mut self, args: &mut ModelArgs) -> anyhow::Result<()> {
        self.artifacts(&mut args.student.run, &CHECKPOINTS)?;
        args.student.onnx.iter_mut().try_for_each(|path| self.file(path))
    }

    fn eval(&mut self, args: &mut EvalArgs) -> anyhow::Result<()> {
        self.model(&mut args.model)?;
        self.artifacts(&mut args.bank, &[])?;
        self.artifacts(&mut args.cache, &OPTIONAL)?;
        self.artifacts(&mut args.train_cache, &OPTIONAL)?;
        self.images(&mut args.images, Access::InOrder)?;
        args.train_images.iter_mut().try_for_each(|images| self.images(images, Access::InOrder))?;
        args.predictions.iter_mut().try_for_each(|path| self.output_file(path, true))
    }

    fn predict(&mut self, args: &mut PredictArgs) -> anyhow::Result<()> {
        self.model(&mut args.model)?;
        self.artifacts(&mut args.bank, &[])?;
        args.images.images.iter_mut().try_for_each(|images| self.images(images, Access::InOrder))?;
        args.out.iter_mut().try_for_each(|path| self.output_file(path, args.overwrite))
    }

    fn embed(&mut self, args: &mut EmbedArgs) -> anyhow::Result<()> {
        if is_url(&args.out) && args.out.extension().is_some_and(|extension| extension == "npy") {
            bail!(
                "{}: an npy file has a second file beside it\nhint: end the name in .parquet or .safetensors",
                args.out.display()
            );
        }
        self.model(&mut args.model)?;
        args.images.images.iter_mut().try_for_each(|images| self.images(images, Access::InOrder))?;
        self.output_file(&mut args.out, args.overwrite)
    }

    fn export(&mut self, args: &mut ExportArgs) -> anyhow::Result<()> {
        if is_url(&args.out) && args.layout.is_some_and(|layout| layout.is_folder()) {
            bail!(
                "{}: this --layout is a folder\nhint: give a local --out, and copy the folder",
                args.out.display()
            );
        }
        self.artifact(&mut args.run, &CHECKPOINTS)?;
        self.artifacts(&mut args.bank, &[])?;
        self.output_file(&mut args.out, args.overwrite)
    }

    fn report(&mut self, args: &mut ReportArgs) -> anyhow::Result<()> {
        if is_url(&args.path) && args.out.is_none() {
            bail!("{}: the report of a URL needs a place\nhint: give --out report.html", args.path.display());
        }
        let skipped = [&TOKENS[..], &CHECKPOINTS].concat();
        self.artifact(&mut args.path, &skipped)?;
        self.artifacts(&mut args.cache, &skipped)?;
        self.artifacts(&mut args.bank, &[])?;
        args.images.iter_mut().try_for_each(|images| self.images(images, Access::Random))?;
        args.out.iter_mut().try_for_each(|path| self.output_file(path, true))
    }

    fn artifact(&mut self, path: &mut PathBuf, skipped: &[&str]) -> anyhow::Result<()> {
        if is_url(path) {
            *path = self.session.artifact(path, skipped)?;
        }
        Ok(())
    }

    fn artifacts<'a>(
        &mut self,
        paths: impl IntoIterator<Item = &'a mut PathBuf>,
        skipped: &[&str],
    ) -> anyhow::Result<()> {
        paths.into_iter().try_for_each(|path| self.artifact(path, skipped))
    }

    /// Fetches all files of an artifact anew: what is verified is what the store has.
    fn fresh(&mut self, path: &mut PathBuf) -> anyhow::Result<()> {
        if is_url(path) {
            *path = self.session.fresh_artifact(path)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &mut PathBuf) -> anyhow::Result<()> {
        if is_url(path) {
            *path = self.session.file(path)?;
        }
        Ok(())
    }

    fn images(&mut self, path: &mut PathBuf, access: Access) -> anyhow::Result<()> {
        if is_url(path) {
            *path = self.session.images(path, access)?;
        }
        Ok(())
    }

    fn output(
        &mut self,
        path: &mut PathBuf,
        manifest: &'static str,
        overwrite: bool,
        makes: bool,
    ) -> anyhow::Result<()> {
        if is_url(path) && makes {
            let output = self.session.output_folder(path, manifest, overwrite)?;
            *path = output.path().to_owned();
            self.outputs.push(output);
        } else if is_url(path) {
            *path = self.session.planned_output(path)?;
        }
        Ok(())
    }

    fn output_file(&mut self, path: &mut PathBuf, overwrite: bool) -> anyhow::Result<()> {
        if is_url(path) {
            let output = self.session.output_file(path, overwrite)?;
            *path = output.path().to_owned();
            self.outputs.push(output);
        }
        Ok(())
    }
}

/// The optional files of a cache that a training does not read.
fn unread(objectives: &Objectives, ignores_stored_views: bool) -> Vec<&'static str> {
    let reads = |input| objectives.kinds().any(|kind| kind.spec().needs.contains(&input));
    let mut unread = Vec::new();
    if ignores_stored_views {
        unread.push(PIXELS);
    }
    if !reads(Input::Tokens) {
        unread.extend(TOKENS);
    }
    if !reads(Input::Captions) {
        unread.push(CAPTIONS);
    }
    unread
}
