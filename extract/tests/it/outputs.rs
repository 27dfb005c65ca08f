//! Features, tokens and captions: compared with the reference evaluator, from one pass, with the same bytes for any
//! partition.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use lgd_data::cache::{Cache, CacheBuilder, CacheManifest, Partition};
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::projection::{MomentSums, Projection};
use lgd_data::source::{Captions, ImageSource};
use lgd_data::view::Policy;
use lgd_extract::encoder::{EncodedViews, Outputs, PixelBuffer, TokenShape};
use lgd_extract::pipeline::{OutputEstimate, TokenStorage, ViewPlan};
use lgd_extract::{EncoderOptions, ExtractError, ExtractOptions, Extractor, ImageEncoder};
use lgd_testing::MemorySource;

use crate::common::{assert_close, both_teacher, expected, image_teacher, pixels, ppm, runtime, unit};
use crate::pipeline::{Failing, Interrupting, PLAN, assert_same, byte, contents, images};

const GRID: &str = "features = 'features'\ntokens = 'tokens'";

fn options(tokens: Option<TokenStorage>, threads: usize) -> ExtractOptions {
    ExtractOptions {
        encoder: EncoderOptions { batch: Some(8), threads, ..EncoderOptions::default() },
        decode_threads: threads,
        read_threads: threads,
        features: true,
        tokens,
        ..ExtractOptions::default()
    }
}

/// An extractor of the model `grid` with all its outputs, and with the captions of `source` if it has any.
fn extractor(source: &dyn ImageSource, tokens: TokenStorage, threads: usize) -> Extractor {
    let teacher = both_teacher("grid", GRID).unwrap();
    let opened = Extractor::open(&teacher, &runtime(), options(Some(tokens), threads)).unwrap();
    opened.with_captions(&teacher, &runtime(), source).unwrap()
}

/// An encoder of a fixture model for batches of two, with the outputs named in `keys`.
fn open(model: &str, keys: &str) -> Result<ImageEncoder, ExtractError> {
    let options = EncoderOptions { batch: Some(2), ..EncoderOptions::default() };
    let named = |key: &str| keys.lines().any(|line| line.starts_with(key));
    let outputs = Outputs { features: named("features ="), tokens: named("tokens =") };
    image_teacher(model, keys)?.view_encoder(&runtime(), &options, outputs)
}

/// Encodes the reference's two images.
fn encode(model: &str, keys: &str) -> EncodedViews {
    let mut encoder = open(model, keys).unwrap();
    let pixels = PixelBuffer::F32(pixels(encoder.new_batch().len()));
    encoder.encode_views(&pixels, 2).unwrap()
}

/// Tokens `[2, 4, 2, 2]` of the model `outputs`, averaged over their positions.
fn map_means(output: &str) -> Vec<f32> {
    expected("outputs", output).chunks(4).map(|plane| plane.iter().sum::<f32>() / 4.0).collect()
}

#[test]
fn one_pass_gives_embedding_features_and_tokens_as_the_reference_has_them() {
    let all = encode("outputs", "output = 'image_embeds'\nfeatures = 'features'\ntokens = 'tokens'");
    let plain = encode("outputs", "output = 'image_embeds'");
    assert_eq!(all.embeddings, plain.embeddings);
    assert!(plain.features.is_none() && plain.tokens.is_none());
    for (row, raw) in expected("outputs", "image_embeds").chunks(4).enumerate() {
        assert_close(all.embeddings.row(row), &unit(raw), 1e-5);
    }
    let (features, tokens) = (all.features.unwrap(), all.tokens.unwrap());
    assert_close(features.values(), &expected("outputs", "features"), 1e-6);
    assert!(features.values().iter().any(|value| *value < 0.0), "before the activation");
    assert_eq!(tokens.shape(), TokenShape { rows: 2, columns: 2, dim: 4 });
    assert_close(tokens.values(), &expected("standard", "map"), 1e-5);
}

#[test]
fn features_are_pooled_from_whatever_the_model_gives() {
    let embedding = "output = 'last_hidden_state'\n";
    let hidden = expected("outputs", "last_hidden_state");
    let class: Vec<f32> = hidden.chunks(20).flat_map(|image| image[..4].to_vec()).collect();
    for (keys, raw) in [
        ("output = 'image_embeds'\nfeatures = 'feature_map'".to_owned(), map_means("feature_map")),
        (format!("{embedding}pooling = 'cls'\nfeatures = 'last_hidden_state'"), class),
        (
            format!("{embedding}pooling = 'mean'\nprefix_tokens = 1\nfeatures = 'last_hidden_state'"),
            map_means("feature_map"),
        ),
    ] {
        let features = encode("outputs", &keys).features.unwrap();
        assert_close(features.values(), &raw, 1e-5);
    }
}

