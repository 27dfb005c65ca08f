//! Artifact folders: which kind of artifact a folder holds, and whether another may be written to it.

use std::fs;
use std::path::{Path, PathBuf};

use super::FolderLock;
use super::atomic_file::is_unfinished;
use crate::error::{ArtifactError, IoContext, Remedy};

/// What to do if the output folder already holds a complete or unfinished artifact of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse the folder with an error.
    Refuse,
    /// Keep the finished parts if they were made with the same configuration. Banks have no parts to keep, so this is
    /// the same as [`Existing::Refuse`].
    Resume,
    /// Delete the old artifact first.
    Overwrite,
}

/// File name of the plan of an unfinished cache, which takes the place of the manifest while extraction runs.
pub const PLAN: &str = "extract.json";

/// Each manifest name, the kind of artifact that it marks, and the hint for a folder that holds it instead of the
/// expected manifest.
const KINDS: [(&str, &str, &str); 6] = [
    ("cache.json", "cache", "the folder holds a cache"),
    ("bank.json", "bank", "the folder holds a bank of names"),
    ("kdep.json", "KDEP bank", "the folder holds a KDEP bank"),
    ("align.json", "bridge", "the folder holds a bridge"),
    ("run.json", "run", "the folder holds a run"),
    (PLAN, "cache", "the extraction was not finished; resume it"),
];

/// Creates the output folder `dir` if it does not exist. Fails if it holds an artifact of another kind.
///
/// # Errors
/// [`ArtifactError::Occupied`] if `dir` holds a "cache", "bank", "KDEP bank", "bridge" or "run" that is not a `kind`;
/// [`ArtifactError::Io`].
pub fn prepare_folder(dir: &Path, kind: &str) -> Result<(), ArtifactError> {
    fs::create_dir_all(dir).during("create the folder", dir)?;
    require_kind(dir, kind)
}

/// Like [`prepare_folder`], but creates nothing.
///
/// # Errors
/// [`ArtifactError::Occupied`], as for [`prepare_folder`].
pub fn require_kind(dir: &Path, kind: &str) -> Result<(), ArtifactError> {
    match KINDS.iter().find(|(name, other, _)| *other != kind && dir.join(name).exists()) {
        Some((_, other, _)) => Err(ArtifactError::Occupied {
            path: dir.to_owned(),
            what: format!("a {other}, which a {kind} cannot replace"),
            remedy: Remedy::Other("choose another folder"),
        }),
        None => Ok(()),
    }
}

/// Deletes the unfinished files that killed processes left in `dir`. Only a process that has locked the folder against all
/// others may do so.
///
/// # Errors
/// [`ArtifactError::Io`].
pub fn remove_leftovers(dir: &Path) -> Result<(), ArtifactError> {
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        if path.file_name().is_some_and(|name| is_unfinished(&name.to_string_lossy())) {
            fs::remove_file(&path).during("delete", &path)?;
        }
    }
    Ok(())
}

/// A folder that this process alone writes to, and may write a certain kind of artifact to.
#[derive(Debug)]
pub struct ClaimedFolder {
    dir: PathBuf,
    /// Held as long as this value.
    _lock: FolderLock,
}

impl ClaimedFolder {
    /// Locks the folder `dir` for a `kind` of artifact with this manifest. Creates `dir` if it does not exist and changes
    /// nothing else.
    ///
    /// # Errors
    /// Those of [`prepare_folder`] and [`FolderLock::exclusive`]; [`ArtifactError::Occupied`] if `dir` holds such an
    /// artifact and `existing` is not [`Existing::Overwrite`].
    pub(crate) fn claim(
        dir: &Path,
        kind: &str,
        manifest: &str,
        existing: Existing,
    ) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dir).during("create the folder", dir)?;
        let lock = FolderLock::exclusive(dir)?;
        prepare_folder(dir, kind)?;
        if dir.join(manifest).exists() && existing != Existing::Overwrite {
            let (path, what, remedy) = (dir.to_owned(), format!("a {kind}"), Remedy::Overwrite);
            return Err(ArtifactError::Occupied { path, what, remedy });
        }
        remove_leftovers(dir)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Path of the folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The hint for a missing manifest: `dir` does not exist, holds another kind of artifact or an unfinished one, or is
/// the wrong folder.
pub(super) fn missing_hint(dir: &Path) -> &'static str {
    if !dir.is_dir() {
        return "the folder does not exist";
    }
    let held = KINDS.iter().find(|(name, ..)| dir.join(name).exists());
    held.map_or(
        "the folder holds no cache, bank, bridge or run; give the one that was written",
        |(_, _, hint)| hint,
    )
}
