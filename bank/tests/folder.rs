//! A bank's folder, built from a cache on disk: rows match the cache's, the bank is tied to its cache, and the
//! manifest is written last, so a partial bank never passes for a whole one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::{Kept, Lookup, Rows, VIEWS, unit_rows};
use lgd_bank::{
    BankError, BankReport, BankRequest, Categories, NameForm, TargetOptions, Templates, TextEncoderRule,
    TopK, Tsb, build_bank, build_targets, build_tsb,
};
use lgd_data::ArtifactError;
use lgd_data::bank::{Bank, CenteredSide};
use lgd_data::cache::{Cache, CacheConfig, TeacherRecord};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_testing::{cache_config, teacher_record};

const DIM: usize = 16;
/// Samples accepted per shard: full shards, an empty one, and a short last one.
const ACCEPTED: [usize; 4] = [40, 0, 40, 7];

fn config(text_encoder: Option<ContentHash>) -> CacheConfig {
    CacheConfig {
        teacher: TeacherRecord { text_encoder, ..teacher_record() },
        ..cache_config(DIM, 40 * ACCEPTED.len())
    }
}

/// Writes a cache that records the tests' text encoder, with embeddings `values`, `[samples x VIEWS, DIM]`.
fn write_cache(dir: &Path, values: &[f32]) -> Cache {
    write_cache_of(dir, values, Some(ContentHash::of(b"lookup")))
}

fn write_cache_of(dir: &Path, values: &[f32], text_encoder: Option<ContentHash>) -> Cache {
    let rows = values.chunks(VIEWS * DIM);
    common::write_cache(dir, config(text_encoder), &ACCEPTED, rows, common::embeddings)
}

fn values() -> Vec<f32> {
    unit_rows(ACCEPTED.iter().sum::<usize>() * VIEWS, DIM, 11)
}

fn names(count: usize) -> Categories {
    Categories::from_names((0..count).map(|c| format!("c{c}")), NameForm::Normalized).unwrap()
}

fn encoder(count: usize, dim: usize) -> Lookup {
    let rows = unit_rows(count, dim, 12);
    let table: HashMap<String, Vec<f32>> = (0..count)
        .zip(rows.chunks(dim))
        .map(|(c, row)| (format!("a photo of a c{c}."), row.to_vec()))
        .collect();
    Lookup { table, dim, encoded: 0 }
}

fn build(
    root: &Path,
    cache: &Cache,
    categories: &Categories,
    encoder: &mut Lookup,
    existing: Existing,
) -> Result<BankReport, BankError> {
    build_centered(root, cache, categories, encoder, existing, None)
}

fn build_centered(
    root: &Path,
    cache: &Cache,
    categories: &Categories,
    encoder: &mut Lookup,
    existing: Existing,
    center: Option<CenteredSide>,
) -> Result<BankReport, BankError> {
    let request = BankRequest {
        cache,
        categories,
        templates: &Templates::default(),
        prompt_cache: &root.join("prompts"),
        out: &root.join("bank"),
        existing,
        text_encoder: TextEncoderRule::SameTeacher,
        center,
        targets: TargetOptions { top_k: TopK::new(8).unwrap(), ..TargetOptions::default() },
    };
    build_bank(&request, encoder, &Job::new())
}

