//! What the name of a file says about it.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// How names of images end.
const IMAGES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm"];

/// How names of files end that tell about images and are left aside, in silence.
const INDEXES: [&str; 11] =
    ["json", "jsonl", "txt", "csv", "tsv", "parquet", "yaml", "yml", "md", "py", "crc"];

/// Whether a name ends as an image's does.
pub(super) fn is_image(name: &str) -> bool {
    IMAGES.contains(&&*extension(name))
}

/// Whether a name is that of a file about images, or of a mark that a query engine leaves, as `_SUCCESS`.
pub(super) fn is_index(name: &str) -> bool {
    let extension = extension(name);
    INDEXES.contains(&&*extension) || (name.starts_with('_') && extension.is_empty())
}

/// What follows the last dot of a name, in small letters.
pub(super) fn extension(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
}

/// The name of the file at `path`, with replacement characters where it is not UTF-8.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files of a folder whose names `belongs` picks, in bytewise order, where the folder is a set of such: besides it holds at most
/// files about them. Empty for any other folder.
pub(super) fn set_of(folder: &Path, belongs: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with('.') {
            continue;
        }
        // Whether a link leads anywhere is found out when it is opened: what is missing must not go unnoticed.
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

/// In a folder without images where files whose names `belongs` picks stand, or in one of its folders: what stands there too. `None` for
/// other folders.
pub(super) fn among_no_images(folder: &Path, belongs: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
    let (mut found, mut other) = (false, None);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            // One that cannot be read is told of where folders are listed.
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
