//! Caches and banks on disk: written values are read back, in place or not, and damage is detected.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use lgd_data::ArtifactError;
use lgd_data::bank::{
    Bank, BankRecord, BankWriter, CapturedMass, CategoryRecord, Distribution, Storage, UnassignedSlots,
    VsbMode,
};
use lgd_data::cache::{Cache, CacheBuilder, CacheConfig, CachedSample, ImageStamp, Partition, Reject};
use lgd_data::column::MappedColumn;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_data::view::{Policy, View};
use lgd_testing::cache_config;

const DIM: usize = 24;
const SAMPLES: usize = 3000;

fn config() -> CacheConfig {
    CacheConfig { shard_samples: 1700, ..cache_config(DIM, SAMPLES) }
}

/// A value that depends only on its position and is exact in f16.
fn value(row: usize, item: usize) -> f32 {
    f32::from(u16::try_from((row * 31 + item * 7) % 2048).unwrap()) / 1024.0 - 1.0
}

fn views(sample: usize) -> [View; 2] {
    [View::center(), Policy::MocoV2.draw(7, &format!("c/{sample}"), 1, 50, 40)]
}

fn write_shard(builder: &CacheBuilder, shard: usize) {
    let mut writer = builder.shard_writer(shard).unwrap();
    for sample in builder.sample_range(shard) {
        let key = format!("c/{sample}");
        if sample % 1000 == 5 {
            writer.reject(Reject { key, reason: "corrupt".to_owned(), detail: "test".to_owned() });
            continue;
        }
        let label = (sample % 3 != 0).then(|| u32::try_from(sample % 10).unwrap());
        let embeddings: Vec<f32> =
            (0..2).flat_map(|view| (0..DIM).map(move |item| value(sample * 2 + view, item))).collect();
        let sample_record = CachedSample { key: &key, label, image: ImageStamp::new(key.as_bytes(), 50, 40) };
        writer.push(&sample_record, &views(sample), &[1.5, 2.5], &embeddings).unwrap();
    }
    writer.finish().unwrap();
}

fn write_cache(dir: &Path) -> Cache {
    let builder = CacheBuilder::open(dir, config(), Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        write_shard(&builder, shard);
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Full).unwrap()
}

fn accepted() -> impl Iterator<Item = usize> {
    (0..SAMPLES).filter(|sample| sample % 1000 != 5)
}

#[test]
fn a_cache_returns_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path());
    assert_eq!(cache.rows(), (SAMPLES - 3) * 2);
    assert_eq!(cache.manifest().rejected, 3);
    assert_eq!(fs::read_to_string(dir.path().join("rejects.jsonl")).unwrap().lines().count(), 3);
    assert_eq!(cache.embeddings().not_in_place(), &[]);

    let table = cache.views().unwrap();
    let mut row = [0f32; DIM];
    for (position, sample) in accepted().enumerate() {
        assert_eq!(table.keys[position], format!("c/{sample}"));
        assert_eq!(table.labels[position], (sample % 3 != 0).then(|| u32::try_from(sample % 10).unwrap()));
        assert_eq!(table.images[position], ImageStamp::new(table.keys[position].as_bytes(), 50, 40));
        for (view, expected) in views(sample).iter().enumerate() {
            assert_eq!(table.view(position, view), expected);
            cache.embeddings().copy_row(table.row(position, view), &mut row);
            let expected: Vec<f32> = (0..DIM).map(|item| value(sample * 2 + view, item)).collect();
            assert_eq!(row[..], expected[..]);
        }
    }
}

#[test]
fn partitions_and_resumption_give_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    write_cache(whole.path());
    let parts = tempfile::tempdir().unwrap();
    for index in [1, 0] {
        let builder = CacheBuilder::open(parts.path(), config(), Existing::Resume).unwrap();
        let missing = builder.missing_shards(Partition::new(index, 2).unwrap()).unwrap();
        assert_eq!(missing, [index]);
        write_shard(&builder, index);
        assert_eq!(builder.finalize(&[]).unwrap().is_some(), index == 0);
    }
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(whole.path()), names(parts.path()));
    for name in names(whole.path()) {
        assert_eq!(fs::read(whole.path().join(&name)).unwrap(), fs::read(parts.path().join(&name)).unwrap());
    }
}

