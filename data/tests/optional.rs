//! Features, tokens and captions in a cache: written values are read back, however the shards were made, and damage is
//! detected.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::Path;

use half::f16;
use lgd_data::ArtifactError;
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, CaptionRecord, FeatureRecord, ImageStamp, Partition,
    Reject, SampleRows, TokenEncoding, TokenRecord, standardize,
};
use lgd_data::manifest::{ContentHash, Existing, FileEntry, Verify, write_json};
use lgd_data::projection::{MomentSums, Projection};
use lgd_data::view::View;
use lgd_testing::cache_config;
use safetensors::SafeTensors;

const DIM: usize = 4;
const FEATURES: usize = 7;
const CAPTION: usize = 5;
const SAMPLES: usize = 90;
const GRID: [usize; 2] = [2, 3];
const TOKEN: usize = 37;

fn features() -> FeatureRecord {
    FeatureRecord { output: "features".to_owned(), dim: FEATURES }
}

fn tokens(encoding: TokenEncoding) -> TokenRecord {
    let [rows, columns] = GRID;
    let output = "tokens".to_owned();
    TokenRecord { output, rows, columns, teacher_dim: TOKEN, dim: TOKEN, encoding, fit_views: None }
}

fn captions() -> CaptionRecord {
    CaptionRecord { dim: CAPTION, text_encoder: Some(ContentHash::of(b"text")) }
}

fn plain() -> CacheConfig {
    cache_config(DIM, SAMPLES)
}

fn config(encoding: TokenEncoding) -> CacheConfig {
    CacheConfig {
        features: Some(features()),
        tokens: Some(tokens(encoding)),
        captions: Some(captions()),
        ..plain()
    }
}

/// A value that depends only on its position and is exact in f16.
fn value(row: usize, item: usize) -> f32 {
    f32::from(u16::try_from((row * 31 + item * 7) % 2048).unwrap()) / 1024.0 - 1.0
}

fn values(row: usize, count: usize) -> Vec<f32> {
    (0..count).map(|item| value(row, item)).collect()
}

/// The accepted samples: one in 30 is rejected.
fn accepted() -> impl Iterator<Item = usize> {
    (0..SAMPLES).filter(|sample| sample % 30 != 7)
}

fn write_shard(builder: &CacheBuilder, shard: usize) {
    let config = builder.config();
    let width = config.tokens.as_ref().map_or(0, TokenRecord::width);
    let mut writer = builder.shard_writer(shard).unwrap();
    for sample in builder.sample_range(shard) {
        let key = format!("c/{sample}");
        if sample % 30 == 7 {
            writer.reject(Reject { key, reason: "nan-features".to_owned(), detail: "test".to_owned() });
            continue;
        }
        let both = |count: usize| [values(2 * sample, count), values(2 * sample + 1, count)].concat();
        let (features, tokens) = (both(config.features.as_ref().map_or(0, |f| f.dim)), both(width));
        let caption = values(sample, config.captions.as_ref().map_or(0, |captions| captions.dim));
        let views = [View::center(), View::center()];
        let rows = SampleRows {
            views: &views,
            norms: &[1.0; 2],
            embeddings: &both(DIM),
            features: &features,
            tokens: &tokens,
            caption: &caption,
            ..SampleRows::default()
        };
        let cached = CachedSample { key: &key, label: None, image: ImageStamp::new(key.as_bytes(), 50, 40) };
        writer.push_rows(&cached, &rows).unwrap();
    }
    writer.finish().unwrap();
}

fn write_cache(dir: &Path, config: &CacheConfig, parts: usize) -> Cache {
    for index in (0..parts).rev() {
        let builder = CacheBuilder::open(dir, config.clone(), Existing::Resume).unwrap();
        for shard in builder.missing_shards(Partition::new(index, parts).unwrap()).unwrap() {
            write_shard(&builder, shard);
        }
        builder.finalize(&[]).unwrap();
    }
    Cache::open(dir, Verify::Full).unwrap()
}

