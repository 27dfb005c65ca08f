//! Language-Guided Distillation (arXiv 2406.11689): docs/methods.md section 1.
//!
//! ```text
//! L = alpha L_vis + (1 - alpha) L_tex,   each  -(1/B) Σ_b Σ_k p[b,k] log_softmax(logits / tau_s)[b,k]
//! text:    p = softmax(t . TSB^T / tau_t)            logits = s . TSB^T
//! visual:  p = softmax([1, t . VSB^T] / tau_t)       logits = [s . t, s . VSB^T]
//! ```
//!
//! The VSB ([`VisualBank`]) holds the mean embedding of each category (default), or the paper's online form, which moves with the batches.
//!
//! Categories that no view is assigned to have no meaningful VSB row. They are left out of L_vis on both sides, and the
//! teacher's distribution is normalized over the rest.
//!
//! Every category's prototype counts once, as published, or as often as views are assigned to it ([`CategoryWeights`]).
//! In the second case, `p[c] ∝ n_c exp(logit)` for the teacher, and `log n_c` is added to the student's logits. An
//! unassigned category counts once in the text term. If only the largest entries of a distribution are stored, only
//! those are weighted.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use clap::Args;
use lgd_data::bank::UnassignedSlots;
use lgd_kernels::geometry::expect_eq;
use serde::{Deserialize, Serialize};

use super::registry::{Declared, Setup};
use super::settings::SharedSettings;
use super::visual_bank::{EmaBank, VisualBank};
use super::{
    IdleFlag, Input, InputError, Loss, Objective, ObjectiveSpec, ReadEmbeddings, SettingGroup, TargetBatch,
    TargetColumns, WantedOutputs, check_temperature,
};
use crate::error::{SettingError, TrainError, expect_dims};
use crate::ops;
use crate::parse;
use crate::student::StudentOutput;

/// Settings that only this objective reads; `--tau-s` is shared.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct LgdSettings {
    /// lgd: weight of the visual term; the text term has 1 - alpha.
    #[arg(long, default_value_t = DEFAULT.alpha, value_parser = parse::fraction_or_zero)]
    pub alpha: f32,
    /// lgd: visual semantics bank: mean (over the whole cache, fixed) or ema (the paper's moving average over batches).
    #[arg(long, default_value_t = DEFAULT.vsb)]
    pub vsb: VisualMode,
    /// lgd: momentum of the moving-average bank.
    #[arg(long, default_value_t = DEFAULT.vsb_momentum)]
    pub vsb_momentum: f32,
    /// lgd: how often a category counts: balanced (once, as published) or views (as often as views are assigned to it).
    #[arg(long, default_value_t = DEFAULT.slots)]
    pub slots: CategoryWeights,
}

/// The paper's settings (docs/methods.md section 1), except for the visual bank: the paper's moves with the batches
/// ([`VisualMode::Ema`]).
const DEFAULT: LgdSettings =
    LgdSettings { alpha: 0.5, vsb: VisualMode::Mean, vsb_momentum: 0.999, slots: CategoryWeights::Balanced };

impl Default for LgdSettings {
    fn default() -> Self {
        DEFAULT
    }
}

impl SettingGroup for LgdSettings {
    fn check(&self) -> Result<(), SettingError> {
        let Self { alpha, vsb_momentum, .. } = *self;
        SettingError::first([
            ("alpha", alpha.to_string(), (0.0..=1.0).contains(&alpha), "0 to 1"),
            (
                "vsb_momentum",
                vsb_momentum.to_string(),
                (0.0..1.0).contains(&vsb_momentum),
                "at least 0 and below 1",
            ),
        ])
    }

    fn idle(&self) -> Option<IdleFlag> {
        let (flag, owner, needs) = ("--vsb-momentum", "the moving-average bank", "--vsb ema");
        (self.vsb != VisualMode::Ema).then_some(IdleFlag { flag, owner, needs })
    }
}

/// Source of the visual semantics bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisualMode {
    /// The bank's means; the visual distributions are read from disk.
    Mean,
    /// The paper's online form: a moving average, computed in the loop.
    Ema,
}

impl fmt::Display for VisualMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Ema => "ema",
        })
    }
}

impl FromStr for VisualMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "mean" => Ok(Self::Mean),
            "ema" => Ok(Self::Ema),
            _ => Err(format!("expected mean or ema, got {name:?}")),
        }
    }
}

/// How often a category counts in the distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CategoryWeights {
    /// Once, as published.
    Balanced,
    /// As often as views are assigned to it.
    Views,
}

impl fmt::Display for CategoryWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Balanced => "balanced",
            Self::Views => "views",
        })
    }
}

impl FromStr for CategoryWeights {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "balanced" => Ok(Self::Balanced),
            "views" => Ok(Self::Views),
            _ => Err(format!("expected balanced or views, got {name:?}")),
        }
    }
}