#[test]
fn tokens_come_from_sequences_and_from_maps_of_either_layout() {
    let embedding = "output = 'image_embeds'\n";
    for (model, keys, golden, rows, columns) in [
        ("outputs", "tokens = 'last_hidden_state'\nprefix_tokens = 1", "patches", 2, 2),
        ("outputs", "tokens = 'last_hidden_state'\nprefix_tokens = 1\ntoken_grid = [1, 4]", "patches", 1, 4),
        ("outputs", "tokens = 'tokens'\ntoken_grid = [2, 2]", "map", 2, 2),
        ("outputs_nhwc", "tokens = 'tokens'", "map_nhwc", 8, 8),
    ] {
        let tokens = encode(model, &format!("{embedding}{keys}")).tokens.unwrap();
        assert_eq!(tokens.shape(), TokenShape { rows, columns, dim: 4 }, "{model} {keys}");
        assert_close(tokens.values(), &expected("standard", golden), 1e-5);
    }
}

#[test]
fn an_output_of_more_rows_than_images_is_refused() {
    let embeds = "output = 'embeds'\n";
    assert_eq!(encode("twice", embeds).embeddings.rows(), 2);
    for keys in [
        "output = 'image_embeds'".to_owned(),
        format!("{embeds}features = 'features'"),
        format!("{embeds}tokens = 'tokens'"),
    ] {
        let error = open("twice", &keys).unwrap_err().to_string();
        assert!(error.contains("4 rows for a batch of 2\nhint: export a model"), "{keys}: {error}");
    }
}

#[test]
fn outputs_that_cannot_be_used_say_what_is_there() {
    let embedding = "output = 'image_embeds'\n";
    for (keys, parts) in [
        ("features = 'absent'", ["an output 'absent'", "hint: correct features in teacher.toml"]),
        ("tokens = 'absent'", ["an output 'absent'", "hint: correct tokens in teacher.toml"]),
        ("features = 'last_hidden_state'", ["[N, F]", "not pooled from tokens"]),
        ("tokens = 'features'", ["[N, T, D]", "features: f32[?, 4]"]),
        (
            "tokens = 'last_hidden_state'",
            ["a square number of tokens after 0 prefix_tokens, not 5", "hint: correct prefix_tokens"],
        ),
        ("tokens = 'last_hidden_state'\nprefix_tokens = 2", ["not 3", "token_grid = [rows, columns]"]),
        ("tokens = 'last_hidden_state'\nprefix_tokens = 5", ["prefix_tokens = 5", "[2, 5, 4]"]),
        ("tokens = 'last_hidden_state'\nprefix_tokens = 1\ntoken_grid = [3, 2]", ["3 x 2 tokens", "not 4"]),
        ("tokens = 'tokens'\ntoken_grid = [1, 4]", ["[1, 4]", "[2, 4, 2, 2]"]),
    ] {
        let text = open("outputs", &format!("{embedding}{keys}")).map(drop).unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{keys}: '{part}' is not in: {text}");
        }
    }
    let nothing = image_teacher("outputs", embedding).unwrap();
    for (features, tokens, key) in [(true, false, "features"), (false, true, "tokens")] {
        let outputs = Outputs { features, tokens };
        let error =
            nothing.view_encoder(&runtime(), &EncoderOptions::default(), outputs).map(drop).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("set [image] {key} in teacher.toml")) && text.contains("feature_map"),
            "{text}"
        );
    }
    let wide = Some(TokenStorage::Projected { dim: 17, fit_views: 10 });
    let teacher = both_teacher("grid", GRID).unwrap();
    let text = Extractor::open(&teacher, &runtime(), options(wide, 1)).map(drop).unwrap_err().to_string();
    assert!(text.contains("tokens of at least 17 values") && text.contains("16 x 16 tokens of 16"), "{text}");
}

const TEXTS: [&str; 3] = ["a photo of cat", "dog", "a dog of cat of dog of dog of dog"];

fn captioned(count: usize, broken: impl Fn(usize) -> bool) -> MemorySource {
    let texts = (0..count).map(|i| TEXTS[i % TEXTS.len()].to_owned()).collect();
    images(count, broken).captioned(Captions::Texts(texts))
}