#[test]
fn every_column_comes_back_in_place_and_row_for_row() {
    for encoding in [TokenEncoding::F16, TokenEncoding::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let cache = write_cache(dir.path(), &config(encoding), 1);
        let (features, tokens, captions) = (
            cache.features().unwrap().unwrap(),
            cache.tokens().unwrap().unwrap(),
            cache.captions().unwrap().unwrap(),
        );
        assert_eq!(features.not_in_place(), &[]);
        assert_eq!((tokens.not_in_place(), captions.not_in_place()), (&[][..], &[][..]));
        let samples = cache.manifest().samples();
        assert_eq!((features.rows(), tokens.rows(), captions.rows()), (2 * samples, 2 * samples, samples));
        assert_eq!((features.width(), tokens.width(), captions.width()), (FEATURES, 6 * TOKEN, CAPTION));
        assert_eq!(cache.views().unwrap().samples(), samples);
        let mut row = vec![0.0; 6 * TOKEN];
        for (position, sample) in accepted().enumerate() {
            captions.copy_row(position, &mut row[..CAPTION]);
            assert_eq!(row[..CAPTION], values(sample, CAPTION));
            for view in 0..2 {
                let (at, from) = (2 * position + view, 2 * sample + view);
                features.copy_row(at, &mut row[..FEATURES]);
                assert_eq!(row[..FEATURES], values(from, FEATURES));
                tokens.copy_row(at, &mut row);
                let tolerance = if encoding == TokenEncoding::F16 { 0.0 } else { 0.5005 / 127.0 };
                for (got, expected) in row.iter().zip(values(from, 6 * TOKEN)) {
                    assert!((got - expected).abs() <= tolerance, "{encoding:?} row {at}: {got} {expected}");
                }
            }
        }
        let (first, last) = (values(0, 6 * TOKEN), 2 * samples - 1);
        let mut two = vec![0.0; 2 * 6 * TOKEN];
        tokens.copy_rows([last, 0], &mut two);
        assert!(two[6 * TOKEN..].iter().zip(&first).all(|(a, b)| (a - b).abs() < 0.01));
        let bytes = u64::try_from(2 * samples * tokens.record().row_bytes()).unwrap();
        assert!((bytes..bytes + 4000).contains(&cache.manifest().token_bytes()));
    }
}

#[test]
fn tokens_agree_with_pytorch_and_numpy() {
    let bytes = include_bytes!("goldens/tokens.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    let f32s = |name: &str| -> Vec<f32> {
        let data = golden.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    };
    let (mut raw, standard, scale) = (f32s("raw"), f32s("standard"), f32s("scale"));
    let int8 = golden.tensor("int8").unwrap().data().to_vec();
    assert!(standardize(&mut raw, TOKEN));
    for (at, (got, expected)) in raw.iter().zip(&standard).enumerate() {
        assert!((got - expected).abs() <= 2e-5, "value {at}: expected {expected}, got {got}");
    }

    let single = |encoding| CacheConfig { samples: 3, features: None, captions: None, ..config(encoding) };
    let width = 6 * TOKEN;
    for encoding in [TokenEncoding::F16, TokenEncoding::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let builder = CacheBuilder::open(dir.path(), single(encoding), Existing::Refuse).unwrap();
        let mut writer = builder.shard_writer(0).unwrap();
        for sample in 0..3 {
            let cached =
                CachedSample { key: &format!("{sample}"), label: None, image: ImageStamp::new(b"", 9, 9) };
            let rows = SampleRows {
                views: &[View::center(); 2],
                norms: &[1.0; 2],
                embeddings: &[0.5; 2 * DIM],
                tokens: &standard[2 * sample * width..][..2 * width],
                ..SampleRows::default()
            };
            writer.push_rows(&cached, &rows).unwrap();
        }
        writer.finish().unwrap();
        builder.finalize(&[]).unwrap().unwrap();
        let column = Cache::open(dir.path(), Verify::Full).unwrap().tokens().unwrap().unwrap();
        let mut out = vec![0.0; 6 * width];
        column.copy_rows(0..6, &mut out);
        let expected: Vec<f32> = match encoding {
            TokenEncoding::Int8 => int8
                .chunks_exact(TOKEN)
                .zip(&scale)
                .flat_map(|(token, scale)| {
                    token.iter().map(move |&b| f32::from(i8::from_le_bytes([b])) * scale)
                })
                .collect(),
            _ => standard.iter().map(|&value| f16::from_f32(value).to_f32()).collect(),
        };
        assert!(out == expected, "{encoding:?}");
    }
}