impl Declared for Lgd {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "lgd",
        about: "matches the teacher's similarities to the categories' text and visual prototypes",
        needs: &[Input::Names],
        flags: &["--bank", "--alpha", "--tau-s", "--vsb", "--vsb-momentum", "--slots"],
        outputs: WantedOutputs { embedding: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "LGD, arXiv 2406.11689",
    };

    /// Fails if a weight of 0 views would drop prototypes that the bank keeps.
    fn check(setup: &Setup<'_>) -> Result<(), InputError> {
        let bank = setup.inputs.names()?;
        let kept = bank.manifest().record.unassigned_slots == UnassignedSlots::Kept;
        if kept && setup.settings.lgd.slots == CategoryWeights::Views {
            return Err(InputError::KeptPrototypes { bank: bank.dir().to_owned() });
        }
        Ok(())
    }

    fn build(setup: &Setup<'_>) -> Result<Self, InputError> {
        let (bank, settings) = (setup.inputs.names()?, &setup.settings.lgd);
        let record = &bank.manifest().record;
        let prototypes = |values: &[f32]| {
            let shape = (bank.categories(), bank.dim());
            Tensor::from_slice(values, shape, setup.device).map_err(TrainError::from)
        };
        let visual = match settings.vsb {
            VisualMode::Mean => VisualBank::Mean { vsb: prototypes(bank.vsb())? },
            VisualMode::Ema => VisualBank::Ema { momentum: settings.vsb_momentum, seed: setup.seed },
        };
        let constants = LgdConstants {
            alpha: settings.alpha,
            teacher_temperature: record.teacher_temperature,
            student_temperature: setup.settings.shared.student_temperature,
        };
        let kept = record.unassigned_slots == UnassignedSlots::Kept;
        let counts: Vec<u64> = record.categories.iter().map(|category| category.count).collect();
        let assigned: Vec<bool> = counts.iter().map(|&count| kept || count > 0).collect();
        let lgd = Self::new(constants, prototypes(bank.tsb())?, visual, &assigned)?;
        Ok(match settings.slots {
            CategoryWeights::Balanced => lgd,
            CategoryWeights::Views => lgd.counting_views(&counts)?,
        })
    }
}

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LgdConstants {
    /// Weight of the visual term, 0 to 1.
    pub alpha: f32,
    /// Teacher's temperature. Only the online bank uses it: the stored distributions already contain it.
    pub teacher_temperature: f32,
    /// Student's temperature.
    pub student_temperature: f32,
}

impl Default for LgdConstants {
    /// The constants of the default settings, and of a bank with the default temperature.
    fn default() -> Self {
        let student_temperature = SharedSettings::default().student_temperature;
        Self { alpha: DEFAULT.alpha, teacher_temperature: 0.01, student_temperature }
    }
}

/// The LGD objective over one bank.
pub struct Lgd {
    constants: LgdConstants,
    tsb: Tensor,
    visual: VisualPrototypes,
    text_weights: ClassWeights,
    /// Class 0 is the view itself.
    visual_weights: ClassWeights,
}

enum VisualPrototypes {
    Mean(Tensor),
    Ema(EmaBank),
}

/// Weight of each class of a distribution: every category, and in the visual term the view itself.
struct ClassWeights {
    /// 0 leaves a class out.
    weights: Vec<f32>,
    active: Arc<[bool]>,
    /// `[1, classes]`, added to the student's logits; absent if every active class counts once.
    log_weights: Option<Tensor>,
}

impl ClassWeights {
    /// Every active class counts once.
    fn balanced(active: impl Iterator<Item = bool>) -> Self {
        let active: Arc<[bool]> = active.collect();
        let weights = active.iter().map(|&on| f32::from(u8::from(on))).collect();
        Self { weights, active, log_weights: None }
    }

    fn weighted(weights: Vec<f32>, device: &Device) -> Result<Self, TrainError> {
        // A class that is left out has no logarithm and needs none.
        let log = |weight: &f32| if *weight > 0.0 { weight.ln() } else { 0.0 };
        let log_weights: Vec<f32> = weights.iter().map(log).collect();
        let log_weights = Tensor::from_vec(log_weights, (1, weights.len()), device)?;
        let active = weights.iter().map(|weight| *weight > 0.0).collect();
        Ok(Self { weights, active, log_weights: Some(log_weights) })
    }
}

impl Lgd {
    /// Creates the objective from the text bank `tsb` `[C, D]`, a visual bank, and whether any view is assigned to each
    /// category. Every category counts once.
    ///
    /// # Errors
    /// If a constant is out of range, or the banks' shapes disagree.
    pub fn new(
        constants: LgdConstants,
        tsb: Tensor,
        visual: VisualBank,
        assigned: &[bool],
    ) -> Result<Self, TrainError> {
        check(&constants)?;
        let (categories, dim) = tsb.dims2()?;
        expect_eq("assignment flags of the bank", categories, assigned.len())?;
        let visual = match visual {
            VisualBank::Mean { vsb } => {
                expect_dims("the visual bank", &vsb, &[categories, dim])?;
                VisualPrototypes::Mean(vsb.detach().contiguous()?)
            }
            VisualBank::Ema { momentum, seed } => {
                VisualPrototypes::Ema(EmaBank::new(momentum, seed, (categories, dim))?)
            }
        };
        let tsb = tsb.detach().contiguous()?;
        let text_weights = ClassWeights::balanced(std::iter::repeat_n(true, categories));
        let visual_weights = ClassWeights::balanced(std::iter::once(true).chain(assigned.iter().copied()));
        Ok(Self { constants, tsb, visual, text_weights, visual_weights })
    }

