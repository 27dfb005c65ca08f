//! An unnamed temporary file that carries the first pass's results to the second.
//!
//! Text distributions are complete after the first pass and visual ones after the second, but the bank stores both
//! together. Storing the former takes a few hundred bytes per row on disk; recomputing them would take a matrix
//! product.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use half::f16;
use lgd_data::ArtifactError;
use lgd_data::error::IoContext;

use crate::distributions::DistributionBuffer;

/// Bytes converted at a time.
const PIECE: usize = 1 << 16;

/// Writes the first pass's results in row order.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    file: BufWriter<File>,
    dir: PathBuf,
}

/// Reads them in the same order.
#[derive(Debug)]
pub(crate) struct SpillReader {
    file: BufReader<File>,
    dir: PathBuf,
}

impl SpillWriter {
    /// Creates the file in `dir`. It disappears when the process ends, however it ends.
    pub(crate) fn create(dir: &Path) -> Result<Self, ArtifactError> {
        let file = tempfile::tempfile_in(dir).during("create a temporary file in", dir)?;
        Ok(Self { file: BufWriter::with_capacity(PIECE, file), dir: dir.to_owned() })
    }

    /// Appends the rows of one chunk.
    pub(crate) fn push(
        &mut self,
        pseudo_category: &[i32],
        text: &DistributionBuffer,
    ) -> Result<(), ArtifactError> {
        let mut write = || -> io::Result<()> {
            write_all(&mut self.file, pseudo_category, i32::to_le_bytes)?;
            write_all(&mut self.file, &text.index, i32::to_le_bytes)?;
            write_all(&mut self.file, &text.probability, f16::to_le_bytes)
        };
        write().during("write a temporary file in", &self.dir)
    }

    /// Rewinds the file for reading.
    pub(crate) fn into_reader(self) -> Result<SpillReader, ArtifactError> {
        let Self { file, dir } = self;
        let mut file =
            file.into_inner().map_err(|e| e.into_error()).during("write a temporary file in", &dir)?;
        file.rewind().during("read a temporary file in", &dir)?;
        Ok(SpillReader { file: BufReader::with_capacity(PIECE, file), dir })
    }
}

impl SpillReader {
    /// Reads the next chunk, whose size is that of the buffers.
    pub(crate) fn pull(
        &mut self,
        pseudo_category: &mut [i32],
        text: &mut DistributionBuffer,
    ) -> Result<(), ArtifactError> {
        let mut read = || -> io::Result<()> {
            read_all(&mut self.file, pseudo_category, i32::from_le_bytes)?;
            read_all(&mut self.file, &mut text.index, i32::from_le_bytes)?;
            read_all(&mut self.file, &mut text.probability, f16::from_le_bytes)
        };
        read().during("read a temporary file in", &self.dir)
    }
}

fn write_all<T: Copy, const B: usize>(
    file: &mut impl Write,
    values: &[T],
    bytes: fn(T) -> [u8; B],
) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE);
    for values in values.chunks(PIECE / B) {
        piece.clear();
        piece.extend(values.iter().flat_map(|&value| bytes(value)));
        file.write_all(&piece)?;
    }
    Ok(())
}

fn read_all<T: Copy, const B: usize>(
    file: &mut impl Read,
    values: &mut [T],
    value: fn([u8; B]) -> T,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    for values in values.chunks_mut(PIECE / B) {
        let piece = &mut piece[..values.len() * B];
        file.read_exact(piece)?;
        for (out, bytes) in values.iter_mut().zip(piece.as_chunks::<B>().0) {
            *out = value(*bytes);
        }
    }
    Ok(())
}