fn builder(extractor: &Extractor, source: &dyn ImageSource, dir: &Path) -> CacheBuilder {
    CacheBuilder::open(dir, extractor.cache_config(source, &PLAN, 12), Existing::Resume).unwrap()
}

fn finalize(extractor: &Extractor, source: &dyn ImageSource, dir: &Path) -> CacheManifest {
    builder(extractor, source, dir).finalize(&[]).unwrap().unwrap()
}

/// Makes a cache in `dir` with all outputs, in `parts` parts.
fn cache(source: &dyn ImageSource, tokens: TokenStorage, threads: usize, parts: usize, dir: &Path) -> Cache {
    for part in (0..parts).rev() {
        let mut extractor = extractor(source, tokens, threads);
        let builder = builder(&extractor, source, dir);
        let part = Partition::new(part, parts).unwrap();
        extractor.extract(source, &builder, part, &Job::new()).unwrap();
        builder.finalize(&[]).unwrap();
    }
    Cache::open(dir, Verify::Full).unwrap()
}

const SVD: TokenStorage = TokenStorage::Projected { dim: 5, fit_views: 20 };

#[test]
fn the_cache_holds_what_the_encoder_gives_for_its_views() {
    use lgd_data::image::{DecodeLimits, decode};
    use lgd_data::render::render;
    let source = captioned(7, |i| i == 2);
    let teacher = both_teacher("grid", GRID).unwrap();
    let one = EncoderOptions { batch: Some(8), threads: 1, ..EncoderOptions::default() };
    let mut encoder =
        teacher.view_encoder(&runtime(), &one, Outputs { features: true, tokens: true }).unwrap();
    let mut texts = teacher.text_encoder(&runtime(), &EncoderOptions::default()).unwrap();
    let half = |values: &[f32]| values.iter().map(|&value| f16::from_f32(value).to_f32()).collect::<Vec<_>>();
    for storage in [TokenStorage::F16, TokenStorage::Int8, SVD] {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&source, storage, 2, 1, dir.path());
        let (features, tokens) = (cache.features().unwrap().unwrap(), cache.tokens().unwrap().unwrap());
        let (captions, views) = (cache.captions().unwrap().unwrap(), cache.views().unwrap());
        assert_eq!((cache.rows(), features.rows(), tokens.rows(), captions.rows()), (18, 18, 18, 6));
        let projection = dir.path().join("tokens.safetensors");
        let projection = projection.exists().then(|| Projection::load(&projection).unwrap());
        assert_eq!(projection.is_some(), storage == SVD);
        let (mut feature, mut row) = (vec![0.0; features.width()], vec![0.0; tokens.width()]);
        for (position, sample) in [0, 1, 3, 4, 5, 6].into_iter().enumerate() {
            let image = decode(&source.read(sample, u64::MAX).unwrap(), &DecodeLimits::default()).unwrap();
            for view in 0..3 {
                let shown =
                    render(&image, views.view(position, view), encoder.size(), encoder.resample()).unwrap();
                let mut pixels = encoder.new_batch();
                let (mean, layout) = (*encoder.normalization(), encoder.layout());
                pixels.normalize(0, &shown, &mean, layout, &mut Vec::new()).unwrap();
                let given = encoder.encode_views(&pixels, 1).unwrap();
                features.copy_row(views.row(position, view), &mut feature);
                assert!(
                    feature == half(given.features.as_ref().unwrap().row(0)),
                    "sample {sample}, view {view}"
                );
                tokens.copy_row(views.row(position, view), &mut row);
                let given = given.tokens.unwrap();
                match &projection {
                    Some(projection) => assert!(row == half(given.project(projection).row(0))),
                    None if storage == TokenStorage::F16 => assert!(row == half(given.row(0))),
                    None => {
                        for (row, given) in row.chunks(16).zip(given.row(0).chunks(16)) {
                            let largest = given.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                            assert_close(row, given, 0.501 * largest / 127.0 * 1.001);
                        }
                    }
                }
            }
            let mut caption = vec![0.0; captions.width()];
            captions.copy_row(position, &mut caption);
            let text = TEXTS[sample % TEXTS.len()].to_owned();
            assert_close(&caption, &half(&texts.encode(&[text]).unwrap()), 1e-3);
        }
    }
}

