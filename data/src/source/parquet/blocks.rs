//! Decodes the images of Parquet files in blocks of rows, and caches the decoded blocks.
//!
//! Reading one image decodes its whole page, which may have a thousand rows, and the column's dictionary. Rows are
//! therefore decoded in blocks, and the reader that decoded a block is kept for the next one. Reading in order then
//! decompresses every page once, whatever the number of threads. Reading in random order decodes one page per image,
//! unless all images fit in the cache.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BinaryArray, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;

use super::pages::ChunkPages;
use crate::budget::Budget;
use crate::contained::contained;
use crate::parquet_file::SharedFile;

/// Maximum size of the images of a block that are taken from a dictionary, in bytes, unless one image alone is larger.
const REPEATED_BYTES: u64 = 64 << 20;

/// Memory of all threads that decode blocks, in bytes.
const DECODING_BYTES: u64 = 2 << 30;

/// Target size of the images in a block as stored in the file, in bytes.
const BLOCK_BYTES: u64 = 4 << 20;

/// Maximum number of rows per block. A dictionary stores equal images once, so decoded blocks may be larger than stored
/// ones.
const BLOCK_ROWS: usize = 1024;

/// Maximum size of the decoded blocks in the cache, in bytes.
const KEPT_BYTES: usize = 256 << 20;

/// Maximum number of readers kept for the next block. Each holds a decompressed page.
const WAITING: usize = 4;

/// Maximum size of the pages of the readers kept, in bytes, unless one page alone is larger.
const WAITING_BYTES: u64 = 512 << 20;

static DECODING: Budget = Budget::new(DECODING_BYTES);

/// Calls `read` and converts a panic of the Parquet library on a damaged file to an error.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    contained(read).unwrap_or_else(|_| {
        Err(ParquetError::General("its lengths and offsets contradict each other".to_owned()))
    })
}

/// Rows of one row group that are decoded together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Block {
    group: usize,
    rows: Range<usize>,
    /// Whether this is the last block of its group.
    last: bool,
}

/// The row groups of a file, divided into blocks.
#[derive(Debug)]
pub(super) struct BlockMap {
    groups: Vec<Group>,
    rows: usize,
    /// Size of the largest page, in bytes.
    largest: u64,
}

#[derive(Debug)]
struct Group {
    first_row: usize,
    rows: usize,
    block_rows: usize,
}

impl BlockMap {
    /// Divides the row groups by the average size of the images in column `leaf`, whose pages are described by `pages`,
    /// one for each row group.
    ///
    /// # Errors
    /// A message if the row counts in the file's footer contradict each other.
    pub(super) fn new(
        metadata: &ArrowReaderMetadata,
        leaf: usize,
        pages: &[ChunkPages],
    ) -> Result<Self, String> {
        let metadata = metadata.metadata();
        let largest = pages.iter().map(|pages| pages.largest).max().unwrap_or(0);
        let mut map = Self { groups: Vec::with_capacity(metadata.num_row_groups()), rows: 0, largest };
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let column = group.column(leaf);
            let rows = usize::try_from(group.num_rows()).ok();
            let rows = rows.filter(|_| group.num_rows() == column.num_values());
            let next_row = rows.and_then(|rows| map.rows.checked_add(rows));
            let (Some(rows), Some(next_row)) = (rows, next_row) else {
                let (rows, values) = (group.num_rows(), column.num_values());
                return Err(format!(
                    "row group {number} has {rows} rows, and {values} in the column of images"
                ));
            };
            let bytes = u64::try_from(column.uncompressed_size()).unwrap_or_default();
            let blocks = usize::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX).max(1);
            // Every row may be the longest image of the dictionary.
            let dictionary = pages.get(number).map_or(0, |pages| pages.dictionary);
            let repeated = REPEATED_BYTES.checked_div(dictionary).and_then(|rows| usize::try_from(rows).ok());
            let block_rows = rows.div_ceil(blocks).min(repeated.unwrap_or(usize::MAX)).clamp(1, BLOCK_ROWS);
            map.groups.push(Group { first_row: map.rows, rows, block_rows });
            map.rows = next_row;
        }
        let expected = metadata.file_metadata().num_rows();
        match usize::try_from(expected) == Ok(map.rows) {
            true => Ok(map),
            false => Err(format!("{} rows in its row groups, expected {expected}", map.rows)),
        }
    }

    /// Size of the largest page, in bytes.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// Number of rows in the file.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The block that contains `row`, and the row's position in the block. `row` must be below [`Self::rows`].
    pub(super) fn find(&self, row: usize) -> (Block, usize) {
        // If several groups begin with the same row, all but the last are empty.
        let group = self.groups.partition_point(|group| group.first_row <= row) - 1;
        let Group { first_row, rows, block_rows } = self.groups[group];
        let within = row - first_row;
        let start = within - within % block_rows;
        let end = rows.min(start + block_rows);
        (Block { group, rows: start..end, last: end == rows }, within - start)
    }
}

