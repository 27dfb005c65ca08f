//! Optimizers: the rules, one step of all parameters, and the state that a rule keeps from step to step.
//!
//! Every vector of the state has a name: PyTorch's for the moments of a rule (`momentum`, `exp_avg`, `exp_avg_sq`), `ema` for the averaged
//! weights. Checkpoints store them under the names that [`OptimizerState::entries`] lists.

use lgd_kernels::geometry::expect_eq;
use serde::{Deserialize, Serialize};

use super::parameters::{Entry, Range, State, Table};
use crate::error::{Result, TrainError};

/// How gradients become updates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rule {
    /// `torch.optim.SGD` without dampening: `v = m v + (g + w p)`, `p -= lr v`; with Nesterov `p -= lr (g + w p + m v)`.
    Sgd {
        /// Decay factor of the momentum.
        momentum: f32,
        /// Whether to use Nesterov momentum.
        nesterov: bool,
    },
    /// `torch.optim.AdamW` (Loshchilov and Hutter, arXiv 1711.05101).
    Adamw {
        /// Decay factor of the mean gradient.
        beta1: f32,
        /// Decay factor of the mean squared gradient.
        beta2: f32,
        /// Added to the root of the mean squared gradient.
        eps: f32,
    },
    /// Layer-wise adaptive learning rates (You et al., arXiv 1708.03888) on weights, plain momentum on biases and normalizations:
    /// `v = m v + trust * |p| / (|g| + w |p|) * (g + w p)`, `p -= lr v`.
    Lars {
        /// Decay factor of the momentum.
        momentum: f32,
        /// Trust coefficient.
        trust: f32,
    },
}

/// Vectors of a rule, each with one value per parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleState<V = Vec<f32>> {
    /// Of SGD and LARS.
    Momentum {
        /// Accumulated gradients.
        momentum: V,
    },
    /// Of AdamW.
    Adam {
        /// Mean gradient.
        exp_avg: V,
        /// Mean squared gradient.
        exp_avg_sq: V,
    },
}