#[test]
fn an_occupied_folder_is_refused_and_a_resumed_one_must_match() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let refused = CacheBuilder::open(dir.path(), config(), Existing::Refuse);
    assert!(matches!(refused, Err(ArtifactError::Occupied { .. })));
    let other = CacheConfig { seed: 8, ..config() };
    match CacheBuilder::open(dir.path(), other.clone(), Existing::Resume) {
        Err(ArtifactError::Mismatch { what, expected, got, .. }) => {
            assert_eq!((what.as_str(), expected.as_str(), got.as_str()), ("seed", "7", "8"));
        }
        other => unreachable!("{other:?}"),
    }
    let builder = CacheBuilder::open(dir.path(), other, Existing::Overwrite).unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0, 1]);
}

#[test]
fn finished_shards_with_a_flipped_bit_or_a_damaged_record_are_made_again_and_never_sealed() {
    let whole = tempfile::tempdir().unwrap();
    write_cache(whole.path());
    for file in ["views-00000.parquet", "views-00000.json"] {
        let dir = tempfile::tempdir().unwrap();
        let builder = CacheBuilder::open(dir.path(), config(), Existing::Refuse).unwrap();
        write_shard(&builder, 0);
        write_shard(&builder, 1);
        drop(builder);
        let mut bytes = fs::read(dir.path().join(file)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(dir.path().join(file), bytes).unwrap();
        let survey = Cache::survey(dir.path()).unwrap();
        assert!(!survey.complete && survey.finished == 2 && survey.damage.len() == 1, "{survey:?}");
        assert!(survey.damage[0].to_string().contains(file));
        let builder = CacheBuilder::open(dir.path(), config(), Existing::Resume).unwrap();
        assert!(builder.finalize(&[]).unwrap().is_none(), "{file}: sealed");
        assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0], "{file}");
        assert!(builder.damage()[0].contains(file), "{:?}", builder.damage());
        write_shard(&builder, 0);
        assert!(builder.finalize(&[]).unwrap().is_some() && builder.damage().is_empty());
        for name in ["cache.json", "views-00000.parquet", "views-00001.parquet"] {
            let bytes = |dir: &Path| fs::read(dir.join(name)).unwrap();
            assert!(bytes(whole.path()) == bytes(dir.path()), "{file}: {name}");
        }
    }
}

#[test]
fn a_shard_that_was_cut_before_the_manifest_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let builder = CacheBuilder::open(dir.path(), config(), Existing::Refuse).unwrap();
    write_shard(&builder, 0);
    write_shard(&builder, 1);
    fs::write(dir.path().join("views-00000.parquet"), b"cut").unwrap();
    assert_eq!(builder.missing_shards(Partition::WHOLE).unwrap(), [0]);
    assert!(builder.finalize(&[]).unwrap().is_none());
    assert!(matches!(Cache::open(dir.path(), Verify::Length), Err(ArtifactError::Missing { .. })));
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    for name in ["views-00000.parquet", "views-00001.parquet", "rejects.jsonl"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(
                matches!(Cache::open(dir.path(), Verify::Full), Err(ArtifactError::Hash { .. })),
                "{name} {at}"
            );
            fs::write(&path, &whole[..at]).unwrap();
            let cut = Cache::open(dir.path(), Verify::Length);
            assert!(matches!(cut, Err(ArtifactError::Length { .. })), "{name} {at}");
        }
        fs::write(&path, &whole).unwrap();
    }
    let path = dir.path().join("cache.json");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(&path, manifest.replace("\"format_version\": 1", "\"format_version\": 9")).unwrap();
    assert!(matches!(Cache::open(dir.path(), Verify::Full), Err(ArtifactError::Version { got: 9, .. })));
    fs::write(&path, &manifest[..manifest.len() / 2]).unwrap();
    assert!(matches!(Cache::open(dir.path(), Verify::Full), Err(ArtifactError::Json { .. })));
}

