//! The objectives there are, and weighted choices of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ObjectiveSpec, WantedOutputs, caption, hgkd, kdep, lgd, seed, supervised};
use crate::error::TrainError;

/// An objective by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectiveKind {
    /// Language-guided distillation.
    Lgd,
    /// Similarities to a queue of teacher embeddings.
    Seed,
    /// The teacher's features.
    Kdep,
    /// The teacher's patch tokens, from masked images.
    Hgkd,
    /// Caption embeddings.
    Caption,
    /// Labels.
    Supervised,
}

impl ObjectiveKind {
    /// Every objective.
    pub const ALL: [Self; 6] =
        [Self::Lgd, Self::Seed, Self::Kdep, Self::Hgkd, Self::Caption, Self::Supervised];

    /// What is to be known of it.
    pub fn spec(self) -> &'static ObjectiveSpec {
        match self {
            Self::Lgd => &lgd::SPEC,
            Self::Seed => &seed::SPEC,
            Self::Kdep => &kdep::SPEC,
            Self::Hgkd => &hgkd::SPEC,
            Self::Caption => &caption::SPEC,
            Self::Supervised => &supervised::SPEC,
        }
    }
}

impl fmt::Display for ObjectiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}

impl FromStr for ObjectiveKind {
    type Err = TrainError;

    fn from_str(name: &str) -> Result<Self, TrainError> {
        let found = Self::ALL.into_iter().find(|kind| kind.spec().name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.spec().name).collect();
            TrainError::UnknownObjective { name: name.to_owned(), known: known.join(", ") }
        })
    }
}

/// An objective and its weight in the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveChoice {
    /// The objective.
    pub kind: ObjectiveKind,
    /// What its loss is multiplied by: a positive number.
    pub weight: f32,
}

/// Objectives that a student is trained for at the same time: at least one, none twice, `supervised` alone.
///
/// As text `lgd,kdep:0.5`: an objective without a weight has its default one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Objectives(Vec<ObjectiveChoice>);

impl Objectives {
    /// `kind` alone, with its default weight.
    pub fn only(kind: ObjectiveKind) -> Self {
        Self(vec![ObjectiveChoice { kind, weight: kind.spec().default_weight }])
    }

    /// The objectives, in the order they were named.
    pub fn choices(&self) -> &[ObjectiveChoice] {
        &self.0
    }

    /// The objectives without their weights.
    pub fn kinds(&self) -> impl Iterator<Item = ObjectiveKind> + '_ {
        self.0.iter().map(|choice| choice.kind)
    }

    /// The student's outputs that their losses read.
    pub fn outputs(&self) -> WantedOutputs {
        self.kinds().fold(WantedOutputs::NONE, |outputs, kind| outputs.union(kind.spec().outputs))
    }

    /// Whether `kind` is among them.
    pub fn contain(&self, kind: ObjectiveKind) -> bool {
        self.kinds().any(|chosen| chosen == kind)
    }
}

impl Default for Objectives {
    /// LGD.
    fn default() -> Self {
        Self::only(ObjectiveKind::Lgd)
    }
}

impl fmt::Display for Objectives {
    /// All weights are written, so that a later default changes nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ObjectiveChoice { kind, weight }) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{kind}:{weight}")?;
        }
        Ok(())
    }
}

impl FromStr for Objectives {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let mut chosen = Self(Vec::new());
        for part in text.split(',') {
            let (name, weight) =
                part.split_once(':').map_or((part, None), |(name, weight)| (name, Some(weight)));
            let kind: ObjectiveKind = name.trim().parse()?;
            let weight = weight.map_or(Ok(kind.spec().default_weight), |text| weight_of(kind, text))?;
            if chosen.contain(kind) {
                return Err(TrainError::Objectives { reason: format!("{kind} is named twice") });
            }
            chosen.0.push(ObjectiveChoice { kind, weight });
        }
        if chosen.0.len() > 1 && chosen.contain(ObjectiveKind::Supervised) {
            let reason =
                "supervised ends in a classifier, the others in an embedding: it stands alone".to_owned();
            return Err(TrainError::Objectives { reason });
        }
        Ok(chosen)
    }
}

fn weight_of(kind: ObjectiveKind, text: &str) -> Result<f32, TrainError> {
    let weight = text.trim().parse().ok().filter(|weight: &f32| weight.is_finite() && *weight > 0.0);
    weight.ok_or_else(|| TrainError::Objectives {
        reason: format!("the weight of {kind} is {text:?}, must be a positive number"),
    })
}

impl TryFrom<String> for Objectives {
    type Error = TrainError;

    fn try_from(text: String) -> Result<Self, TrainError> {
        text.parse()
    }
}

impl From<Objectives> for String {
    fn from(objectives: Objectives) -> Self {
        objectives.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written() {
        let read = |text: &str| text.parse::<Objectives>().unwrap().to_string();
        assert_eq!(read("lgd"), "lgd:1");
        assert_eq!(read("kdep"), "kdep:3");
        assert_eq!(read("lgd, seed:0.25,kdep:0.5"), "lgd:1,seed:0.25,kdep:0.5");
        let json = serde_json::to_string(&Objectives::default()).unwrap();
        assert_eq!(json, "\"lgd:1\"");
        assert_eq!(serde_json::from_str::<Objectives>(&json).unwrap(), Objectives::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusals = [
            ("lgd,lgd:2", "twice"),
            ("lgd,supervised", "stands alone"),
            ("lgd,banana", "lgd, seed"),
            ("", "unknown objective"),
            ("lgd:0", "positive"),
            ("lgd:-1", "positive"),
            ("lgd:nan", "positive"),
            ("lgd:", "positive"),
        ];
        for (text, part) in refusals {
            let error = text.parse::<Objectives>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn specifications_are_complete_and_names_differ() {
        for (index, kind) in ObjectiveKind::ALL.into_iter().enumerate() {
            let spec = kind.spec();
            assert!(!spec.about.is_empty() && !spec.source.is_empty() && spec.default_weight > 0.0, "{kind}");
            assert!(ObjectiveKind::ALL[..index].iter().all(|other| other.spec().name != spec.name), "{kind}");
            assert!(spec.flags.iter().all(|flag| flag.starts_with("--")), "{kind}");
        }
    }
}
