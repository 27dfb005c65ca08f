//! Damaged Parquet files: opening and reading a column returns values or an error for any bytes, and never panics.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{Array, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use lgd_data::ArtifactError;
use lgd_data::column::MappedColumn;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};

const WIDTH: usize = 4;
const ROWS: u16 = 60;
const MUTATIONS: u64 = 3000;

/// Writes a file of two row groups, each of two pages, with a column `norm` beside `embedding`.
fn write(path: &Path, properties: WriterPropertiesBuilder) {
    let values = (0..ROWS * 4).map(|item| f16::from_f32(f32::from(item)));
    let item = Arc::new(Field::new("element", DataType::Float16, false));
    let list = FixedSizeListArray::new(item, 4, Arc::new(Float16Array::from_iter_values(values)), None);
    let norms = Float32Array::from_iter_values((0..ROWS).map(f32::from));
    let schema = Arc::new(Schema::new(vec![
        Field::new("norm", DataType::Float32, false),
        Field::new("embedding", list.data_type().clone(), false),
    ]));
    let properties = properties
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(false)
        .set_data_page_row_count_limit(16)
        .set_write_batch_size(16)
        .set_max_row_group_row_count(Some(30))
        .build();
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(norms), Arc::new(list)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn in_place() -> WriterPropertiesBuilder {
    let plain = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED);
    plain.set_dictionary_enabled(false).set_encoding(Encoding::PLAIN)
}

fn open(path: &Path) -> Result<MappedColumn<f32>, ArtifactError> {
    MappedColumn::open(&[PathBuf::from(path)], "embedding", WIDTH)
}

/// Reads every row. Returns the values and whether they were read in place.
fn read(path: &Path) -> Result<(Vec<f32>, bool), ArtifactError> {
    let column = open(path)?;
    let mut values = vec![0.0; column.rows() * WIDTH];
    column.copy_rows(0..column.rows(), &mut values);
    Ok((values, column.not_in_place().is_empty()))
}

/// A fixed sequence of pseudorandom numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    /// Truncates the file or changes up to four bytes, mostly in the footer and the page index.
    fn damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        if self.below(10) == 0 {
            bytes.truncate(self.below(bytes.len()));
            return bytes;
        }
        for _ in 0..=self.below(4) {
            let from = if self.below(4) == 0 { 0 } else { bytes.len() / 2 };
            let position = from + self.below(bytes.len() - from);
            bytes[position] = u8::try_from(self.below(256)).unwrap();
        }
        bytes
    }
}

fn damaged_files_never_panic(properties: WriterPropertiesBuilder, reads_in_place: bool) {
    // A panic of the Parquet library is an error of the file, and nothing is printed. The first read keeps this hook.
    static PRINTED: AtomicUsize = AtomicUsize::new(0);
    set_hook(Box::new(|_| {
        PRINTED.fetch_add(1, Ordering::Relaxed);
    }));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("column.parquet");
    write(&path, properties);
    let expected: Vec<f32> = (0..ROWS * 4).map(f32::from).collect();
    assert_eq!(read(&path).unwrap(), (expected, reads_in_place));
    let whole = fs::read(&path).unwrap();
    let (mut errors, mut panics) = (0, Vec::new());
    for seed in 0..MUTATIONS {
        fs::write(&path, Numbers(seed).damage(&whole)).unwrap();
        match catch_unwind(AssertUnwindSafe(|| read(&path))) {
            Ok(result) => errors += usize::from(result.is_err()),
            Err(_) => panics.push(seed),
        }
    }
    drop(take_hook());
    assert_eq!(panics, [0; 0], "seeds of files that made the reader panic");
    assert_eq!(PRINTED.load(Ordering::Relaxed), 0);
    assert!(errors > 0, "no file was damaged enough to be refused");
}

#[test]
fn a_damaged_file_read_in_place_never_panics() {
    damaged_files_never_panic(in_place(), true);
}

#[test]
fn a_damaged_compressed_file_never_panics() {
    damaged_files_never_panic(WriterProperties::builder().set_compression(Compression::SNAPPY), false);
}

#[test]
fn a_width_of_nothing_or_beyond_memory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("column.parquet");
    write(&path, in_place());
    for width in [0, usize::MAX] {
        for paths in [&[][..], std::slice::from_ref(&path)] {
            let error = MappedColumn::<f32>::open(paths, "embedding", width).unwrap_err();
            assert!(error.to_string().contains(&format!("cannot have {width} items")), "{error}");
        }
    }
}
