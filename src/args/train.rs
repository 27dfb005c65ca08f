//! Flags of `lgd train`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use lgd_data::source::KINDS;
use lgd_train::device::TrainDevice;
use lgd_train::loader::holdout::Holdout;
use lgd_train::optim::{CosineFrom, ScheduleKind};
use lgd_train::parse::{at_least_one, fraction};
use lgd_train::student::Architecture;

use super::optimizer::OptimizerArgs;
use super::{JsonArgs, ObjectiveArgs, OutputArgs, Reader, RecipeArgs, refuse_unread};

/// Flags of `lgd train`.
#[derive(ClapArgs)]
pub struct TrainArgs {
    /// Cache folder.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    #[arg(long, value_name = "PATH", help = images_help())]
    #[allow(missing_docs, reason = "a doc comment here would replace the help text")]
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
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub recipe: RecipeArgs,
    /// Architecture of the student.
    #[arg(long, value_enum, default_value_t = Architecture::ResNet18)]
    pub student: Architecture,
    /// Side of the student's input in pixels.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..))]
    pub size: u32,
    /// Number of epochs; 0 saves the untrained student.
    #[arg(long, default_value_t = 200)]
    pub epochs: u32,
    /// Images per step. Default: 256, at most a quarter of the samples.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
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
    schedule: ScheduleArg,
    /// With --schedule cosine: epoch from which it is counted: start (of the run, as published: the first learning rate after
    /// the warm-up is then below --lr) or warmup (its end) [default: warmup].
    #[arg(long, value_enum, value_name = "EPOCH", hide_possible_values = true)]
    cosine_from: Option<CosineFromArg>,
    /// With --schedule step: epochs between two drops [default: 30].
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    drop_every: Option<u32>,
    /// With --schedule step: factor that multiplies the learning rate at each drop [default: 0.1].
    #[arg(long, value_name = "FACTOR", value_parser = fraction)]
    drop_factor: Option<f32>,
    /// Update the learning rate at every step instead of every epoch.
    #[arg(long)]
    pub lr_per_step: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub optimizer: OptimizerArgs,
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
    /// Samples of the cache that are never trained on, as a share such as 2% or a number, at most 2,000. The same ones in
    /// every run on the cache. After every epoch the student is compared with the teacher on them, and the best epoch's
    /// weights are kept.
    #[arg(long, value_name = "SHARE", conflicts_with = "val_cache")]
    pub holdout: Option<Holdout>,
    /// Images of a validation set, evaluated instead of held-out samples. Required unless --val-cache stores views of the
    /// student's --size.
    #[arg(long, value_name = "PATH", requires = "val_cache")]
    pub val_images: Option<PathBuf>,
    /// Cache of the validation set, by the same teacher.
    #[arg(long, value_name = "DIR")]
    pub val_cache: Option<PathBuf>,
    /// Bank of names whose agreement and accuracy are measured on the held-out samples, besides that of --bank. May be
    /// repeated.
    #[arg(long, value_name = "DIR")]
    pub val_bank: Vec<PathBuf>,
    /// Stop after N epochs without a better held-out score.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub patience: Option<u32>,
    /// Keep the latest training checkpoints of a finished run. They are deleted by default.
    #[arg(long)]
    pub keep_checkpoints: bool,
    /// Also save a checkpoint every N steps.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub checkpoint_steps: Option<usize>,
    /// CPU threads; 0 means all cores.
    #[arg(long, value_parser = crate::args::threads, default_value_t = 0)]
    pub threads: usize,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: JsonArgs,
}

impl TrainArgs {
    /// Fails for settings of held-out samples without any.
    ///
    /// # Errors
    /// A flag would have no effect.
    pub fn require_held_out(&self) -> anyhow::Result<()> {
        let held_out = self.holdout.is_some() || self.val_cache.is_some();
        let owner = "--holdout or --val-cache";
        refuse_unread(&[
            Reader::new("--patience", self.patience.is_some(), held_out, owner),
            Reader::new("--val-bank", !self.val_bank.is_empty(), held_out, owner),
        ])
    }

    /// The schedule of the learning rate.
    ///
    /// # Errors
    /// A flag is a setting of another schedule, and would have no effect.
    pub fn schedule(&self) -> anyhow::Result<ScheduleKind> {
        let step = self.schedule == ScheduleArg::Step;
        let cosine = self.schedule == ScheduleArg::Cosine;
        refuse_unread(&[
            Reader::new("--cosine-from", self.cosine_from.is_some(), cosine, "--schedule cosine"),
            Reader::new("--drop-every", self.drop_every.is_some(), step, "--schedule step"),
            Reader::new("--drop-factor", self.drop_factor.is_some(), step, "--schedule step"),
        ])?;
        Ok(match self.schedule {
            ScheduleArg::Cosine => ScheduleKind::Cosine {
                from: self.cosine_from.map_or(CosineFrom::default(), CosineFromArg::resolved),
            },
            ScheduleArg::Step => ScheduleKind::Step {
                every: self.drop_every.unwrap_or(30),
                factor: self.drop_factor.unwrap_or(0.1),
            },
            ScheduleArg::Constant => ScheduleKind::Constant,
        })
    }
}

/// Command-line names of [`ScheduleKind`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScheduleArg {
    /// Half a cosine, down to zero.
    Cosine,
    /// Multiplied by a factor every few epochs.
    Step,
    /// The base learning rate until the end.
    Constant,
}

/// Command-line names of [`CosineFrom`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CosineFromArg {
    /// The start of the run.
    Start,
    /// The end of the warm-up.
    Warmup,
}

impl CosineFromArg {
    fn resolved(self) -> CosineFrom {
        match self {
            Self::Start => CosineFrom::Start,
            Self::Warmup => CosineFrom::Warmup,
        }
    }
}

/// Help of `--images`.
fn images_help() -> String {
    format!(
        "Images that the cache was made from: {KINDS}. Required unless the cache stores views of the student's --size"
    )
}
