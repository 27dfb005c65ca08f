//! Scans one TAR archive: reads the headers of its members.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use tar::{Archive, Entry, EntryType};

use super::super::Rejected;
use super::super::names::{is_image, is_index};
use super::{ArchiveError, ArchiveProblem};

/// Maximum size of a label and of a caption, in bytes.
const LABEL_BYTES: u64 = 64;
const CAPTION_BYTES: u64 = 1 << 20;

/// Position of a member's bytes in the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Offset of the first byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// The label and the caption beside an image, as in WebDataset.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Class number from the `.cls` file.
    pub label: Option<u32>,
    /// Caption from the `.txt` file; empty if captions are not read.
    pub caption: Option<Vec<u8>>,
}

/// The contents of an archive.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Names and positions of the images, in archive order.
    pub images: Vec<(String, Extent)>,
    /// Labels and captions, keyed by [`stem`].
    pub beside: HashMap<String, Beside>,
    /// Folders that have a member of their own, with a trailing slash; an empty name for a folder that was packed as
    /// `.`.
    pub folders: BTreeSet<String>,
    /// Members with an image file name that cannot be read as images, with their full names.
    pub rejected: Vec<Rejected>,
    /// Number of members of unknown kind, and the name of the first.
    pub unknown: Option<(usize, String)>,
}

/// The path of a member up to the first dot of its file name. In WebDataset, the files of a sample share this stem.
pub(super) fn stem(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[file..].find('.').map_or(name.len(), |dot| file + dot);
    &name[..end]
}

/// Reads the member headers of the archive at `path` and the labels beside images. Also reads captions if `captions` is
/// set.
///
/// # Errors
/// [`ArchiveError`] if the archive cannot be read or is damaged.
pub(super) fn scan(path: &Path, captions: bool) -> Result<Scan, ArchiveError> {
    let io = |error| ArchiveError::io(path, error);
    let wrong = |problem| ArchiveError::unusable(path, problem);
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let mut archive = Archive::new(file);
    let mut members = Members { found: Scan::default(), extents: HashMap::new(), captions };
    let mut sound = false;
    // Errors without an OS error number come from the TAR parser.
    let failed = |error: io::Error, sound: bool| match error.raw_os_error() {
        Some(_) => io(error),
        None if sound => wrong(ArchiveProblem::Damaged(error)),
        None => wrong(ArchiveProblem::Syntax(error)),
    };
    for entry in archive.entries_with_seek().map_err(|error| failed(error, sound))? {
        let mut entry = entry.map_err(|error| failed(error, sound))?;
        sound = true;
        let end = entry.raw_file_position().saturating_add(entry.size());
        // The size of a sparse file includes its holes, which the archive does not store.
        if end > len && entry.header().entry_type() != EntryType::GNUSparse {
            let member = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(wrong(ArchiveProblem::Cut { member, end, len }));
        }
        members.add(&mut entry).map_err(|error| failed(error, sound))?.map_err(wrong)?;
    }
    require_end(archive.into_inner(), len).map_err(io)?.map_err(wrong)?;
    Ok(members.found)
}

/// Checks that an archive of `len` bytes, read up to the position of `file`, ends with its end mark and that nothing
/// follows. Without this check, a file truncated between two members, or several concatenated archives, would look like
/// one complete archive.
fn require_end(mut file: File, len: u64) -> io::Result<Result<(), ArchiveProblem>> {
    let mut at = file.stream_position()?;
    if at >= len {
        return Ok(Err(ArchiveProblem::NoEnd { len }));
    }
    let mut block = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut block)?;
        match block[..read].iter().zip(at..).find(|(byte, _)| **byte != 0) {
            Some((_, at)) => return Ok(Err(ArchiveProblem::Trailing { at })),
            None if read == 0 => return Ok(Ok(())),
            None => at += u64::try_from(read).unwrap_or(u64::MAX),
        }
    }
}

/// Collects the members of an archive.
struct Members {
    found: Scan,
    /// Position of each image, keyed by name.
    extents: HashMap<String, Extent>,
    captions: bool,
}

