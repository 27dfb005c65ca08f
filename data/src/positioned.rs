//! Reading a file at an offset, from any number of threads at once.
//!
//! For rows far apart in files far larger than memory this beats a memory map: a row is one request of its own size, where a
//! map fetches the pages around every page that is missing, and the process holds no more than it has asked for.

use std::fs::File;
use std::io;

/// Fills `out` from `offset` on.
///
/// # Errors
/// The system's, [`io::ErrorKind::UnexpectedEof`] where the file ends first.
#[cfg(unix)]
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Fills `out` from `offset` on.
///
/// # Errors
/// The system's, [`io::ErrorKind::UnexpectedEof`] where the file ends first.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                offset += u64::try_from(read).unwrap_or(u64::MAX);
                out = &mut out[read..];
            }
        }
    }
    Ok(())
}
