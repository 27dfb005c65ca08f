//! Several objectives at once: the weighted sum of their losses.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Loss, Objective, ObjectiveError, ReadEmbeddings, TargetBatch, TargetColumns};
use crate::error::TrainError;
use crate::student::StudentOutput;

/// A weighted sum of objectives.
///
/// The terms of the [`Loss`] are those of all parts, unweighted. The name of a part and a dot are the prefix of its
/// saved state.
pub struct Combined {
    parts: Vec<Part>,
}

struct Part {
    name: &'static str,
    weight: f64,
    objective: Box<dyn Objective>,
}

impl Combined {
    /// The weighted sum of `parts`: name, weight and objective of each.
    ///
    /// # Errors
    /// If there are no parts, if two have the same name, or if a weight is not positive.
    pub fn new(
        parts: impl IntoIterator<Item = (&'static str, f32, Box<dyn Objective>)>,
    ) -> Result<Self, TrainError> {
        let mut combined = Self { parts: Vec::new() };
        for (name, weight, objective) in parts {
            if !weight.is_finite() || weight <= 0.0 {
                let range = "finite and above 0";
                return Err(TrainError::Setting {
                    name: "an objective's weight",
                    value: weight.into(),
                    range,
                });
            }
            if combined.parts.iter().any(|part| part.name == name) {
                let reason = format!("the objective {name} is listed twice");
                return Err(ObjectiveError::Choice { reason }.into());
            }
            combined.parts.push(Part { name, weight: weight.into(), objective });
        }
        if combined.parts.is_empty() {
            return Err(ObjectiveError::Choice { reason: "no objective is given".to_owned() }.into());
        }
        Ok(combined)
    }
}

impl Objective for Combined {
    fn columns(&self) -> TargetColumns {
        let columns = self.parts.iter().map(|part| part.objective.columns());
        columns.fold(TargetColumns::default(), TargetColumns::union)
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let mut total: Option<Tensor> = None;
        let mut parts = Vec::new();
        for part in &self.parts {
            let loss = part.objective.loss(output, targets)?;
            let weighted = (loss.total * part.weight)?;
            total = Some(match total {
                None => weighted,
                Some(sum) => (sum + weighted)?,
            });
            parts.extend(loss.parts);
        }
        let total = total.ok_or(TrainError::NothingRan)?;
        Ok(Loss { total, parts })
    }

    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError> {
        self.parts.iter_mut().try_for_each(|part| part.objective.after_step(targets))
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut all = BTreeMap::new();
        for part in &self.parts {
            let state = part.objective.state()?.into_iter();
            all.extend(state.map(|(name, tensor)| (format!("{}.{name}", part.name), tensor)));
        }
        Ok(all)
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        self.parts.iter_mut().try_for_each(|part| {
            let prefix = format!("{}.", part.name);
            let named = state.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)));
            let own = named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
            part.objective.restore(&own, read)
        })
    }
}