#[test]
fn parts_make_the_same_bytes_and_overwriting_leaves_nothing() {
    for encoding in [TokenEncoding::F16, TokenEncoding::Int8] {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_cache(whole.path(), &config(encoding), 1);
        write_cache(parts.path(), &config(encoding), 3);
        let names: Vec<_> =
            fs::read_dir(whole.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3 * 3 + 2);
        for name in names {
            let bytes = |dir: &Path| fs::read(dir.join(&name)).unwrap();
            assert!(bytes(whole.path()) == bytes(parts.path()), "{}", name.display());
        }
        fs::write(whole.path().join(".tokens-00001.parquet.0123456789abcdef-1.tmp"), "").unwrap();
        fs::write(whole.path().join("tokens-notes.txt"), "somebody's").unwrap();
        CacheBuilder::open(whole.path(), plain(), Existing::Overwrite).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(whole.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["extract.json", "tokens-notes.txt"]);
    }
}

#[test]
fn a_cache_without_them_is_what_it_was_and_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), &plain(), 1);
    assert!(cache.features().unwrap().is_none() && cache.tokens().unwrap().is_none());
    assert!(cache.captions().unwrap().is_none());
    let manifest = fs::read_to_string(dir.path().join("cache.json")).unwrap();
    for word in ["\"features\"", "\"tokens\"", "\"captions\"", "\"token_projection\""] {
        assert!(!manifest.contains(word), "{word} is in {manifest}");
    }
}

#[test]
fn a_resumed_cache_must_hold_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let base = config(TokenEncoding::F16);
    write_cache(dir.path(), &base, 1);
    let wider = FeatureRecord { dim: FEATURES + 1, ..features() };
    let other_text = CaptionRecord { text_encoder: None, ..captions() };
    for (other, what) in [
        (CacheConfig { features: None, ..base.clone() }, "features"),
        (CacheConfig { features: Some(wider), ..base.clone() }, "features.dim"),
        (CacheConfig { tokens: None, ..base.clone() }, "tokens"),
        (config(TokenEncoding::Int8), "tokens.encoding"),
        (CacheConfig { captions: None, ..base.clone() }, "captions"),
        (CacheConfig { captions: Some(other_text), ..base.clone() }, "captions.text_encoder"),
    ] {
        let error = CacheBuilder::open(dir.path(), other, Existing::Resume).unwrap_err();
        assert!(
            matches!(&error, ArtifactError::Mismatch { what: found, .. } if found == what),
            "{what}: {error}"
        );
    }
    CacheBuilder::open(dir.path(), base, Existing::Resume).unwrap();
}

#[test]
fn a_column_more_or_less_is_named_before_all_that_it_changes() {
    let hashed = |of: &[u8]| ContentHash::of(of);
    let with = CacheConfig { listing: hashed(b"with captions"), captions: Some(captions()), ..plain() };
    for (begun, wanted, what) in [
        (plain(), with.clone(), "captions"),
        (with, plain(), "captions"),
        (plain(), CacheConfig { captions: None, ..config(TokenEncoding::F16) }, "features"),
        (plain(), CacheConfig { tokens: Some(tokens(TokenEncoding::F16)), ..plain() }, "tokens"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_cache(dir.path(), &begun, 1);
        let error = CacheBuilder::open(dir.path(), wanted, Existing::Resume).unwrap_err().to_string();
        assert!(error.contains(&format!("{what} differs")), "{error}");
        assert!(error.contains("hint: columns cannot be added to a cache"), "{error}");
    }
}

#[test]
fn a_shard_that_lacks_one_of_its_files_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), config(TokenEncoding::Int8), Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        write_shard(&builder, shard);
    }
    fs::write(dir.path().join("tokens-00001.parquet"), b"cut").unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1]);
    fs::remove_file(dir.path().join("captions-00002.parquet")).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1, 2]);
}

#[test]
fn flipped_bytes_cuts_and_swaps_are_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &config(TokenEncoding::Int8), 1);
    for name in ["tokens-00001.parquet", "captions-00000.parquet"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            // Opening the cache succeeds, because it does not need these columns.
            let cache = Cache::open(dir.path(), Verify::Full).unwrap();
            let found = if name.starts_with("tokens") {
                cache.tokens().map(drop)
            } else {
                cache.captions().map(drop)
            };
            assert!(matches!(found, Err(ArtifactError::Hash { .. })), "{name} {at}");
            // Without hashing, the file may or may not open, but nothing panics.
            let cache = Cache::open(dir.path(), Verify::Length).unwrap();
            if let Ok(Some(tokens)) = cache.tokens() {
                let mut out = vec![0.0; tokens.width()];
                (0..tokens.rows()).for_each(|row| tokens.copy_row(row, &mut out));
            }
        }
        fs::write(&path, &whole[1..]).unwrap();
        assert!(matches!(column(dir.path(), name), Err(ArtifactError::Length { .. })));
        fs::write(&path, &whole).unwrap();
    }
    // The last shard has fewer rows than the first.
    let other = fs::read(dir.path().join("tokens-00002.parquet")).unwrap();
    fs::write(dir.path().join("tokens-00000.parquet"), other).unwrap();
    assert!(matches!(column(dir.path(), "tokens"), Err(ArtifactError::Length { .. })));
}

