//! The flags of every command, one file per command. Values are validated here, once; [`crate::commands`] turns them
//! into resolved objects.

mod align;
mod bank;
mod embed;
mod eval;
mod export;
mod extract;
mod model;
mod objectives;
mod optimizer;
mod partition;
mod plan;
mod predict;
mod prompts;
mod report;
mod store;
mod teacher;
mod train;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use lgd_data::manifest::Existing;
use lgd_data::source::FieldNames;
use lgd_extract::ExecutionDevice;
use lgd_train::run::Checkpoint;

pub use self::align::AlignArgs;
pub use self::bank::{BankArgs, BankTarget, CenterArg};
pub use self::embed::{EmbedArgs, Vectors};
pub use self::eval::EvalArgs;
pub use self::export::ExportArgs;
pub use self::extract::{ExtractArgs, StoreTokens, StoreViews};
pub use self::model::{ImagesArgs, ModelArgs};
pub use self::objectives::{ObjectiveArgs, ObjectivesArgs};
pub use self::partition::PartitionArg;
pub use self::plan::{PlanArgs, PlannedJob};
pub use self::predict::{OutputFormat, PredictArgs, table_format};
pub use self::prompts::{NameArgs, PromptArgs};
pub use self::report::ReportArgs;
pub use self::store::StoreArgs;
pub use self::teacher::TeacherArgs;
pub use self::train::TrainArgs;
use crate::recipe::Recipe;

/// Cache a vision teacher once, aim it at any category names in seconds, train small students from the cache.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Args {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
    /// TOML file with flags of the command: `epochs = 100` is --epochs 100. Flags on the command line win. `lgd train` also
    /// reads a run's config.toml. Paths are relative to the current folder.
    // Read before the arguments are parsed, by `config_file`.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print no progress, notes and summaries, only warnings and errors.
    #[arg(long, global = true)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub store: StoreArgs,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 done, but more rejects than allowed; 2 usage or configuration;
3 a cache, bank, run or checkpoint that is bad, does not belong, or cannot be read or written;
75 interrupted: run it again, extract and train with --resume.";

/// Where a first teacher comes from, at the end of the help of the commands that need one.
const WHERE_TEACHERS_COME_FROM: &str = "\
Where a teacher comes from:
  optimum-cli export onnx --model openai/clip-vit-base-patch32 --task zero-shot-image-classification models/clip
  lgd teacher models/clip     # shows what lgd finds in the folder, and runs both encoders once
OpenCLIP, timm, transformers.js and PyTorch: docs/teachers.md. A small one to try with: scripts/setup teacher";

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Show how a teacher's folder is understood, run both encoders once, and measure the teacher.
    #[command(after_help = WHERE_TEACHERS_COME_FROM)]
    Teacher(TeacherArgs),
    /// Run the teacher once over K replayable views of every image and cache the embeddings.
    #[command(after_help = WHERE_TEACHERS_COME_FROM)]
    Extract(ExtractArgs),
    /// Fit a bridge from any text encoder to a teacher that has no language.
    Align(AlignArgs),
    /// Turn category names or cached features into targets for every view, from the cache alone.
    Bank(BankArgs),
    /// Train a student from a cache with one or more objectives.
    Train(TrainArgs),
    /// Say what an extraction or a training will take: time, disk, memory, and which stage limits it.
    Plan(PlanArgs),
    /// List the training objectives.
    Objectives(ObjectivesArgs),
    /// Measure a student, and its teacher for comparison.
    Eval(EvalArgs),
    /// Name what is in images, with probabilities.
    Predict(PredictArgs),
    /// Write the student's features or embeddings of images to a file.
    Embed(EmbedArgs),
    /// Export a finished student as one ONNX file, or as weights for another framework.
    Export(ExportArgs),
    /// Write one HTML file about a run, cache or bank: curves, figures, pictures.
    Report(ReportArgs),
    /// Summarize a cache, bank, bridge or run.
    Inspect(InspectArgs),
    /// Check every byte of a cache, bank, bridge or run against its manifest.
    Verify(VerifyArgs),
    /// Print a script that completes commands and flags in a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages of all commands.
    Manual(ManualArgs),
}

/// Fields of a source with several candidates.
#[derive(ClapArgs)]
pub struct FieldArgs {
    /// Field of the images: a column, or the ending of the images' names (`jpg`, `input.png`). Needed only if there
    /// are several.
    #[arg(long, value_name = "NAME")]
    pub image_field: Option<String>,
    /// Field of the labels: a column, or the ending of the files beside the images (`cls`, `target.cls`), or a key of
    /// their `.json`. Needed only if there are several.
    #[arg(long, value_name = "NAME")]
    pub label_field: Option<String>,
}

impl FieldArgs {
    /// The fields, with the field of the captions.
    pub fn names(&self, caption: Option<&str>) -> FieldNames {
        let (image, label) = (self.image_field.clone(), self.label_field.clone());
        FieldNames { image, label, caption: caption.map(str::to_owned) }
    }
}

