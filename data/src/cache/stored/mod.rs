//! Stored views: the rendered pixels of every view. Training on stored views opens no images.
//!
//! ```text
//! cache/pixels-00000.parquet   row for row with views-00000.parquet; only in a cache that stores its views
//!     check: u64               first 64 bits of the keyed BLAKE3 hash of shard u64, row in the shard u64, and the row's bytes;
//!                              all little-endian. The key is `row_key` of the cache's configuration
//!     raw:   pixels            fixed-size binary, RGB8 [S, S, 3]
//!     jpeg:  length: u32       bytes of the file
//!            jpeg: binary      a baseline JPEG of S x S pixels, full chroma resolution
//! ```
//!
//! The wide column is written PLAIN, uncompressed and required. A row is then a slice of the file at an offset that
//! follows from the footer (see [`crate::column`]), and a reader copies it straight into the batch. The files can be
//! far larger than memory, so training does not hash them before it starts. Instead, every row is compared with its
//! check when it is read. A row of another cache, shard or position does not pass. Caches of format versions 1 and 2 have no
//! key; their check is that of the bytes alone, so their files are hashed before use. `lgd verify` hashes these files like any other.

mod reader;
mod writer;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::{RgbImage, encode_jpeg};
use crate::manifest::ContentHash;
use crate::render::{MAX_SIZE, RenderError, rendered_bytes};

pub use reader::StoredViews;
pub(super) use writer::PixelWriter;

/// Column names.
const CHECK: &str = "check";
const LENGTH: &str = "length";
const PIXELS: &str = "pixels";
const JPEG: &str = "jpeg";

/// Encoding of a stored view's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "encoding", rename_all = "lowercase")]
pub enum Encoding {
    /// Raw pixels. Training on them is bit-identical to training on the images.
    Raw,
    /// JPEG: about a tenth of the size, but the student's pixels differ slightly from the teacher's.
    Jpeg {
        /// libjpeg quality, 1 to 100.
        quality: u8,
    },
}

/// Size and encoding of a cache's stored views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFormat {
    /// Side of the square view in pixels: the student's input size, which may differ from the teacher's.
    pub size: u32,
    /// Encoding of the pixels.
    #[serde(flatten)]
    pub encoding: Encoding,
}

impl fmt::Display for StoredFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.encoding {
            Encoding::Raw => write!(f, "raw, {} px", self.size),
            Encoding::Jpeg { quality } => write!(f, "JPEG of quality {quality}, {} px", self.size),
        }
    }
}

impl StoredFormat {
    /// Bytes of a view's pixels before encoding, S x S x 3.
    ///
    /// # Errors
    /// [`RenderError::Size`] if the side is 0 or above [`crate::render::MAX_SIZE`].
    pub fn pixel_bytes(&self) -> Result<usize, RenderError> {
        rendered_bytes(self.size)
    }

    /// Bytes of a stored view, if all views have the same size.
    pub fn fixed_bytes(&self) -> Option<usize> {
        self.pixel_bytes().ok().filter(|_| self.encoding == Encoding::Raw)
    }

    /// Encodes a view that was rendered at [`Self::size`].
    ///
    /// # Errors
    /// [`RenderError::Length`] if the view was rendered at another size; [`RenderError::Encode`].
    pub fn encode(&self, view: RgbImage) -> Result<Vec<u8>, RenderError> {
        if (view.width(), view.height()) != (self.size, self.size) {
            return Err(RenderError::Length { expected: self.pixel_bytes()?, got: view.pixels().len() });
        }
        match self.encoding {
            Encoding::Raw => Ok(view.into_pixels()),
            Encoding::Jpeg { quality } => Ok(encode_jpeg(&view, quality)?),
        }
    }

    /// Describes the first invalid number.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match self.encoding {
            _ if !(1..=MAX_SIZE).contains(&self.size) => Some("stored views of an impossible size"),
            Encoding::Jpeg { quality } if !(1..=100).contains(&quality) => Some("an impossible JPEG quality"),
            _ => None,
        }
    }
}

/// Computes the checks of a shard's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowChecks {
    /// The cache's `row_key`; `None` before format version 3.
    key: Option<ContentHash>,
    shard: usize,
}

impl RowChecks {
    pub(super) fn new(key: Option<ContentHash>, shard: usize) -> Self {
        Self { key, shard }
    }

    /// The check of row `row` of the shard with content `bytes`.
    fn of(self, row: usize, bytes: &[u8]) -> u64 {
        let hash = match self.key {
            None => blake3::hash(bytes),
            Some(key) => {
                let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
                for number in [self.shard, row] {
                    hasher.update(&u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes());
                }
                hasher.update(bytes).finalize()
            }
        };
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}