#[test]
fn the_embeddings_are_those_of_a_plain_cache() {
    let source = captioned(20, |i| i == 2);
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let full = cache(&source, TokenStorage::F16, 2, 1, with.path());
    let plain = ExtractOptions { features: false, ..options(None, 2) };
    let mut extractor = Extractor::open(&image_teacher("grid", "").unwrap(), &runtime(), plain).unwrap();
    let builder = builder(&extractor, &source, without.path());
    extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    builder.finalize(&[]).unwrap().unwrap();
    let plain = Cache::open(without.path(), Verify::Full).unwrap();
    let (mut a, mut b) = (vec![0.0; full.dim()], vec![0.0; full.dim()]);
    for row in 0..full.rows() {
        full.embeddings().copy_row(row, &mut a);
        plain.embeddings().copy_row(row, &mut b);
        assert!(a == b, "row {row}");
    }
    assert!(
        !contents(without.path())
            .keys()
            .any(|name| name.starts_with("tokens") || name.starts_with("captions"))
    );
}

#[test]
fn threads_and_partitions_do_not_change_a_byte() {
    let source = captioned(43, |i| i % 10 == 3);
    for storage in [TokenStorage::F16, TokenStorage::Int8, SVD] {
        let whole = tempfile::tempdir().unwrap();
        cache(&source, storage, 1, 1, whole.path());
        let reference = contents(whole.path());
        assert_eq!(reference.len(), 3 * 4 + 2 + usize::from(storage == SVD));
        for (threads, parts) in [(3, 1), (2, 3)] {
            let dir = tempfile::tempdir().unwrap();
            cache(&source, storage, threads, parts, dir.path());
            assert_same(
                &contents(dir.path()),
                &reference,
                &format!("{storage:?}: {threads} threads, {parts} parts"),
            );
        }
    }
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let broken = |i: usize| i % 9 == 5;
    let source = captioned(50, broken);
    for storage in [TokenStorage::Int8, SVD] {
        let whole = tempfile::tempdir().unwrap();
        cache(&source, storage, 2, 1, whole.path());
        // The fit reads 20 images before the first shard.
        for after in [0, 25, 55] {
            let dir = tempfile::tempdir().unwrap();
            let job = Arc::new(Job::new());
            let cut = Interrupting::new(captioned(50, broken), &job, after);
            let mut extractor = extractor(&cut, storage, 2);
            let first = builder(&extractor, &cut, dir.path());
            match extractor.extract(&cut, &first, Partition::WHOLE, &job) {
                Err(error) => assert!(error.is_interrupted(), "{error}"),
                // Without a fit, the listing ends before this many reads.
                Ok(_) => assert!(storage != SVD && after >= 50),
            }
            assert!(!contents(dir.path()).keys().any(|name| name.ends_with(".tmp")));
            extractor.extract(&source, &first, Partition::WHOLE, &Job::new()).unwrap();
            drop(first);
            finalize(&extractor, &source, dir.path());
            assert_same(
                &contents(dir.path()),
                &contents(whole.path()),
                &format!("{storage:?} cut after {after}"),
            );
        }
    }
}

#[test]
fn a_part_uses_the_projection_that_another_has_kept() {
    let source = captioned(30, |_| false);
    let dir = tempfile::tempdir().unwrap();
    let mut first = extractor(&source, SVD, 1);
    let builder = builder(&first, &source, dir.path());
    first.extract(&source, &builder, Partition::new(0, 2).unwrap(), &Job::new()).unwrap();
    let kept = std::fs::read(dir.path().join("tokens.safetensors")).unwrap();
    let job = Job::new();
    let mut second = extractor(&source, SVD, 1);
    second.extract(&source, &builder, Partition::new(1, 2).unwrap(), &job).unwrap();
    assert_eq!(job.total(), 12, "nothing was fitted: the job counts the second part's samples, not views");
    assert!(kept == std::fs::read(dir.path().join("tokens.safetensors")).unwrap());
    let manifest = builder.finalize(&[]).unwrap().unwrap();
    let explained = manifest.token_projection.unwrap().explained;
    assert!(explained > 0.5 && explained < 1.0, "{explained}");
    // A lost projection is fitted again, with the same bits.
    std::fs::remove_file(dir.path().join("cache.json")).unwrap();
    std::fs::remove_file(dir.path().join("tokens.safetensors")).unwrap();
    drop(builder);
    let mut third = extractor(&source, SVD, 2);
    let again = self::builder(&third, &source, dir.path());
    assert_eq!(third.extract(&source, &again, Partition::WHOLE, &Job::new()).unwrap().shards, 3);
    assert!(kept == std::fs::read(dir.path().join("tokens.safetensors")).unwrap());
}