/// The output folder, and the policy for one that already contains something.
#[derive(ClapArgs)]
pub struct OutputArgs {
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Continue an unfinished job in the folder.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the cache or run in the folder; other files are kept.
    #[arg(long)]
    pub overwrite: bool,
}

impl OutputArgs {
    /// Both flags as one value.
    pub fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        }
    }
}

/// The published settings of a method.
#[derive(ClapArgs)]
pub struct RecipeArgs {
    /// Published settings of a method: lgd (200 epochs), lgd-90, kdep or seed. They stand in for flags that are given neither
    /// here nor by --config; a note lists them.
    // Read before the arguments are parsed, by `config_file`.
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    recipe: Option<Recipe>,
}

/// The form of a command's report.
#[derive(ClapArgs)]
pub struct JsonArgs {
    /// Print the JSON report on standard output even if that is a terminal. A file or a pipe always gets it.
    #[arg(long)]
    pub json: bool,
}

/// The weights of a run that a command uses.
#[derive(ClapArgs)]
pub struct CheckpointArgs {
    /// Weights to use: best (of the epoch with the best held-out score) or last. Default: best if the run held samples
    /// out, else last.
    #[arg(long, value_enum, hide_possible_values = true)]
    checkpoint: Option<CheckpointArg>,
}

impl CheckpointArgs {
    /// The weights that were asked for.
    pub fn choice(&self) -> Option<Checkpoint> {
        self.checkpoint.map(|checkpoint| match checkpoint {
            CheckpointArg::Best => Checkpoint::Best,
            CheckpointArg::Last => Checkpoint::Last,
        })
    }
}

/// Command-line names of [`Checkpoint`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckpointArg {
    /// The epoch with the best held-out score.
    Best,
    /// The last step.
    Last,
}

/// The ONNX Runtime library, its device and its threads.
#[derive(ClapArgs)]
pub struct RuntimeArgs {
    /// ONNX Runtime shared library. Default: ORT_DYLIB_PATH, then beside lgd, then Python's onnxruntime.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Device of the encoders: cpu, cuda:0,1 or tensorrt:0.
    #[arg(long, default_value = "cpu")]
    pub device: ExecutionDevice,
    /// CPU threads; 0 means all cores.
    #[arg(long, default_value_t = 0, value_parser = threads)]
    pub threads: usize,
}

/// Parses a number of threads. The system refuses far larger numbers in the middle of the work.
pub fn threads(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("expected a number of threads, got {text}"))?;
    if number > MAX_THREADS { Err(format!("expected at most {MAX_THREADS} threads")) } else { Ok(number) }
}

/// More threads than any processor has.
const MAX_THREADS: usize = 1024;

/// Flags of `lgd inspect`.
#[derive(ClapArgs)]
pub struct InspectArgs {
    /// Cache, bank, bridge or run folder.
    pub path: PathBuf,
    /// Print the JSON manifest instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lgd verify`.
#[derive(ClapArgs)]
pub struct VerifyArgs {
    /// Cache, bank, bridge or run folder, finished or not.
    pub path: PathBuf,
    /// Check every file of a cache and list all that are damaged or missing. With --images and --teacher, make them again;
    /// else print the command that does.
    #[arg(long)]
    pub repair: bool,
    /// With --repair: the images that the cache was made from.
    #[arg(long, value_name = "PATH", requires = "repair", requires = "teacher")]
    pub images: Option<PathBuf>,
    /// With --repair: the teacher that the cache was made with.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub teacher: Option<PathBuf>,
    /// With --repair: ONNX Runtime shared library. Default: as for lgd extract.
    #[arg(long, value_name = "FILE", requires = "images")]
    pub onnxruntime: Option<PathBuf>,
}

/// Arguments of `lgd completions`.
#[derive(ClapArgs)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Flags of `lgd manual`.
#[derive(ClapArgs)]
pub struct ManualArgs {
    /// Output folder, such as ~/.local/share/man/man1.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// A flag that only one choice of another flag reads.
struct Reader {
    flag: &'static str,
    typed: bool,
    read: bool,
    owner: &'static str,
}

impl Reader {
    /// `owner` is the choice that reads the flag, as it is typed; `read` says whether it was made.
    fn new(flag: &'static str, typed: bool, read: bool, owner: &'static str) -> Self {
        Self { flag, typed, read, owner }
    }
}

/// Fails for flags of a choice that was not made: they would silently have no effect.
fn refuse_unread(readers: &[Reader]) -> anyhow::Result<()> {
    match readers.iter().find(|reader| reader.typed && !reader.read) {
        Some(Reader { flag, owner, .. }) => {
            bail!("{flag} is a setting of {owner}\nhint: leave it out, or choose {owner}")
        }
        None => Ok(()),
    }
}
