//! What can be typed. Values are checked here, once; [`crate::commands`] turns them into resolved objects.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};
use lgd_data::cache::Partition;
use lgd_data::manifest::Existing;
use lgd_data::view::Policy;
use lgd_extract::ExecutionDevice;
use lgd_train::device::TrainDevice;
use lgd_train::eval::Protocol;
use lgd_train::objective::Objectives;
use lgd_train::run::{SlotMode, VisualMode};
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
75 interrupted: run it again, extract and train with --resume.";

/// The stages.
#[derive(Subcommand)]
pub enum Command {
    /// Run the teacher once over K replayable views of every image and cache the embeddings.
    Extract(ExtractArgs),
    /// Turn category names, or cached features, into targets for every view, from the cache alone.
    Bank(BankArgs),
    /// Train a student from a cache, for one objective or several.
    Train(TrainArgs),
    /// List the objectives that a student can be trained for.
    Objectives(ObjectivesArgs),
    /// Measure a student, and its teacher beside it.
    Eval(EvalArgs),
    /// Write a finished student as one ONNX file.
    Export(ExportArgs),
    /// Show what a cache, bank or run is made of.
    Inspect(InspectArgs),
    /// Check every byte of a cache, bank or run against its manifest.
    Verify(VerifyArgs),
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
    /// Images: a folder (class = first-level folder), a TAR archive or a folder of them (the same, or `.cls` beside the images), a Parquet
    /// file with images inside or a folder of them (labels in a column), or a CSV list (path, and a label where there is one).
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// Teacher folder with teacher.toml.
    #[arg(long, value_name = "DIR")]
    pub teacher: PathBuf,
    /// Views per image, K.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub views: u16,
    /// Make view 0 the plain center crop.
    #[arg(long)]
    pub with_center: bool,
    /// Share of the short side that the center crop keeps; default: what the teacher's files say, else 0.875 (torchvision's 224 of 256;
    /// CLIP's is 1).
    #[arg(long, value_parser = fraction, requires = "with_center")]
    pub center_fraction: Option<f32>,
    /// How the other views are drawn: moco-v2 (crop, color, gray, blur, flip) or crop-flip.
    #[arg(long, default_value = "moco-v2")]
    pub policy: Policy,
    /// Seed of the views.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also store every view's pixels in the cache, so that training opens no image: raw (bit for bit what rendering the
    /// images gives) or jpeg (a sixth to a sixteenth of the bytes, and not quite those pixels). The bytes are told first.
    #[arg(long, value_name = "ENCODING")]
    pub store_views: Option<StoreViews>,
    /// Side of the stored views, pixels: the --size of the training to come.
    #[arg(long, value_name = "PX", default_value_t = 224, requires = "store_views",
        value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub store_size: u32,
    /// Quality of --store-views jpeg, 1 to 100.
    #[arg(long, value_name = "Q", default_value_t = 90, requires = "store_views",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub store_quality: u8,
    /// Also cache the teacher's pooled feature before its last activation (`features` in teacher.toml), which KDEP learns from.
    #[arg(long)]
    pub features: bool,
    /// Also cache the teacher's patch tokens (`tokens` in teacher.toml), which H-GKD learns from: f16, int8 (half the bytes) or
    /// svd:DIM (projected to DIM values per token). The bytes are told first.
    #[arg(long, value_name = "STORAGE")]
    pub tokens: Option<StoreTokens>,
    /// With --tokens svd:DIM: views that the projection is fitted to, spread evenly over the images and their views [default: 2048].
    #[arg(long, value_name = "N", requires = "tokens", value_parser = at_least_one)]
    pub tokens_fit_views: Option<usize>,
    /// Most bytes that tokens and features may take: 500MB, 50GB, 2TB.
    #[arg(long, value_name = "BYTES", default_value = "100GB", value_parser = bytes)]
    pub tokens_limit: u64,
    /// Also cache a text embedding of every image's caption, from a CSV list with a column caption (texts, which the teacher's text
    /// encoder embeds) or caption_embedding (JSON arrays of numbers), from the `.txt` beside every image in TAR archives, or from
    /// such a column of Parquet files (also text; embeddings as lists).
    #[arg(long)]
    pub captions: bool,
    /// Images per encoder batch; default: the model's own, or 32 on CPU and 256 on a GPU.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Samples per shard, the unit of resumption.
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    pub shard_samples: usize,
    /// Decoding and rendering threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub decode_threads: usize,
    /// Do part i of n of the shards, i from 0 to n - 1; the parts share the output folder.
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

/// How `--store-views` keeps pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreViews {
    /// As they are.
    Raw,
    /// As JPEG.
    Jpeg,
}

