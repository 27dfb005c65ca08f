//! Errors of TAR archives.

use std::io;
use std::path::{Path, PathBuf};

/// Why an archive cannot be listed, or an image not be read from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive cannot be read, and so none of its samples.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The archive.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The archive cannot be used.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: ArchiveProblem,
    },
}

impl ArchiveError {
    /// A short stable code for `rejects.jsonl`.
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

/// What can be wrong with a TAR archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// Not TAR.
    #[error(
        "not a TAR archive: {0}\nhint: archives are read in place; if this one is compressed, decompress it"
    )]
    Syntax(#[source] io::Error),
    /// By its name, compressed or not finished.
    #[error("not an archive that can be read in place\nhint: decompress it, or finish its download")]
    Compressed,
    /// Not TAR after some members.
    #[error("damaged: {0}\nhint: copy the archive again")]
    Damaged(#[source] io::Error),
    /// The file ends before a member.
    #[error("{member} should end at byte {end}, the archive has {len}\nhint: it was cut; copy it again")]
    Cut {
        /// The member.
        member: String,
        /// Where it should end.
        end: u64,
        /// Length of the archive.
        len: u64,
    },
    /// The file ends without the blocks of zeros that end an archive.
    #[error("its {len} bytes end without an end mark\nhint: it was cut; copy it again")]
    NoEnd {
        /// Length of the archive.
        len: u64,
    },
    /// More bytes follow the end of the archive.
    #[error(
        "there is more behind its end mark, at byte {at}\nhint: give archives as files of a folder, not one behind the other"
    )]
    Trailing {
        /// The first byte.
        at: u64,
    },
    /// Two members of one name.
    #[error("{member} is in it twice\nhint: make the archive anew, without appending to it")]
    Duplicate {
        /// The member.
        member: String,
    },
    /// A `.cls` file that holds no class number.
    #[error(
        "{member}: expected a class number from 0, got {got:?}\nhint: classes by name are folders in the archive"
    )]
    Label {
        /// The member.
        member: String,
        /// What it holds.
        got: String,
    },
}
