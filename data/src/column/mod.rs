//! Fixed-width Parquet columns read in place.
//!
//! A row of `width` items of a required `FixedSizeList` column, written PLAIN and uncompressed, is contiguous in its
//! data page. The page ends in exactly `rows x width x item` value bytes, so
//!
//! ```text
//! value start = page offset + compressed page size - rows x width x item
//!               └──────── from the footer's offset index ────────┘
//! ```
//!
//! A reader maps the file, looks up the page and copies the row. Value starts are unaligned, so bytes are copied, never
//! cast. A file that does not meet the conditions, for example because another program compressed it, is read into
//! memory through the ordinary Arrow reader instead. [`MappedColumn::not_in_place`] names the unmet condition.

mod item;

use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use parquet::arrow::ProjectionMask;
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::schema::types::ColumnDescriptor;

use crate::contained::contained;
use crate::error::{ArtifactError, IoContext, ParquetContext};
use crate::manifest::VerifiedFile;
use crate::mapped::MappedFile;
use crate::parquet_file::{self, SharedFile};

pub use item::{Item, RowKind};

/// The bytes that hold a column's values.
#[derive(Debug)]
enum Backing {
    Mapped(MappedFile),
    /// Decoded by the ordinary Arrow reader.
    Memory(Vec<u8>),
}

/// Consecutive rows whose values are contiguous.
#[derive(Clone, Copy, Debug)]
struct Page {
    first_row: usize,
    storage: usize,
    value_start: usize,
}

/// One fixed-width column of all shards of an artifact. Rows are numbered across shards.
#[derive(Debug)]
pub struct MappedColumn<T> {
    width: usize,
    row_bytes: usize,
    rows: usize,
    pages: Vec<Page>,
    storages: Vec<Backing>,
    shard_rows: Vec<usize>,
    paths: Vec<PathBuf>,
    not_in_place: Vec<(PathBuf, String)>,
    item: PhantomData<T>,
}

impl<T: Item> MappedColumn<T> {
    /// Opens column `name` with `width` items per row in every file, in order.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file cannot be read, the column is missing or has another type, or `width` is 0.
    pub fn open(paths: &[PathBuf], name: &str, width: usize) -> Result<Self, ArtifactError> {
        let files = paths.iter().map(|path| (path.as_path(), SharedFile::open(path).during("open", path)));
        Self::of_files(files, name, width)
    }

    /// Like [`MappedColumn::open`], of verified files.
    ///
    /// # Errors
    /// Those of [`MappedColumn::open`]; [`ArtifactError::Changed`] if a file is no longer what was verified.
    pub(crate) fn open_verified(
        files: &[VerifiedFile],
        name: &str,
        width: usize,
    ) -> Result<Self, ArtifactError> {
        Self::of_files(files.iter().map(|file| (file.path(), SharedFile::of(file))), name, width)
    }

    fn of_files<'a>(
        files: impl Iterator<Item = (&'a Path, Result<SharedFile, ArtifactError>)>,
        name: &str,
        width: usize,
    ) -> Result<Self, ArtifactError> {
        let row_bytes = width.checked_mul(T::BYTES).filter(|&bytes| bytes > 0).ok_or_else(|| {
            ArtifactError::invalid(Path::new(name), format!("a column cannot have {width} items per row"))
        })?;
        let mut column = Self {
            width,
            row_bytes,
            rows: 0,
            pages: Vec::new(),
            storages: Vec::new(),
            shard_rows: Vec::new(),
            paths: Vec::new(),
            not_in_place: Vec::new(),
            item: PhantomData,
        };
        for (path, file) in files {
            column.append(path, &file?, name)?;
        }
        Ok(column)
    }

    fn append(&mut self, path: &Path, shared: &SharedFile, name: &str) -> Result<(), ArtifactError> {
        let file = MappedFile::of(shared.file(), path)?;
        let metadata = parquet_file::metadata_with_offsets(shared, path)?;
        let rows = usize::try_from(metadata.file_metadata().num_rows()).in_parquet(path)?;
        let leaf = leaf_index(&metadata, name)
            .ok_or_else(|| ArtifactError::invalid(path, format!("column {name:?} is missing")))?;
        let storage = self.storages.len();
        match in_place_pages::<T>(&metadata, leaf, self.width, file.bytes().len()) {
            Ok(pages) => {
                for (first_row, value_start) in pages {
                    self.pages.push(Page { first_row: self.rows + first_row, storage, value_start });
                }
                self.storages.push(Backing::Mapped(file));
            }
            Err(condition) => {
                self.pages.push(Page { first_row: self.rows, storage, value_start: 0 });
                let bytes = decode_all::<T>(shared, path, name, self.width)?;
                if Some(bytes.len()) != rows.checked_mul(self.row_bytes) {
                    let got = bytes.len();
                    let reason = format!(
                        "column {name:?}: expected {rows} rows of {} bytes, got {got} bytes",
                        self.row_bytes
                    );
                    return Err(ArtifactError::invalid(path, reason));
                }
                self.storages.push(Backing::Memory(bytes));
                self.not_in_place.push((path.to_owned(), condition));
            }
        }
        self.rows += rows;
        self.shard_rows.push(rows);
        self.paths.push(path.to_owned());
        Ok(())
    }

