//! Language-Guided Distillation (arXiv 2406.11689): METHODS.md section 1.
//!
//! ```text
//! L = alpha L_vis + (1 - alpha) L_tex,   each  -(1/B) Σ_b Σ_k p[b,k] log_softmax(logits / tau_s)[b,k]
//! text:    p = softmax(t . TSB^T / tau_t)            logits = s . TSB^T
//! visual:  p = softmax([1, t . VSB^T] / tau_t)       logits = [s . t, s . VSB^T]
//! ```
//!
//! Categories that no view is assigned to have no meaningful VSB row: their slots are taken out of L_vis on both sides, and the
//! teacher's distribution is normalised over the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Tensor};

use super::visual_bank::{EmaBank, VisualBank};
use super::{Loss, Objective, TargetBatch, TargetColumns};
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::student::StudentOutput;
use lgd_kernels::geometry::expect_eq;

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LgdSettings {
    /// Weight of the visual term, within 0 and 1.
    pub alpha: f32,
    /// Teacher's temperature; used by the online bank only, the stored distributions already contain it.
    pub teacher_temperature: f32,
    /// Student's temperature.
    pub student_temperature: f32,
}

impl Default for LgdSettings {
    /// The paper's.
    fn default() -> Self {
        Self { alpha: 0.5, teacher_temperature: 0.01, student_temperature: 0.2 }
    }
}

/// The LGD objective over one bank.
pub struct Lgd {
    settings: LgdSettings,
    tsb: Tensor,
    visual: Bank,
    /// All text slots.
    text_active: Arc<[bool]>,
    /// Slot 0 and the slots of assigned categories.
    visual_active: Arc<[bool]>,
}

enum Bank {
    Mean(Tensor),
    Ema(EmaBank),
}

impl Lgd {
    /// The objective for the text bank `tsb` `[C, D]`, a visual bank, and per category whether any view is assigned to it.
    ///
    /// # Errors
    /// Settings out of range, or banks whose shapes disagree.
    pub fn new(
        settings: LgdSettings,
        tsb: Tensor,
        visual: VisualBank,
        assigned: &[bool],
    ) -> Result<Self, TrainError> {
        check(&settings)?;
        let (categories, dim) = tsb.dims2()?;
        expect_eq("assignment flags of the bank", categories, assigned.len())?;
        let visual = match visual {
            VisualBank::Mean { vsb } => {
                expect_dims("the visual bank", &vsb, &[categories, dim])?;
                Bank::Mean(vsb.detach().contiguous()?)
            }
            VisualBank::Ema { momentum, seed } => Bank::Ema(EmaBank::new(momentum, seed, (categories, dim))?),
        };
        let tsb = tsb.detach().contiguous()?;
        let text_active = vec![true; categories].into();
        let visual_active = std::iter::once(true).chain(assigned.iter().copied()).collect();
        Ok(Self { settings, tsb, visual, text_active, visual_active })
    }

    /// `-(1/B) Σ p log_softmax(logits / tau_s)`.
    fn term(&self, logits: &Tensor, p: &Tensor, active: &Arc<[bool]>) -> Result<Tensor, TrainError> {
        let logits = (logits / f64::from(self.settings.student_temperature))?;
        Ok(ops::soft_cross_entropy(&logits, &p.contiguous()?, Arc::clone(active))?)
    }

