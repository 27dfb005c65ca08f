//! Properties that hold for all data: partitions and threads do not affect results, distributions are valid, bad rows
//! are refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use common::{Kept, Rows, unit_rows};
use lgd_bank::targets::Targets;
use lgd_bank::{BankError, EmbeddingRows, TargetOptions, TopK, Tsb, VsbPartial, build_targets};
use lgd_data::bank::UnassignedSlots;
use lgd_data::job::Job;
use proptest::prelude::*;

fn build(rows: &Rows, tsb: &Tsb, options: &TargetOptions) -> Result<(Targets, Kept), BankError> {
    let mut kept = Kept::default();
    let dir = tempfile::tempdir().unwrap();
    let targets = build_targets(rows, tsb, None, options, dir.path(), &mut kept, &Job::new())?;
    Ok((targets, kept))
}

fn tsb(categories: usize, dim: usize) -> Tsb {
    Tsb::from_values(unit_rows(categories, dim, 99), dim).unwrap()
}

fn width(top_k: usize) -> TargetOptions {
    TargetOptions { top_k: TopK::new(top_k).unwrap(), ..TargetOptions::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Sums over f16 unit vectors are exact, so any partition of the rows, added in any order, gives the same sums.
    #[test]
    fn any_partition_of_the_rows_gives_the_same_sums(
        cuts in prop::collection::vec(0usize..=300, 0..12),
        backwards: bool,
        seed in 0u64..1000,
    ) {
        let (dim, categories) = (13, 5);
        let rows = unit_rows(300, dim, seed);
        let pseudo: Vec<i32> = (0..300i32).map(|row| row * row % 7 % 5).collect();
        let mut whole = VsbPartial::new(categories, dim);
        whole.add(&rows, &pseudo);

        let mut cuts = cuts;
        cuts.extend([0, 300]);
        cuts.sort_unstable();
        let mut parts: Vec<&[usize]> = cuts.windows(2).collect();
        if backwards {
            parts.reverse();
        }
        let mut added = VsbPartial::new(categories, dim);
        for part in parts {
            added.add(&rows[part[0] * dim..part[1] * dim], &pseudo[part[0]..part[1]]);
        }
        prop_assert_eq!(&added, &whole);
        prop_assert_eq!(added.vsb(), whole.vsb());
    }

    /// A row's pseudo-category and text distribution depend only on the row and the bank.
    #[test]
    fn a_rows_text_side_does_not_depend_on_its_neighbors(start in 0usize..250, count in 1usize..50, top_k in 1usize..20) {
        let (dim, categories) = (33, 260);
        let (tsb, options) = (tsb(categories, dim), width(top_k));
        let all = Rows { values: unit_rows(300, dim, 3), dim };
        let some = Rows { values: all.values[start * dim..(start + count) * dim].to_vec(), dim };
        let (_, whole) = build(&all, &tsb, &options).unwrap();
        let (_, part) = build(&some, &tsb, &options).unwrap();
        prop_assert_eq!(&part.pseudo_category[..], &whole.pseudo_category[start..start + count]);
        let stored = start * top_k..(start + count) * top_k;
        prop_assert_eq!(&part.text.index[..], &whole.text.index[stored.clone()]);
        prop_assert_eq!(&part.text.probability[..], &whole.text.probability[stored]);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dim = 40;
    let rows = Rows { values: unit_rows(5000, dim, 5), dim };
    let tsb = tsb(300, dim);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| build(&rows, &tsb, &width(20)).unwrap())
    };
    let (one, kept_one) = run(1);
    for threads in [2, 5] {
        let (several, kept) = run(threads);
        assert_eq!(kept, kept_one);
        assert_eq!(several.vsb, one.vsb);
        assert_eq!((several.text_mass, several.visual_mass), (one.text_mass, one.visual_mass));
    }
}

#[test]
fn whole_distributions_sum_to_one_and_unassigned_slots_hold_nothing() {
    let dim = 24;
    let rows = Rows { values: unit_rows(400, dim, 8), dim };
    let tsb = tsb(200, dim);
    let (targets, kept) = build(&rows, &tsb, &TargetOptions::default()).unwrap();
    assert!(targets.counts.contains(&0));
    assert_eq!(targets.counts.iter().sum::<u64>(), 400);
    for (stored, slots) in [(&kept.text, 200), (&kept.visual, 201)] {
        for row in stored.probability.chunks(slots) {
            let sum: f64 = row.iter().map(|p| p.to_f64()).sum();
            // 200 rounding errors of at most 2^-25 each below f16's normal range, and a relative error of 2^-12 in
            // the other values.
            assert!((sum - 1.0).abs() < 2f64.powi(-11) + 200.0 * 2f64.powi(-25), "{sum}");
        }
    }
    for row in kept.visual.probability.chunks(201) {
        for (p, &count) in row[1..].iter().zip(&targets.counts) {
            assert!(count > 0 || p.to_f32() == 0.0);
        }
    }
}

