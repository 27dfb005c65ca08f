//! Runs of images out of Parquet files, as they are read and kept for the rows that are wanted next.
//!
//! A row alone cannot be read: its page must be decompressed with all that stands before it. Blocks are therefore decoded whole, and those
//! decoded last are kept. Reading in order decodes every block once, whatever the number of threads; reading in random order one block
//! per image, unless all images fit what is kept.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BinaryArray, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::positioned::read_exact_at;

/// Bytes of images that a block has about: small beside what a machine with many threads has, large beside a page's header.
const BLOCK_BYTES: u64 = 4 << 20;

/// Bytes of decoded images that are kept.
const KEPT_BYTES: usize = 256 << 20;

/// What `read` reads; an error also where the library, given a damaged file, ends in a panic.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("what it says of itself makes no sense".to_owned())))
}

/// An open file that any number of threads may read, which the trait's own implementation for files is not.
#[derive(Clone)]
pub(super) struct SharedFile {
    file: Arc<File>,
    len: u64,
}

impl SharedFile {
    pub(super) fn new(file: Arc<File>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(From { file: Arc::clone(&self.file), at: start, end: self.len }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let fits = u64::try_from(length).is_ok_and(|length| length <= self.len.saturating_sub(start));
        if !fits {
            let len = self.len;
            return Err(ParquetError::EOF(format!(
                "{length} bytes from byte {start} on, of a file of {len}"
            )));
        }
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A file from some byte on.
pub(super) struct From {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for From {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let read = left.min(out.len());
        read_exact_at(&self.file, &mut out[..read], self.at)?;
        self.at += u64::try_from(read).unwrap_or_default();
        Ok(read)
    }
}

/// Rows of one row group that are decoded together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Block {
    group: usize,
    rows: Range<usize>,
}

/// The row groups of a file, cut into blocks.
#[derive(Debug)]
pub(super) struct Cut {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    first_row: usize,
    rows: usize,
    block_rows: usize,
}

impl Cut {
    /// By the size that the images in column `leaf` have on average.
    pub(super) fn new(metadata: &ArrowReaderMetadata, leaf: usize) -> Self {
        let mut first_row = 0;
        let groups = metadata.metadata().row_groups().iter().map(|group| {
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            let bytes = u64::try_from(group.column(leaf).uncompressed_size()).unwrap_or_default();
            let blocks = usize::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
            let group = Group { first_row, rows, block_rows: rows.div_ceil(blocks.max(1)).max(1) };
            first_row = first_row.saturating_add(rows);
            group
        });
        Self { groups: groups.collect() }
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.groups.last().map_or(0, |group| group.first_row + group.rows)
    }

    /// The block of a row, and where in it the row stands. The row is one of the file's.
    pub(super) fn find(&self, row: usize) -> (Block, usize) {
        // Of several groups that begin with the same row all but the last are empty.
        let group = self.groups.partition_point(|group| group.first_row <= row) - 1;
        let Group { first_row, rows, block_rows } = self.groups[group];
        let within = row - first_row;
        let start = within - within % block_rows;
        (Block { group, rows: start..rows.min(start + block_rows) }, within - start)
    }
}

/// Decodes the images of `block`, in column `leaf`.
pub(super) fn decode(
    file: SharedFile,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    block: &Block,
) -> Result<BinaryArray, ParquetError> {
    let rows = block.rows.len();
    let mask = ProjectionMask::leaves(metadata.parquet_schema(), [leaf]);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
        .with_row_groups(vec![block.group])
        .with_projection(mask)
        .with_offset(block.rows.start)
        .with_limit(rows)
        .with_batch_size(rows)
        .build()?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let images = match &*batches {
        [batch] => images(batch).filter(|images| images.len() == rows),
        _ => None,
    };
    images.cloned().ok_or_else(|| {
        let Block { group, rows } = block;
        ParquetError::General(format!(
            "row group {group} does not have the rows {rows:?} that its header has"
        ))
    })
}

/// The only column of a batch, or the only one in it.
fn images(batch: &RecordBatch) -> Option<&BinaryArray> {
    let column = batch.columns().first()?;
    let column = column.as_struct_opt().map_or(Some(column), |parts| parts.columns().first())?;
    column.as_binary_opt()
}

/// Blocks by the number of their file, as many as have so many bytes together.
#[derive(Debug)]
pub(super) struct Kept {
    most: usize,
    blocks: Mutex<Blocks>,
}

type Key = (usize, Block);

/// Locked while its images are being decoded, so that nobody decodes them beside.
type Slot = Arc<Mutex<Option<BinaryArray>>>;

#[derive(Debug, Default)]
struct Blocks {
    slots: HashMap<Key, Slot>,
    /// Those decoded, the oldest first, and their bytes.
    order: VecDeque<(Key, usize)>,
    bytes: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { most: KEPT_BYTES, blocks: Mutex::default() }
    }
}

impl Kept {
    /// The images of a block, by `decode` where they are not kept.
    pub(super) fn get<E>(
        &self,
        key: Key,
        decode: impl FnOnce(&Block) -> Result<BinaryArray, E>,
    ) -> Result<BinaryArray, E> {
        let slot = Arc::clone(lock(&self.blocks).slots.entry(key.clone()).or_default());
        let mut images = lock(&slot);
        if let Some(images) = &*images {
            return Ok(images.clone());
        }
        let decoded = images.insert(decode(&key.1)?).clone();
        drop(images);
        lock(&self.blocks).keep(key, decoded.get_array_memory_size(), self.most);
        Ok(decoded)
    }
}

impl Blocks {
    fn keep(&mut self, key: Key, bytes: usize, most: usize) {
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.bytes > most
            && let Some((oldest, bytes)) = self.order.pop_front()
        {
            // Whoever is still reading from it holds it.
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
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn blocks_are_decoded_once_while_they_are_kept_and_those_decoded_last_are() {
        let block = |start: usize| Block { group: 0, rows: start..start + 1 };
        let image = |start: usize| vec![u8::try_from(start).unwrap(); 1000];
        let decoded = AtomicUsize::new(0);
        let get = |kept: &Kept, start| {
            let images = kept.get((0, block(start)), |block| {
                decoded.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(BinaryArray::from_vec(vec![&image(block.rows.start)]))
            });
            assert_eq!(images.unwrap().value(0), image(start));
        };
        let size = BinaryArray::from_vec(vec![&image(0)]).get_array_memory_size();
        let kept = Kept { most: 3 * size, blocks: Mutex::default() };
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| (0..3).for_each(|start| get(&kept, start)))));
        });
        assert_eq!(decoded.load(Ordering::Relaxed), 3);
        for (start, decodes) in [(3, 4), (1, 4), (2, 4), (0, 5), (1, 6), (0, 6), (3, 6)] {
            get(&kept, start);
            assert_eq!(decoded.load(Ordering::Relaxed), decodes, "block {start}");
        }
        let blocks = lock(&kept.blocks);
        assert_eq!((blocks.slots.len(), blocks.order.len(), blocks.bytes), (3, 3, 3 * size));
    }

    #[test]
    fn a_block_that_fails_is_tried_again() {
        let kept = Kept::default();
        let key = (0, Block { group: 0, rows: 0..1 });
        assert_eq!(kept.get(key.clone(), |_| Err("no")), Err("no"));
        let images = BinaryArray::from_vec(vec![b"yes"]);
        assert_eq!(kept.get::<&str>(key, |_| Ok(images.clone())), Ok(images));
    }
}
