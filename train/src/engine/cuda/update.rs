//! One step of an optimizer on the device.

use std::sync::Arc;

use lgd_cuda::optimizer::{self, AdamWStep, SgdStep, Vectors};
use lgd_cuda::{Buffer, CudaError, Element, Gpu};
use lgd_kernels::optimizer::AdamWStep as HostAdamW;

use super::CudaBackend;
use crate::engine::optimizer::{Group, Rule, RuleState, Update};
use crate::engine::parameters::{State, Table};
use crate::error::Result;

impl CudaBackend {
    pub(super) fn step(&mut self, table: &Table, update: &Update) -> Result<()> {
        self.make_state(table, update)?;
        update.check(table, &self.optimizer, Buffer::len)?;
        let known = match self.tensors.take() {
            Some(known) if known.0 == update.groups => known,
            _ => (update.groups.clone(), upload(&self.gpu, table, update)?),
        };
        let Self { gpu, parameters, copy, buffers, gradients, optimizer, .. } = self;
        let (_, tensors) = self.tensors.insert(known);
        if let Some(limit) = update.clip {
            optimizer::clip(gpu, tensors, gradients.as_slice(), limit)?;
        }
        let vectors = Vectors {
            gradients: gradients.as_slice(),
            parameters: parameters.as_mut(),
            copy: copy.as_mut().map(Buffer::as_mut),
            clipped: update.clip.is_some(),
        };
        let lr = update.lr;
        match (update.rule, &mut optimizer.rule) {
            (Rule::Sgd { momentum, nesterov }, Some(RuleState::Momentum { momentum: buffer })) => {
                let step = SgdStep { lr, momentum, nesterov, trust: None };
                optimizer::sgd(gpu, tensors, &step, &vectors, &buffer.as_mut())?;
            }
            (Rule::Lars { momentum, trust }, Some(RuleState::Momentum { momentum: buffer })) => {
                let step = SgdStep { lr, momentum, nesterov: false, trust: Some(trust) };
                optimizer::sgd(gpu, tensors, &step, &vectors, &buffer.as_mut())?;
            }
            (Rule::Adamw { beta1, beta2, eps }, Some(RuleState::Adam { exp_avg, exp_avg_sq })) => {
                let betas = (beta1, beta2);
                let correction = HostAdamW::correction(betas, update.step);
                let step = AdamWStep { lr, betas, eps, correction };
                let moments = (&exp_avg.as_mut(), &exp_avg_sq.as_mut());
                optimizer::adamw(gpu, tensors, &step, &vectors, moments)?;
            }
            (Rule::Sgd { .. } | Rule::Lars { .. } | Rule::Adamw { .. }, _) => {
                return Err(update.foreign_state());
            }
        }
        if let (Some(decay), Some(average)) = (update.ema, &mut optimizer.ema) {
            optimizer::ema(gpu, decay, parameters.as_slice(), &mut average.parameters.as_mut())?;
            optimizer::ema(gpu, decay, buffers.as_slice(), &mut average.buffers.as_mut())?;
        }
        Ok(())
    }

    /// Creates the vectors that the optimizer's state lacks: zeros, and a copy of the weights for their average.
    fn make_state(&mut self, table: &Table, update: &Update) -> Result<(), CudaError> {
        let stream = Arc::clone(self.gpu.stream());
        if self.optimizer.rule.is_none() {
            let zeros = |_| Buffer::zeros(&stream, Element::F32, table.parameter_len());
            self.optimizer.rule = Some(update.rule.state(zeros)?);
        }
        if update.ema.is_some() && self.optimizer.ema.is_none() {
            let copy = |of: &Buffer| {
                let mut copy = self.gpu.alloc(Element::F32, of.len())?;
                copy.as_mut().copy_from(&stream, of.as_slice())?;
                Ok::<_, CudaError>(copy)
            };
            let (parameters, buffers) = (copy(&self.parameters)?, copy(&self.buffers)?);
            self.optimizer.ema = Some(State { parameters, buffers });
        }
        Ok(())
    }
}

/// The tensors of an update, on the device.
fn upload(gpu: &Gpu, table: &Table, update: &Update) -> Result<optimizer::Table, CudaError> {
    let tensor = |group: &Group| optimizer::Tensor {
        start: group.range.start,
        len: group.range.len,
        weight_decay: group.weight_decay,
        adapted: group.adapted,
    };
    let tensors: Vec<_> = update.groups.iter().map(tensor).collect();
    optimizer::Table::new(gpu.stream(), &tensors, table.parameter_len())
}
