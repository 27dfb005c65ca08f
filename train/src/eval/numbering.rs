//! Numbers labels without gaps. A label may be any u32, but votes and logits have one entry per number.

use std::collections::BTreeSet;

/// The distinct labels in ascending order. A label's number is its position.
#[derive(Clone, Debug)]
pub(super) struct Numbering(Vec<u32>);

impl Numbering {
    /// Numbers the distinct labels of `labels`.
    pub(super) fn of(labels: &[u32]) -> Self {
        let distinct: BTreeSet<u32> = labels.iter().copied().collect();
        Self(distinct.into_iter().collect())
    }

    /// Number of distinct labels.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The numbers of `labels`, each of which must be a numbered label.
    pub(super) fn numbers(&self, labels: &[u32]) -> Vec<u32> {
        let number = |label: &u32| self.0.partition_point(|known| known < label);
        labels.iter().map(|label| u32::try_from(number(label)).unwrap_or(u32::MAX)).collect()
    }

    /// The label with this number; 0 if there is none.
    pub(super) fn label(&self, number: u32) -> u32 {
        usize::try_from(number).ok().and_then(|number| self.0.get(number)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_order_and_come_back() {
        let labels = [7, 0, u32::MAX, 7, 3];
        let numbering = Numbering::of(&labels);
        assert_eq!(numbering.len(), 4);
        let numbers = numbering.numbers(&labels);
        assert_eq!(numbers, [2, 0, 3, 2, 1]);
        assert_eq!(numbers.into_iter().map(|number| numbering.label(number)).collect::<Vec<_>>(), labels);
    }
}
