//! The labels that a probe is trained on, and those held out to choose its learning rate.

use std::collections::BTreeMap;

use crate::rng::Stream;

/// Separates this random stream from the others with the same seed.
const PURPOSE: u64 = u64::from_le_bytes(*b"subset..");
/// One in this many labels is held out to choose the learning rate.
const HELD_OUT: usize = 10;

/// A `fraction` of the rows of every class, rounded, at least one; in ascending order. At the same seed, the rows of a
/// smaller fraction are a subset of those of a larger one.
pub(super) fn stratified(labels: &[u32], fraction: f64, seed: u64) -> Vec<usize> {
    let mut subset = Vec::new();
    for (label, rows) in rows_by_class(labels, 0..labels.len()) {
        let order = Stream::new(&[PURPOSE, seed, u64::from(label)]).permutation(rows.len());
        subset.extend(order.into_iter().take(portion(rows.len(), fraction)).map(|place| rows[place]));
    }
    subset.sort_unstable();
    subset
}

/// Splits `subset` into rows kept and rows held out: the last tenth of every class, rounded. If that holds out no row
/// at all, one row of every class with at least two is held out. If no class has two, none is.
pub(super) fn hold_out(labels: &[u32], subset: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let classes = rows_by_class(labels, subset.iter().copied());
    let split = |held: &dyn Fn(usize) -> usize| {
        let (mut kept, mut out) = (Vec::new(), Vec::new());
        for rows in classes.values() {
            let (keep, hold) = rows.split_at(rows.len() - held(rows.len()));
            kept.extend_from_slice(keep);
            out.extend_from_slice(hold);
        }
        kept.sort_unstable();
        out.sort_unstable();
        (kept, out)
    };
    let tenth = split(&|rows| (rows + HELD_OUT / 2) / HELD_OUT);
    if tenth.1.is_empty() { split(&|rows| usize::from(rows >= 2)) } else { tenth }
}

fn rows_by_class(labels: &[u32], rows: impl Iterator<Item = usize>) -> BTreeMap<u32, Vec<usize>> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    rows.for_each(|row| classes.entry(labels[row]).or_default().push(row));
    classes
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count below 2^53 times a share is a count again; the cast saturates"
)]
fn portion(rows: usize, fraction: f64) -> usize {
    ((rows as f64 * fraction).round() as usize).clamp(1, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u32> {
        // 100 of class 0, 40 of class 1, 3 of class 2.
        (0..143)
            .map(|row| {
                if row < 100 {
                    0
                } else if row < 140 {
                    1
                } else {
                    2
                }
            })
            .collect()
    }

    fn counts(labels: &[u32], rows: &[usize]) -> [usize; 3] {
        [0, 1, 2].map(|class| rows.iter().filter(|&&row| labels[row] == class).count())
    }

    #[test]
    fn every_class_gives_its_share_and_at_least_one() {
        let labels = labels();
        assert_eq!(counts(&labels, &stratified(&labels, 0.1, 0)), [10, 4, 1]);
        assert_eq!(counts(&labels, &stratified(&labels, 0.01, 0)), [1, 1, 1]);
        assert_eq!(stratified(&labels, 1.0, 0), (0..143).collect::<Vec<_>>());
    }

    #[test]
    fn subsets_are_nested_and_depend_on_the_seed() {
        let labels = labels();
        let (small, large) = (stratified(&labels, 0.1, 5), stratified(&labels, 0.5, 5));
        assert!(small.iter().all(|row| large.contains(row)));
        assert_ne!(small, stratified(&labels, 0.1, 6));
    }

    #[test]
    fn a_tenth_of_every_class_is_held_out_and_nothing_is_in_both() {
        let labels = labels();
        let subset = stratified(&labels, 0.5, 1);
        let (kept, held) = hold_out(&labels, &subset);
        assert_eq!(counts(&labels, &subset), [50, 20, 2]);
        assert_eq!(counts(&labels, &held), [5, 2, 0]);
        let mut all = [kept, held].concat();
        all.sort_unstable();
        assert_eq!(all, subset);
    }

    #[test]
    fn few_labels_give_one_per_class_and_single_ones_none() {
        assert_eq!(hold_out(&[0, 0, 1], &[0, 1, 2]), (vec![0, 2], vec![1]));
        assert_eq!(hold_out(&[0, 1, 2], &[0, 1, 2]), (vec![0, 1, 2], vec![]));
    }
}