    /// The teacher's visual distribution for the bank as it is now, over the active slots: `[B, C + 1]`.
    fn online_distribution(&self, t: &Tensor, vsb: &Tensor) -> Result<Tensor, TrainError> {
        let positive = t.sqr()?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(t, vsb)?], 1)?;
        let scaled = ops::to_host(&(logits / f64::from(self.settings.teacher_temperature))?)?;
        let active = &self.visual_active;
        let mut p = Vec::with_capacity(scaled.len());
        for row in scaled.chunks_exact(active.len()) {
            let max =
                row.iter().zip(&**active).filter(|(_, on)| **on).map(|(v, _)| *v).fold(f32::MIN, f32::max);
            p.extend(row.iter().zip(&**active).map(|(v, on)| if *on { (v - max).exp() } else { 0.0 }));
        }
        self.normalized_over_active(p, t.dims()[0])
    }

    /// `p` with the inactive slots at zero and each row summing to one over the rest.
    ///
    /// A row without mass on active slots becomes the positive alone: slot 0 is always active.
    fn normalized_over_active(&self, mut p: Vec<f32>, batch: usize) -> Result<Tensor, TrainError> {
        let active = &self.visual_active;
        for row in p.chunks_exact_mut(active.len()) {
            for (value, on) in row.iter_mut().zip(&**active) {
                *value = if *on { *value } else { 0.0 };
            }
            let sum: f32 = row.iter().sum();
            if sum > 0.0 {
                row.iter_mut().for_each(|value| *value /= sum);
            } else {
                row[0] = 1.0;
            }
        }
        Ok(Tensor::from_vec(p, (batch, active.len()), self.tsb.device())?)
    }

    fn text_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let p = targets.text_distribution()?;
        expect_dims("text distributions", p, &[s.dims()[0], self.text_active.len()])?;
        self.term(&ops::similarity(s, &self.tsb)?, p, &self.text_active)
    }

    fn visual_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let t = targets.embedding()?;
        expect_dims("teacher embeddings", t, s.dims())?;
        let batch = s.dims()[0];
        let (vsb, p) = match &self.visual {
            Bank::Mean(vsb) => {
                let p = targets.visual_distribution()?;
                expect_dims("visual distributions", p, &[batch, self.visual_active.len()])?;
                (vsb.clone(), self.normalized_over_active(ops::to_host(&p.contiguous()?)?, batch)?)
            }
            Bank::Ema(bank) => {
                let vsb = bank.tensor()?;
                let p = self.online_distribution(t, &vsb)?;
                (vsb, p)
            }
        };
        let positive = s.mul(t)?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(s, &vsb)?], 1)?;
        self.term(&logits, &p, &self.visual_active)
    }
}

impl Objective for Lgd {
    fn columns(&self) -> TargetColumns {
        let online = matches!(self.visual, Bank::Ema(_));
        TargetColumns {
            embedding: true,
            text_distribution: true,
            visual_distribution: !online,
            pseudo_category: online,
            ..TargetColumns::default()
        }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let s = output.embedding()?;
        let (_, dim) = self.tsb.dims2()?;
        expect_dims("the student's embedding", s, &[s.dims()[0], dim])?;
        let text = self.text_term(s, targets)?;
        let visual = self.visual_term(s, targets)?;
        let parts = vec![("text", text.detach()), ("visual", visual.detach())];
        let alpha = f64::from(self.settings.alpha);
        let total = ((visual * alpha)? + (text * (1.0 - alpha))?)?;
        Ok(Loss { total, parts })
    }

    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError> {
        match &mut self.visual {
            Bank::Mean(_) => Ok(()),
            Bank::Ema(bank) => bank.update(targets.embedding()?, targets.pseudo_category()?),
        }
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        match &self.visual {
            Bank::Mean(_) => Ok(BTreeMap::new()),
            Bank::Ema(bank) => bank.state(),
        }
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        match &mut self.visual {
            Bank::Mean(_) => Ok(()),
            Bank::Ema(bank) => bank.load_state(state),
        }
    }
}

fn check(settings: &LgdSettings) -> Result<(), TrainError> {
    if !(0.0..=1.0).contains(&settings.alpha) {
        let value = settings.alpha.into();
        return Err(TrainError::Setting { name: "alpha", value, range: "within 0 and 1" });
    }
    let temperatures = [
        ("the teacher's temperature", settings.teacher_temperature),
        ("the student's temperature", settings.student_temperature),
    ];
    for (name, value) in temperatures {
        if !value.is_finite() || value <= 0.0 {
            return Err(TrainError::Setting { name, value: value.into(), range: "finite and above 0" });
        }
    }
    Ok(())
}