    /// The same objective, with each category counted as often as views are assigned to it: `counts` `[C]`.
    ///
    /// # Errors
    /// If the number of counts is not the number of categories.
    pub fn counting_views(self, counts: &[u64]) -> Result<Self, TrainError> {
        expect_eq("counts of the bank", self.tsb.dims()[0], counts.len())?;
        #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^24 need no last digit")]
        let weights = |least: u64| counts.iter().map(move |&count| count.max(least) as f32);
        let device = self.tsb.device();
        let text_weights = ClassWeights::weighted(weights(1).collect(), device)?;
        let visual_weights =
            ClassWeights::weighted(std::iter::once(1.0).chain(weights(0)).collect(), device)?;
        Ok(Self { text_weights, visual_weights, ..self })
    }

    /// `-(1/B) Σ p log_softmax(logits / tau_s + log weights)`.
    fn term(&self, logits: &Tensor, p: &Tensor, classes: &ClassWeights) -> Result<Tensor, TrainError> {
        let mut logits = (logits / f64::from(self.constants.student_temperature))?;
        if let Some(log_weights) = &classes.log_weights {
            logits = logits.broadcast_add(log_weights)?;
        }
        Ok(ops::soft_cross_entropy(&logits, &p.contiguous()?, Arc::clone(&classes.active))?)
    }

    /// The teacher's visual distribution over the active classes, from the current state of the bank: `[B, C + 1]`.
    fn online_distribution(&self, t: &Tensor, vsb: &Tensor) -> Result<Tensor, TrainError> {
        let positive = t.sqr()?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(t, vsb)?], 1)?;
        let scaled = (logits / f64::from(self.constants.teacher_temperature))?;
        Ok(ops::softmax(&scaled, &self.visual_weights.weights)?)
    }

    fn text_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let (p, classes) = (targets.text_distribution()?, &self.text_weights);
        expect_dims("text distributions", p, &[s.dims()[0], classes.weights.len()])?;
        let p = if classes.log_weights.is_some() { ops::reweighted(p, &classes.weights)? } else { p.clone() };
        self.term(&ops::similarity(s, &self.tsb)?, &p, classes)
    }

    fn visual_term(&self, s: &Tensor, targets: &TargetBatch) -> Result<Tensor, TrainError> {
        let (t, classes) = (targets.embedding()?, &self.visual_weights);
        expect_dims("teacher embeddings", t, s.dims())?;
        let (vsb, p) = match &self.visual {
            VisualPrototypes::Mean(vsb) => {
                let p = targets.visual_distribution()?;
                expect_dims("visual distributions", p, &[s.dims()[0], classes.weights.len()])?;
                (vsb.clone(), ops::reweighted(p, &classes.weights)?)
            }
            VisualPrototypes::Ema(bank) => {
                let vsb = bank.tensor()?.to_device(self.tsb.device())?;
                let p = self.online_distribution(t, &vsb)?;
                (vsb, p)
            }
        };
        let positive = s.mul(t)?.sum_keepdim(D::Minus1)?;
        let logits = Tensor::cat(&[&positive, &ops::similarity(s, &vsb)?], 1)?;
        self.term(&logits, &p, classes)
    }
}

impl Objective for Lgd {
    fn columns(&self) -> TargetColumns {
        let online = matches!(self.visual, VisualPrototypes::Ema(_));
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
        let alpha = f64::from(self.constants.alpha);
        let total = ((visual * alpha)? + (text * (1.0 - alpha))?)?;
        Ok(Loss { total, parts })
    }

    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError> {
        match &mut self.visual {
            VisualPrototypes::Mean(_) => Ok(()),
            VisualPrototypes::Ema(bank) => bank.update(targets.embedding()?, targets.pseudo_category()?),
        }
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        match &self.visual {
            VisualPrototypes::Mean(_) => Ok(BTreeMap::new()),
            VisualPrototypes::Ema(bank) => bank.state(),
        }
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        match &mut self.visual {
            VisualPrototypes::Mean(_) => Ok(()),
            VisualPrototypes::Ema(bank) => bank.restore(state),
        }
    }
}

fn check(constants: &LgdConstants) -> Result<(), TrainError> {
    if !(0.0..=1.0).contains(&constants.alpha) {
        let value = constants.alpha.into();
        return Err(TrainError::Setting { name: "alpha", value, range: "0 to 1" });
    }
    check_temperature("the teacher's temperature", constants.teacher_temperature)?;
    check_temperature("the student's temperature", constants.student_temperature)
}
