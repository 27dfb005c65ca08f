//! What can be typed. Values are checked here, once; [`crate::commands`] turns them into resolved objects.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use lgd_data::cache::{Existing, Partition};
use lgd_data::view::Policy;
use lgd_extract::ExecutionDevice;
use lgd_train::eval::Protocol;
use lgd_train::run::VisualMode;
use lgd_train::student::Architecture;

/// Cache a vision teacher once, aim it at any category names in seconds, train small students from the cache.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 done, but more rejects than allowed; 2 usage or configuration;
3 a cache, bank, run or checkpoint that is bad, does not belong, or cannot be read or written;
75 interrupted, go on with --resume.";

/// The stages.
#[derive(Subcommand)]
pub enum Command {
    /// Run the teacher once over K replayable views of every image and cache the embeddings.
    Extract(ExtractArgs),
    /// Turn category names into semantics banks and per-view target distributions, from the cache alone.
    Bank(BankArgs),
    /// Train a student from a cache and a bank.
    Train(TrainArgs),
    /// Measure a student, and its teacher beside it.
    Eval(EvalArgs),
    /// Show what a cache, bank or run is made of, as JSON.
    Inspect(InspectArgs),
    /// Check every byte of a cache, bank or run against its manifest.
    Verify(InspectArgs),
}

/// What to do with an output folder that already holds something.
#[derive(ClapArgs)]
pub struct OutputArgs {
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with an unfinished job in the folder.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the cache or run in the folder; other files stay.
    #[arg(long)]
    pub overwrite: bool,
}

impl OutputArgs {
    /// The same as one value.
    pub fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        }
    }
}