/// Rewrites a file with the given properties, like another program.
fn rewrite(from: &Path, to: &Path, properties: parquet::file::properties::WriterProperties) {
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(fs::File::open(from).unwrap());
    let reader = reader.unwrap().build().unwrap();
    let file = fs::File::create(to).unwrap();
    let schema = arrow_array::RecordBatchReader::schema(&reader);
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
    for batch in reader {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_rewritten_file_is_named_and_still_read() {
    use parquet::basic::{Compression, Encoding};
    use parquet::file::properties::{WriterProperties, WriterVersion};

    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path());
    let original = dir.path().join("views-00000.parquet");
    let plain = || WriterProperties::builder().set_compression(Compression::UNCOMPRESSED);
    let cases = [
        (
            "v2 pages",
            plain()
                .set_dictionary_enabled(false)
                .set_encoding(Encoding::PLAIN)
                .set_writer_version(WriterVersion::PARQUET_2_0),
            None,
        ),
        ("dictionary", plain(), Some("PLAIN")),
        ("snappy", WriterProperties::builder().set_compression(Compression::SNAPPY), Some("compressed")),
        (
            "no index",
            plain()
                .set_dictionary_enabled(false)
                .set_offset_index_disabled(true)
                .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None),
            Some("index"),
        ),
    ];
    for (name, properties, condition) in cases {
        let copy = dir.path().join("copy.parquet");
        rewrite(&original, &copy, properties.build());
        let column = MappedColumn::<f32>::open(std::slice::from_ref(&copy), "embedding", DIM).unwrap();
        match (condition, column.not_in_place()) {
            (None, []) => {}
            (Some(part), [(path, reason)]) => {
                assert_eq!(*path, copy);
                assert!(reason.contains(part), "{name}: {reason}");
            }
            (_, got) => unreachable!("{name}: {got:?}"),
        }
        let (mut a, mut b) = ([0f32; DIM], [0f32; DIM]);
        for row in 0..column.rows() {
            column.copy_row(row, &mut a);
            cache.embeddings().copy_row(row, &mut b);
            assert_eq!(a, b, "{name}, row {row}");
        }
    }
}