/// Decodes the blocks of one row group in order.
pub(super) type Blocks = Box<dyn Iterator<Item = Result<BinaryArray, ParquetError>> + Send>;

/// Decodes the images in column `leaf`, starting at block `first`, which starts its group or follows blocks of the same
/// length.
pub(super) fn decode_from(
    file: SharedFile,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    first: &Block,
) -> Result<Blocks, ParquetError> {
    let mask = ProjectionMask::leaves(metadata.parquet_schema(), [leaf]);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
        .with_row_groups(vec![first.group])
        .with_projection(mask)
        .with_offset(first.rows.start)
        .with_batch_size(first.rows.len())
        .build()?;
    Ok(Box::new(reader.map(|batch| {
        let no_bytes = || ParquetError::General("its column of images holds no bytes".to_owned());
        images(&batch?).cloned().ok_or_else(no_bytes)
    })))
}

/// The only column of a batch, or its only field if it is a struct.
fn images(batch: &RecordBatch) -> Option<&BinaryArray> {
    let column = batch.columns().first()?;
    let column = column.as_struct_opt().map_or(Some(column), |parts| parts.columns().first())?;
    column.as_binary_opt()
}

/// A cache of decoded blocks, and readers positioned at the next blocks.
pub(super) struct DecodedBlocks {
    /// Maximum size of the cached images, in bytes.
    most: usize,
    decoded: Mutex<Decoded>,
    /// Readers, least recently used first.
    waiting: Mutex<VecDeque<Waiting>>,
}

/// File number and block.
type Key = (usize, Block);

/// A reader of a row group whose next row is `row`.
struct Waiting {
    file: usize,
    group: usize,
    row: usize,
    blocks: Blocks,
    /// Size of the largest page, in bytes.
    page: u64,
}

/// A decoded block. It is locked during decoding, so that no other thread decodes it too.
type Shared = Arc<Mutex<Option<BinaryArray>>>;

#[derive(Default)]
struct Decoded {
    slots: HashMap<Key, Shared>,
    /// Decoded blocks and their sizes in bytes, oldest first.
    order: VecDeque<(Key, usize)>,
    bytes: usize,
}

impl std::fmt::Debug for DecodedBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DecodedBlocks").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Default for DecodedBlocks {
    fn default() -> Self {
        Self { most: KEPT_BYTES, decoded: Mutex::default(), waiting: Mutex::default() }
    }
}

impl DecodedBlocks {
    /// Returns the images of a block from the cache, from a reader positioned at the block, or from a new reader made
    /// by `open`. `page`: size of the file's largest page, in bytes.
    pub(super) fn get(
        &self,
        key: Key,
        page: u64,
        open: impl FnOnce(&Block) -> Result<Blocks, ParquetError>,
    ) -> Result<BinaryArray, ParquetError> {
        let slot = Arc::clone(lock(&self.decoded).slots.entry(key.clone()).or_default());
        let mut images = lock(&slot);
        if let Some(images) = &*images {
            return Ok(images.clone());
        }
        let (file, block) = &key;
        let waiting = self.waiting_at(*file, block);
        // A page, and its images in a block of their own.
        let memory = DECODING.take(page.saturating_mul(2).saturating_add(REPEATED_BYTES));
        let decoded = guarded(|| {
            let mut blocks = waiting.map_or_else(|| open(block), Ok)?;
            let Block { group, rows, .. } = block;
            let decoded = blocks.next().transpose()?.filter(|images| images.len() == rows.len());
            let short =
                || ParquetError::General(format!("row group {group} does not have its rows {rows:?}"));
            Ok((decoded.ok_or_else(short)?, blocks))
        });
        drop(memory);
        let (decoded, blocks) = decoded?;
        if !block.last {
            self.wait(Waiting { file: *file, group: block.group, row: block.rows.end, blocks, page });
        }
        *images = Some(decoded.clone());
        drop(images);
        lock(&self.decoded).keep(key, decoded.get_array_memory_size(), self.most);
        Ok(decoded)
    }

    fn waiting_at(&self, file: usize, block: &Block) -> Option<Blocks> {
        let mut waiting = lock(&self.waiting);
        let place = (file, block.group, block.rows.start);
        let found = waiting.iter().position(|reader| (reader.file, reader.group, reader.row) == place)?;
        waiting.remove(found).map(|reader| reader.blocks)
    }