impl Rule {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`TrainError::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Sgd { momentum, nesterov } => {
                require_share("momentum", momentum)?;
                if nesterov && momentum == 0.0 {
                    return Err(TrainError::setting("momentum", momentum, "above 0 with Nesterov"));
                }
                Ok(())
            }
            Self::Adamw { beta1, beta2, eps } => {
                require_share("beta1", beta1)?;
                require_share("beta2", beta2)?;
                require_positive("eps", eps)
            }
            Self::Lars { momentum, trust } => {
                require_share("momentum", momentum)?;
                require_positive("trust coefficient", trust)
            }
        }
    }

    /// Creates the rule's vectors: calls `make` with the name of each.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn state<V, E>(&self, mut make: impl FnMut(&'static str) -> Result<V, E>) -> Result<RuleState<V>, E> {
        Ok(match self {
            Self::Sgd { .. } | Self::Lars { .. } => RuleState::Momentum { momentum: make(MOMENTUM)? },
            Self::Adamw { .. } => RuleState::Adam { exp_avg: make(EXP_AVG)?, exp_avg_sq: make(EXP_AVG_SQ)? },
        })
    }
}

/// Fails unless `value` is in [0, 1).
pub(crate) fn require_share(name: &'static str, value: f32) -> Result<()> {
    let fits = (0.0..1.0).contains(&value);
    if fits { Ok(()) } else { Err(TrainError::setting(name, value, "at least 0 and below 1")) }
}

/// Fails unless `value` is finite and above 0.
pub(crate) fn require_positive(name: &'static str, value: f32) -> Result<()> {
    let fits = value.is_finite() && value > 0.0;
    if fits { Ok(()) } else { Err(TrainError::setting(name, value, "finite and above 0")) }
}

/// Names of the vectors in checkpoints.
const MOMENTUM: &str = "momentum";
const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const EMA: [&str; 2] = ["average", "average_buffers"];

/// The state of an optimizer, created by the first step.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState<V = Vec<f32>> {
    /// The rule's vectors; none before the first step.
    pub rule: Option<RuleState<V>>,
    /// Exponential moving average of the parameters and buffers; none before the first step, or without averaging.
    pub ema: Option<State<V>>,
}

impl<V> Default for OptimizerState<V> {
    fn default() -> Self {
        Self { rule: None, ema: None }
    }
}

impl<V> OptimizerState<V> {
    /// Every vector with its name in checkpoints.
    pub fn entries(&self) -> Vec<(&'static str, &V)> {
        let mut entries = match &self.rule {
            None => Vec::new(),
            Some(RuleState::Momentum { momentum }) => vec![(MOMENTUM, momentum)],
            Some(RuleState::Adam { exp_avg, exp_avg_sq }) => {
                vec![(EXP_AVG, exp_avg), (EXP_AVG_SQ, exp_avg_sq)]
            }
        };
        if let Some(State { parameters, buffers }) = &self.ema {
            entries.extend([(EMA[0], parameters), (EMA[1], buffers)]);
        }
        entries
    }

    /// The state of `rule`, with averaged weights if `averaged`. `make` creates every vector from its name in
    /// checkpoints and its length.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn from_entries<E>(
        rule: &Rule,
        averaged: bool,
        table: &Table,
        mut make: impl FnMut(&'static str, usize) -> Result<V, E>,
    ) -> Result<Self, E> {
        let (parameters, buffers) = (table.parameter_len(), table.buffer_len());
        let rule = rule.state(|name| make(name, parameters))?;
        let ema = if averaged {
            Some(State { parameters: make(EMA[0], parameters)?, buffers: make(EMA[1], buffers)? })
        } else {
            None
        };
        Ok(Self { rule: Some(rule), ema })
    }

    /// The same state with every vector converted, on another device.
    ///
    /// # Errors
    /// Those of `convert`.
    pub fn try_map<'a, W, E>(
        &'a self,
        mut convert: impl FnMut(&'a V) -> Result<W, E>,
    ) -> Result<OptimizerState<W>, E> {
        let rule = match &self.rule {
            None => None,
            Some(RuleState::Momentum { momentum }) => {
                Some(RuleState::Momentum { momentum: convert(momentum)? })
            }
            Some(RuleState::Adam { exp_avg, exp_avg_sq }) => {
                Some(RuleState::Adam { exp_avg: convert(exp_avg)?, exp_avg_sq: convert(exp_avg_sq)? })
            }
        };
        let ema = match &self.ema {
            None => None,
            Some(State { parameters, buffers }) => {
                Some(State { parameters: convert(parameters)?, buffers: convert(buffers)? })
            }
        };
        Ok(OptimizerState { rule, ema })
    }
}

/// How one tensor is updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Range in the flat vector of parameters.
    pub range: Range,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether LARS adapts its learning rate.
    pub adapted: bool,
}

/// One step of an optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// How gradients become updates.
    pub rule: Rule,
    /// Learning rate.
    pub lr: f32,
    /// Number of the step, from 1.
    pub step: u64,
    /// Largest L2 norm of the whole gradient; none for no limit.
    pub clip: Option<f32>,
    /// Decay factor of the averaged weights and buffers; none for no average.
    pub ema: Option<f32>,
    /// Every tensor once, in the order of the table.
    pub groups: Vec<Group>,
}

impl Update {
    /// Fails unless the update was made for `table`, and `state` has the vectors of this rule with the table's lengths;
    /// `len` returns the length of a vector. An update or a state of another student must not index this one's
    /// parameters.
    pub(super) fn check<V>(
        &self,
        table: &Table,
        state: &OptimizerState<V>,
        len: impl Fn(&V) -> usize,
    ) -> Result<()> {
        let ours = |(group, entry): &(&Group, &Entry)| group.range == entry.range;
        let fitting = self.groups.iter().zip(table.parameters()).filter(ours).count();
        expect_eq("tensors of the update", table.parameters().len(), self.groups.len())?;
        expect_eq("tensors of the update at their place", self.groups.len(), fitting)?;
        let expected = OptimizerState::from_entries(&self.rule, self.ema.is_some(), table, |_, len| {
            Ok::<_, TrainError>(len)
        })?;
        let (expected, got) = (expected.entries(), state.entries());
        expect_eq("vectors of the optimizer", expected.len(), got.len())?;
        for ((name, expected), (found, vector)) in expected.into_iter().zip(got) {
            if name != found {
                return Err(TrainError::MissingState { name: name.to_owned() });
            }
            expect_eq("values of an optimizer's vector", *expected, len(vector))?;
        }
        Ok(())
    }

    /// The error for a state whose vectors belong to another rule.
    pub(super) fn foreign_state(&self) -> TrainError {
        TrainError::MissingState { name: format!("of the optimizer {:?}", self.rule) }
    }
}
