//! One step of an optimizer on the CPU.

use lgd_kernels::optimizer::{self, AdamWStep, LarsStep, SgdStep};

use super::single;
use crate::engine::optimizer::{Group, OptimizerState, Rule, RuleState, Update};
use crate::engine::parameters::{State, Table};
use crate::error::{Result, TrainError};

impl Update {
    /// Updates the parameters of `state` by `gradients` on the CPU, and the averaged weights. Creates the vectors that
    /// `optimizer` lacks: zeros, and a copy of the weights for their average.
    ///
    /// # Errors
    /// An update made for another table, vectors of another rule or length, or gradients to be clipped whose norm is
    /// not finite. An error leaves every parameter unchanged.
    pub fn run(
        &self,
        table: &Table,
        state: &mut State,
        gradients: &mut [f32],
        optimizer: &mut OptimizerState,
    ) -> Result<()> {
        if optimizer.rule.is_none() {
            let zeros = |_| Ok::<_, TrainError>(vec![0.0; table.parameter_len()]);
            optimizer.rule = Some(self.rule.state(zeros)?);
        }
        if self.ema.is_some() && optimizer.ema.is_none() {
            optimizer.ema = Some(state.clone());
        }
        self.check(table, optimizer, Vec::len)?;
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
        let moments = optimizer.rule.as_mut().ok_or_else(|| self.foreign_state())?;
        for group in &self.groups {
            self.step_tensor(group, &mut state.parameters, gradients, moments)?;
        }
        if let (Some(decay), Some(average)) = (self.ema, &mut optimizer.ema) {
            optimizer::ema(decay, &state.parameters, &mut average.parameters)?;
            optimizer::ema(decay, &state.buffers, &mut average.buffers)?;
        }
        Ok(())
    }

    fn step_tensor(
        &self,
        group: &Group,
        parameters: &mut [f32],
        gradients: &[f32],
        moments: &mut RuleState,
    ) -> Result<()> {
        let at = group.range.indices();
        let (p, g) = (&mut parameters[at.clone()], &gradients[at.clone()]);
        let (lr, weight_decay) = (self.lr, group.weight_decay);
        match (self.rule, moments) {
            (Rule::Sgd { momentum, nesterov }, RuleState::Momentum { momentum: buffer }) => {
                optimizer::sgd(&SgdStep { lr, momentum, weight_decay, nesterov }, p, g, &mut buffer[at])?;
            }
            (Rule::Adamw { beta1, beta2, eps }, RuleState::Adam { exp_avg, exp_avg_sq }) => {
                let betas = (beta1, beta2);
                let correction = AdamWStep::correction(betas, self.step);
                let step = AdamWStep { lr, betas, eps, weight_decay, correction };
                optimizer::adamw(&step, p, g, &mut exp_avg[at.clone()], &mut exp_avg_sq[at])?;
            }
            (Rule::Lars { momentum, trust }, RuleState::Momentum { momentum: buffer }) => {
                let trust = if group.adapted { trust_ratio(trust, p, g, weight_decay) } else { 1.0 };
                optimizer::lars(&LarsStep { lr, momentum, weight_decay, trust }, p, g, &mut buffer[at])?;
            }
            (Rule::Sgd { .. } | Rule::Lars { .. }, RuleState::Adam { .. })
            | (Rule::Adamw { .. }, RuleState::Momentum { .. }) => return Err(self.foreign_state()),
        }
        Ok(())
    }
}

/// LARS's factor for a tensor's learning rate; 1 if all weights or all gradients are zero.
fn trust_ratio(trust: f32, p: &[f32], g: &[f32], weight_decay: f32) -> f32 {
    let (weights, gradient) = (optimizer::sum_of_squares(p).sqrt(), optimizer::sum_of_squares(g).sqrt());
    if weights == 0.0 || gradient == 0.0 {
        return 1.0;
    }
    single(f64::from(trust) * weights / (gradient + f64::from(weight_decay) * weights))
}