#[test]
fn a_shorter_list_is_the_head_of_a_longer_one() {
    let dim = 24;
    let rows = Rows { values: unit_rows(300, dim, 4), dim };
    let tsb = tsb(300, dim);
    // If K exceeds C, everything is stored.
    let (all_targets, all) = build(&rows, &tsb, &width(1000)).unwrap();
    assert!(all_targets.text_mass.min > 1.0 - 1e-6);
    let (few_targets, few) = build(&rows, &tsb, &width(10)).unwrap();
    assert!(few_targets.text_mass.mean < 1.0 && few_targets.text_mass.min > 0.0);
    for (long, short) in [(&all.text, &few.text), (&all.visual, &few.visual)] {
        for row in 0..300 {
            assert_eq!(long.index[row * 300..][..10], short.index[row * 10..][..10]);
            assert_eq!(long.probability[row * 300..][..10], short.probability[row * 10..][..10]);
        }
    }
    // Only a category with one view can have a larger logit: its prototype is that view, with norm 1 up to rounding.
    for row in few.visual.index.chunks(10) {
        let single = |slot: i32| few_targets.counts[usize::try_from(slot).unwrap() - 1] == 1;
        assert!(row[0] == 0 || (row[1] == 0 && single(row[0])), "{row:?}");
    }
}

#[test]
fn one_category_and_one_row_are_enough() {
    let rows = Rows { values: vec![0.6, 0.8], dim: 2 };
    let tsb = Tsb::from_values(vec![1.0, 0.0], 2).unwrap();
    let (targets, kept) = build(&rows, &tsb, &TargetOptions::default()).unwrap();
    assert_eq!((targets.vsb, targets.counts), (vec![0.6, 0.8], vec![1]));
    assert_eq!(kept.text.probability[0].to_f32(), 1.0);
    assert_eq!(kept.visual.probability.iter().map(|p| p.to_f32()).collect::<Vec<_>>(), [0.5, 0.5]);
}

#[test]
fn equal_categories_go_to_the_first() {
    let rows = Rows { values: [0.6, 0.8].repeat(200), dim: 2 };
    let tsb = Tsb::from_values([0.6, 0.8].repeat(3), 2).unwrap();
    let options = TargetOptions { unassigned: UnassignedSlots::Kept, ..TargetOptions::default() };
    let (targets, kept) = build(&rows, &tsb, &options).unwrap();
    assert_eq!(targets.counts, [200, 0, 0]);
    assert!(kept.pseudo_category.iter().all(|&category| category == 0));
}

#[test]
fn rows_that_are_no_unit_vectors_are_refused_by_number() {
    let dim = 4;
    let tsb = tsb(3, dim);
    for bad in [0.0, f32::NAN, f32::INFINITY, 0.7] {
        let mut rows = Rows { values: unit_rows(500, dim, 1), dim };
        rows.values[321 * dim..322 * dim].fill(bad);
        match build(&rows, &tsb, &TargetOptions::default()) {
            Err(BankError::RowNorm { row, .. }) => assert_eq!(row, 321),
            other => panic!("{bad}: {other:?}"),
        }
    }
}

#[test]
fn an_interrupted_job_stops_and_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows { values: unit_rows(10, 4, 1), dim: 4 };
    let job = Job::new();
    job.interrupt();
    let mut kept = Kept::default();
    let result =
        build_targets(&rows, &tsb(3, 4), None, &TargetOptions::default(), dir.path(), &mut kept, &job);
    assert!(matches!(result, Err(BankError::Interrupted)));
    assert_eq!(kept, Kept::default());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn widths_that_differ_and_empty_caches_are_refused() {
    let tsb = tsb(3, 4);
    let rows = Rows { values: unit_rows(2, 5, 1), dim: 5 };
    let result = build(&rows, &tsb, &TargetOptions::default());
    assert!(matches!(result, Err(BankError::Width { text: 4, image: 5 })));
    let none = Rows { values: Vec::new(), dim: 4 };
    assert_eq!(none.rows(), 0);
    assert!(matches!(build(&none, &tsb, &TargetOptions::default()), Err(BankError::NoRows)));
}