    /// Rows in all shards.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of items per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row count of each shard.
    pub fn shard_rows(&self) -> &[usize] {
        &self.shard_rows
    }

    /// Shards that had to be decoded into memory, each with the unmet condition for reading in place.
    pub fn not_in_place(&self) -> &[(PathBuf, String)] {
        &self.not_in_place
    }

    /// Fails unless each shard has its `expected` row count.
    pub(crate) fn require_rows(&self, expected: &[usize]) -> Result<(), ArtifactError> {
        let shards = self.paths.iter().zip(expected).zip(&self.shard_rows);
        match shards.into_iter().find(|((_, expected), got)| expected != got) {
            Some(((path, expected), got)) => {
                Err(ArtifactError::invalid(path, format!("expected {expected} rows, got {got}")))
            }
            None => Ok(()),
        }
    }

    /// Copies one row into `out`, which holds [`Self::width`] items.
    ///
    /// # Panics
    /// If `row` is not below [`Self::rows`], as in slice indexing.
    pub fn copy_row(&self, row: usize, out: &mut [T]) {
        T::decode(self.bytes_of(row), out);
    }

    /// The bytes of one row, in place and unaligned.
    ///
    /// # Panics
    /// If `row` is not below [`Self::rows`].
    pub(crate) fn bytes_of(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let page = self.pages[self.pages.partition_point(|page| page.first_row <= row) - 1];
        let bytes = match &self.storages[page.storage] {
            Backing::Mapped(file) => file.bytes(),
            Backing::Memory(bytes) => bytes,
        };
        let start = page.value_start + (row - page.first_row) * self.row_bytes;
        &bytes[start..start + self.row_bytes]
    }

    /// Returns the memory of mapped rows to the system. It is meant for passes that read every row once.
    pub fn release(&self, rows: Range<usize>) {
        let first = self.pages.partition_point(|page| page.first_row <= rows.start).saturating_sub(1);
        for page in self.pages[first..].iter().take_while(|page| page.first_row < rows.end) {
            if let Backing::Mapped(file) = &self.storages[page.storage] {
                let row_bytes = self.row_bytes;
                let start = page.value_start + rows.start.saturating_sub(page.first_row) * row_bytes;
                // The bytes after the page's rows are headers and the next page. Releasing a few of them is harmless.
                file.release(start..page.value_start + (rows.end - page.first_row) * row_bytes);
            }
        }
    }

    /// Copies rows in the given order into `out`, `[rows.len(), width]`.
    ///
    /// # Panics
    /// If a row is not below [`Self::rows`].
    pub fn copy_rows(&self, rows: impl IntoIterator<Item = usize>, out: &mut [T]) {
        for (row, out) in rows.into_iter().zip(out.chunks_exact_mut(self.width)) {
            self.copy_row(row, out);
        }
    }
}

/// Index of the leaf column whose path starts with `name`.
pub(crate) fn leaf_index(metadata: &ParquetMetaData, name: &str) -> Option<usize> {
    let schema = metadata.file_metadata().schema_descr();
    schema.columns().iter().position(|column| column.path().parts().first().is_some_and(|part| part == name))
}

/// `(first row, value start)` of every page, or the condition that prevents reading in place. The pages cover all rows
/// of the file, and their values lie inside the file.
fn in_place_pages<T: Item>(
    metadata: &ParquetMetaData,
    leaf: usize,
    width: usize,
    file_bytes: usize,
) -> Result<Vec<(usize, usize)>, String> {
    require_type::<T>(&metadata.file_metadata().schema_descr().column(leaf), width)?;
    // A file without rows has no page index and needs none.
    if metadata.row_groups().is_empty() && metadata.file_metadata().num_rows() == 0 {
        return Ok(Vec::new());
    }
    let values_per_row = if T::ROW == RowKind::Bytes { 1 } else { width };
    let index = metadata.page_index().ok_or("it has no page index")?;
    let mut pages = Vec::new();
    let mut group_start = 0_usize;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let chunk = group.column(leaf);
        let rows = usize::try_from(group.num_rows()).map_err(|_| "a row group has a negative row count")?;
        require_plain(chunk)?;
        if usize::try_from(chunk.num_values()).ok() != rows.checked_mul(values_per_row) {
            return Err(format!("its rows do not all have {width} items"));
        }
        let locations = index.offset_index(number, leaf).ok_or("it has no offset index")?.page_locations();
        let value_bytes = |rows: Range<usize>| rows.len().checked_mul(width * T::BYTES);
        for (first, start) in group_pages(locations, rows, file_bytes, value_bytes)? {
            pages.push((group_start + first, start));
        }
        group_start = group_start.checked_add(rows).ok_or("it has too many rows")?;
    }
    if i64::try_from(group_start) != Ok(metadata.file_metadata().num_rows()) {
        return Err("its row groups do not add up to the rows of the file".to_owned());
    }
    Ok(pages)
}

