//! Flags of `lgd train`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use lgd_train::device::TrainDevice;
use lgd_train::parse::{at_least_one, fraction};
use lgd_train::student::Architecture;

use super::{ObjectiveArgs, OutputArgs};

/// Flags of `lgd train`.
#[derive(ClapArgs)]
pub struct TrainArgs {
    /// Cache folder.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// Images that the cache was made from. Required unless the cache stores views of the student's --size.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Render every view from its image, even if the cache stores views of the right size.
    #[arg(long, requires = "images")]
    pub ignore_stored_views: bool,
    /// Bank made from this cache: a bank of names, which the objective lgd (the default) requires, or a KDEP bank,
    /// which kdep requires. May be repeated, once per kind.
    #[arg(long, value_name = "DIR")]
    pub bank: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub objective: ObjectiveArgs,
    /// Architecture of the student.
    #[arg(long, value_enum, default_value_t = Architecture::ResNet18)]
    pub student: Architecture,
    /// Side of the student's input in pixels.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..))]
    pub size: u32,
    /// Number of epochs; 0 saves the untrained student.
    #[arg(long, default_value_t = 200)]
    pub epochs: u32,
    /// Images per step.
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub batch: usize,
    /// Learning rate after the warm-up. Default: 0.03 x batch / 256, for SGD only.
    #[arg(long)]
    pub lr: Option<f32>,
    /// Learning rate at the start of the warm-up. Default: 0.03, as published; if --lr is at most 0.03, a tenth of
    /// --lr.
    #[arg(long)]
    pub start_lr: Option<f32>,
    /// Epochs of linear warm-up. Default: 5, but at most a quarter of the epochs.
    #[arg(long)]
    pub warmup_epochs: Option<u32>,
    /// Learning rate after the warm-up: cosine (to zero), step or constant.
    #[arg(long, value_enum, default_value_t = ScheduleArg::Cosine)]
    pub schedule: ScheduleArg,
    /// With --schedule step: epochs between two drops [default: 30].
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    pub drop_every: Option<u32>,
    /// With --schedule step: factor that multiplies the learning rate at each drop [default: 0.1].
    #[arg(long, value_name = "FACTOR", value_parser = fraction)]
    pub drop_factor: Option<f32>,
    /// Update the learning rate at every step instead of every epoch.
    #[arg(long)]
    pub lr_per_step: bool,
    /// Optimizer: sgd, adamw or lars.
    #[arg(long, value_enum, default_value_t = OptimizerArg::Sgd)]
    pub optimizer: OptimizerArg,
    /// Momentum of SGD and LARS [default: 0.9].
    #[arg(long)]
    pub momentum: Option<f32>,
    /// Use Nesterov momentum, with SGD.
    #[arg(long)]
    pub nesterov: bool,
    /// Betas of AdamW [default: 0.9 0.999].
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    pub betas: Option<Vec<f32>>,
    /// Trust coefficient of LARS [default: 0.001].
    #[arg(long)]
    pub trust: Option<f32>,
    /// Weight decay of all parameters; decoupled with AdamW, for which 0.05 is more common.
    #[arg(long, default_value_t = 1e-4)]
    pub weight_decay: f32,
    /// Exclude biases and normalization parameters from weight decay.
    #[arg(long)]
    pub decay_weights_only: bool,
    /// Maximum L2 norm of the gradient; a gradient with a larger norm is scaled down.
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f32>,
    /// Decay of an exponential moving average of the weights, for example 0.9999 (smaller in the first steps). The
    /// finished student holds the average.
    #[arg(long, value_name = "DECAY")]
    pub ema: Option<f32>,
    /// Number of parts that --batch is split into, to save memory. The images per step do not change. Batch
    /// statistics are computed per part, and the objective caption contrasts captions within a part only.
    #[arg(long, value_name = "PARTS", default_value_t = 1, value_parser = at_least_one)]
    pub batch_parts: usize,
    /// Device for training: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: TrainDevice,
    /// Seed of the initial weights, the image order and dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Initial weights of this architecture, with torchvision's or timm's names: safetensors, or a state dictionary that
    /// torch.save wrote (nothing in it is run).
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Also save a checkpoint every N steps.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub checkpoint_steps: Option<usize>,
    /// CPU threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub output: OutputArgs,
}

/// Command-line names of [`lgd_train::optim::ScheduleKind`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    /// Half a cosine, down to zero.
    Cosine,
    /// Multiplied by a factor every few epochs.
    Step,
    /// The base learning rate until the end.
    Constant,
}

/// Command-line names of [`lgd_train::optim::Rule`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Layer-wise adaptive learning rates.
    Lars,
}
