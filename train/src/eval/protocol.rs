//! The evaluation protocols, and the default one for a student.

use std::fmt;
use std::str::FromStr;

use crate::inference::{ModelCard, OutputKind};

/// An evaluation protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Argmax over the textual semantics bank.
    ZeroShot,
    /// Argmax over the textual semantics bank, compared with the teacher's. Needs no labels, so any names will do.
    Agreement,
    /// The largest output of the student's own classifier.
    Labels,
    /// Weighted vote of the nearest training images.
    Knn,
    /// A linear classifier on frozen features.
    Linear,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 5] = [Self::ZeroShot, Self::Agreement, Self::Labels, Self::Knn, Self::Linear];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroShot => "zero-shot",
            Self::Agreement => "agreement",
            Self::Labels => "labels",
            Self::Knn => "knn",
            Self::Linear => "linear",
        }
    }

    /// Whether it reads a bank of names.
    pub fn reads_bank(self) -> bool {
        matches!(self, Self::ZeroShot | Self::Agreement)
    }

    /// Whether it reads labeled training images.
    pub fn reads_train(self) -> bool {
        matches!(self, Self::Knn | Self::Linear)
    }

    /// Default protocol for a student. `bank`: whether a bank of names is given.
    pub fn suiting(student: &ModelCard, bank: bool) -> Self {
        let has = |kind| student.width(kind).is_some();
        if student.classes.is_some() {
            Self::Labels
        } else if has(OutputKind::Scores)
            || has(OutputKind::Probabilities)
            || (bank && has(OutputKind::Embedding))
        {
            Self::ZeroShot
        } else {
            Self::Knn
        }
    }
}

/// Names in words: `a, b or c`.
fn words<const N: usize>(protocols: [Protocol; N]) -> String {
    let names = protocols.map(Protocol::name);
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", others.join(", "))
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.name() == name);
        found.ok_or_else(|| format!("expected {}, got {name:?}", words(Self::ALL)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lgd_data::manifest::ContentHash;
    use lgd_data::render::Resample;

    use super::*;
    use crate::loader::labels::ClassRecord;

    #[test]
    fn every_student_has_a_protocol_that_can_judge_it() {
        use OutputKind::{Embedding, Feature, Logits, Scores};
        for (kinds, bank, protocol) in [
            (&[Feature, Embedding][..], true, Protocol::ZeroShot),
            (&[Feature, Embedding], false, Protocol::Knn),
            (&[Feature, Embedding, Scores], false, Protocol::ZeroShot),
            (&[Feature, Logits], true, Protocol::Labels),
            (&[Feature, Logits], false, Protocol::Labels),
            (&[Feature], true, Protocol::Knn),
            (&[Feature], false, Protocol::Knn),
        ] {
            let classes =
                kinds.contains(&Logits).then(|| ClassRecord { count: 3, names: None, untrained: Vec::new() });
            let student = ModelCard {
                path: PathBuf::new(),
                hash: ContentHash::of(b""),
                student: None,
                epochs: None,
                size: 32,
                resample: Resample::Bicubic,
                center: None,
                outputs: kinds.iter().map(|&kind| (kind, 3)).collect(),
                temperature: None,
                names: None,
                classes,
                notes: Vec::new(),
            };
            assert_eq!(Protocol::suiting(&student, bank), protocol, "{kinds:?}, {bank}");
        }
    }
}
