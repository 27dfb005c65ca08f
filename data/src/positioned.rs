//! Reads a file at an offset, from any number of threads at once.
//!
//! This is faster than a memory map for distant rows in files far larger than memory. A read requests exactly one row,
//! and the process holds only what it has read. A map fetches the pages around every missing page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fills `out` with the bytes that start at `offset`.
///
/// # Errors
/// The system's error; [`io::ErrorKind::UnexpectedEof`] if the file is too short.
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(out, offset)
}
