//! Optional columns of a cache, besides views and embeddings.
//!
//! ```text
//! features    a column of views-*.parquet       the teacher's pooled feature before its last activation (KDEP)
//! tokens      tokens-*.parquet                  the teacher's patch tokens (H-GKD), see `tokens`
//! captions    captions-*.parquet                one text embedding per sample, see `captions`
//! ```
//!
//! Tokens, captions and stored views have files of their own, which are verified when the column is opened. A copied cache may omit
//! them.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CacheManifest, ShardEntry};
use crate::error::ArtifactError;
use crate::manifest::{ContentHash, FileEntry, Verify};

/// Name of the column of features, f16 `[F]`, as the model gives them.
pub(super) const FEATURES: &str = "features";

/// A column with files of its own.
pub(super) struct ColumnFiles {
    /// Contents, for errors.
    what: &'static str,
    /// Hint for a missing file.
    hint: &'static str,
    of_shard: fn(&ShardEntry) -> Option<&FileEntry>,
    of_cache: fn(&CacheManifest) -> Option<&FileEntry>,
}

/// The pixels of stored views.
pub(super) const STORED_VIEWS: ColumnFiles = ColumnFiles {
    what: "the cache's stored views",
    hint: "only training without the images needs them: give --images and --ignore-stored-views, copy the file too, or \
           extract again with --overwrite",
    of_shard: |shard| shard.pixels.as_ref(),
    of_cache: |_| None,
};

/// Patch tokens and their projection.
pub(super) const TOKENS: ColumnFiles = ColumnFiles {
    what: "the cache's tokens",
    hint: "only the objective hgkd needs them: copy the file too, or extract again with --overwrite",
    of_shard: |shard| shard.tokens.as_ref(),
    of_cache: |cache| cache.token_projection.as_ref().map(|projection| &projection.file),
};

/// Captions.
pub(super) const CAPTIONS: ColumnFiles = ColumnFiles {
    what: "the cache's captions",
    hint: "only the objective caption needs them: copy the file too, or extract again with --overwrite",
    of_shard: |shard| shard.captions.as_ref(),
    of_cache: |_| None,
};

/// All of them.
pub(super) const COLUMNS: [ColumnFiles; 3] = [STORED_VIEWS, TOKENS, CAPTIONS];

impl ColumnFiles {
    /// The file of every shard.
    pub(super) fn of_shards<'a>(&self, cache: &'a CacheManifest) -> impl Iterator<Item = &'a FileEntry> {
        cache.shards.iter().filter_map(self.of_shard)
    }

    /// Verifies all files in `dir`: those of the shards and that of the cache.
    pub(super) fn verify(
        &self,
        dir: &Path,
        cache: &CacheManifest,
        depth: Verify,
    ) -> Result<(), ArtifactError> {
        let mut files = self.of_shards(cache).chain((self.of_cache)(cache));
        files.try_for_each(|file| file.verify(dir, depth)).map_err(|error| match error {
            ArtifactError::Missing { path, .. } => {
                ArtifactError::Missing { path, what: self.what, hint: self.hint }
            }
            error => error,
        })
    }
}

/// The pooled features of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRecord {
    /// Name of the model's output.
    pub output: String,
    /// Width F.
    pub dim: usize,
}

/// How a cache's tokens are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenEncoding {
    /// Standardized, f16.
    F16,
    /// Standardized, i8 with one f16 scale per token.
    Int8,
    /// Standardized, then projected on their principal axes, f16.
    Projected,
}

/// The tokens of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Name of the model's output.
    pub output: String,
    /// Rows of the grid of tokens.
    pub rows: usize,
    /// Columns of the grid of tokens.
    pub columns: usize,
    /// Width of a token as the teacher gives it, over which it is standardized.
    pub teacher_dim: usize,
    /// Width of a token as it is stored: the teacher's unless projected.
    pub dim: usize,
    /// How it is stored.
    pub encoding: TokenEncoding,
    /// Views that the projection is fitted to, if tokens are projected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit_views: Option<usize>,
}

impl TokenRecord {
    /// Tokens of a view.
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Values of a view, rows x columns x dim.
    pub fn width(&self) -> usize {
        self.count() * self.dim
    }

    /// Bytes of a view's tokens on disk, scales included.
    pub fn row_bytes(&self) -> usize {
        match self.encoding {
            TokenEncoding::F16 | TokenEncoding::Projected => 2 * self.width(),
            TokenEncoding::Int8 => self.width() + 2 * self.count(),
        }
    }

    /// Describes the first number that no cache can have.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let projected = self.encoding == TokenEncoding::Projected;
        // Twice the width, because an f16 row is that many bytes.
        let bytes =
            [self.columns, self.dim, 2].iter().try_fold(self.rows, |product, &n| product.checked_mul(n));
        match bytes {
            _ if self.rows == 0 || self.columns == 0 => Some("a grid of tokens without rows or columns"),
            _ if self.dim == 0 => Some("tokens of width 0"),
            None => Some("tokens of an impossible size"),
            Some(bytes) if i32::try_from(bytes).is_err() => Some("tokens of an impossible size"),
            _ if projected && self.dim > self.teacher_dim => Some("tokens projected to more than they have"),
            _ if !projected && self.dim != self.teacher_dim => {
                Some("a projection that its tokens do not have")
            }
            _ if projected != self.fit_views.is_some() => {
                Some("views to fit a projection to without a projection")
            }
            _ => None,
        }
    }
}

impl fmt::Display for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, columns, dim, teacher_dim, .. } = self;
        match self.encoding {
            TokenEncoding::F16 => write!(f, "f16, {rows} x {columns} x {dim}"),
            TokenEncoding::Int8 => write!(f, "int8, {rows} x {columns} x {dim}"),
            TokenEncoding::Projected => write!(f, "f16, {rows} x {columns} x {dim} of {teacher_dim}"),
        }
    }
}

/// The captions of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptionRecord {
    /// Width of an embedding.
    pub dim: usize,
    /// Hash of the text encoder that made them; `None` if the list held ready embeddings.
    pub text_encoder: Option<ContentHash>,
}

/// The projection of a cache's tokens, as its manifest lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionEntry {
    /// `tokens.safetensors`.
    pub file: FileEntry,
    /// Share of the variance that it keeps, over the views it was fitted to.
    pub explained: f64,
}
