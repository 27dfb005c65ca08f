//! Bridges compared with numpy in f64 (`goldens/make_align.py`), their laws, their folders and the banks that are built
//! with them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::{Golden, Lookup, VIEWS, unit_rows};
use lgd_bank::{
    AlignError, AlignReport, AlignRequest, AlignedEncoder, BankError, BankRequest, Categories, Head,
    ImageTargets, NameForm, PromptEncoder, RidgePenalty, TargetOptions, Templates, TextEncoderRule,
    build_align, build_bank,
};
use lgd_data::ArtifactError;
use lgd_data::align::{Accuracy, Align, ImageSide};
use lgd_data::bank::{Bank, CenteredSide};
use lgd_data::cache::{Cache, CacheConfig, TeacherRecord};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_testing::{cache_config, teacher_record};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn names(count: usize) -> Categories {
    Categories::from_names((0..count).map(|number| format!("c{number}")), NameForm::Verbatim).unwrap()
}

/// An encoder that knows the names by their text embeddings, `[C, Dt]`.
fn encoder(texts: &[f32], dim: usize) -> Lookup {
    let rows = texts.chunks_exact(dim).enumerate();
    Lookup {
        table: rows.map(|(number, row)| (format!("c{number}"), row.to_vec())).collect(),
        dim,
        encoded: 0,
    }
}

/// Writes tensors of f32.
fn write_tensors(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
}

fn head(dir: &Path, values: &[f32], dim: usize) -> Head {
    let path = dir.join("head.safetensors");
    let rows = values.len() / dim;
    write_tensors(&path, &[("fc.bias", &[rows], &vec![0.0; rows]), ("fc.weight", &[rows, dim], values)]);
    Head::read(&path, None, rows).unwrap()
}

/// Writes a cache of two views per image with embeddings `[images x VIEWS, dim]`.
fn write_cache(dir: &Path, values: &[f32], dim: usize, teacher: TeacherRecord) -> Cache {
    let images = values.len() / dim / VIEWS;
    let config = CacheConfig { teacher, ..cache_config(dim, images) };
    let accepted = vec![config.shard_samples; config.shards()];
    common::write_cache(dir, config, &accepted, values.chunks(VIEWS * dim), common::embeddings)
}

/// Fits a bridge from `texts`, `[C, Dt]`, in `dir/align`.
fn align(
    dir: &Path,
    texts: (&[f32], usize),
    images: ImageTargets<'_>,
    ridge: Option<f64>,
) -> Result<(AlignReport, Align), AlignError> {
    let categories = names(texts.0.len() / texts.1);
    let request = AlignRequest {
        categories: &categories,
        templates: &Templates::new(vec!["{}".to_owned()]).unwrap(),
        prompt_cache: &dir.join("prompts"),
        images,
        ridge: ridge.map(|ridge| RidgePenalty::new(ridge).unwrap()),
        out: &dir.join("align"),
        existing: Existing::Overwrite,
    };
    let report = build_align(&request, &mut encoder(texts.0, texts.1), &Job::new())?;
    Ok((report, Align::open(&dir.join("align"), Verify::Full).unwrap()))
}

/// Tests `got` against the golden values, relative to the largest.
#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(got) - expected).abs() <= tolerance * largest, "{at}: {got} {expected}");
    }
}

#[track_caller]
fn assert_case(golden: &Golden, name: &str, report: &AlignReport, align: &Align) {
    let get = |part: &str| golden.values(&format!("{name}.{part}"));
    assert_close(align.bridge().mean(), get("mean"), 1e-6);
    assert_close(align.bridge().matrix(), get("matrix"), 1e-5);
    let [ridge, cosine] = get("chosen") else { panic!("a penalty and its cosine") };
    assert!((report.ridge - ridge).abs() < 1e-9 * ridge, "{} {ridge}", report.ridge);
    let held_out = &report.held_out;
    assert!((held_out.cosine - cosine).abs() < 1e-6, "{} {cosine}", held_out.cosine);
    if report.candidates.len() > 1 {
        assert_eq!(report.candidates.len(), get("curve").len());
        for (candidate, expected) in report.candidates.iter().zip(get("curve")) {
            assert!((candidate.cosine - expected).abs() < 1e-5, "{candidate:?} {expected}");
        }
    }
    let got = [held_out.plain, held_out.centered, held_out.chance];
    let got = got.iter().flat_map(|accuracy| [accuracy.among_held_out, accuracy.among_all]);
    for (got, expected) in got.zip(get("accuracy")) {
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    }
    assert_eq!(held_out.decisions as f64, get("decisions")[0]);
}

