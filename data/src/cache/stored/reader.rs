//! Reads stored views, one at a time and in any order.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::types::{UInt32Type, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::ParquetMetaData;

use super::super::views::primitive;
use super::{CHECK, Encoding, JPEG, LENGTH, PIXELS, RowChecks, StoredFormat};
use crate::column::{group_pages, leaf_index, require_plain};
use crate::contained::contained;
use crate::error::{ArtifactError, IoContext, ParquetContext};
use crate::image::{DecodeLimits, decode};
use crate::manifest::{ContentHash, VerifiedFile};
use crate::open_files::OpenFiles;
use crate::parquet_file::{self, SharedFile};
use crate::positioned::read_exact_at;

/// Maximum number of shard files that stay open. Some systems allow only 256 open files per process.
const OPEN_SHARDS: usize = 128;

/// Bytes of the length prefix of every value in a Parquet byte array.
const PREFIX: usize = 4;

thread_local! {
    /// Scratch buffer for an encoded JPEG.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The stored views of a cache, numbered like the cache rows.
#[derive(Debug)]
pub struct StoredViews {
    format: StoredFormat,
    pixel_bytes: usize,
    shards: Vec<Shard>,
    open: OpenFiles,
    rows: usize,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    first_row: usize,
    row_checks: RowChecks,
    checks: Vec<u64>,
    /// Offset of each row's bytes in the file.
    starts: Vec<u64>,
    /// Number of bytes of each row; empty if all rows have the same length.
    lengths: Vec<u32>,
}

impl StoredViews {
    /// Opens the shard files and checks their row counts. `key`: that of the row checks.
    pub(in crate::cache) fn open<'a>(
        format: StoredFormat,
        key: Option<ContentHash>,
        files: impl IntoIterator<Item = (&'a VerifiedFile, usize)>,
    ) -> Result<Self, ArtifactError> {
        let open = OpenFiles::new(OPEN_SHARDS);
        let mut views = Self { format, pixel_bytes: 0, shards: Vec::new(), open, rows: 0 };
        for (number, (verified, rows)) in files.into_iter().enumerate() {
            let (path, file) = (verified.path(), SharedFile::of(verified)?);
            views.pixel_bytes = format.pixel_bytes().in_parquet(path)?;
            // The Parquet library trusts lengths in footers and pages, and panics on some invalid ones.
            let shard =
                contained(|| Shard::open(&file, path, format, (views.rows, RowChecks::new(key, number))))
                    .unwrap_or_else(|_| Err(ArtifactError::invalid(path, "the file is damaged")))?;
            if shard.starts.len() != rows || shard.checks.len() != rows {
                let got = shard.starts.len();
                return Err(ArtifactError::invalid(path, format!("expected {rows} rows, got {got}")));
            }
            views.rows += rows;
            views.shards.push(shard);
        }
        Ok(views)
    }

    /// Size and encoding of the views.
    pub fn format(&self) -> StoredFormat {
        self.format
    }

    /// Rows in all shards.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads the view in `row` into `out`, RGB8 `[S, S, 3]`. A damaged row is an error and never yields wrong pixels.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] if the row is damaged or the length of `out` is wrong; [`ArtifactError::Io`].
    ///
    /// # Panics
    /// If `row` is not below [`Self::rows`], as in slice indexing.
    pub fn read_into(&self, row: usize, out: &mut [u8]) -> Result<(), ArtifactError> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let number = self.shards.partition_point(|shard| shard.first_row <= row) - 1;
        let shard = &self.shards[number];
        if out.len() != self.pixel_bytes {
            let (expected, got) = (self.pixel_bytes, out.len());
            return Err(ArtifactError::invalid(
                &shard.path,
                format!("expected {expected} bytes per view, got {got}"),
            ));
        }
        let at = row - shard.first_row;
        let file = self.open.get(number, &shard.path).during("open", &shard.path)?;
        match self.format.encoding {
            Encoding::Raw => shard.fetch(&file, at, row, out),
            Encoding::Jpeg { .. } => ENCODED.with_borrow_mut(|bytes| {
                let length = shard.lengths.get(at).copied().unwrap_or(0);
                bytes.resize(usize::try_from(length).unwrap_or(0), 0);
                shard.fetch(&file, at, row, bytes)?;
                self.decode(bytes, out).map_err(|reason| shard.damaged(row, &reason))
            }),
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
        let image = decode(bytes, &DecodeLimits::default()).map_err(|error| error.to_string())?;
        if (image.width(), image.height()) != (self.format.size, self.format.size) {
            return Err(format!("it has {} x {} pixels", image.width(), image.height()));
        }
        out.copy_from_slice(image.pixels());
        Ok(())
    }
}

impl Shard {
    fn open(
        file: &SharedFile,
        path: &Path,
        format: StoredFormat,
        (first_row, row_checks): (usize, RowChecks),
    ) -> Result<Self, ArtifactError> {
        let metadata = parquet_file::metadata_with_offsets(file, path)?;
        let (checks, lengths) = small_columns(file, path, format)?;
        let file = file.file();
        let starts = match format.encoding {
            Encoding::Raw => {
                let width = format.pixel_bytes().in_parquet(path)?;
                starts(path, file, &metadata, PIXELS, &|_| Some(width))
            }
            Encoding::Jpeg { .. } => {
                let length = |row: usize| usize::try_from(*lengths.get(row)?).ok()?.checked_add(PREFIX);
                starts(path, file, &metadata, JPEG, &length)
            }
        };
        Ok(Self { path: path.to_owned(), first_row, row_checks, checks, starts: starts?, lengths })
    }

    /// Reads the bytes of row `at` of the shard's file and compares them with their check. `row` is the row number in
    /// the cache, for errors.
    fn fetch(&self, file: &File, at: usize, row: usize, out: &mut [u8]) -> Result<(), ArtifactError> {
        read_exact_at(file, out, self.starts[at]).during("read", &self.path)?;
        if self.row_checks.of(at, out) == self.checks[at] {
            return Ok(());
        }
        Err(self.damaged(row, "its bytes are not those that were written for this row of this cache"))
    }

    fn damaged(&self, row: usize, reason: &str) -> ArtifactError {
        let reason = format!(
            "the stored view in cache row {row} is damaged: {reason}\nhint: extract again, or train from the images"
        );
        ArtifactError::invalid(&self.path, reason)
    }
}

/// Reads the checks, and the lengths if they differ between rows.
fn small_columns(
    file: &SharedFile,
    path: &Path,
    format: StoredFormat,
) -> Result<(Vec<u64>, Vec<u32>), ArtifactError> {
    let builder = parquet_file::reader(file, path)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [CHECK, LENGTH]);
    let reader = builder.with_projection(mask).build().in_parquet(path)?;
    let (mut checks, mut lengths) = (Vec::new(), Vec::new());
    for batch in reader {
        let batch = batch.in_parquet(path)?;
        checks.extend_from_slice(primitive::<UInt64Type>(path, &batch, CHECK)?.values());
        if format.fixed_bytes().is_none() {
            lengths.extend_from_slice(primitive::<UInt32Type>(path, &batch, LENGTH)?.values());
        }
    }
    Ok((checks, lengths))
}

