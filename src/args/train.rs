//! `lgd train`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use lgd_train::device::TrainDevice;
use lgd_train::parse::{at_least_one, fraction};
use lgd_train::student::Architecture;

use super::{ObjectiveArgs, OutputArgs};

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
    /// The student's architecture.
    #[arg(long, value_enum, default_value_t = Architecture::ResNet18)]
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
