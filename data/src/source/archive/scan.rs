//! Scans one TAR archive: reads the headers of its members.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::super::assemble::Part;
use super::super::fields::{Added, Wanted};
use super::super::names::is_image;
use super::super::{Rejected, clutter};
use super::{ArchiveError, ArchiveProblem};
use crate::ordinary;

/// Size of a block of an archive, in bytes.
const BLOCK: u64 = 512;

/// Maximum size of a member's header, its name if that is long, and its attributes together, in bytes. The archive's reader
/// holds them in memory.
const HEADER_BYTES: u64 = 1 << 20;

/// An archive of which a bounded number of bytes is read at a time.
struct Headers {
    file: File,
    /// Number of bytes that may still be read; `None` for any number.
    left: Rc<Cell<Option<u64>>>,
}

impl Read for Headers {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left.get() else { return self.file.read(out) };
        if left == 0 && !out.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let read = self.file.read(&mut out[..most])?;
        self.left.set(Some(left.saturating_sub(read as u64)));
        Ok(read)
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Position of a member's bytes in the archive.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    /// Offset of the first byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// The contents of an archive.
type Scan = Part<Extent>;

/// Reads the member headers of the archive at `path`, and what is `wanted` of the files beside images.
///
/// # Errors
/// [`ArchiveError`] if the archive cannot be read or is damaged.
pub(super) fn scan(path: &Path, wanted: &Wanted) -> Result<Scan, ArchiveError> {
    let io = |error| ArchiveError::io(path, error);
    let wrong = |problem| ArchiveError::unusable(path, problem);
    let file = ordinary::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let left = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Headers { file, left: Rc::clone(&left) });
    let mut members = Members { found: Scan::default(), extents: HashMap::new(), wanted };
    let (mut sound, mut members_end) = (false, 0);
    // Errors without an OS error number come from the TAR parser.
    let failed = |error: io::Error, sound: bool| match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::FileTooLarge) => wrong(ArchiveProblem::Headers { limit: HEADER_BYTES }),
        (None, io::ErrorKind::OutOfMemory) | (Some(_), _) => io(error),
        _ if sound => wrong(ArchiveProblem::Damaged(error)),
        _ => wrong(ArchiveProblem::Syntax(error)),
    };
    let mut entries = archive.entries_with_seek().map_err(|error| failed(error, sound))?;
    loop {
        left.set(Some(HEADER_BYTES));
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|error| failed(error, sound))?;
        left.set(None);
        sound = true;
        let end = entry.raw_file_position().saturating_add(entry.size());
        // The size of a sparse file includes its holes, which the archive does not store.
        if end > len && entry.header().entry_type() != EntryType::GNUSparse {
            let member = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(wrong(ArchiveProblem::Cut { member, end, len }));
        }
        members_end = end_of(&entry, end);
        members.add(&mut entry).map_err(|error| failed(error, sound))?.map_err(wrong)?;
    }
    require_end(archive.into_inner().file, members_end, len).map_err(io)?.map_err(wrong)?;
    Ok(members.found)
}

/// The end of a member with its padding, as a byte offset. `end` is that of its content.
fn end_of(entry: &Entry<'_, Headers>, end: u64) -> u64 {
    let stored = match entry.header().entry_type() {
        EntryType::GNUSparse => {
            entry.header().entry_size().unwrap_or_default().saturating_add(entry.raw_file_position())
        }
        _ => end,
    };
    stored.checked_next_multiple_of(BLOCK).unwrap_or(stored)
}

/// Checks that an archive of `len` bytes, whose last member ends at `members_end`, ends with its end mark and that nothing
/// follows. Without this check, a file truncated between two members, or several concatenated archives, would look like
/// one complete archive. Some writers end with one block of zeros instead of two.
fn require_end(mut file: File, members_end: u64, len: u64) -> io::Result<Result<(), ArchiveProblem>> {
    let mut at = file.stream_position()?;
    if at >= len && members_end.saturating_add(BLOCK) > len {
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
struct Members<'a> {
    found: Scan,
    /// Position of each image, keyed by name.
    extents: HashMap<String, Extent>,
    wanted: &'a Wanted,
}

impl Members<'_> {
    /// Adds a member to the contents.
    fn add(&mut self, entry: &mut Entry<'_, Headers>) -> io::Result<Result<(), ArchiveProblem>> {
        let kind = entry.header().entry_type();
        let Some(name) = self.name(&entry.path_bytes(), kind.is_dir()) else { return Ok(Ok(())) };
        if kind.is_dir() {
            self.found.folders.insert(if name.is_empty() { name } else { name + "/" });
            return Ok(Ok(()));
        }
        if is_image(&name) {
            return self.add_image(name, entry);
        }
        if let Some(folder) = name.strip_suffix("_stats.json") {
            self.found.shards.insert(folder.to_owned());
        }
        let bytes = self.wanted.bytes(&name).filter(|_| kind.is_file());
        // WebDataset keeps notes about the archive in members such as `__index__/tar.json`.
        let Some(bytes) = bytes.filter(|_| !name.starts_with("__")) else {
            self.found.leave_aside(&name);
            return Ok(Ok(()));
        };
        let mut content = Vec::new();
        if bytes > 0 {
            entry.take(bytes as u64 + 1).read_to_end(&mut content)?;
        }
        Ok(match self.found.beside.add(&name, &content, self.wanted) {
            Err(fault) => Err(ArchiveProblem::Label { member: name, fault }),
            Ok(Added::Again) => Err(ArchiveProblem::Duplicate { member: name }),
            Ok(Added::Aside) => {
                self.found.leave_aside(&name);
                Ok(())
            }
            Ok(Added::New) => Ok(()),
        })
    }

    fn add_image(
        &mut self,
        name: String,
        entry: &mut Entry<'_, Headers>,
    ) -> io::Result<Result<(), ArchiveProblem>> {
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
        Ok(Ok(()))
    }

    /// The path of a member without empty and `.` components; `None` if it is hidden or of a system, which is counted
    /// unless it is a folder. An image whose name is not UTF-8 is rejected.
    fn name(&mut self, bytes: &[u8], folder: bool) -> Option<String> {
        let shown = String::from_utf8_lossy(bytes);
        let parts: Vec<&str> = shown.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if let Some(kind) = parts.iter().find_map(|part| clutter::kind(part)) {
            self.found.left_aside.add(kind, u64::from(!folder));
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
    fn extent(&mut self, entry: &mut Entry<'_, Headers>) -> io::Result<Result<Extent, &'static str>> {
        let extent = Extent { offset: entry.raw_file_position(), size: entry.size() };
        Ok(match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous if has_holes(entry)? => Err(HOLES),
            EntryType::Regular | EntryType::Continuous => Ok(extent),
            EntryType::Link => {
                let target = entry.link_name_bytes().and_then(|target| self.name(&target, true));
                let target = target.and_then(|target| self.extents.get(&target)).copied();
                target.ok_or("a hard link to something other than an earlier image in the archive")
            }
            EntryType::Symlink => Err("a symbolic link in an archive"),
            EntryType::GNUSparse => Err(HOLES),
            _ => Err("neither a file nor a folder"),
        })
    }
}

const HOLES: &str = "a sparse file in an archive";

/// Whether a member is a sparse file as `tar --format=posix` writes it. Its bytes begin with a map of the holes.
fn has_holes(entry: &mut Entry<'_, Headers>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}
