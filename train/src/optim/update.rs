//! One update of all parameters, and how the CPU carries it out.

use lgd_kernels::geometry::expect_eq;
use lgd_kernels::optimizer::{self, AdamWStep, LarsStep, SgdStep};

use super::Rule;
use crate::engine::parameters::{Entry, Range, State, Table};
use crate::error::TrainError;

/// How one tensor is updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Where it lies.
    pub range: Range,
    /// Its weight decay.
    pub weight_decay: f32,
    /// Whether LARS adapts its rate.
    pub adapted: bool,
}

/// One step of an optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// How gradients become updates.
    pub rule: Rule,
    /// Learning rate.
    pub lr: f32,
    /// This step's number, from 1.
    pub step: u64,
    /// Largest L2 norm of the whole gradient.
    pub clip: Option<f32>,
    /// Share of the averaged weights and buffers that is kept.
    pub ema: Option<f32>,
    /// Every tensor once.
    pub groups: Vec<Group>,
}

/// What is kept besides the rule's own vectors where weights are averaged.
const AVERAGES: [&str; 2] = ["average", "average_buffers"];

impl Update {
    /// Names of the vectors that are kept from step to step: the rule's, then the averages of parameters and of buffers.
    pub fn slots(&self) -> Vec<&'static str> {
        let averages: &[&str] = if self.ema.is_some() { &AVERAGES } else { &[] };
        self.rule.slots().iter().chain(averages).copied().collect()
    }

    /// Whether a slot holds one value per buffer instead of per parameter.
    pub fn is_over_buffers(slot: &str) -> bool {
        slot == AVERAGES[1]
    }

    /// Carries the update out on the CPU. `slots` are made where they are missing: zero, and the weights themselves for averages.
    ///
    /// # Errors
    /// An update made for another table, slots of another number or length, or gradients that are to be clipped and have no finite norm;
    /// no parameter is touched by any of them.
    pub fn run(
        &self,
        table: &Table,
        state: &mut State,
        gradients: &mut [f32],
        slots: &mut Vec<Vec<f32>>,
    ) -> Result<(), TrainError> {
        let own = self.rule.slots().len();
        while slots.len() < own {
            slots.push(vec![0.0; table.parameter_len()]);
        }
        if self.ema.is_some() && slots.len() == own {
            slots.push(state.parameters.clone());
            slots.push(state.buffers.clone());
        }
        self.check(table, slots)?;
        if let Some(limit) = self.clip {
            let norm = optimizer::sum_of_squares(gradients).sqrt();
            if !norm.is_finite() {
                return Err(TrainError::GradientNorm { step: self.step.saturating_sub(1), norm });
            }
            // torch.nn.utils.clip_grad_norm_ adds the same small number.
            let factor = f64::from(limit) / (norm + 1e-6);
            if factor < 1.0 {
                optimizer::scale(gradients, single(factor));
            }
        }
        for group in &self.groups {
            self.step_tensor(group, &mut state.parameters, gradients, &mut slots[..own])?;
        }
        if let Some(decay) = self.ema
            && let [parameters, buffers] = &mut slots[own..]
        {
            optimizer::ema(decay, &state.parameters, parameters)?;
            optimizer::ema(decay, &state.buffers, buffers)?;
        }
        Ok(())
    }

    /// Ranges and slots come from outside: of another student they must not index this one's.
    fn check(&self, table: &Table, slots: &[Vec<f32>]) -> Result<(), TrainError> {
        let ours = |(group, entry): &(&Group, &Entry)| group.range == entry.range;
        let fitting = self.groups.iter().zip(table.parameters()).filter(ours).count();
        expect_eq("tensors of the update", table.parameters().len(), self.groups.len())?;
        expect_eq("tensors of the update at their place", self.groups.len(), fitting)?;
        let names = self.slots();
        expect_eq("vectors of the optimizer", names.len(), slots.len())?;
        for (name, slot) in names.iter().zip(slots) {
            let len = if Self::is_over_buffers(name) { table.buffer_len() } else { table.parameter_len() };
            expect_eq("values of an optimizer's vector", len, slot.len())?;
        }
        Ok(())
    }

    fn step_tensor(
        &self,
        group: &Group,
        parameters: &mut [f32],
        gradients: &[f32],
        slots: &mut [Vec<f32>],
    ) -> Result<(), TrainError> {
        let at = group.range.indices();
        let (p, g) = (&mut parameters[at.clone()], &gradients[at.clone()]);
        let (lr, weight_decay) = (self.lr, group.weight_decay);
        match (self.rule, slots) {
            (Rule::Sgd { momentum, nesterov }, [velocity]) => {
                optimizer::sgd(&SgdStep { lr, momentum, weight_decay, nesterov }, p, g, &mut velocity[at])?;
            }
            (Rule::Adamw { beta1, beta2, eps }, [first, second]) => {
                let betas = (beta1, beta2);
                let correction = AdamWStep::correction(betas, self.step);
                let step = AdamWStep { lr, betas, eps, weight_decay, correction };
                optimizer::adamw(&step, p, g, &mut first[at.clone()], &mut second[at])?;
            }
            (Rule::Lars { momentum, trust }, [velocity]) => {
                let trust = if group.adapted { trust_ratio(trust, p, g, weight_decay) } else { 1.0 };
                optimizer::lars(&LarsStep { lr, momentum, weight_decay, trust }, p, g, &mut velocity[at])?;
            }
            _ => return Err(TrainError::MissingState { name: self.slots().join(", ") }),
        }
        Ok(())
    }
}

/// LARS's local rate; 1 where weights or gradient vanish.
fn trust_ratio(trust: f32, p: &[f32], g: &[f32], weight_decay: f32) -> f32 {
    let (weights, gradient) = (optimizer::sum_of_squares(p).sqrt(), optimizer::sum_of_squares(g).sqrt());
    if weights == 0.0 || gradient == 0.0 {
        return 1.0;
    }
    single(f64::from(trust) * weights / (gradient + f64::from(weight_decay) * weights))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