#[test]
fn a_head_gives_the_projection_of_the_demos_teacher() {
    let golden = Golden::open("align.safetensors");
    for (name, ridge) in [("head", Some(10.0)), ("chosen", None), ("wide", None)] {
        // The cases have the same prompts, so each has a prompt cache of its own.
        let dir = tempfile::tempdir().unwrap();
        let of =
            |part: &str| (golden.f32s(&format!("{name}.{part}")), golden.shape(&format!("{name}.{part}"))[1]);
        let ((texts, text_dim), (rows, dim)) = (of("texts"), of("head"));
        let head = head(dir.path(), &rows, dim);
        let images = ImageTargets::Head(&head);
        let (report, align) = align(dir.path(), (&texts, text_dim), images, ridge).unwrap();
        assert_case(&golden, name, &report, &align);
        assert_eq!((align.bridge().text_dim(), align.bridge().dim()), (text_dim, dim));
        assert_eq!(
            report.center,
            Some(CenteredSide::Image),
            "rows that share a direction are told apart better without it"
        );
        let record = &align.manifest().record;
        assert_eq!(record.text_encoder, ContentHash::of(b"lookup"));
        assert_eq!(record.cross_validated, ridge.is_none());
        assert_eq!(record.images, ImageSide::Head { file: head.hash(), tensor: "fc.weight".to_owned() });
    }
}

#[test]
fn labeled_images_stand_for_their_categories() {
    let golden = Golden::open("align.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let (texts, text_dim) = (golden.f32s("cache.texts"), golden.shape("cache.texts")[1]);
    let dim = golden.shape("cache.embeddings")[1];
    let cache =
        write_cache(&dir.path().join("cache"), &golden.f32s("cache.embeddings"), dim, teacher_record());
    let labels = golden.values("cache.labels").iter();
    let categories: Vec<Option<u32>> =
        labels.map(|&label| (0..40).find(|&number| f64::from(number) == label)).collect();
    let images = ImageTargets::Cache { cache: &cache, categories: &categories };
    let (report, align) = align(dir.path(), (&texts, text_dim), images, None).unwrap();
    assert_case(&golden, "cache", &report, &align);
    assert_eq!((report.images, report.unlabeled, report.categories), (160, 1, 40));
    assert_eq!(report.center, Some(CenteredSide::Image));
    let teacher = Box::new(teacher_record());
    assert_eq!(
        align.manifest().record.images,
        ImageSide::Cache { cache: cache.hash(), teacher, images: 160 }
    );
}

/// Texts, `[count, dim]`, and the same vectors with their axes turned: value i becomes value i + 1.
fn turned(count: usize, dim: usize) -> (Vec<f32>, Vec<f32>) {
    let unit = |row: &[f32]| {
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter().map(|value| value / norm).collect::<Vec<f32>>()
    };
    // Rows of length 1 up to f32: only the text side is normalized before its mean is subtracted.
    let texts: Vec<f32> = unit_rows(count, dim, 3).chunks_exact(dim).flat_map(unit).collect();
    let rows = texts.chunks_exact(dim).flat_map(|row| [&row[dim - 1..], &row[..dim - 1]].concat()).collect();
    (texts, rows)
}

#[test]
fn a_space_that_is_only_turned_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(60, 8);
    let head = head(dir.path(), &rows, 8);
    let (report, align) = align(dir.path(), (&texts, 8), ImageTargets::Head(&head), Some(1e-9)).unwrap();
    assert!(report.held_out.cosine > 0.999, "{:?}", report.held_out);
    assert_eq!(report.held_out.centered, Accuracy { among_held_out: 1.0, among_all: 1.0 });
    for (row, values) in align.bridge().matrix().chunks_exact(8).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            let expected = f32::from(u8::from((column + 1) % 8 == row));
            assert!((value - expected).abs() < 1e-5, "{row} {column}: {value}");
        }
    }
}

