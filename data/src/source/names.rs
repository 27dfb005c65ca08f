//! Recognizes images, archives and other files by name.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// File extensions of images.
const IMAGES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm"];

/// File extensions of metadata about images, which is skipped without a message.
const INDEXES: [&str; 11] =
    ["json", "jsonl", "txt", "csv", "tsv", "parquet", "yaml", "yml", "md", "py", "crc"];

/// Whether `name` has the extension of an image.
pub(super) fn is_image(name: &str) -> bool {
    IMAGES.contains(&&*extension(name))
}

/// Whether `name` is that of a metadata file, or a marker of a query engine such as `_SUCCESS`.
pub(super) fn is_index(name: &str) -> bool {
    let extension = extension(name);
    INDEXES.contains(&&*extension) || (name.starts_with('_') && extension.is_empty())
}

/// The extension of `name` in lower case, without the dot.
pub(super) fn extension(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
}

/// The file name of `path`. Bytes that are not UTF-8 are replaced.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files of a folder whose names `belongs` selects, in bytewise order, if all other files in the folder are
/// metadata. Empty for any other folder.
pub(super) fn set_of(folder: &Path, belongs: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with('.') {
            continue;
        }
        // A dangling link is kept. Opening it fails, so the missing file is detected.
        if path.is_dir() || is_image(&name) {
            return Ok(Vec::new());
        } else if belongs(&name) {
            files.push(path);
        } else if !is_index(&name) {
            return Ok(Vec::new());
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Describes other contents of a folder that holds no images but files that `belongs` selects, directly or one level
/// down. `None` for any other folder.
pub(super) fn among_no_images(folder: &Path, belongs: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
    let (mut found, mut other) = (false, None);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            // A folder that cannot be read is reported later, when folders are listed.
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let name = file_name(&entry.path());
                found |= belongs(&name);
                if is_image(&name) {
                    return Ok(None);
                }
            }
            other = Some(format!("the folder {name}"));
        } else if is_image(&name) {
            return Ok(None);
        } else {
            found |= belongs(&name);
            if !belongs(&name) && !is_index(&name) {
                other.get_or_insert(name);
            }
        }
    }
    Ok(other.filter(|_| found))
}