/// Opens the column that the file name contains and checks lengths.
fn column(dir: &Path, file: &str) -> Result<(), ArtifactError> {
    let cache = Cache::open(dir, Verify::Length).unwrap();
    if file.starts_with("tokens") { cache.tokens().map(drop) } else { cache.captions().map(drop) }
}

#[test]
fn a_cache_may_be_copied_without_what_nobody_needs() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { captions: Some(captions()), ..projected() };
    let builder = CacheBuilder::open(dir.path(), config.clone(), Existing::Refuse).unwrap();
    builder.keep_projection(&projection(8, 3)).unwrap();
    drop(builder);
    write_cache(dir.path(), &config, 1);
    for (name, what, reader) in [
        ("tokens.safetensors", "the cache's tokens", "only the objective hgkd needs them"),
        ("tokens-00001.parquet", "the cache's tokens", "only the objective hgkd needs them"),
        ("captions-00002.parquet", "the cache's captions", "only the objective caption needs them"),
    ] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let cache = Cache::open(dir.path(), Verify::Full).unwrap();
        assert_eq!(cache.views().unwrap().samples(), cache.manifest().samples());
        let text = column(dir.path(), name).unwrap_err().to_string();
        for part in [name, "is missing", what, "\nhint: ", reader] {
            assert!(text.contains(part), "{name}: {part:?} is not in {text}");
        }
        let absent: Vec<String> = cache.absent_columns().iter().map(ToString::to_string).collect();
        assert_eq!(absent, [text.as_str()]);
        assert!(text.contains("copy the file too, or extract again"), "{text}");
        // Resuming makes again what is missing, and nothing else.
        let builder = CacheBuilder::open(dir.path(), config.clone(), Existing::Resume).unwrap();
        let shard: Vec<usize> = (1..3).filter(|shard| name.contains(&format!("-0000{shard}"))).collect();
        assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), shard, "{name}");
        assert_eq!(builder.damage().len(), shard.len());
        assert_eq!(builder.projection().unwrap().is_none(), name == "tokens.safetensors");
        drop(builder);
        fs::write(&path, whole).unwrap();
        assert!(cache.absent_columns().is_empty());
        CacheBuilder::open(dir.path(), config.clone(), Existing::Resume).unwrap();
    }
    let views = dir.path().join("views-00001.parquet");
    let whole = fs::read(&views).unwrap();
    fs::write(&views, &whole[1..]).unwrap();
    let builder = CacheBuilder::open(dir.path(), config.clone(), Existing::Resume).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1]);
    assert!(builder.damage()[0].contains("views-00001.parquet: expected"), "{:?}", builder.damage());
    // Made again with other bytes, it does not replace the damaged one.
    let writer = builder.shard_writer(1).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("made again, differs") && error.contains("hint:"), "{error}");
    assert!(fs::read(&views).unwrap() == whole[1..]);
    write_shard(&builder, 1);
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0; 0]);
    assert!(builder.finalize(&[]).unwrap().is_some() && fs::read(&views).unwrap() == whole);
    drop(builder);
    let left = fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0);
}

