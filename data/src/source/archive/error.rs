//! Errors of TAR archives.

use std::io;
use std::path::{Path, PathBuf};

use super::super::LabelFault;

/// Why an archive cannot be listed, or an image cannot be read from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive cannot be read, so none of its samples can.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Path of the archive.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The content of the archive is not usable.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// Path of the archive.
        path: PathBuf,
        /// Why the archive is not usable.
        #[source]
        problem: ArchiveProblem,
    },
}

impl ArchiveError {
    /// Short, stable code for `rejects.jsonl`.
    pub(in crate::source) fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "unreadable",
            Self::Unusable { .. } => "source",
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn unusable(path: &Path, problem: ArchiveProblem) -> Self {
        Self::Unusable { path: path.to_owned(), problem }
    }
}

/// Why the content of a TAR archive is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// The file is not a TAR archive.
    #[error("not a TAR archive: {0}\nhint: decompress it first if it is compressed")]
    Syntax(#[source] io::Error),
    /// Its name says that the file is incomplete, or compressed by an unknown program.
    #[error("not a complete, uncompressed archive\nhint: decompress it, or finish its download")]
    Incomplete,
    /// The content stops being valid TAR after some members.
    #[error("damaged: {0}\nhint: copy the archive again")]
    Damaged(#[source] io::Error),
    /// The file ends before the end of a member.
    #[error(
        "the archive was cut: {member} ends at byte {end}, the archive at {len}\nhint: copy the archive again"
    )]
    Cut {
        /// Name of the member.
        member: String,
        /// Expected end of the member, as a byte offset.
        end: u64,
        /// Length of the archive, in bytes.
        len: u64,
    },
    /// The file does not end with the blocks of zeros that mark the end of an archive.
    #[error(
        "the archive was cut or not closed: its {len} bytes have no end mark\nhint: copy the archive again; if its writer did not close it, add the mark with `truncate -s +1024 FILE`"
    )]
    NoEnd {
        /// Length of the archive, in bytes.
        len: u64,
    },
    /// Data follow the end mark of the archive.
    #[error(
        "there are data after the end mark, at byte {at}\nhint: do not join archives; give them as files of a folder"
    )]
    Trailing {
        /// Offset of the first byte after the end mark.
        at: u64,
    },
    /// The headers of a member are too large.
    #[error(
        "the name and attributes of a member have more than {limit} bytes, the limit\nhint: make the archive again, without extended attributes"
    )]
    Headers {
        /// Limit, in bytes.
        limit: u64,
    },
    /// Two members have the same name.
    #[error("{member} is in the archive twice\nhint: make the archive again, without appending to it")]
    Duplicate {
        /// Name of the members.
        member: String,
    },
    /// A label is not usable.
    #[error("{member}: {fault}")]
    Label {
        /// Name of the member.
        member: String,
        /// Why the label is not usable.
        #[source]
        fault: LabelFault,
    },
}
