//! Files that the scripts in `tests/goldens` wrote.

use std::fs;
use std::path::{Path, PathBuf};

use lgd_data::image::{DecodeLimits, RgbImage, decode};

/// Path of a golden.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// Content of a golden.
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

/// A golden that is an image.
pub fn image(name: &str) -> RgbImage {
    decode(&bytes(name), &DecodeLimits::default()).unwrap()
}
