//! Recognizes git-lfs pointers: small text files that stand for large ones in a repository cloned without its content.

use std::io::Read;
use std::path::Path;

use lgd_data::ordinary;

use crate::error::ExtractError;

/// How every pointer begins.
const POINTER: &[u8] = b"version https://git-lfs";

/// Fails if the file at `path`, which begins with `bytes`, is a pointer.
pub(crate) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<(), ExtractError> {
    if !bytes.starts_with(POINTER) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new(".")).display().to_string();
    let reason = "this is a git-lfs pointer, not the file itself";
    Err(ExtractError::setting(
        path,
        reason,
        format!("run `git lfs pull` in {folder}, or download the file again"),
    ))
}

/// Fails if the file at `path` is a pointer. A file that cannot be read is none.
pub(crate) fn refuse_pointer_file(path: &Path) -> Result<(), ExtractError> {
    let mut bytes = Vec::new();
    let read = ordinary::open(path).and_then(|file| file.take(64).read_to_end(&mut bytes));
    if read.is_ok() { refuse_pointer(path, &bytes) } else { Ok(()) }
}