/// Fails if the column does not store [`Item`] values, or if its values may be null.
fn require_type<T: Item>(descriptor: &ColumnDescriptor, width: usize) -> Result<(), String> {
    let (physical, length, levels) = match T::ROW {
        RowKind::List(physical) => (physical, T::BYTES, 1),
        RowKind::Bytes => (PhysicalType::FIXED_LEN_BYTE_ARRAY, width, 0),
    };
    let fixed = physical == PhysicalType::FIXED_LEN_BYTE_ARRAY;
    let fits = !fixed || usize::try_from(descriptor.type_length()) == Ok(length);
    if descriptor.physical_type() != physical || !fits {
        return Err(format!("its physical type is {}", descriptor.physical_type()));
    }
    if descriptor.max_def_level() != levels || descriptor.max_rep_level() != levels {
        return Err("its rows or their items are not required".to_owned());
    }
    Ok(())
}

/// Fails if a column chunk stores values differently from their layout in memory.
pub(crate) fn require_plain(chunk: &ColumnChunkMetaData) -> Result<(), String> {
    if chunk.compression() != Compression::UNCOMPRESSED {
        return Err(format!("it is compressed ({})", chunk.compression()));
    }
    if chunk.dictionary_page_offset().is_some()
        || chunk.encodings().any(|encoding| !matches!(encoding, Encoding::PLAIN | Encoding::RLE))
    {
        return Err("its values are not PLAIN encoded".to_owned());
    }
    Ok(())
}

/// `(first row, value start)` of the pages of one row group. Every row is in exactly one page. `value_bytes` returns
/// the size in bytes of the values of a range of the group's rows.
pub(crate) fn group_pages(
    locations: &[PageLocation],
    rows: usize,
    file_bytes: usize,
    value_bytes: impl Fn(Range<usize>) -> Option<usize>,
) -> Result<Vec<(usize, usize)>, &'static str> {
    let first_rows = locations.iter().map(|page| usize::try_from(page.first_row_index));
    let mut bounds =
        first_rows.collect::<Result<Vec<_>, _>>().map_err(|_| "a page has a negative first row")?;
    bounds.push(rows);
    if bounds[0] != 0 || !bounds.is_sorted_by(|left, right| left < right) {
        return Err("its pages do not cover its rows in order");
    }
    let value_start = |(page, bounds): (&PageLocation, &[usize])| {
        let offset = usize::try_from(page.offset).ok()?;
        let end = offset.checked_add(usize::try_from(page.compressed_page_size).ok()?)?;
        let start = end.checked_sub(value_bytes(bounds[0]..bounds[1])?)?;
        (end <= file_bytes && start > offset).then_some((bounds[0], start))
    };
    let pages: Option<_> = locations.iter().zip(bounds.windows(2)).map(value_start).collect();
    pages.ok_or("its pages do not hold the values they should")
}

/// Decodes a whole column through the ordinary Arrow reader and returns the bytes of its items.
fn decode_all<T: Item>(
    file: &SharedFile,
    path: &Path,
    name: &str,
    width: usize,
) -> Result<Vec<u8>, ArtifactError> {
    // The Parquet library trusts lengths and dictionary indices in pages, and panics on some invalid ones.
    contained(|| decode_batches::<T>(file, path, name, width)).unwrap_or_else(|_| {
        Err(ArtifactError::invalid(path, format!("the pages of column {name:?} are damaged")))
    })
}

fn decode_batches<T: Item>(
    file: &SharedFile,
    path: &Path,
    name: &str,
    width: usize,
) -> Result<Vec<u8>, ArtifactError> {
    let builder = parquet_file::reader(file, path)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [name]);
    let reader = builder.with_projection(mask).build().in_parquet(path)?;
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.in_parquet(path)?;
        let Some(column) = batch.columns().first() else {
            return Err(ArtifactError::invalid(path, format!("column {name:?} cannot be read")));
        };
        let values = T::values(column.as_ref(), width).ok_or_else(|| {
            let (expected, got) = (T::expected(width), column.data_type());
            ArtifactError::invalid(path, format!("column {name:?}: expected {expected}, got {got}"))
        })?;
        out.extend_from_slice(values);
    }
    Ok(out)
}
