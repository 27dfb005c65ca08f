//! Language-Guided Distillation (arXiv 2406.11689): docs/methods.md section 1.
//!
//! ```text
//! L = alpha L_vis + (1 - alpha) L_tex,   each  -(1/B) Σ_b Σ_k p[b,k] log_softmax(logits / tau_s)[b,k]
//! text:    p = softmax(t . TSB^T / tau_t)            logits = s . TSB^T
//! visual:  p = softmax([1, t . VSB^T] / tau_t)       logits = [s . t, s . VSB^T]
//! ```
//!
//! VSB is the caller's choice ([`VisualBank`]): the mean embedding of each category, which runs take unless told otherwise, or the paper's
//! online form, which moves with the batches.
//!
//! Categories that no view is assigned to have no meaningful VSB row: their slots are taken out of L_vis on both sides, and the
//! teacher's distribution is normalized over the rest.
//!
//! Every category is one slot, as published, or counts as often as views are assigned to it: then `p[c] ∝ n_c exp(logit)`, for the teacher
//! and, as `log n_c` added to the logits, for the student. An unassigned category counts once in the text term. Of distributions stored as
//! their largest entries, those are weighted.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};

use super::visual_bank::{EmaBank, VisualBank};
use super::{
    Loss, Objective, ObjectiveSpec, ReadEmbeddings, TargetBatch, TargetColumns, WantedOutputs,
    check_temperature,
};
use crate::error::{TrainError, expect_dims};
use crate::ops;
use crate::student::StudentOutput;
use lgd_kernels::geometry::expect_eq;

/// What is to be known of it.
pub const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "lgd",
    about: "similarities to the categories' text and visual prototypes, as the teacher has them",
    needs: &["a bank of names"],
    flags: &["--bank", "--alpha", "--tau-s", "--vsb", "--vsb-momentum", "--slots"],
    outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
    default_weight: 1.0,
    source: "LGD, arXiv 2406.11689",
};

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
    text_slots: Slots,
    /// Slot 0 is the view itself.
    visual_slots: Slots,
}

enum Bank {
    Mean(Tensor),
    Ema(EmaBank),
}

/// How much each slot of a distribution counts.
struct Slots {
    /// 0 takes a slot out.
    weights: Vec<f32>,
    active: Arc<[bool]>,
    /// `[1, slots]`, where a slot counts other than once: what the student's logits are raised by.
    log_weights: Option<Tensor>,
}

impl Slots {
    /// Every active slot counts once.
    fn balanced(active: impl Iterator<Item = bool>) -> Self {
        let active: Arc<[bool]> = active.collect();
        let weights = active.iter().map(|&on| f32::from(u8::from(on))).collect();
        Self { weights, active, log_weights: None }
    }

    fn weighted(weights: Vec<f32>, device: &Device) -> Result<Self, TrainError> {
        // What is left out has no logarithm, and needs none.
        let log = |weight: &f32| if *weight > 0.0 { weight.ln() } else { 0.0 };
        let log_weights: Vec<f32> = weights.iter().map(log).collect();
        let log_weights = Tensor::from_vec(log_weights, (1, weights.len()), device)?;
        let active = weights.iter().map(|weight| *weight > 0.0).collect();
        Ok(Self { weights, active, log_weights: Some(log_weights) })
    }
}

impl Lgd {
    /// The objective for the text bank `tsb` `[C, D]`, a visual bank, and per category whether any view is assigned to it. Every category
    /// is one slot.
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
        let text_slots = Slots::balanced(std::iter::repeat_n(true, categories));
        let visual_slots = Slots::balanced(std::iter::once(true).chain(assigned.iter().copied()));
        Ok(Self { settings, tsb, visual, text_slots, visual_slots })
    }

    /// The same with slots that count as often as views are assigned to their category: `counts` `[C]`.
    ///
    /// # Errors
    /// Another number of counts than of categories.
    pub fn counting_views(self, counts: &[u64]) -> Result<Self, TrainError> {
        expect_eq("counts of the bank", self.tsb.dims()[0], counts.len())?;
        #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^24 need no last digit")]
        let weights = |least: u64| counts.iter().map(move |&count| count.max(least) as f32);
        let device = self.tsb.device();
        let text_slots = Slots::weighted(weights(1).collect(), device)?;
        let visual_slots = Slots::weighted(std::iter::once(1.0).chain(weights(0)).collect(), device)?;
        Ok(Self { text_slots, visual_slots, ..self })
    }

    /// `-(1/B) Σ p log_softmax(logits / tau_s + log weights)`.
    fn term(&self, logits: &Tensor, p: &Tensor, slots: &Slots) -> Result<Tensor, TrainError> {
        let mut logits = (logits / f64::from(self.settings.student_temperature))?;
        if let Some(log_weights) = &slots.log_weights {
            logits = logits.broadcast_add(log_weights)?;
        }
        Ok(ops::soft_cross_entropy(&logits, &p.contiguous()?, Arc::clone(&slots.active))?)
    }

    /// The teacher's visual distribution for the bank as it is now, over the active slots: `[B, C + 1]`.
    fn online_distribution(&self, t: &Tensor, vsb: &Tensor) -> Result<Tensor, TrainError> {
        let positive = t.sqr()?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(t, vsb)?], 1)?;
        let scaled = (logits / f64::from(self.settings.teacher_temperature))?;
        Ok(ops::softmax(&scaled, &self.visual_slots.weights)?)
    }

    fn text_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let (p, slots) = (targets.text_distribution()?, &self.text_slots);
        expect_dims("text distributions", p, &[s.dims()[0], slots.weights.len()])?;
        let p = if slots.log_weights.is_some() { ops::reweighted(p, &slots.weights)? } else { p.clone() };
        self.term(&ops::similarity(s, &self.tsb)?, &p, slots)
    }

    fn visual_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let (t, slots) = (targets.embedding()?, &self.visual_slots);
        expect_dims("teacher embeddings", t, s.dims())?;
        let (vsb, p) = match &self.visual {
            Bank::Mean(vsb) => {
                let p = targets.visual_distribution()?;
                expect_dims("visual distributions", p, &[s.dims()[0], slots.weights.len()])?;
                (vsb.clone(), ops::reweighted(p, &slots.weights)?)
            }
            Bank::Ema(bank) => {
                let vsb = bank.tensor()?.to_device(self.tsb.device())?;
                let p = self.online_distribution(t, &vsb)?;
                (vsb, p)
            }
        };
        let positive = s.mul(t)?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(s, &vsb)?], 1)?;
        self.term(&logits, &p, slots)
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

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        match &mut self.visual {
            Bank::Mean(_) => Ok(()),
            Bank::Ema(bank) => bank.restore(state),
        }
    }
}

fn check(settings: &LgdSettings) -> Result<(), TrainError> {
    if !(0.0..=1.0).contains(&settings.alpha) {
        let value = settings.alpha.into();
        return Err(TrainError::Setting { name: "alpha", value, range: "within 0 and 1" });
    }
    check_temperature("the teacher's temperature", settings.teacher_temperature)?;
    check_temperature("the student's temperature", settings.student_temperature)
}
