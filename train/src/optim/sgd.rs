//! Stochastic gradient descent with momentum and weight decay.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::params::ParameterSet;

/// The constants of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdSettings {
    /// Share of the last velocity that is kept.
    pub momentum: f32,
    /// L2 penalty on every parameter, biases and BN included.
    pub weight_decay: f32,
}

impl Default for SgdSettings {
    /// The paper's: momentum 0.9, weight decay 1e-4 (METHODS.md section 1).
    fn default() -> Self {
        Self { momentum: 0.9, weight_decay: 1e-4 }
    }
}

/// `torch.optim.SGD` without dampening or Nesterov: `v = m v + (g + w p)`, `p -= lr v`.
///
/// The velocity starts at zero, which equals PyTorch's first step `v = g + w p`.
pub struct Sgd {
    settings: SgdSettings,
    velocity: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// An optimiser at rest for `params`.
    ///
    /// # Errors
    /// Settings that are negative or not finite.
    pub fn new(settings: SgdSettings, params: &ParameterSet) -> Result<Self, TrainError> {
        for (name, value) in [("momentum", settings.momentum), ("weight decay", settings.weight_decay)] {
            if !value.is_finite() || value < 0.0 {
                return Err(TrainError::Setting {
                    name,
                    value: value.into(),
                    range: "finite and at least 0",
                });
            }
        }
        let zeros = |(name, var): (&str, &candle_core::Var)| Ok((name.to_owned(), var.zeros_like()?));
        let velocity = params.parameters().map(zeros).collect::<Result<_, TrainError>>()?;
        Ok(Self { settings, velocity })
    }

    /// One update of `params` by `grads` at the rate `lr`, in place.
    ///
    /// A parameter the loss does not depend on has no gradient and is left alone, as in PyTorch.
    ///
    /// # Errors
    /// A parameter this optimiser was not made for.
    pub fn step(&mut self, params: &ParameterSet, grads: &GradStore, lr: f32) -> Result<(), TrainError> {
        let SgdSettings { momentum, weight_decay } = self.settings;
        for (name, parameter) in params.parameters() {
            let Some(gradient) = grads.get(parameter) else { continue };
            let velocity = self.velocity.get(name);
            let velocity = velocity.ok_or_else(|| TrainError::MissingState { name: name.to_owned() })?;
            ops::accumulate(velocity, &gradient.contiguous()?, parameter, (momentum, weight_decay))?;
            ops::descend(parameter, velocity, lr)?;
        }
        Ok(())
    }

    /// The velocities by parameter name, for a checkpoint: views, not copies.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.velocity.clone()
    }

    /// Takes the velocities over from a checkpoint.
    ///
    /// # Errors
    /// A parameter without an entry, or an entry of another shape; nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        let mut velocity = BTreeMap::new();
        for (name, current) in &self.velocity {
            let saved = state.get(name).ok_or_else(|| TrainError::MissingState { name: name.clone() })?;
            expect_dims(name, saved, current.dims())?;
            velocity.insert(name.clone(), saved.to_device(current.device())?.force_contiguous()?);
        }
        self.velocity = velocity;
        Ok(())
    }
}
