//! The optimizer's step on the device.

use std::sync::Arc;

use lgd_cuda::optimizer::{self, AdamW, Sgd, Vectors};
use lgd_cuda::{Buffer, CudaError, Element};

use super::{CudaBackend, nothing_ran};
use crate::engine::parameters::Table;
use crate::optim::{Group, Rule, Update};

impl CudaBackend {
    pub(super) fn step(&mut self, table: &Table, update: &Update) -> Result<(), CudaError> {
        let stream = Arc::clone(self.gpu.stream());
        let own = update.rule.slots().len();
        while self.slots.len() < own {
            self.slots.push(Buffer::zeros(&stream, Element::F32, table.parameter_len())?);
        }
        if update.ema.is_some() && self.slots.len() == own {
            for of in [&self.parameters, &self.buffers] {
                let mut average = self.gpu.alloc(Element::F32, of.len())?;
                average.as_mut().copy_from(&stream, of.as_slice())?;
                self.slots.push(average);
            }
        }
        if self.table.as_ref().is_none_or(|(groups, _)| *groups != update.groups) {
            let tensor = |group: &Group| optimizer::Tensor {
                start: group.range.start,
                len: group.range.len,
                decay: group.weight_decay,
                adapted: group.adapted,
            };
            let tensors: Vec<_> = update.groups.iter().map(tensor).collect();
            let made = optimizer::Table::new(&stream, &tensors, table.parameter_len())?;
            self.table = Some((update.groups.clone(), made));
        }
        let Self { gpu, parameters, copy, buffers, gradients, slots, table: Some((_, table)), .. } = self
        else {
            return Ok(());
        };
        if let Some(limit) = update.clip {
            optimizer::clip(gpu, table, gradients.as_slice(), 1.0, limit)?;
        }
        let vectors = Vectors {
            gradients: gradients.as_slice(),
            parameters: parameters.as_mut(),
            copy: copy.as_mut().map(Buffer::as_mut),
            clipped: update.clip.is_some(),
        };
        let rate = update.lr;
        match (update.rule, &mut slots[..own]) {
            (Rule::Sgd { momentum, nesterov }, [velocity]) => {
                let step = Sgd { rate, momentum, nesterov, trust: None };
                optimizer::sgd(gpu, table, &step, &vectors, &velocity.as_mut())?;
            }
            (Rule::Lars { momentum, trust }, [velocity]) => {
                let step = Sgd { rate, momentum, nesterov: false, trust: Some(trust) };
                optimizer::sgd(gpu, table, &step, &vectors, &velocity.as_mut())?;
            }
            (Rule::Adamw { beta1, beta2, eps }, [first, second]) => {
                let betas = (beta1, beta2);
                let correction = lgd_kernels::optimizer::AdamWStep::correction(betas, update.step);
                let step = AdamW { rate, betas, eps, correction };
                optimizer::adamw(gpu, table, &step, &vectors, (&first.as_mut(), &second.as_mut()))?;
            }
            _ => return Err(nothing_ran()),
        }
        if let (Some(decay), [of_parameters, of_buffers]) = (update.ema, &mut slots[own..]) {
            optimizer::ema(gpu, decay, parameters.as_slice(), &mut of_parameters.as_mut())?;
            optimizer::ema(gpu, decay, buffers.as_slice(), &mut of_buffers.as_mut())?;
        }
        Ok(())
    }
}
