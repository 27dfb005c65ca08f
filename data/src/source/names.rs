//! Recognizes images, archives and other files by name.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{SourceError, clutter};

/// File extensions of images.
const IMAGES: [&str; 34] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "dib", "tif", "tiff", "pnm", "ppm",
    "pgm", "pbm", "pam", "img", "image", "avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "jpx", "ico",
    "tga", "dds", "exr", "hdr", "qoi", "psd",
];

/// Extensions of files that often lie beside images: metadata, texts, programs, arrays. They are never images.
const INDEXES: [&str; 41] = [
    "json",
    "jsn",
    "jsonl",
    "txt",
    "text",
    "transcript",
    "caption",
    "cls",
    "class",
    "csv",
    "tsv",
    "parquet",
    "yaml",
    "yml",
    "md",
    "rst",
    "html",
    "htm",
    "xml",
    "pdf",
    "doc",
    "toml",
    "ini",
    "cfg",
    "py",
    "ipynb",
    "sh",
    "crc",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "asc",
    "idx",
    "index",
    "log",
    "lock",
    "bib",
    "cff",
    "download",
    "aria2",
];

/// Names of files that describe a data set, before their extension.
const ABOUT: [&str; 11] = [
    "license",
    "licence",
    "readme",
    "notice",
    "copying",
    "changelog",
    "citation",
    "authors",
    "checksums",
    "md5sums",
    "sha256sums",
];

/// Whether `name` has the extension of an image.
pub(super) fn is_image(name: &str) -> bool {
    IMAGES.contains(&&*extension(name))
}

/// Whether `name` is that of a file about images: metadata, a license, or a marker of a query engine such as `_SUCCESS`.
pub(super) fn is_index(name: &str) -> bool {
    let extension = extension(name);
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    INDEXES.contains(&&*extension)
        || (file.starts_with('_') && extension.is_empty())
        || (!is_image(name) && is_about(&file))
}

/// Whether `name` is that of a file that describes a data set, such as `LICENSE.txt`.
pub(super) fn is_about(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    ABOUT.contains(&file.split(['.', '-', '_']).next().unwrap_or(&file))
}

/// Whether a column is called by one of the words, ignoring case, blanks, `_` and `-`.
pub(super) fn is_one_of(name: &[u8], words: &[&str]) -> bool {
    let letters = name.iter().filter(|byte| !matches!(byte, b' ' | b'_' | b'-'));
    let word: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
    words.iter().any(|name| name.as_bytes() == word)
}

/// The extension of `name` in lower case, without the dot.
pub(super) fn extension(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
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
        if clutter::kind(&name).is_some() {
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
        if clutter::kind(&name).is_some() {
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

/// Whether a folder holds a file with an image's name, at most three folders down.
///
/// # Errors
/// [`SourceError::Unlisted`] for a folder that cannot be read.
pub(super) fn holds_images(folder: &Path) -> Result<bool, SourceError> {
    fn within(folder: &Path, depth: usize) -> Result<bool, SourceError> {
        let unlisted = |source| SourceError::Unlisted { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(unlisted)? {
            let path = entry.map_err(unlisted)?.path();
            let name = file_name(&path);
            let found = match path.is_dir() {
                _ if clutter::kind(&name).is_some() => false,
                true => depth > 0 && within(&path, depth - 1)?,
                false => is_image(&name),
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
    within(folder, 3)
}

/// The paths below the deepest folder that holds all of them, joined by `/`: the file names of files in one folder.
pub(super) fn below_shared_folder(paths: &[PathBuf]) -> Vec<String> {
    let mut shared = paths.first().and_then(|path| path.parent()).map(Path::to_owned).unwrap_or_default();
    while !paths.iter().all(|path| path.parent().is_some_and(|folder| folder.starts_with(&shared)))
        && shared.pop()
    {}
    paths
        .iter()
        .map(|path| path.strip_prefix(&shared).unwrap_or(path).to_string_lossy().into_owned())
        .collect()
}