#[test]
fn too_much_too_little_and_impossible_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), config(TokenEncoding::F16), Existing::Refuse).unwrap();
    let mut writer = builder.shard_writer(0).unwrap();
    let cached = CachedSample { key: "c/0", label: None, image: ImageStamp::new(b"", 9, 9) };
    let (views, tokens) = ([View::center(); 2], vec![0.0; 2 * 6 * TOKEN]);
    let rows = SampleRows {
        views: &views,
        norms: &[1.0; 2],
        embeddings: &[0.5; 2 * DIM],
        features: &[0.5; 2 * FEATURES],
        tokens: &tokens,
        caption: &[0.5; CAPTION],
        ..SampleRows::default()
    };
    writer.push_rows(&cached, &rows).unwrap();
    for (wrong, part) in [
        (SampleRows { features: &[], ..rows }, "expected 14 values of features, got 0"),
        (SampleRows { tokens: &tokens[1..], ..rows }, "expected 444 values of tokens, got 443"),
        (SampleRows { caption: &[0.5; 4], ..rows }, "expected 5 values of a caption, got 4"),
        (SampleRows { norms: &[1.0; 3], ..rows }, "expected 2 norms, got 3"),
    ] {
        let error = writer.push_rows(&cached, &wrong).unwrap_err().to_string();
        assert!(error.contains("c/0") && error.contains(part), "{error}");
    }
    let base = self::tokens(TokenEncoding::F16);
    for (index, wrong) in [
        TokenRecord { rows: 0, ..base.clone() },
        TokenRecord { dim: 3, ..base.clone() },
        TokenRecord { dim: 40, encoding: TokenEncoding::Projected, fit_views: Some(1), ..base.clone() },
        TokenRecord { fit_views: Some(1), ..base.clone() },
        TokenRecord { rows: usize::MAX / 2, ..base.clone() },
        TokenRecord { rows: 40_000, columns: 40_000, ..base },
    ]
    .into_iter()
    .enumerate()
    {
        let config = CacheConfig { tokens: Some(wrong), ..plain() };
        let folder = dir.path().join(index.to_string());
        let builder = CacheBuilder::open(&folder, config, Existing::Refuse).unwrap();
        assert!(builder.shard_writer(0).is_err(), "record {index}");
    }
}

#[test]
fn rows_wider_than_a_page_are_placed_right_and_a_rewritten_file_is_still_read() {
    // 1.4 MB per row: more than a page. There are more rows than the writer buffers.
    let record =
        TokenRecord { rows: 30, columns: 30, teacher_dim: 768, dim: 768, ..tokens(TokenEncoding::F16) };
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { samples: 4, tokens: Some(record.clone()), ..plain() };
    let builder = CacheBuilder::open(dir.path(), config, Existing::Refuse).unwrap();
    let mut writer = builder.shard_writer(0).unwrap();
    let width = record.width();
    for sample in 0..4 {
        let cached =
            CachedSample { key: &format!("{sample}"), label: None, image: ImageStamp::new(b"", 9, 9) };
        let tokens = [values(2 * sample, width), values(2 * sample + 1, width)].concat();
        let rows = SampleRows {
            views: &[View::center(); 2],
            norms: &[1.0; 2],
            embeddings: &[0.5; 2 * DIM],
            tokens: &tokens,
            ..SampleRows::default()
        };
        writer.push_rows(&cached, &rows).unwrap();
    }
    writer.finish().unwrap();
    builder.finalize(&[]).unwrap().unwrap();
    let check = || {
        let column = Cache::open(dir.path(), Verify::Length).unwrap().tokens().unwrap().unwrap();
        let mut out = vec![0.0; width];
        for row in [7, 0, 4, 3] {
            column.copy_row(row, &mut out);
            assert!(out == values(row, width), "row {row}");
        }
        column.not_in_place().len()
    };
    assert_eq!(check(), 0);

    let path = dir.path().join("tokens-00000.parquet");
    let length = fs::metadata(&path).unwrap().len();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        fs::File::open(&path).unwrap(),
    );
    let batches: Vec<_> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let file = fs::File::create(&path).unwrap();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    // The manifest is adjusted, because opening the cache checks the length.
    let manifest = fs::read_to_string(dir.path().join("cache.json")).unwrap();
    let rewritten = fs::metadata(&path).unwrap().len();
    let text = manifest.replace(&format!("\"bytes\": {length}"), &format!("\"bytes\": {rewritten}"));
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value.as_object_mut().unwrap().remove("blake3");
    let manifest: lgd_data::cache::CacheManifest = serde_json::from_value(value).unwrap();
    write_json(&dir.path().join("cache.json"), &manifest).unwrap();
    assert_eq!(check(), 1);
}

/// A projection of tokens of width [`TOKEN`] to `dim`; it differs for each `seed`.
fn projection(dim: usize, seed: usize) -> Projection {
    let mut sums = MomentSums::new(TOKEN);
    sums.add(&(0..200).flat_map(|row| values(row * seed, TOKEN)).collect::<Vec<_>>());
    Projection::fit(&sums, dim).unwrap()
}

