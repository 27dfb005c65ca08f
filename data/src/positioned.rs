//! Reading a file at an offset, from any number of threads at once.
//!
//! For rows far apart in files far larger than memory this is faster than a memory map. A read requests exactly one row, and the
//! process holds no more than it has read; a map fetches the pages around every missing page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fills `out` with the bytes from `offset` on.
///
/// # Errors
/// The system's; [`io::ErrorKind::UnexpectedEof`] if the file ends first.
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(out, offset)
}