/// The offset of each row's bytes in column `name`. `slot` returns the number of bytes that a row takes in its page,
/// including the prefix.
fn starts(
    path: &Path,
    file: &File,
    metadata: &ParquetMetaData,
    name: &str,
    slot: &dyn Fn(usize) -> Option<usize>,
) -> Result<Vec<u64>, ArtifactError> {
    let invalid = |reason: &str| {
        ArtifactError::invalid(path, format!("column {name:?} cannot be read in place: {reason}"))
    };
    let bytes = file.metadata().during("read", path)?.len();
    let bytes = usize::try_from(bytes).map_err(|_| invalid("it is too large"))?;
    let leaf = leaf_index(metadata, name).ok_or_else(|| invalid("it is missing"))?;
    let descriptor = metadata.file_metadata().schema_descr().column(leaf);
    let (physical, prefix) = match name {
        PIXELS => (PhysicalType::FIXED_LEN_BYTE_ARRAY, 0),
        _ => (PhysicalType::BYTE_ARRAY, PREFIX),
    };
    let width = usize::try_from(descriptor.type_length()).ok();
    if descriptor.physical_type() != physical || (prefix == 0 && width != slot(0)) {
        return Err(invalid(&format!("its physical type is {}", descriptor.physical_type())));
    }
    if descriptor.max_def_level() != 0 || descriptor.max_rep_level() != 0 {
        return Err(invalid("it is not required"));
    }
    let mut starts = Vec::new();
    // A shard whose samples were all rejected has no page index and needs none.
    if metadata.row_groups().is_empty() {
        return Ok(starts);
    }
    let index = metadata.page_index().ok_or_else(|| invalid("it has no page index"))?;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let first = starts.len();
        let rows = usize::try_from(group.num_rows()).map_err(|_| invalid("a negative number of rows"))?;
        require_plain(group.column(leaf)).map_err(|reason| invalid(&reason))?;
        let locations = index.offset_index(number, leaf).ok_or_else(|| invalid("it has no offset index"))?;
        let slots = |rows: Range<usize>| {
            rows.into_iter().try_fold(0_usize, |sum, row| sum.checked_add(slot(first + row)?))
        };
        let pages = group_pages(locations.page_locations(), rows, bytes, slots).map_err(invalid)?;
        let ends = pages.iter().skip(1).map(|&(row, _)| row).chain([rows]);
        for (&(row, start), end) in pages.iter().zip(ends) {
            let mut at = start;
            for row in row..end {
                starts.push(u64::try_from(at + prefix).map_err(|_| invalid("it is too large"))?);
                at += slot(first + row).unwrap_or(0);
            }
        }
    }
    Ok(starts)
}