#[test]
fn a_bank_follows_its_cache_row_for_row_in_both_forms_of_storage() {
    for count in [12, 300] {
        let root = tempfile::tempdir().unwrap();
        let values = values();
        let cache = write_cache(&root.path().join("cache"), &values);
        let (categories, mut encoder) = (names(count), encoder(count, DIM));
        let report = build(root.path(), &cache, &categories, &mut encoder, Existing::Refuse).unwrap();
        assert_eq!(
            (report.rows, report.prompts.encoded, encoder.encoded),
            (values.len() / DIM, count, count)
        );
        assert_eq!(report.counts.iter().map(|c| c.count).sum::<u64>(), 174);

        let templates = Templates::default();
        let tsb =
            build_tsb(&categories, &templates, &mut encoder, &root.path().join("prompts"), None, &Job::new())
                .unwrap();
        assert_eq!((tsb.prompts().reused, encoder.encoded), (count, count));
        let options = TargetOptions { top_k: TopK::new(8).unwrap(), ..TargetOptions::default() };
        let mut kept = Kept::default();
        let rows = Rows { values, dim: DIM };
        let targets =
            build_targets(&rows, &tsb, None, &options, root.path(), &mut kept, &Job::new()).unwrap();

        let bank = Bank::open(&root.path().join("bank"), Verify::Full).unwrap();
        bank.require_cache(&cache).unwrap();
        assert_eq!((bank.tsb(), bank.vsb()), (tsb.values(), &targets.vsb[..]));
        assert_eq!(bank.manifest().targets.len(), ACCEPTED.len());
        let record = &bank.manifest().record;
        assert_eq!(record.categories.iter().map(|c| c.count).collect::<Vec<_>>(), targets.counts);
        let empty =
            record.categories.iter().filter(|c| c.count == 0).map(|c| c.name.clone()).collect::<Vec<_>>();
        assert_eq!((&record.unassigned, &report.unassigned), (&empty, &empty));

        let stored = bank.targets().unwrap();
        let pseudo: Vec<i32> = stored.pseudo_category.iter().map(|&c| i32::try_from(c).unwrap()).collect();
        assert_eq!(pseudo, kept.pseudo_category);
        let mut row = vec![0.0; count + 1];
        for index in 0..174 {
            stored.visual.copy_rows(&[index], &mut row).unwrap();
            let largest = row.iter().copied().fold(0.0, f32::max);
            let width = kept.visual.probability.len() / 174;
            let expected: Vec<f32> =
                kept.visual.probability[index * width..][..width].iter().map(|p| p.to_f32()).collect();
            let sum: f32 = expected.iter().sum();
            let expected = expected.iter().copied().fold(0.0, f32::max) / sum;
            assert!((largest - expected).abs() < 1e-6, "row {index}: {largest} {expected}");
        }
    }
}

#[test]
fn a_bank_is_refused_for_another_cache_and_its_folder_for_another_bank() {
    let root = tempfile::tempdir().unwrap();
    let cache = write_cache(&root.path().join("cache"), &values());
    build(root.path(), &cache, &names(5), &mut encoder(5, DIM), Existing::Refuse).unwrap();
    let again = build(root.path(), &cache, &names(6), &mut encoder(6, DIM), Existing::Refuse);
    assert!(matches!(again, Err(BankError::Artifact(ArtifactError::Occupied { .. }))), "{again:?}");
    let report = build(root.path(), &cache, &names(6), &mut encoder(6, DIM), Existing::Overwrite).unwrap();
    assert_eq!((report.prompts.encoded, report.prompts.reused), (1, 5));

    let mut other = values();
    other.rotate_left(DIM);
    let other = write_cache(&root.path().join("other"), &other);
    let bank = Bank::open(&root.path().join("bank"), Verify::Full).unwrap();
    assert!(matches!(bank.require_cache(&other), Err(ArtifactError::Mismatch { .. })));
}

#[test]
fn a_text_encoder_of_another_teacher_is_refused_where_the_cache_knows_its_own() {
    let root = tempfile::tempdir().unwrap();
    let foreign = write_cache_of(&root.path().join("foreign"), &values(), Some(ContentHash::of(b"another")));
    let message = build(root.path(), &foreign, &names(5), &mut encoder(5, DIM), Existing::Refuse)
        .unwrap_err()
        .to_string();
    for part in
        ["text encoder", &ContentHash::of(b"another").to_string(), &ContentHash::of(b"lookup").to_string()]
    {
        assert!(message.contains(part), "{message}");
    }
    let one = build(root.path(), &foreign, &names(1), &mut encoder(1, DIM), Existing::Refuse).unwrap_err();
    assert!(matches!(&one, BankError::OneCategory { name } if name == "c0"), "{one}");
    assert!(one.to_string().contains("hint: write two names or more"), "{one}");
    let unknown = write_cache_of(&root.path().join("unknown"), &values(), None);
    build(root.path(), &unknown, &names(5), &mut encoder(5, DIM), Existing::Refuse).unwrap();
}