/// How `--tokens` keeps tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTokens {
    /// In half precision.
    F16,
    /// In bytes, with a scale per token.
    Int8,
    /// Projected to so many values per token, in half precision.
    Svd(usize),
}

impl std::str::FromStr for StoreTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("svd:").map(at_least_one)) {
            ("f16", _) => Ok(Self::F16),
            ("int8", _) => Ok(Self::Int8),
            (_, Some(dim)) => dim.map(Self::Svd),
            _ => Err(format!("expected f16, int8 or svd:DIM, got {text:?}")),
        }
    }
}

/// `lgd bank`.
#[derive(ClapArgs)]
pub struct BankArgs {
    /// The cache.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// What to make targets of: names (the default; needs --categories and --teacher) or kdep (the cached features; needs --dim).
    #[arg(long, value_enum, requires_if("kdep", "dim"))]
    pub target: Option<TargetArg>,
    /// Category names: .txt (one per line), .csv (name, then synonyms) or .json (an object from names to lists of synonyms).
    #[arg(long, value_name = "FILE", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub categories: Option<PathBuf>,
    /// A prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["templates", "dim"])]
    pub template: Vec<String>,
    /// A file of prompt templates, one per line.
    #[arg(long, value_name = "FILE", conflicts_with = "dim")]
    pub templates: Option<PathBuf>,
    /// Keep names as they stand instead of trimming and turning underscores into blanks.
    #[arg(long, conflicts_with = "dim")]
    pub verbatim: bool,
    /// The lists of a JSON file are complete prompts, not synonyms.
    #[arg(long, conflicts_with = "dim")]
    pub json_prompts: bool,
    /// Temperature of the teacher's distributions; CLIP's logit scale of 100 is 0.01 here.
    #[arg(long, default_value_t = 0.01, value_parser = temperature, conflicts_with = "dim")]
    pub tau_t: f32,
    /// Entries kept per distribution where there are more than 256 categories.
    #[arg(long, default_value_t = 64, value_parser = at_least_one, conflicts_with = "dim")]
    pub top_k: usize,
    /// Let categories without a view keep their slot in the visual distributions.
    #[arg(long, conflicts_with = "dim")]
    pub keep_unassigned: bool,
    /// Teacher folder with the text encoder.
    #[arg(long, value_name = "DIR", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub teacher: Option<PathBuf>,
    /// Accept a text encoder other than the one the cache's teacher came with; it must share its embedding space.
    #[arg(long, conflicts_with = "dim")]
    pub other_text_encoder: bool,
    /// Where prompt embeddings are kept; default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR", conflicts_with = "dim")]
    pub prompts: Option<PathBuf>,
    /// With --target kdep: width of the targets, that of the student's pooled feature. resnet18 and resnet34: 512; resnet50: 2048;
    /// mobilenet_v2 and efficientnet_b0: 1280; mobilenet_v3_large: 960. At most the width of the cached features.
    #[arg(long, value_name = "D", requires = "target", value_parser = at_least_one)]
    pub dim: Option<usize>,
    /// With --target kdep: temperature T of power temperature scaling, sign(y) |y / T|^(1/n).
    #[arg(long, value_name = "T", default_value_t = 0.1, requires = "dim")]
    pub pts_temperature: f32,
    /// With --target kdep: its power n.
    #[arg(long, value_name = "N", default_value_t = 3.0, requires = "dim")]
    pub pts_power: f32,
    /// With --target kdep: fit the projection on so many rows, spread evenly over the images and their views; default: all.
    #[arg(long, value_name = "ROWS", requires = "dim", value_parser = at_least_one)]
    pub fit_rows: Option<usize>,
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

/// What `lgd bank` makes targets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// Category names.
    Names,
    /// The teacher's features.
    Kdep,
}

