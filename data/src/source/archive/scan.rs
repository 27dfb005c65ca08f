//! What one TAR archive holds, from its headers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, Entry, EntryType};

use super::super::{Rejected, SourceError};
use super::ArchiveProblem;

/// How names of images end. Other members are passed over: archives hold labels, captions and indexes beside images.
const IMAGES: [&str; 12] =
    ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm"];

/// Longest label and caption that are read, bytes.
const LABEL_BYTES: u64 = 64;
const CAPTION_BYTES: u64 = 1 << 20;

/// An image and its place in the archive.
#[derive(Debug)]
pub(super) struct Image {
    /// The member's name, without a leading `./`.
    pub name: String,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// What stands beside an image, as in WebDataset.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// `.cls`: a class number.
    pub label: Option<u32>,
    /// `.txt`: a caption; empty where it was not read.
    pub caption: Option<Vec<u8>>,
}

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// In the archive's order.
    pub images: Vec<Image>,
    /// By [`stem`].
    pub beside: HashMap<String, Beside>,
    /// What looks like an image and cannot be read as one.
    pub rejected: Vec<Rejected>,
}

/// Whether a name ends as an image's does.
pub(super) fn is_image(name: &str) -> bool {
    IMAGES.contains(&&*extension(name))
}

/// What follows the last dot of a name, in small letters.
fn extension(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
}

/// The name of a member up to the first dot of its last part: what WebDataset's files of one sample share.
pub(super) fn stem(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[file..].find('.').map_or(name.len(), |dot| file + dot);
    &name[..end]
}

/// Reads the headers of the archive at `path`, and what stands beside images; texts where `captions` says so.
pub(super) fn scan(path: &Path, captions: bool) -> Result<Scan, SourceError> {
    let io = |error| SourceError::archive_io(path, error);
    let wrong = |problem| SourceError::Archive { path: path.to_owned(), problem };
    // An error without a number of the system's is the parser's.
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(_) => io(error),
        None => wrong(ArchiveProblem::Syntax(error.to_string())),
    };
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let mut archive = Archive::new(file);
    let (mut found, mut names) = (Scan::default(), HashSet::new());
    for entry in archive.entries_with_seek().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let Some(name) = found.name(&entry) else { continue };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let end = offset.saturating_add(size);
        if end > len {
            return Err(wrong(ArchiveProblem::Cut { member: name, end, len }));
        }
        let kind = entry.header().entry_type();
        match &*extension(&name) {
            _ if is_image(&name) => {
                if let Some(detail) = unreadable(kind) {
                    found.rejected.push(Rejected {
                        key: name,
                        reason: "not-a-file",
                        detail: detail.to_owned(),
                    });
                } else if names.insert(name.clone()) {
                    found.images.push(Image { name, offset, size });
                } else {
                    return Err(wrong(ArchiveProblem::Duplicate { member: name }));
                }
            }
            "cls" if kind.is_file() => {
                let text = text(&mut entry, LABEL_BYTES).map_err(failed)?;
                let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
                let label = number.ok_or_else(|| {
                    let got = String::from_utf8_lossy(&text).into_owned();
                    wrong(ArchiveProblem::Label { member: name.clone(), got })
                })?;
                found.beside.entry(stem(&name).to_owned()).or_default().label = Some(label);
            }
            "txt" if kind.is_file() => {
                let text =
                    if captions { text(&mut entry, CAPTION_BYTES).map_err(failed)? } else { Vec::new() };
                found.beside.entry(stem(&name).to_owned()).or_default().caption = Some(text);
            }
            _ => {}
        }
    }
    Ok(found)
}

impl Scan {
    /// The name of a member that is not hidden; an image whose name is not UTF-8 is rejected.
    fn name(&mut self, entry: &Entry<'_, File>) -> Option<String> {
        let bytes = entry.path_bytes();
        let name = String::from_utf8_lossy(&bytes);
        let shown = name.trim_start_matches("./").trim_start_matches('/');
        if shown.is_empty() || shown.split('/').any(|part| part.starts_with('.')) {
            return None;
        }
        if std::str::from_utf8(&bytes).is_ok() {
            return Some(shown.to_owned());
        }
        if is_image(shown) {
            let (key, detail) = (shown.to_owned(), "the name is not UTF-8".to_owned());
            self.rejected.push(Rejected { key, reason: "not-utf8", detail });
        }
        None
    }
}

/// Why a member with an image's name is none that can be read in place.
fn unreadable(kind: EntryType) -> Option<&'static str> {
    match kind {
        EntryType::Regular | EntryType::Continuous => None,
        EntryType::Link | EntryType::Symlink => Some("a link in an archive"),
        EntryType::GNUSparse => Some("a file with holes in an archive"),
        _ => Some("neither a file nor a folder"),
    }
}

/// The first `most` bytes of a member.
fn text(entry: &mut Entry<'_, File>, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(most).read_to_end(&mut text)?;
    Ok(text)
}