#[test]
fn a_failed_build_leaves_nothing_that_opens_as_a_bank() {
    let root = tempfile::tempdir().unwrap();
    let mut bad = values();
    bad[100 * DIM..101 * DIM].fill(0.0);
    let cache = write_cache(&root.path().join("cache"), &bad);
    let result = build(root.path(), &cache, &names(5), &mut encoder(5, DIM), Existing::Refuse);
    assert!(matches!(result, Err(BankError::RowNorm { row: 100, .. })), "{result:?}");
    assert!(Bank::open(&root.path().join("bank"), Verify::Length).is_err());

    let narrow = build(root.path(), &cache, &names(5), &mut encoder(5, DIM - 1), Existing::Refuse);
    assert!(matches!(narrow, Err(BankError::Width { text: 15, image: 16 })), "{narrow:?}");
    let mut silent = Lookup { table: HashMap::new(), dim: DIM, encoded: 0 };
    let unknown = build(root.path(), &cache, &names(7), &mut silent, Existing::Refuse);
    assert!(unknown.unwrap_err().to_string().contains("unknown prompt"));
    assert!(!root.path().join("bank/bank.json").exists());
    assert_eq!(fs::read_dir(root.path().join("bank")).unwrap().count(), 0);
}

/// `(row - mean) / |row - mean|` for every row, in f64.
fn centered(rows: &[f32], mean: &[f64]) -> Vec<f32> {
    let center = |row: &[f32]| {
        let away: Vec<f64> = row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        let norm = away.iter().map(|value| value * value).sum::<f64>().sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
        away.into_iter().map(move |value| (value / norm) as f32).collect::<Vec<f32>>()
    };
    rows.chunks_exact(DIM).flat_map(center).collect()
}

#[test]
fn a_centered_bank_is_that_of_embeddings_less_their_mean() {
    let root = tempfile::tempdir().unwrap();
    let values = values();
    let cache = write_cache(&root.path().join("cache"), &values);
    let count = 12;
    let categories = names(count);
    let rows = values.len() / DIM;
    let mean: Vec<f64> = (0..DIM)
        .map(|d| values.iter().skip(d).step_by(DIM).map(|&value| f64::from(value)).sum::<f64>() / rows as f64)
        .collect();
    // A bank normalizes the embeddings of prompts, which are rounded to f16 here.
    let texts = centered(&unit_rows(count, DIM, 12), &[0.0; DIM]);
    for side in [CenteredSide::Image, CenteredSide::Text, CenteredSide::Both] {
        let mut encoder = encoder(count, DIM);
        let existing = Existing::Overwrite;
        build_centered(root.path(), &cache, &categories, &mut encoder, existing, Some(side)).unwrap();
        let bank = Bank::open(&root.path().join("bank"), Verify::Full).unwrap();
        assert_eq!(bank.manifest().record.center.map(|center| center.side), Some(side));
        for (got, expected) in bank.center().unwrap().mean().iter().zip(&mean) {
            assert!((f64::from(*got) - expected).abs() < 1e-7, "{got} {expected}");
        }

        let image = if side == CenteredSide::Text { values.clone() } else { centered(&values, &mean) };
        let text = if side == CenteredSide::Image { texts.clone() } else { centered(&texts, &mean) };
        let tsb = Tsb::from_values(text, DIM).unwrap();
        let options = TargetOptions { top_k: TopK::new(8).unwrap(), ..TargetOptions::default() };
        let mut kept = Kept::default();
        let image = Rows { values: image, dim: DIM };
        let targets =
            build_targets(&image, &tsb, None, &options, root.path(), &mut kept, &Job::new()).unwrap();
        let close = |got: &[f32], expected: &[f32]| {
            got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-5)
        };
        assert!(close(bank.tsb(), tsb.values()) && close(bank.vsb(), &targets.vsb), "{side:?}");
        let pseudo: Vec<i32> =
            bank.targets().unwrap().pseudo_category.iter().map(|&c| i32::try_from(c).unwrap()).collect();
        assert_eq!(pseudo, kept.pseudo_category, "{side:?}");
    }
}

#[test]
fn embeddings_that_are_all_alike_cannot_be_centered() {
    let root = tempfile::tempdir().unwrap();
    let one = unit_rows(1, DIM, 3);
    let values: Vec<f32> = one.iter().copied().cycle().take(values().len()).collect();
    let cache = write_cache(&root.path().join("cache"), &values);
    let side = Some(CenteredSide::Image);
    let result = build_centered(root.path(), &cache, &names(3), &mut encoder(3, DIM), Existing::Refuse, side);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("row 0 of the embeddings equals the mean"), "{text}");
}