#[test]
fn no_projection_is_fitted_to_what_a_failed_storage_has_left() {
    let failing = Failing { inner: captioned(30, |_| false), from: 20 };
    let dir = tempfile::tempdir().unwrap();
    let mut extractor = extractor(&failing, SVD, 1);
    let builder = builder(&extractor, &failing, dir.path());
    let error = extractor.extract(&failing, &builder, Partition::WHOLE, &Job::new()).unwrap_err();
    assert!(matches!(error, ExtractError::Storage { .. }), "{error}");
    assert!(builder.projection().unwrap().is_none());
}

#[test]
fn the_projection_is_fitted_to_views_of_every_index() {
    let source = captioned(30, |_| false);
    let (exact, projected) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let exact = cache(&source, TokenStorage::F16, 1, 1, exact.path());
    let ninth = TokenStorage::Projected { dim: 5, fit_views: 10 };
    cache(&source, ninth, 1, 1, projected.path());
    let fitted = Projection::load(&projected.path().join("tokens.safetensors")).unwrap();
    let tokens = exact.tokens().unwrap().unwrap();
    // The mean of the tokens of ten rows.
    let mean = |row: &dyn Fn(usize) -> usize| {
        let mut values = vec![0.0; 10 * tokens.width()];
        tokens.copy_rows((0..10).map(row), &mut values);
        let mut sums = MomentSums::new(tokens.record().dim);
        sums.add(&values);
        Projection::fit(&sums, 5).unwrap().mean().to_vec()
    };
    let off =
        |mean: Vec<f32>| mean.iter().zip(fitted.mean()).fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
    // The fit takes view 0 of the first sample, view 1 of the fourth, view 2 of the seventh, and so on. The
    // difference is the rounding of f16.
    let (taking_turns, first_only) = (off(mean(&|pick| 9 * pick + pick % 3)), off(mean(&|pick| 9 * pick)));
    assert!(taking_turns < 1e-4 && first_only > 1e-2, "{taking_turns} {first_only}");
}

#[test]
fn features_and_tokens_out_of_range_reject_the_sample() {
    // Every fifth image is dark, every seventh bright.
    let image = |i: usize| match i {
        _ if i % 5 == 4 => ppm(9, 9, |_, _| [3, 2, 1]),
        _ if i % 7 == 6 => ppm(9, 9, |_, _| [254, 255, 254]),
        _ => ppm(9, 9, |x, y| [130, 140, byte(150 + x + y)]),
    };
    let source = MemorySource::new((0..40).map(|i| (format!("{i:02}"), image(i))));
    for (keys, reason, detail) in [
        ("features = 'nan_features'", "nan-features", "the feature of view 0 is not finite"),
        (
            "features = 'huge_features'",
            "huge-features",
            "the feature of view 0 is beyond 65504, the range of f16",
        ),
        ("tokens = 'nan_tokens'", "nan-tokens", "a token of view 0 is not finite"),
    ] {
        let tokens = keys.starts_with("tokens").then_some(TokenStorage::F16);
        let options = ExtractOptions { features: tokens.is_none(), ..options(tokens, 2) };
        let teacher = image_teacher("faulty", &format!("output = 'image_embeds'\n{keys}")).unwrap();
        let mut extractor = Extractor::open(&teacher, &runtime(), options).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Without color jitter, so that brightness does not change.
        let plan = ViewPlan { policy: Policy::CropFlip, ..PLAN };
        let config = extractor.cache_config(&source, &plan, 12);
        let builder = CacheBuilder::open(dir.path(), config, Existing::Refuse).unwrap();
        let summary = extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
        let bad: Vec<usize> =
            (0..40).filter(|i| i % 5 == 4 || (reason == "huge-features" && i % 7 == 6)).collect();
        assert_eq!(summary.rejected, bad.len() as u64, "{reason}");
        let manifest = builder.finalize(&[]).unwrap().unwrap();
        assert_eq!(manifest.rows, 3 * (40 - bad.len()));
        let lines = std::fs::read_to_string(dir.path().join("rejects.jsonl")).unwrap();
        for (line, i) in lines.lines().zip(bad) {
            assert!(
                line.contains(&format!("\"{i:02}\"")) && line.contains(reason) && line.contains(detail),
                "{line}"
            );
        }
        Cache::open(dir.path(), Verify::Full).unwrap().views().unwrap();
    }
}