#[test]
fn a_column_of_another_type_or_width_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let paths = [dir.path().join("views-00000.parquet")];
    for (name, width) in [("embedding", DIM + 1), ("norm", 1), ("absent", 1)] {
        let error = MappedColumn::<f32>::open(&paths, name, width).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

const CATEGORIES: usize = 5;

fn record(cache: &Cache, storage: Storage) -> BankRecord {
    let category = |name: usize| CategoryRecord {
        name: format!("name {name}"),
        synonyms: vec![format!("name {name}")],
        prompts: Vec::new(),
        keys: Vec::new(),
        number: None,
        count: 1,
    };
    let mass = CapturedMass { mean: 1.0, min: 1.0 };
    BankRecord {
        cache: cache.hash(),
        text_encoder: ContentHash::of(b"text"),
        cache_text_encoder: None,
        bridge: None,
        dim: DIM,
        categories: (0..CATEGORIES).map(category).collect(),
        templates: vec!["a photo of a {}.".to_owned()],
        center: None,
        teacher_temperature: 0.01,
        vsb: VsbMode::Mean,
        unassigned_slots: UnassignedSlots::Masked,
        unassigned: Vec::new(),
        storage,
        text_mass: mass,
        visual_mass: mass,
    }
}

fn write_bank(dir: &Path, cache: &Cache, storage: Storage, existing: Existing) -> Result<(), ArtifactError> {
    let writer = BankWriter::create(dir, CATEGORIES, storage, existing)?;
    for (shard, entry) in cache.manifest().shards.iter().enumerate() {
        let mut targets = writer.shard(shard)?;
        let pseudo: Vec<i32> = (0..entry.rows).map(|row| i32::try_from(row % CATEGORIES).unwrap()).collect();
        let half = |values: &[f32], rows: usize| -> Vec<f16> {
            values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>().repeat(rows)
        };
        match storage {
            Storage::Dense => {
                let text = half(&[0.5, 0.25, 0.125, 0.125, 0.0], entry.rows);
                let visual = half(&[0.5, 0.25, 0.125, 0.0625, 0.0625, 0.0], entry.rows);
                targets.push(&pseudo, Distribution::Dense(&text), Distribution::Dense(&visual))?;
            }
            Storage::TopK { .. } => {
                let probability = half(&[0.5, 0.25], entry.rows);
                let index = [4, 1].repeat(entry.rows);
                let top = Distribution::TopK { index: &index, probability: &probability };
                targets.push(&pseudo, top, top)?;
            }
        }
        targets.finish()?;
    }
    let bank: Vec<f32> = (0..CATEGORIES * DIM).map(|at| value(at, 1)).collect();
    writer.finish(
        record(cache, storage),
        (&bank, &bank),
        None,
        cache.manifest().shards.len(),
        cache.rows(),
    )?;
    Ok(())
}

#[test]
fn a_bank_returns_what_was_written_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(&dir.path().join("cache"));
    let rows = [0, cache.rows() - 1, 17];
    for (storage, expected) in [
        (Storage::Dense, vec![0.5, 0.25, 0.125, 0.125, 0.0]),
        (Storage::TopK { k: 2 }, vec![0.0, 1.0 / 3.0, 0.0, 0.0, 2.0 / 3.0]),
    ] {
        let path = dir.path().join("bank");
        write_bank(&path, &cache, storage, Existing::Overwrite).unwrap();
        let bank = Bank::open(&path, Verify::Full).unwrap();
        bank.require_cache(&cache).unwrap();
        assert_eq!(bank.tsb().len(), CATEGORIES * DIM);
        let targets = bank.targets().unwrap();
        assert_eq!(targets.pseudo_category.len(), cache.rows());
        let mut out = vec![9.0; rows.len() * CATEGORIES];
        targets.text.copy_rows(&rows, &mut out).unwrap();
        assert_eq!(out, expected.repeat(rows.len()));
        assert_eq!(targets.visual.slots(), CATEGORIES + 1);
    }
    let again = write_bank(&dir.path().join("bank"), &cache, Storage::Dense, Existing::Refuse);
    assert!(matches!(again, Err(ArtifactError::Occupied { .. })));
}

#[test]
fn a_bank_of_another_cache_is_refused_with_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(&dir.path().join("cache"));
    write_bank(&dir.path().join("bank"), &cache, Storage::Dense, Existing::Refuse).unwrap();
    let other_config = CacheConfig { seed: 8, ..config() };
    let other_dir = dir.path().join("other");
    let builder = CacheBuilder::open(&other_dir, other_config, Existing::Refuse).unwrap();
    write_shard(&builder, 0);
    write_shard(&builder, 1);
    builder.finalize(&[]).unwrap();
    let other = Cache::open(&other_dir, Verify::Full).unwrap();
    let error =
        Bank::open(&dir.path().join("bank"), Verify::Full).unwrap().require_cache(&other).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&cache.hash().to_string()) && text.contains(&other.hash().to_string()), "{text}");
}

#[test]
fn a_damaged_bank_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(&dir.path().join("cache"));
    let path: PathBuf = dir.path().join("bank");
    write_bank(&path, &cache, Storage::Dense, Existing::Refuse).unwrap();
    for name in ["bank.safetensors", "targets-00001.parquet"] {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 0x10;
        fs::write(&file, damaged).unwrap();
        assert!(matches!(Bank::open(&path, Verify::Full), Err(ArtifactError::Hash { .. })));
        fs::write(&file, whole).unwrap();
    }
}