/// Where ONNX Runtime is and how much of the machine it may use.
#[derive(ClapArgs)]
pub struct RuntimeArgs {
    /// The ONNX Runtime shared library; default: ORT_DYLIB_PATH, then third_party/onnxruntime.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Where encoders run: cpu, cuda:0,1 or tensorrt:0.
    #[arg(long, default_value = "cpu")]
    pub device: ExecutionDevice,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// `lgd extract`.
#[derive(ClapArgs)]
pub struct ExtractArgs {
    /// Images: a folder (class = first-level folder) or a CSV list (path, and a label where there is one).
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// Teacher folder with teacher.toml.
    #[arg(long, value_name = "DIR")]
    pub teacher: PathBuf,
    /// Views per image, K.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub views: u16,
    /// Make view 0 the plain centre crop.
    #[arg(long)]
    pub with_center: bool,
    /// Share of the short side that the centre crop keeps.
    #[arg(long, default_value_t = 0.875, value_parser = fraction, requires = "with_center")]
    pub center_fraction: f32,
    /// How the other views are drawn: moco-v2 (crop, colour, grey, blur, flip) or crop-flip.
    #[arg(long, default_value = "moco-v2")]
    pub policy: Policy,
    /// Seed of the views.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Images per encoder batch; default: the model's own, or 32 on CPU and 256 on a GPU.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Samples per shard, the unit of resumption.
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    pub shard_samples: usize,
    /// Decoding and rendering threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub decode_threads: usize,
    /// Do part i of n of the shards; the parts share the output folder.
    #[arg(long, value_name = "I/N")]
    pub partition: Option<Partition>,
    /// Share of rejected samples above which the exit code is 1.
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub max_rejects: f64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub output: OutputArgs,
}

/// `lgd bank`.
#[derive(ClapArgs)]
pub struct BankArgs {
    /// The cache.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// Category names: .txt (one per line), .csv (name, then synonyms) or .json (an object from names to lists of synonyms).
    #[arg(long, value_name = "FILE")]
    pub categories: PathBuf,
    /// A prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with = "templates")]
    pub template: Vec<String>,
    /// A file of prompt templates, one per line.
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Keep names as they stand instead of trimming and turning underscores into blanks.
    #[arg(long)]
    pub verbatim: bool,
    /// The lists of a JSON file are complete prompts, not synonyms.
    #[arg(long)]
    pub json_prompts: bool,
    /// Temperature of the teacher's distributions; CLIP's logit scale of 100 is 0.01 here.
    #[arg(long, default_value_t = 0.01, value_parser = temperature)]
    pub tau_t: f32,
    /// Entries kept per distribution where there are more than 256 categories.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub top_k: usize,
    /// Let categories without a view keep their slot in the visual distributions.
    #[arg(long)]
    pub keep_unassigned: bool,
    /// Teacher folder with the text encoder.
    #[arg(long, value_name = "DIR")]
    pub teacher: PathBuf,
    /// Accept a text encoder other than the one the cache's teacher came with; it must share its embedding space.
    #[arg(long)]
    pub other_text_encoder: bool,
    /// Where prompt embeddings are kept; default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the bank that the folder holds.
    #[arg(long)]
    pub overwrite: bool,
}

/// `lgd train`.
#[derive(ClapArgs)]
pub struct TrainArgs {
    /// The cache.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// The images the cache was made from.
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// The bank, made from this cache.
    #[arg(long, value_name = "DIR")]
    pub bank: PathBuf,
    /// Architecture: resnet18 or mobilenet_v2.
    #[arg(long, default_value = "resnet18")]
    pub student: Architecture,
    /// Side of the student's input, pixels.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..))]
    pub size: u32,
    /// Epochs; 0 saves the student untrained.
    #[arg(long, default_value_t = 200)]
    pub epochs: u32,
    /// Images per step.
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub batch: usize,
    /// Learning rate after the warm-up; default 0.03 x batch / 256.
    #[arg(long)]
    pub lr: Option<f32>,
    /// Epochs of linear warm-up; default 5, at most a quarter of the epochs.
    #[arg(long)]
    pub warmup_epochs: Option<u32>,
    /// Momentum of SGD.
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f32,
    /// Weight decay of SGD.
    #[arg(long, default_value_t = 1e-4)]
    pub weight_decay: f32,
    /// Weight of the visual term; the textual one has the rest.
    #[arg(long, default_value_t = 0.5, value_parser = fraction_or_zero)]
    pub alpha: f32,
    /// Temperature of the student's logits.
    #[arg(long, default_value_t = 0.2, value_parser = temperature)]
    pub tau_s: f32,
    /// The visual semantics bank: mean (the bank's) or ema (the paper's moving average over batches).
    #[arg(long, default_value = "mean")]
    pub vsb: VisualMode,
    /// Momentum of the moving-average bank.
    #[arg(long, default_value_t = 0.999)]
    pub ema_momentum: f32,
    /// Seed of the initial weights, the order of images and dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Start from these weights (safetensors, torchvision's names).
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Also save a checkpoint every N steps.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub checkpoint_steps: Option<usize>,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub output: OutputArgs,
}

/// `lgd eval`.
#[derive(ClapArgs)]
pub struct EvalArgs {
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Labelled test images.
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// A cache of the test images; puts the teacher's figures beside the student's.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Labelled training images, for kNN and the linear probe.
    #[arg(long, value_name = "PATH")]
    pub train_images: Option<PathBuf>,
    /// A cache of the training images, for the teacher's kNN.
    #[arg(long, value_name = "DIR", requires_all = ["cache", "train_images"])]
    pub train_cache: Option<PathBuf>,
    /// The bank with the category names, for zero-shot; any bank of the same text encoder.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// What to measure: zero-shot, knn, linear; several with commas.
    #[arg(long, value_delimiter = ',', default_values = ["zero-shot"])]
    pub protocol: Vec<Protocol>,
    /// Share of the short side that the centre crop keeps; a --cache shows its own instead.
    #[arg(long, default_value_t = 0.875, value_parser = fraction)]
    pub center_fraction: f32,
    /// Seed of the labelled subsets.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `lgd inspect` and `lgd verify`.
#[derive(ClapArgs)]
pub struct InspectArgs {
    /// A cache, bank or run folder.
    pub path: PathBuf,
}

fn bounded(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if value >= low && value <= high {
        Ok(value)
    } else {
        Err(format!("expected {low} to {high}, got {value}"))
    }
}

fn share(text: &str) -> Result<f64, String> {
    bounded(text, 0.0, 1.0)
}

#[expect(clippy::cast_possible_truncation, reason = "settings are kept in f32; rounding is meant")]
fn fraction(text: &str) -> Result<f32, String> {
    bounded(text, 0.01, 1.0).map(|value| value as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "settings are kept in f32; rounding is meant")]
fn fraction_or_zero(text: &str) -> Result<f32, String> {
    bounded(text, 0.0, 1.0).map(|value| value as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "settings are kept in f32; rounding is meant")]
fn temperature(text: &str) -> Result<f32, String> {
    bounded(text, 1e-4, 1.0).map(|value| value as f32).map_err(|error| {
        format!("{error}\nhint: this divides the logits; a logit scale of 100 is a temperature of 0.01")
    })
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(format!("expected a whole number above 0, got {text:?}")),
    }
}
