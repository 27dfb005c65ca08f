//! Parquet files, opened for the library's readers.
//!
//! The Arrow reader is generic over the file that it reads, and is compiled again for every type of file, which takes a
//! minute. All files are therefore read through [`SharedFile`].

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{ArtifactError, IoContext, ParquetContext};
use crate::manifest::VerifiedFile;
use crate::ordinary;
use crate::positioned::read_exact_at;

/// Prepares a file for the Arrow reader. `path` is used for errors.
///
/// # Errors
/// [`ArtifactError`] if it is not a Parquet file.
pub(crate) fn reader(
    file: &SharedFile,
    path: &Path,
) -> Result<ParquetRecordBatchReaderBuilder<SharedFile>, ArtifactError> {
    ParquetRecordBatchReaderBuilder::try_new(file.clone()).in_parquet(path)
}

/// Reads a file's metadata and, if the file has one, the index of its pages.
///
/// # Errors
/// [`ArtifactError`] if it is not a Parquet file.
pub(crate) fn metadata_with_offsets(
    file: &SharedFile,
    path: &Path,
) -> Result<ParquetMetaData, ArtifactError> {
    ParquetMetaDataReader::new()
        .with_offset_index_policy(PageIndexPolicy::Optional)
        .with_column_index_policy(PageIndexPolicy::Skip)
        .parse_and_finish(file)
        .in_parquet(path)
}

/// An open file that several threads may read at once, which the library's implementation for files does not allow.
#[derive(Clone)]
pub(crate) struct SharedFile {
    file: Arc<File>,
    len: u64,
}

impl SharedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::new(Arc::new(ordinary::open(path)?))
    }

    /// A verified file.
    pub(crate) fn of(file: &VerifiedFile) -> Result<Self, ArtifactError> {
        Self::new(Arc::new(file.open()?)).during("read", file.path())
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn new(file: Arc<File>) -> io::Result<Self> {
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
    type T = BufReader<FileTail>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(FileTail { file: Arc::clone(&self.file), at: start, end: self.len }))
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

/// A file from a byte offset to its end.
pub(crate) struct FileTail {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for FileTail {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let read = left.min(out.len());
        read_exact_at(&self.file, &mut out[..read], self.at)?;
        self.at += u64::try_from(read).unwrap_or_default();
        Ok(read)
    }
}