/// A target with what only it needs.
pub enum BankTarget<'a> {
    /// Category names, encoded by a teacher.
    Names {
        /// The file.
        categories: &'a Path,
        /// The folder.
        teacher: &'a Path,
    },
    /// The teacher's features, projected.
    Kdep {
        /// Width.
        dim: usize,
    },
}

impl BankArgs {
    /// The target as one value.
    ///
    /// # Errors
    /// `--dim` where the target is not kdep, the one mixture that the parser lets through.
    pub fn target(&self) -> Result<BankTarget<'_>, clap::Error> {
        match (self.target, self.dim, &self.categories, &self.teacher) {
            (Some(TargetArg::Kdep), Some(dim), ..) => Ok(BankTarget::Kdep { dim }),
            (_, None, Some(categories), Some(teacher)) => Ok(BankTarget::Names { categories, teacher }),
            _ => {
                let message =
                    "--dim belongs to --target kdep; --target names needs --categories and --teacher";
                Err(Args::command().error(ErrorKind::ArgumentConflict, message))
            }
        }
    }

    /// What to do with a bank that is there.
    pub fn existing(&self) -> Existing {
        if self.overwrite { Existing::Overwrite } else { Existing::Refuse }
    }
}

/// `lgd train`.
#[derive(ClapArgs)]
pub struct TrainArgs {
    /// The cache.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// The images the cache was made from; needed unless the cache stores views of the student's --size.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Render every view from its image, even where the cache stores views of the right size.
    #[arg(long, requires = "images")]
    pub ignore_stored_views: bool,
    /// A bank made from this cache: of names, which the objective lgd (the default) needs, or a KDEP bank, which kdep needs; may be
    /// repeated, one of each.
    #[arg(long, value_name = "DIR")]
    pub bank: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub objective: ObjectiveArgs,
    /// resnet18, resnet34, resnet50, mobilenet_v2, mobilenet_v3_large or efficientnet_b0.
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
    /// Learning rate after the warm-up; default 0.03 x batch / 256, for SGD.
    #[arg(long)]
    pub lr: Option<f32>,
    /// Learning rate at the start of the warm-up; default 0.03, as published, or a tenth of the rate after it where that is not above 0.03.
    #[arg(long)]
    pub start_lr: Option<f32>,
    /// Epochs of linear warm-up; default 5, at most a quarter of the epochs.
    #[arg(long)]
    pub warmup_epochs: Option<u32>,
    /// What follows the warm-up: cosine (to zero), step or constant.
    #[arg(long, value_enum, default_value_t = ScheduleArg::Cosine)]
    pub schedule: ScheduleArg,
    /// With --schedule step: epochs between two drops [default: 30].
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    pub drop_every: Option<u32>,
    /// With --schedule step: what remains of the learning rate after a drop [default: 0.1].
    #[arg(long, value_name = "FACTOR", value_parser = fraction)]
    pub drop_factor: Option<f32>,
    /// Move the learning rate at every step, not at every epoch.
    #[arg(long)]
    pub lr_per_step: bool,
    /// sgd, adamw or lars.
    #[arg(long, value_enum, default_value_t = OptimizerArg::Sgd)]
    pub optimizer: OptimizerArg,
    /// Momentum of SGD and LARS [default: 0.9].
    #[arg(long)]
    pub momentum: Option<f32>,
    /// Nesterov's momentum, with SGD.
    #[arg(long)]
    pub nesterov: bool,
    /// Betas of AdamW [default: 0.9 0.999].
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    pub betas: Option<Vec<f32>>,
    /// Trust coefficient of LARS [default: 0.001].
    #[arg(long)]
    pub trust: Option<f32>,
    /// Weight decay, of all parameters; decoupled with AdamW, for which 0.05 is more usual.
    #[arg(long, default_value_t = 1e-4)]
    pub weight_decay: f32,
    /// Keep weight decay off biases and normalizations.
    #[arg(long)]
    pub decay_weights_only: bool,
    /// Largest L2 norm of the gradient; longer ones are scaled down.
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f32>,
    /// Average the weights with this share kept at each step (0.9999, say; less over the first steps); the finished student holds
    /// the average.
    #[arg(long, value_name = "DECAY")]
    pub ema: Option<f32>,
    /// Parts that --batch is split into, to save memory; the images per step stay as they are. Batch statistics are those of a part, and
    /// so are the captions that the objective caption tells apart.
    #[arg(long, value_name = "PARTS", default_value_t = 1, value_parser = at_least_one)]
    pub batch_parts: usize,
    /// Where the student trains: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: TrainDevice,
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

/// What to train for. Of the settings only those that the chosen objectives read may be typed, so none of them has a default here.
#[derive(ClapArgs)]
pub struct ObjectiveArgs {
    /// What to train for; several with commas, each with its weight in the sum after a colon, as in lgd,kdep:0.5. Without one, also where
    /// it stands alone, the paper's: 3 for kdep, 1 for the others. `lgd objectives` lists them.
    #[arg(long, value_name = "NAME[:WEIGHT],...", default_value = "lgd")]
    pub objective: Objectives,
    /// lgd: weight of the visual term; the textual one has the rest [default: 0.5].
    #[arg(long, value_parser = fraction_or_zero)]
    pub alpha: Option<f32>,
    /// lgd, seed: temperature of the student's logits [default: 0.2].
    #[arg(long, value_parser = temperature)]
    pub tau_s: Option<f32>,
    /// lgd: the visual semantics bank: mean (over the whole cache, fixed) or ema (the paper's moving average over batches) [default: mean].
    #[arg(long)]
    pub vsb: Option<VisualMode>,
    /// lgd: momentum of the moving-average bank [default: 0.999].
    #[arg(long)]
    pub vsb_momentum: Option<f32>,
    /// lgd: what a category's slot counts: balanced (once, as published) or views (as often as views are assigned to it) [default:
    /// balanced].
    #[arg(long)]
    pub slots: Option<SlotMode>,
    /// seed, hgkd: teacher embeddings in the queue; never more than the cache has [default: 65536].
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    pub queue: Option<usize>,
    /// seed: temperature of the teacher's similarities to the queue [default: 0.01]; that of lgd is the bank's, see `lgd bank --tau-t`.
    #[arg(long, value_parser = temperature)]
    pub tau_t: Option<f32>,
    /// caption: temperature of the similarities to captions [default: 0.07].
    #[arg(long, value_parser = temperature)]
    pub tau_caption: Option<f32>,
    /// hgkd: share of the cells of the student's coarsest grid that it does not see [default: 0.6].
    #[arg(long, value_parser = fraction)]
    pub mask_ratio: Option<f32>,
    /// hgkd: weight of the visible tokens beside the hidden ones; 0 is the purely generative form [default: 1].
    #[arg(long)]
    pub beta: Option<f32>,
    /// hgkd: weight of the similarities to the queue [default: 1].
    #[arg(long)]
    pub lambda_sim: Option<f32>,
}

/// `lgd objectives`.
#[derive(ClapArgs)]
pub struct ObjectivesArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Names of [`lgd_train::optim::ScheduleKind`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    /// Half a cosine to zero.
    Cosine,
    /// A factor every few epochs.
    Step,
    /// The base rate to the end.
    Constant,
}

/// Names of [`lgd_train::optim::Rule`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Layer-wise adaptive rates.
    Lars,
}