#[test]
fn categories_without_images_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(24, 8);
    let views: Vec<f32> = rows.chunks_exact(8).flat_map(|row| [row, row].concat()).collect();
    let cache = write_cache(&dir.path().join("cache"), &views, 8, teacher_record());
    let mut categories: Vec<Option<u32>> = (0..24).map(Some).collect();
    categories[7] = Some(6);
    categories[20] = None;
    let images = ImageTargets::Cache { cache: &cache, categories: &categories };
    let (report, _) = align(dir.path(), (&texts, 8), images, None).unwrap();
    assert_eq!(report.left_out, ["c7", "c20"]);
    assert_eq!((report.categories, report.images, report.unlabeled), (22, 23, 1));

    let few: Vec<Option<u32>> = (0..24).map(|image| Some(image % 9)).collect();
    let images = ImageTargets::Cache { cache: &cache, categories: &few };
    let error = align(dir.path(), (&texts, 8), images, None).unwrap_err();
    assert!(matches!(error, AlignError::FewCategories { got: 9 }), "{error}");
    assert!(error.to_string().contains("at least 10") && error.to_string().contains("hint:"), "{error}");
}

#[test]
fn a_bank_follows_its_bridge() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(24, 8);
    let views: Vec<f32> = rows.chunks_exact(8).flat_map(|row| [row, row].concat()).collect();
    let cache = write_cache(&dir.path().join("cache"), &views, 8, teacher_record());
    let categories: Vec<Option<u32>> = (0..24).map(Some).collect();
    let images = ImageTargets::Cache { cache: &cache, categories: &categories };
    let (_, align_a) = align(dir.path(), (&texts, 8), images, Some(1e-9)).unwrap();
    let bank = |align: &Align, out: &str| {
        let mut text = encoder(&texts, 8);
        let mut encoder = AlignedEncoder::new(&mut text, align, &cache)?;
        let request = BankRequest {
            cache: &cache,
            categories: &names(24),
            templates: &Templates::new(vec!["{}".to_owned()]).unwrap(),
            prompt_cache: &dir.path().join("prompts"),
            out: &dir.path().join(out),
            existing: Existing::Refuse,
            text_encoder: TextEncoderRule::Any,
            center: Some(CenteredSide::Image),
            targets: TargetOptions::default(),
        };
        build_bank(&request, &mut encoder, &Job::new()).unwrap();
        Ok::<_, ArtifactError>(Bank::open(&dir.path().join(out), Verify::Full).unwrap())
    };
    let a = bank(&align_a, "a").unwrap();
    // The bridge undoes the turn, so every image is nearest to its own name.
    assert!(a.targets().unwrap().pseudo_category.iter().copied().eq((0..24).flat_map(|name| [name; VIEWS])));
    let record = &a.manifest().record;
    assert_eq!((record.bridge, record.dim, record.cache_text_encoder), (Some(align_a.hash()), 8, None));
    assert_ne!(record.text_encoder, ContentHash::of(b"lookup"));

    let (_, align_b) = align(dir.path(), (&texts, 8), images, Some(1.0)).unwrap();
    let b = bank(&align_b, "b").unwrap();
    assert_ne!(
        b.manifest().record.text_encoder,
        record.text_encoder,
        "another bridge is another text encoder"
    );
    let (_, again) = align(dir.path(), (&texts, 8), images, Some(1e-9)).unwrap();
    assert_eq!(again.hash(), align_a.hash(), "the same inputs give the same bytes");
}

/// An encoder that is not the one the bridge was fitted to.
struct Other;

impl PromptEncoder for Other {
    fn hash(&self) -> ContentHash {
        ContentHash::of(b"other")
    }
    fn dim(&self) -> usize {
        8
    }
    fn encode(&mut self, _: &[String]) -> Result<Vec<f32>, lgd_bank::EncodeFailure> {
        Err("never asked".into())
    }
}