impl Members {
    /// Adds a member to the contents.
    fn add(&mut self, entry: &mut Entry<'_, File>) -> io::Result<Result<(), ArchiveProblem>> {
        let Some(name) = self.name(&entry.path_bytes()) else { return Ok(Ok(())) };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            self.found.folders.insert(if name.is_empty() { name } else { name + "/" });
            return Ok(Ok(()));
        }
        if is_image(&name) {
            let extent = match self.extent(entry)? {
                Ok(extent) => extent,
                Err(detail) => {
                    let detail = detail.to_owned();
                    self.found.rejected.push(Rejected { key: name, reason: "not-a-file", detail });
                    return Ok(Ok(()));
                }
            };
            if self.extents.insert(name.clone(), extent).is_some() {
                return Ok(Err(ArchiveProblem::Duplicate { member: name }));
            }
            self.found.images.push((name, extent));
            return Ok(Ok(()));
        }
        let stem = stem(&name);
        let what = &name[stem.len()..];
        if !kind.is_file() || !matches!(what, ".cls" | ".txt") {
            if !is_index(&name) {
                self.found.unknown.get_or_insert((0, name)).0 += 1;
            }
            return Ok(Ok(()));
        }
        let beside = self.found.beside.entry(stem.to_owned()).or_default();
        let again = if what == ".cls" {
            let text = text(entry, LABEL_BYTES)?;
            match std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()) {
                Some(label) => beside.label.replace(label).is_some(),
                None => {
                    let got = String::from_utf8_lossy(&text).into_owned();
                    return Ok(Err(ArchiveProblem::Label { member: name, got }));
                }
            }
        } else {
            let text = if self.captions { text(entry, CAPTION_BYTES)? } else { Vec::new() };
            beside.caption.replace(text).is_some()
        };
        Ok(if again { Err(ArchiveProblem::Duplicate { member: name }) } else { Ok(()) })
    }

    /// The path of a member without empty and `.` components; `None` if it is hidden. An image whose name is not UTF-8
    /// is rejected.
    fn name(&mut self, bytes: &[u8]) -> Option<String> {
        let shown = String::from_utf8_lossy(bytes);
        let parts: Vec<&str> = shown.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.iter().any(|part| part.starts_with('.') && *part != "..") {
            return None;
        }
        let name = parts.join("/");
        if std::str::from_utf8(bytes).is_ok() {
            return Some(name);
        }
        if is_image(&name) {
            let detail = "the name is not UTF-8".to_owned();
            self.found.rejected.push(Rejected { key: name, reason: "not-utf8", detail });
        }
        None
    }

    /// The position of an image's bytes, or the reason that they cannot be read in place. A hard link has the position
    /// of its target, an earlier member.
    fn extent(&mut self, entry: &mut Entry<'_, File>) -> io::Result<Result<Extent, &'static str>> {
        let extent = Extent { offset: entry.raw_file_position(), size: entry.size() };
        Ok(match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous if has_holes(entry)? => Err(HOLES),
            EntryType::Regular | EntryType::Continuous => Ok(extent),
            EntryType::Link => {
                let target = entry.link_name_bytes().and_then(|target| self.name(&target));
                let target = target.and_then(|target| self.extents.get(&target)).copied();
                target.ok_or("a hard link to what is no image of the archive before it")
            }
            EntryType::Symlink => Err("a symbolic link in an archive"),
            EntryType::GNUSparse => Err(HOLES),
            _ => Err("neither a file nor a folder"),
        })
    }
}

const HOLES: &str = "a file with holes in an archive";

/// Whether a member is a sparse file as `tar --format=posix` writes it. Its bytes begin with a map of the holes.
fn has_holes(entry: &mut Entry<'_, File>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the first `most + 1` bytes of a member, without a byte order mark.
fn text(entry: &mut Entry<'_, File>, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(most + 1).read_to_end(&mut text)?;
    Ok(match text.strip_prefix("\u{feff}".as_bytes()) {
        Some(rest) => rest.to_vec(),
        None => text,
    })
}

/// Returns the trimmed caption, or the reason that there is none.
pub(super) fn caption(bytes: Option<&[u8]>) -> Result<&str, &'static str> {
    let bytes = bytes.ok_or("no .txt stands beside it")?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > CAPTION_BYTES) {
        return Err("its caption is longer than 1 MiB");
    }
    match std::str::from_utf8(bytes).map(str::trim) {
        Err(_) => Err("its caption is not UTF-8"),
        Ok("") => Err("its caption is empty"),
        Ok(text) => Ok(text),
    }
}
