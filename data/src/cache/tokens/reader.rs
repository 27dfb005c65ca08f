//! Reads tokens in place.

use std::path::PathBuf;

use super::super::optional::{TokenEncoding, TokenRecord};
use super::{SCALE, TOKENS};
use crate::column::{Item, MappedColumn};
use crate::error::ArtifactError;
use crate::manifest::VerifiedFile;

/// The tokens of a cache, numbered like the cache rows.
#[derive(Debug)]
pub struct TokenColumn {
    record: TokenRecord,
    tokens: MappedColumn<u8>,
    /// One scale per token, if tokens are int8.
    scales: Option<MappedColumn<f32>>,
}

impl TokenColumn {
    /// Opens the shard files, which must have the row counts `rows`.
    pub(in crate::cache) fn open(
        record: &TokenRecord,
        files: &[VerifiedFile],
        rows: &[usize],
    ) -> Result<Self, ArtifactError> {
        let int8 = record.encoding == TokenEncoding::Int8;
        let width = if int8 { record.width() } else { 2 * record.width() };
        let tokens = MappedColumn::open_verified(files, TOKENS, width)?;
        tokens.require_rows(rows)?;
        let scales =
            if int8 { Some(MappedColumn::open_verified(files, SCALE, record.count())?) } else { None };
        Ok(Self { record: record.clone(), tokens, scales })
    }

    /// Grid size, token widths and encoding.
    pub fn record(&self) -> &TokenRecord {
        &self.record
    }

    /// Rows in all shards.
    pub fn rows(&self) -> usize {
        self.tokens.rows()
    }

    /// Number of values per row, rows x columns x dim.
    pub fn width(&self) -> usize {
        self.record.width()
    }

    /// Shards that had to be decoded into memory, each with the unmet condition for reading in place.
    pub fn not_in_place(&self) -> &[(PathBuf, String)] {
        self.tokens.not_in_place()
    }

    /// Copies one row into `out`, `[rows, columns, dim]`.
    ///
    /// # Panics
    /// If `row` is not below [`Self::rows`] or `out` does not hold [`Self::width`] values, as in slice indexing.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.width(), "length of a row");
        let bytes = self.tokens.bytes_of(row);
        let Some(scales) = &self.scales else { return f32::decode(bytes, out) };
        let mut factors = vec![0.0; self.record.count()];
        scales.copy_row(row, &mut factors);
        let dim = self.record.dim;
        for ((token, out), scale) in bytes.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).zip(factors) {
            for (value, byte) in out.iter_mut().zip(token) {
                *value = f32::from(i8::from_le_bytes([*byte])) * scale;
            }
        }
    }

    /// Copies rows in the given order into `out`, `[rows.len(), rows, columns, dim]`.
    ///
    /// # Panics
    /// If a row is not below [`Self::rows`].
    pub fn copy_rows(&self, rows: impl IntoIterator<Item = usize>, out: &mut [f32]) {
        for (row, out) in rows.into_iter().zip(out.chunks_exact_mut(self.width())) {
            self.copy_row(row, out);
        }
    }
}
