//! Stored views: the rendered pixels of every view. Training on stored views opens no images.
//!
//! ```text
//! cache/pixels-00000.parquet   row for row with views-00000.parquet; only in a cache that stores its views
//!     check: u64               first 64 bits of the BLAKE3 hash of the row's bytes, little-endian
//!     raw:   pixels            fixed-size binary, RGB8 [S, S, 3]
//!     jpeg:  length: u32       bytes of the file
//!            jpeg: binary      a baseline JPEG of S x S pixels, full chroma resolution
//! ```
//!
//! The wide column is written PLAIN, uncompressed and required. A row is then a slice of the file at an offset that
//! follows from the footer (see [`crate::column`]), and a reader copies it straight into the batch. The files can be
//! far larger than memory, so training does not hash them before it starts. Instead, every row is compared with its
//! check when it is read. `lgd verify` hashes these files like any other.

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

/// The check of a row: the first 64 bits of the hash of its bytes.
fn check_of(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *ContentHash::of(bytes).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
