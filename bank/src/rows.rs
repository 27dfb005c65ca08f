//! The source of a bank's image embeddings.

use std::ops::Range;

use lgd_data::ArtifactError;
use lgd_data::column::MappedColumn;

/// Rows of L2-normalized embeddings, read in ranges and from several threads.
///
/// A bank reads all rows twice and holds few in memory, so an implementation should read them from a file on request.
pub trait EmbeddingRows: Sync {
    /// Number of rows, N.
    fn rows(&self) -> usize;

    /// Width, D.
    fn dim(&self) -> usize;

    /// Copies `rows` into `out`, row-major `[rows.len(), D]`.
    ///
    /// # Errors
    /// [`ArtifactError`] if the rows cannot be read.
    fn copy_rows_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ArtifactError>;

    /// Hints that this pass no longer needs `rows`. A memory-mapped file releases their pages; otherwise a bank's
    /// resident memory would grow with the cache.
    fn release(&self, rows: Range<usize>) {
        let _ = rows;
    }
}

impl EmbeddingRows for MappedColumn<f32> {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn dim(&self) -> usize {
        self.width()
    }

    fn copy_rows_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ArtifactError> {
        self.copy_rows(rows, out);
        Ok(())
    }

    fn release(&self, rows: Range<usize>) {
        MappedColumn::release(self, rows);
    }
}