    fn wait(&self, reader: Waiting) {
        let mut waiting = lock(&self.waiting);
        waiting.push_back(reader);
        let bytes = |waiting: &VecDeque<Waiting>| waiting.iter().map(|reader| reader.page).sum::<u64>();
        while waiting.len() > WAITING || waiting.len() > 1 && bytes(&waiting) > WAITING_BYTES {
            waiting.pop_front();
        }
    }
}

impl Decoded {
    fn keep(&mut self, key: Key, bytes: usize, most: usize) {
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.bytes > most
            && self.order.len() > 1
            && let Some((oldest, bytes)) = self.order.pop_front()
        {
            // A thread that is still reading from the block holds a reference to it.
            self.slots.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A file of one row group with one row per block, and counters of reads from it.
    struct Rows {
        kept: DecodedBlocks,
        rows: usize,
        opened: AtomicUsize,
        decoded: Arc<AtomicUsize>,
    }

    impl Rows {
        fn new(rows: usize, kept_blocks: usize) -> Self {
            let kept = DecodedBlocks {
                most: kept_blocks * image(0).get_array_memory_size(),
                ..DecodedBlocks::default()
            };
            Self { kept, rows, opened: AtomicUsize::new(0), decoded: Arc::default() }
        }

        fn get(&self, row: usize) {
            let block = Block { group: 0, rows: row..row + 1, last: row + 1 == self.rows };
            let images = self.kept.get((0, block), 1000, |block| {
                self.opened.fetch_add(1, Ordering::Relaxed);
                let decoded = Arc::clone(&self.decoded);
                Ok(Box::new((block.rows.start..self.rows).map(move |row| {
                    decoded.fetch_add(1, Ordering::Relaxed);
                    Ok(image(row))
                })))
            });
            assert_eq!(images.unwrap(), image(row));
        }

        /// Number of readers opened and number of blocks decoded.
        fn counts(&self) -> (usize, usize) {
            (self.opened.load(Ordering::Relaxed), self.decoded.load(Ordering::Relaxed))
        }
    }

    fn image(row: usize) -> BinaryArray {
        BinaryArray::from_vec(vec![&[u8::try_from(row).unwrap(); 1000]])
    }

    #[test]
    fn reading_in_order_takes_one_reader() {
        let rows = Rows::new(50, 5);
        (0..50).for_each(|row| rows.get(row));
        assert_eq!(rows.counts(), (1, 50));
        assert!(lock(&rows.kept.waiting).is_empty());
    }

    #[test]
    fn blocks_are_decoded_once_while_they_are_kept_and_those_decoded_last_are() {
        let rows = Rows::new(9, 3);
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| (0..3).for_each(|row| rows.get(row)))));
        });
        assert_eq!(rows.counts().1, 3);
        for (row, decoded) in [(3, 4), (1, 4), (2, 4), (0, 5), (1, 6), (0, 6), (3, 6)] {
            rows.get(row);
            assert_eq!(rows.counts().1, decoded, "block {row}");
        }
        let decoded = lock(&rows.kept.decoded);
        assert_eq!((decoded.slots.len(), decoded.order.len()), (3, 3));
        assert_eq!(decoded.bytes, rows.kept.most);
    }

    #[test]
    fn few_readers_wait_and_none_at_the_end_of_a_group() {
        let rows = Rows::new(100, 1);
        [0, 10, 20, 30, 40, 99].into_iter().for_each(|row| rows.get(row));
        assert_eq!((lock(&rows.kept.waiting).len(), rows.counts()), (WAITING, (6, 6)));
        [11, 41].into_iter().for_each(|row| rows.get(row));
        assert_eq!(rows.counts(), (6, 8), "they go on");
        rows.get(1);
        assert_eq!(rows.counts(), (7, 9), "the first had to go");
    }

    #[test]
    fn a_block_that_fails_is_tried_again() {
        let kept = DecodedBlocks::default();
        let key = (0, Block { group: 0, rows: 0..1, last: true });
        let broken = || ParquetError::General("broken".to_owned());
        assert!(kept.get(key.clone(), 1, |_| Err(broken())).is_err());
        assert!(kept.get(key.clone(), 1, |_| Ok(Box::new([Err(broken())].into_iter()))).is_err());
        let two = BinaryArray::from_vec(vec![b"1", b"2"]);
        assert!(kept.get(key.clone(), 1, |_| Ok(Box::new([Ok(two)].into_iter()))).is_err(), "another length");
        let one = BinaryArray::from_vec(vec![b"1"]);
        assert_eq!(kept.get(key, 1, |_| Ok(Box::new([Ok(one.clone())].into_iter()))).unwrap(), one);
    }
}
