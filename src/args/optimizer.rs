//! Flags of `lgd train` for the optimizer, all in this file: names, settings, defaults, and which optimizer reads what.

use anyhow::bail;
use clap::{Args as ClapArgs, ValueEnum};
use lgd_train::optim::{OptimizerSettings, Rule};

use super::{Reader, refuse_unread};

/// Epsilon of AdamW, PyTorch's default.
const ADAMW_EPS: f32 = 1e-8;

/// The optimizer and its settings.
#[derive(ClapArgs)]
pub struct OptimizerArgs {
    /// Optimizer: sgd, adamw or lars.
    #[arg(long, value_enum, default_value_t = OptimizerArg::Sgd)]
    optimizer: OptimizerArg,
    /// Momentum of SGD and LARS [default: 0.9].
    #[arg(long)]
    momentum: Option<f32>,
    /// Use Nesterov momentum, with SGD.
    #[arg(long)]
    nesterov: bool,
    /// Betas of AdamW [default: 0.9 0.999].
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    betas: Option<Vec<f32>>,
    /// Trust coefficient of LARS [default: 0.001].
    #[arg(long)]
    trust: Option<f32>,
    /// Weight decay of all parameters; decoupled with AdamW, for which 0.05 is more common.
    #[arg(long, default_value_t = 1e-4)]
    weight_decay: f32,
    /// Exclude biases and normalization parameters from weight decay.
    #[arg(long)]
    decay_weights_only: bool,
    /// Maximum L2 norm of the gradient; a gradient with a larger norm is scaled down.
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f32>,
    /// Decay of an exponential moving average of the weights, for example 0.9999 (smaller in the first steps). The
    /// finished student holds the average.
    #[arg(long, value_name = "DECAY")]
    ema: Option<f32>,
}

/// Command-line names of [`Rule`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Layer-wise adaptive learning rates.
    Lars,
}

impl OptimizerArgs {
    /// The settings that the flags make.
    ///
    /// # Errors
    /// A flag is a setting of another optimizer, and would have no effect.
    pub fn settings(&self) -> anyhow::Result<OptimizerSettings> {
        use OptimizerArg::{Adamw, Lars, Sgd};
        let is = |wanted: &[OptimizerArg]| wanted.contains(&self.optimizer);
        refuse_unread(&[
            Reader::new("--momentum", self.momentum.is_some(), is(&[Sgd, Lars]), "--optimizer sgd or lars"),
            Reader::new("--nesterov", self.nesterov, is(&[Sgd]), "--optimizer sgd"),
            Reader::new("--betas", self.betas.is_some(), is(&[Adamw]), "--optimizer adamw"),
            Reader::new("--trust", self.trust.is_some(), is(&[Lars]), "--optimizer lars"),
        ])?;
        let momentum = self.momentum.unwrap_or(0.9);
        let rule = match (self.optimizer, self.betas.as_deref()) {
            (Sgd, _) => Rule::Sgd { momentum, nesterov: self.nesterov },
            (Adamw, Some(&[beta1, beta2])) => Rule::Adamw { beta1, beta2, eps: ADAMW_EPS },
            (Adamw, _) => Rule::Adamw { beta1: 0.9, beta2: 0.999, eps: ADAMW_EPS },
            (Lars, _) => Rule::Lars { momentum, trust: self.trust.unwrap_or(0.001) },
        };
        Ok(OptimizerSettings {
            rule,
            weight_decay: self.weight_decay,
            decay_all: !self.decay_weights_only,
            clip: self.clip_norm,
            ema: self.ema,
        })
    }

    /// Fails if the optimizer has no default learning rate. SGD has: the paper's, which depends on the batch.
    ///
    /// # Errors
    /// The default learning rate would be another optimizer's.
    pub fn require_default_lr(&self) -> anyhow::Result<()> {
        let usual = match self.optimizer {
            OptimizerArg::Sgd => return Ok(()),
            OptimizerArg::Adamw => "0.001 is usual for adamw",
            OptimizerArg::Lars => "several whole numbers are usual for lars",
        };
        bail!("the default learning rate is SGD's\nhint: give --lr; {usual}")
    }
}
