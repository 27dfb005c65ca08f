//! Why bytes are not a usable image.

use super::MAX_SIDE;

/// Why bytes are not a usable image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the image has no bytes")]
    Empty,
    /// More bytes than the limit.
    #[error("the image has {bytes} bytes, more than the limit of {limit}")]
    TooManyBytes {
        /// Encoded size, in bytes.
        bytes: u64,
        /// Limit, in bytes.
        limit: u64,
    },
    /// More pixels than the limit, or more than a decoder can hold in the memory that the limit allows.
    #[error("the image has {width} x {height} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width in the header, in pixels.
        width: u32,
        /// Height in the header, in pixels.
        height: u32,
        /// Limit, in pixels.
        limit: u64,
    },
    /// A side is longer than [`MAX_SIDE`].
    #[error("the image has {width} x {height} pixels, with a side above the limit of {MAX_SIDE}")]
    SideTooLong {
        /// Width in the header, in pixels.
        width: u32,
        /// Height in the header, in pixels.
        height: u32,
    },
    /// The content is of no known format.
    #[error("the content is not JPEG, PNG, GIF, WebP, BMP, TIFF or PNM")]
    UnknownFormat,
    /// The content is known, and is no image.
    #[error("the content is {0}, not an image")]
    NotAnImage(&'static str),
    /// The content is a pointer of Git LFS.
    #[error("the content is a git-lfs pointer, not the image itself; run `git lfs pull` in its repository")]
    LfsPointer,
    /// An image of a format that is not read.
    #[error("the content is {0}, which is not supported; convert it to JPEG or PNG")]
    UnsupportedFormat(&'static str),
    /// The decoder does not support this variant of the format.
    #[error("unsupported variant of the format: {0}")]
    Unsupported(String),
    /// The data end before the image does.
    #[error("the data end before the image is complete")]
    Truncated,
    /// The data are damaged.
    #[error("corrupt image: {0}")]
    Corrupt(String),
    /// A side is 0 according to the header.
    #[error("the image has no pixels")]
    NoPixels,
}

impl DecodeError {
    /// Short, stable code for `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::TooManyPixels { .. } => "too-many-pixels",
            Self::SideTooLong { .. } => "side-too-long",
            Self::UnknownFormat | Self::NotAnImage(_) => "unknown-format",
            Self::LfsPointer => "git-lfs-pointer",
            Self::UnsupportedFormat(_) | Self::Unsupported(_) => "unsupported",
            Self::Truncated => "truncated",
            Self::Corrupt(_) => "corrupt",
            Self::NoPixels => "no-pixels",
        }
    }

    /// The error of an image whose data contradict themselves.
    pub(super) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::Corrupt(what.to_string())
    }

    /// The error of a variant that is not read.
    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}
