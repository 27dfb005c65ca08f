//! Banks compared with numpy in f64 (`goldens/make_goldens.py`): TSB, pseudo-categories, counts, VSB, distributions,
//! captured mass.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::collections::HashMap;

use common::{Golden, Kept, Lookup, Rows, Stored};
use half::f16;
use lgd_bank::{
    Categories, NameForm, TargetOptions, Temperature, Templates, TopK, Tsb, build_targets, build_tsb,
};
use lgd_data::bank::{CapturedMass, UnassignedSlots};
use lgd_data::job::Job;

impl Golden {
    /// Builds the TSB with an encoder that returns embeddings from the file.
    fn tsb(&self) -> Tsb {
        let [categories, templates, dim] = self.shape("prompts") else { panic!("prompts have three axes") };
        let prompts = self.f32s("prompts");
        let mut rows = prompts.chunks(*dim);
        let mut table = HashMap::new();
        for category in 0..*categories {
            for template in 0..*templates {
                table.insert(format!("{template}: c{category}"), rows.next().unwrap().to_vec());
            }
        }
        let names =
            Categories::from_names((0..*categories).map(|c| format!("c{c}")), NameForm::Normalized).unwrap();
        let templates = Templates::new((0..*templates).map(|t| format!("{t}: {{}}")).collect()).unwrap();
        let mut encoder = Lookup { table, dim: *dim, encoded: 0 };
        let cache = tempfile::tempdir().unwrap();
        build_tsb(&names, &templates, &mut encoder, cache.path(), None, &Job::new()).unwrap()
    }
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(got) - expected).abs() <= tolerance, "{i}: {got} {expected}");
    }
}

/// The tolerance is half a unit in the last place of f16 (2^-11 of the value, 2^-25 below its normal range), plus the
/// effect of an error of 1e-6 in a logit at this temperature.
fn assert_probability(got: f16, expected: f64, temperature: f64) {
    let tolerance = expected * (2f64.powi(-11) + 1e-6 / temperature) + 2f64.powi(-25);
    assert!((got.to_f64() - expected).abs() <= tolerance, "{got} {expected}");
}

fn assert_mass(got: CapturedMass, expected: &[f64]) {
    let count = f64::from(u32::try_from(expected.len()).unwrap());
    assert!((got.mean - expected.iter().sum::<f64>() / count).abs() < 1e-5, "{got:?}");
    assert!((got.min - expected.iter().copied().fold(1.0, f64::min)).abs() < 1e-5, "{got:?}");
}

/// Checks that stored entries have the right probabilities, in decreasing order, and that no larger one is missing.
fn assert_top_k(stored: &Stored, expected: &[f64], slots: usize, k: usize, temperature: f64) {
    let rows = stored.index.chunks(k).zip(stored.probability.chunks(k));
    assert_eq!(stored.index.len() / k, expected.len() / slots);
    for ((index, probability), expected) in rows.zip(expected.chunks(slots)) {
        let mut sorted = expected.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for ((&slot, &got), &ranked) in index.iter().zip(probability).zip(&sorted) {
            assert_probability(got, expected[usize::try_from(slot).unwrap()], temperature);
            assert_probability(got, ranked, temperature);
        }
        assert!(probability.is_sorted_by(|a, b| a >= b));
        let mut distinct = index.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), k);
    }
}

#[test]
fn a_small_bank_is_stored_whole() {
    let golden = Golden::open("dense.safetensors");
    let tsb = golden.tsb();
    assert_close(tsb.values(), golden.values("tsb"), 1e-7);
    let rows = Rows { values: golden.f32s("images"), dim: tsb.dim() };
    for (unassigned, name) in [(UnassignedSlots::Masked, "visual"), (UnassignedSlots::Kept, "visual_kept")] {
        let mut kept = Kept::default();
        let options = TargetOptions { unassigned, ..TargetOptions::default() };
        let dir = tempfile::tempdir().unwrap();
        let targets = build_targets(&rows, &tsb, None, &options, dir.path(), &mut kept, &Job::new()).unwrap();

        let pseudo: Vec<f64> = kept.pseudo_category.iter().copied().map(f64::from).collect();
        assert_eq!(pseudo, golden.values("pseudo_category"));
        let counts: Vec<f64> = targets.counts.iter().map(|&c| f64::from(u32::try_from(c).unwrap())).collect();
        assert_eq!(counts, golden.values("counts"));
        assert_close(&targets.vsb, golden.values("vsb"), 3e-8);
        for (stored, name) in [(&kept.text, "text"), (&kept.visual, name)] {
            assert!(stored.index.is_empty());
            assert_eq!(stored.probability.len(), golden.values(name).len());
            for (&got, &expected) in stored.probability.iter().zip(golden.values(name)) {
                assert_probability(got, expected, 0.01);
            }
        }
        assert_eq!(targets.text_mass, CapturedMass { mean: 1.0, min: 1.0 });
    }
}

#[test]
fn a_large_bank_keeps_the_largest_probabilities_of_the_whole_softmax() {
    let golden = Golden::open("top_k.safetensors");
    let tsb = golden.tsb();
    assert_close(tsb.values(), golden.values("tsb"), 1e-7);
    let temperature = golden.f32s("temperature")[0];
    let rows = Rows { values: golden.f32s("images"), dim: tsb.dim() };
    let options = TargetOptions {
        temperature: Temperature::new(temperature).unwrap(),
        top_k: TopK::new(16).unwrap(),
        ..TargetOptions::default()
    };
    let mut kept = Kept::default();
    let dir = tempfile::tempdir().unwrap();
    let targets = build_targets(&rows, &tsb, None, &options, dir.path(), &mut kept, &Job::new()).unwrap();

    assert_close(&targets.vsb, golden.values("vsb"), 3e-8);
    let unassigned = golden.values("counts").iter().filter(|&&count| count == 0.0).count();
    assert!(unassigned > 0 && targets.counts.iter().filter(|&&count| count == 0).count() == unassigned);
    assert_top_k(&kept.text, golden.values("text"), 300, 16, f64::from(temperature));
    assert_top_k(&kept.visual, golden.values("visual"), 301, 16, f64::from(temperature));
    assert_mass(targets.text_mass, golden.values("text_mass"));
    assert_mass(targets.visual_mass, golden.values("visual_mass"));
}