#[test]
fn a_bridge_serves_its_own_text_encoder_and_teacher_only() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(24, 8);
    let views: Vec<f32> = rows.chunks_exact(8).flat_map(|row| [row, row].concat()).collect();
    let cache = write_cache(&dir.path().join("cache"), &views, 8, teacher_record());
    let categories: Vec<Option<u32>> = (0..24).map(Some).collect();
    let images = ImageTargets::Cache { cache: &cache, categories: &categories };
    let (_, bridge) = align(dir.path(), (&texts, 8), images, None).unwrap();

    let refused = |text: &mut dyn PromptEncoder, bridge: &Align, cache: &Cache| match AlignedEncoder::new(
        text, bridge, cache,
    ) {
        Err(ArtifactError::Mismatch { what, .. }) => what,
        _ => panic!("expected a mismatch"),
    };
    assert_eq!(refused(&mut Other, &bridge, &cache), "the text encoder");
    let mut text = encoder(&texts, 8);
    let model = TeacherRecord { image_model: ContentHash::of(b"another model"), ..teacher_record() };
    let of_model = write_cache(&dir.path().join("model"), &views, 8, model);
    assert_eq!(refused(&mut text, &bridge, &of_model), "the image model");
    let output = TeacherRecord { output: "pooled".to_owned(), ..teacher_record() };
    let of_output = write_cache(&dir.path().join("output"), &views, 8, output);
    assert_eq!(refused(&mut text, &bridge, &of_output), "the teacher's output");

    // A head records no image model; its width is compared.
    let wide = unit_rows(24, 12, 5);
    let (_, bridge) =
        align(dir.path(), (&texts, 8), ImageTargets::Head(&head(dir.path(), &wide, 12)), None).unwrap();
    assert_eq!(refused(&mut text, &bridge, &cache), "the width of the image embeddings");
}

#[test]
fn heads_are_chosen_by_their_rows_or_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let values = unit_rows(12, 6, 1);
    write_tensors(
        &path,
        &[
            ("conv.weight", &[12, 3, 2], &values),
            ("fc.weight", &[12, 6], &values),
            ("fc.bias", &[6], &values[..6]),
            ("proj.weight", &[6, 12], &values),
        ],
    );
    let found = Head::read(&path, None, 12).unwrap();
    assert_eq!((found.tensor(), found.rows(), found.dim()), ("fc.weight", 12, 6));
    assert_eq!(Head::read(&path, Some("proj.weight"), 12).unwrap().rows(), 6);
    for (name, rows, part) in [
        (
            None,
            11,
            "a row for each of the 11 names, found none or several; its matrices: fc.weight [12, 6], proj.weight [6, 12]",
        ),
        (Some("head.weight"), 12, "there is no \"head.weight\""),
        (
            Some("conv.weight"),
            12,
            "conv.weight: expected a matrix of floats, [classes, width], got F32 [12, 3, 2]",
        ),
    ] {
        let error = Head::read(&path, name, rows).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let mut zero = values.clone();
    zero[6..12].fill(0.0);
    write_tensors(&path, &[("fc.weight", &[12, 6], &zero)]);
    assert!(matches!(Head::read(&path, None, 12), Err(AlignError::HeadNorm { row: 1, .. })));
    fs::write(&path, b"PK\x03\x04").unwrap();
    let error = Head::read(&path, None, 12).unwrap_err().to_string();
    assert!(
        error.contains("expected a safetensors file") && error.contains("hint: save the weight"),
        "{error}"
    );
}

#[test]
fn names_that_do_not_match_the_rows_and_spaces_without_a_difference_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(24, 8);
    let more = head(dir.path(), &unit_rows(25, 8, 9), 8);
    let error = align(dir.path(), (&texts, 8), ImageTargets::Head(&more), None).unwrap_err().to_string();
    assert!(error.contains("25 rows, but 24 names") && error.contains("background class"), "{error}");
    let same = head(dir.path(), &rows[..8].repeat(24), 8);
    let error = align(dir.path(), (&texts, 8), ImageTargets::Head(&same), None).unwrap_err();
    assert!(matches!(error, AlignError::EqualsMean { what: "the image target", .. }), "{error}");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(RidgePenalty::new(bad), Err(BankError::Option { .. })), "{bad}");
    }
}

#[test]
fn a_bridge_is_kept_unless_it_is_to_be_replaced_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, rows) = turned(24, 8);
    let head = head(dir.path(), &rows, 8);
    align(dir.path(), (&texts, 8), ImageTargets::Head(&head), None).unwrap();
    let out = dir.path().join("align");
    assert!(matches!(Align::claim(&out, Existing::Refuse), Err(ArtifactError::Occupied { .. })));
    Align::claim(&out, Existing::Overwrite).unwrap();
    let path = out.join("align.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Align::open(&out, Verify::Full), Err(ArtifactError::Hash { .. })));
    let text = fs::read_to_string(out.join("align.json")).unwrap();
    fs::write(out.join("align.json"), text.replace("\"dim\": 8", "\"dim\": 4")).unwrap();
    assert!(matches!(Align::open(&out, Verify::Length), Err(ArtifactError::Hash { .. })));
}