/// `lgd eval`.
#[derive(ClapArgs)]
pub struct EvalArgs {
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Test images, labeled unless --protocol is agreement alone: a folder (class = first-level folder), TAR archives, Parquet files or a CSV list.
    /// Labels are the bank's names (case, blanks, `_` and `-` do not matter) or numbers, the names' positions in the bank.
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// A cache of the test images, made with --with-center; puts the teacher's figures beside the student's.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Labeled training images, which kNN and the linear probe need.
    #[arg(long, value_name = "PATH")]
    pub train_images: Option<PathBuf>,
    /// A cache of the training images, made with --with-center; for the teacher's kNN.
    #[arg(long, value_name = "DIR", requires_all = ["cache", "train_images"])]
    pub train_cache: Option<PathBuf>,
    /// The bank with the category names, for zero-shot and agreement; any bank of the same text encoder.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// What to measure: zero-shot, agreement (same choice among the bank's names as the teacher's, without labels), labels (a
    /// supervised student's own classifier), knn, linear; several with commas. Default: labels where the student ends in a classifier,
    /// zero-shot where it ends in an embedding and --bank is given, else knn.
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<Protocol>,
    /// Share of the short side that the center crop keeps, of images without a cache; a cache has its own. Default: that of the other
    /// images' cache, else 0.875.
    #[arg(long, value_parser = fraction)]
    pub center_fraction: Option<f32>,
    /// Seed of the labeled subsets.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `lgd export`.
#[derive(ClapArgs)]
pub struct ExportArgs {
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The ONNX file to write. Its input `images` is [batch, 3, S, S], RGB from 0 to 1, S as in training; the teacher's normalization is inside.
    /// Outputs: `feature`, and `embedding`, or `logits` where the student learned labels.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Any bank of the run's text encoder: adds the output `scores`, each image's cosines with its names, which are in the metadata.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// Images per run of the file, where that must be fixed, as runtimes on phones want it; default: any number.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Replace the file.
    #[arg(long)]
    pub overwrite: bool,
}

/// `lgd inspect`.
#[derive(ClapArgs)]
pub struct InspectArgs {
    /// A cache, bank or run folder.
    pub path: PathBuf,
    /// Print the manifest, which is JSON, instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// `lgd verify`.
#[derive(ClapArgs)]
pub struct VerifyArgs {
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

/// A number of bytes with a decimal unit: 800, 20kB, 1.5GB.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 5] = [("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12), ("b", 1.0)];
    let lower = text.to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((&lower, 1.0));
    match number.trim().parse::<f64>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a limit past u64 is none"
        )]
        Ok(number) if number >= 0.0 && number.is_finite() => Ok((number * factor).round() as u64),
        _ => Err(format!("expected bytes such as 500MB or 50GB, got {text:?}")),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(format!("expected a whole number above 0, got {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_decimal_units() {
        for (text, expected) in [
            ("0", 0),
            ("800", 800),
            ("12B", 12),
            ("1.5 kB", 1_500),
            ("50GB", 50_000_000_000),
            ("2tb", 2_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GB", "-1GB", "nanGB", "infB", "5GiB", "1,5GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_kept_in_three_ways() {
        assert_eq!(
            ["f16", "int8", "svd:128"].map(str::parse),
            [Ok(StoreTokens::F16), Ok(StoreTokens::Int8), Ok(StoreTokens::Svd(128))]
        );
        for text in ["", "f32", "svd", "svd:", "svd:0", "svd:x", "SVD:8"] {
            assert!(text.parse::<StoreTokens>().is_err(), "{text}");
        }
    }
}