#[test]
fn a_caption_without_an_embedding_rejects_its_sample_and_long_ones_are_counted() {
    let texts = (0..20).map(|i| if i % 10 == 4 { "nan" } else { TEXTS[i % 3] });
    let source = images(20, |i| i == 0).captioned(Captions::Texts(texts.map(str::to_owned).collect()));
    let mut extractor = extractor(&source, TokenStorage::Int8, 2);
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(&extractor, &source, dir.path());
    let summary = extractor.extract(&source, &builder, Partition::WHOLE, &Job::new()).unwrap();
    assert_eq!((summary.samples, summary.rejected), (17, 3));
    // Every third text is longer than eight tokens: 2, 5, 8, 11, 17. Text 14 was replaced by "nan".
    assert_eq!(summary.cut_captions, 5);
    builder.finalize(&[]).unwrap().unwrap();
    let lines = std::fs::read_to_string(dir.path().join("rejects.jsonl")).unwrap();
    let reasons: Vec<_> = lines.lines().map(|line| line.contains("nan-caption")).collect();
    assert_eq!(reasons, [false, true, true]);
    let cache = Cache::open(dir.path(), Verify::Full).unwrap();
    assert_eq!(cache.captions().unwrap().unwrap().rows(), 17);
}

#[test]
fn ready_embeddings_are_cached_as_they_are() {
    let values: Vec<f16> = (0..9 * 3).map(|i| f16::from_f32([0.6, 0.0, -0.8][i % 3])).collect();
    let source = images(9, |i| i == 4).captioned(Captions::Embeddings { dim: 3, values });
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&source, TokenStorage::F16, 2, 1, dir.path());
    let record = cache.manifest().config.captions.clone().unwrap();
    assert_eq!((record.dim, record.text_encoder), (3, None));
    let captions = cache.captions().unwrap().unwrap();
    let mut row = [0.0; 3];
    for sample in 0..8 {
        captions.copy_row(sample, &mut row);
        assert_eq!(row, [0.6, 0.0, -0.8].map(|value: f32| f16::from_f32(value).to_f32()));
    }
}

#[test]
fn a_cache_begun_with_other_outputs_or_captions_is_refused() {
    let source = captioned(9, |_| false);
    let dir = tempfile::tempdir().unwrap();
    let begun = extractor(&source, TokenStorage::F16, 1);
    let builder = builder(&begun, &source, dir.path());
    let mut changed: Vec<String> = TEXTS.iter().cycle().take(9).map(|&text| text.to_owned()).collect();
    changed[5].push_str(" of");
    let changed = images(9, |_| false).captioned(Captions::Texts(changed));
    let mut differing = Vec::new();
    for (mut other, source, what) in [
        (extractor(&changed, TokenStorage::F16, 1), &changed, "listing"),
        (extractor(&images(9, |_| false), TokenStorage::F16, 1), &source, "listing"),
        (extractor(&source, TokenStorage::Int8, 1), &source, "tokens"),
    ] {
        let error = other.extract(source, &builder, Partition::WHOLE, &Job::new()).unwrap_err();
        assert!(
            matches!(&error, ExtractError::CacheMismatch { what: found, .. } if *found == what),
            "{what}: {error}"
        );
        differing.push(other.cache_config(source, &PLAN, 12));
    }
    drop(builder);
    for config in differing {
        let error = CacheBuilder::open(dir.path(), config, Existing::Resume).unwrap_err().to_string();
        assert!(error.contains("differs"), "{error}");
    }
}

#[test]
fn the_bytes_are_told_exactly_before() {
    let source = captioned(40, |_| false);
    for (storage, tokens) in
        [(TokenStorage::F16, 256 * 16 * 2), (TokenStorage::Int8, 256 * 18), (SVD, 256 * 5 * 2)]
    {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&source, storage, 2, 1, dir.path());
        let config = &cache.manifest().config;
        let told = OutputEstimate::of(config, Partition::WHOLE);
        assert_eq!((told.views, told.features, told.tokens), (120, Some(32), Some(tokens)));
        assert_eq!(told.bytes(), 120 * (32 + tokens));
        assert_eq!((told.samples, told.captions), (40, Some(8)));
        let file = cache.manifest().caption_bytes();
        assert!(file > 40 * 8 && file < 40 * 8 + 6_000, "{file}");
        // The files also have page headers and a footer.
        let file = cache.manifest().token_bytes();
        assert!(file > 120 * tokens && file < 120 * tokens + 12_000, "{storage:?}: {file}");
        // Shards of 12, 12, 12 and 4 samples.
        assert_eq!(OutputEstimate::of(config, Partition::new(3, 4).unwrap()).views, 12);
    }
}
