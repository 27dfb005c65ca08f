//! The ways to judge a student, and the one that suits it.

use std::fmt;
use std::str::FromStr;

use crate::student::Head;

/// A way to judge a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Argmax over the textual semantics bank.
    ZeroShot,
    /// Argmax over the textual semantics bank, compared with the teacher's: needs no labels, so that any names will do.
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

    /// What a student that ends in `head` is judged by where nobody says: that which it can be judged by. `bank`: whether there is a bank
    /// of names.
    pub fn suiting(head: Head, bank: bool) -> Self {
        match head {
            Head::Projection { .. } if bank => Self::ZeroShot,
            Head::Classifier { .. } => Self::Labels,
            Head::Projection { .. } | Head::None => Self::Knn,
        }
    }
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
        found.ok_or_else(|| format!("expected zero-shot, agreement, labels, knn or linear, got {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_student_has_a_protocol_that_can_judge_it() {
        let (embedding, classifier) = (Head::Projection { dim: 8 }, Head::Classifier { classes: 3 });
        for (head, bank, protocol) in [
            (embedding, true, Protocol::ZeroShot),
            (embedding, false, Protocol::Knn),
            (classifier, true, Protocol::Labels),
            (classifier, false, Protocol::Labels),
            (Head::None, true, Protocol::Knn),
            (Head::None, false, Protocol::Knn),
        ] {
            assert_eq!(Protocol::suiting(head, bank), protocol, "{head:?}, {bank}");
        }
    }
}