fn projected() -> CacheConfig {
    let record = TokenRecord { dim: 8, fit_views: Some(20), ..tokens(TokenEncoding::Projected) };
    CacheConfig { tokens: Some(record), ..plain() }
}

#[test]
fn projected_tokens_have_one_projection_whoever_fits_it() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), projected(), Existing::Refuse).unwrap();
    assert!(builder.projection().unwrap().is_none());
    let error = builder.shard_writer(0).map(drop).unwrap_err();
    assert!(error.to_string().contains("tokens.safetensors is missing"), "{error}");
    let (first, second) = (projection(8, 3), projection(8, 5));
    assert!(first != second);
    assert!(builder.keep_projection(&first).unwrap() == first);
    assert!(builder.keep_projection(&second).unwrap() == first, "the first one stays");
    drop(builder);
    let cache = write_cache(dir.path(), &projected(), 2);
    let entry = cache.manifest().token_projection.clone().unwrap();
    assert_eq!(entry.file.name, "tokens.safetensors");
    assert!((entry.explained - first.explained()).abs() < 1e-12, "{}", entry.explained);
    assert_eq!(cache.tokens().unwrap().unwrap().width(), 6 * 8);

    let path = dir.path().join("tokens.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let cache = Cache::open(dir.path(), Verify::Full).unwrap();
    assert!(matches!(cache.tokens(), Err(ArtifactError::Hash { .. })));
    fs::write(&path, &whole).unwrap();
    let mut other = projected();
    other.tokens.as_mut().unwrap().fit_views = Some(21);
    let error = CacheBuilder::open(dir.path(), other, Existing::Resume).unwrap_err();
    assert!(error.to_string().contains("tokens.fit_views differs: expected 20, got 21"), "{error}");
    CacheBuilder::open(dir.path(), plain(), Existing::Overwrite).unwrap();
    assert!(!path.exists());
}

#[test]
fn shards_made_with_another_projection_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), projected(), Existing::Refuse).unwrap();
    builder.keep_projection(&projection(8, 3)).unwrap();
    write_shard(&builder, 0);
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [1, 2]);
    fs::remove_file(dir.path().join("tokens.safetensors")).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0, 1, 2]);
    builder.keep_projection(&projection(8, 5)).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0, 1, 2]);
    projection(9, 5).save(&dir.path().join("tokens.safetensors")).unwrap();
    let error = builder.projection().unwrap_err().to_string();
    assert!(error.contains("projection was fitted for"), "{error}");
}

#[test]
fn a_projection_that_another_cache_has_left_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    let other = CacheConfig { seed: 8, ..projected() };
    let builder = CacheBuilder::open(dir.path(), other, Existing::Refuse).unwrap();
    builder.keep_projection(&projection(8, 3)).unwrap();
    fs::remove_file(dir.path().join("extract.json")).unwrap();
    drop(builder);
    let builder = CacheBuilder::open(dir.path(), projected(), Existing::Refuse).unwrap();
    for taken in [builder.projection().map(drop), builder.keep_projection(&projection(8, 5)).map(drop)] {
        let error = taken.unwrap_err();
        assert!(matches!(error, ArtifactError::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("hint: another extraction left it: delete the file"), "{error}");
    }
    projection(8, 3).save(&path).unwrap();
    assert!(builder.projection().unwrap_err().to_string().contains("got none"));

    fs::remove_file(&path).unwrap();
    let kept = builder.keep_projection(&projection(8, 5)).unwrap();
    assert!(builder.projection().unwrap() == Some(kept));
    drop(builder);
    let mut manifest = write_cache(dir.path(), &projected(), 1).manifest().clone();
    // Files of earlier versions do not name their cache. The manifest pins the projection of a finished cache.
    projection(8, 5).save(&path).unwrap();
    let entry = FileEntry::describe(dir.path(), "tokens.safetensors").unwrap();
    manifest.token_projection.as_mut().unwrap().file = entry;
    write_json(&dir.path().join("cache.json"), &manifest).unwrap();
    assert!(Cache::open(dir.path(), Verify::Full).unwrap().tokens().unwrap().is_some());
    let builder = CacheBuilder::open(dir.path(), projected(), Existing::Resume).unwrap();
    assert!(builder.projection().unwrap().is_some());
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0usize; 0]);
}
