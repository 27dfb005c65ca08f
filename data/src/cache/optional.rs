//! Optional columns of a cache, in addition to views and embeddings.
//!
//! ```text
//! features    a column of views-*.parquet       the teacher's pooled feature before its last activation (KDEP)
//! tokens      tokens-*.parquet                  the teacher's patch tokens (H-GKD), see `tokens`
//! captions    captions-*.parquet                one text embedding per sample, see `captions`
//! ```
//!
//! Tokens, captions and stored views have their own files, which are verified when the column is opened. A copied cache
//! may omit them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CacheManifest, ShardEntry};
use crate::error::ArtifactError;
use crate::manifest::{ContentHash, FileEntry};

/// Name of the feature column: f16 `[F]`, not normalized.
pub(super) const FEATURES: &str = "features";

/// A column stored in its own files.
pub(super) struct ColumnFiles {
    /// Description of the column for error messages.
    what: &'static str,
    /// Hint for the error that a file is missing.
    hint: &'static str,
    of_shard: fn(&ShardEntry) -> Option<&FileEntry>,
    of_cache: fn(&CacheManifest) -> Option<&FileEntry>,
}

/// Pixels of the stored views.
pub(super) const STORED_VIEWS: ColumnFiles = ColumnFiles {
    what: "the cache's stored views",
    hint: "only training without the images needs them: give the images and ignore the stored views, copy the file too, \
           or extract again",
    of_shard: |shard| shard.pixels.as_ref(),
    of_cache: |_| None,
};

/// Patch tokens and their projection.
pub(super) const TOKENS: ColumnFiles = ColumnFiles {
    what: "the cache's tokens",
    hint: "only the objective hgkd needs them: copy the file too, or extract again",
    of_shard: |shard| shard.tokens.as_ref(),
    of_cache: |cache| cache.token_projection.as_ref().map(|projection| &projection.file),
};

/// Text embeddings of the captions.
pub(super) const CAPTIONS: ColumnFiles = ColumnFiles {
    what: "the cache's captions",
    hint: "only the objective caption needs them: copy the file too, or extract again",
    of_shard: |shard| shard.captions.as_ref(),
    of_cache: |_| None,
};

/// All columns stored in their own files.
pub(super) const COLUMNS: [ColumnFiles; 3] = [STORED_VIEWS, TOKENS, CAPTIONS];

impl ColumnFiles {
    /// The files of this column, one per shard.
    pub(super) fn of_shards<'a>(&self, cache: &'a CacheManifest) -> impl Iterator<Item = &'a FileEntry> {
        cache.shards.iter().filter_map(self.of_shard)
    }

    /// Verifies all files of this column with `verify`: one per shard, and the one that all shards share, if there is one.
    /// Returns what it returned for those of the shards.
    pub(super) fn verify<T>(
        &self,
        cache: &CacheManifest,
        verify: impl Fn(&FileEntry) -> Result<T, ArtifactError>,
    ) -> Result<Vec<T>, ArtifactError> {
        let shards = self.of_shards(cache).map(&verify).collect::<Result<Vec<_>, _>>();
        let shared = (self.of_cache)(cache).map(&verify).transpose();
        shards.and_then(|shards| shared.map(|_| shards)).map_err(|error| match error {
            ArtifactError::Missing { path, .. } => {
                ArtifactError::Missing { path, what: self.what, hint: self.hint }
            }
            error => error,
        })
    }
}

/// How a cache stores pooled features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRecord {
    /// Name of the model output.
    pub output: String,
    /// Feature width F.
    pub dim: usize,
}

/// Encoding of stored tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenEncoding {
    /// Standardized, f16.
    F16,
    /// Standardized, i8 with one f16 scale per token.
    Int8,
    /// Standardized, then projected onto their principal axes, f16.
    Projected,
}

/// How a cache stores tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Name of the model output.
    pub output: String,
    /// Rows of the token grid.
    pub rows: usize,
    /// Columns of the token grid.
    pub columns: usize,
    /// Width of a token in the teacher's output; tokens are standardized over this width.
    pub teacher_dim: usize,
    /// Width of a stored token: `teacher_dim` unless projected.
    pub dim: usize,
    /// Encoding of the stored tokens.
    pub encoding: TokenEncoding,
    /// Number of views that the projection is fitted to, if tokens are projected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit_views: Option<usize>,
}

impl TokenRecord {
    /// Number of tokens per view.
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Number of values per view, rows x columns x dim.
    pub fn width(&self) -> usize {
        self.count() * self.dim
    }

    /// Bytes on disk of one view's tokens, including scales.
    pub fn row_bytes(&self) -> usize {
        match self.encoding {
            TokenEncoding::F16 | TokenEncoding::Projected => 2 * self.width(),
            TokenEncoding::Int8 => self.width() + 2 * self.count(),
        }
    }

    /// Describes the first invalid number.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let projected = self.encoding == TokenEncoding::Projected;
        // Times 2, the number of bytes per f16 value.
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

/// How a cache stores captions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptionRecord {
    /// Embedding width.
    pub dim: usize,
    /// Hash of the text encoder that produced the embeddings; `None` if the source supplied embeddings.
    pub text_encoder: Option<ContentHash>,
}

/// The token projection, as the cache's manifest lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionEntry {
    /// Entry of `tokens.safetensors`.
    pub file: FileEntry,
    /// Share of the variance that the projection keeps, measured on the views that it was fitted to.
    pub explained: f64,
}
