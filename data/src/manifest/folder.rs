//! The folder of an artifact: which kind it holds, and whether another may be written there.

use std::fs;
use std::path::Path;

use crate::error::{ArtifactError, IoContext};

/// What to do with an output folder that already holds an artifact of the kind to be written, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail.
    Refuse,
    /// Keep the finished parts, provided that they were made with the same configuration. Banks have no parts to keep: for them
    /// this is [`Existing::Refuse`].
    Resume,
    /// Delete the old artifact first.
    Overwrite,
}

/// The plan of an unfinished cache. It takes the manifest's place while extraction runs.
pub const PLAN: &str = "extract.json";

/// Each manifest, the kind of artifact that it marks, and the hint for a folder that holds it instead of the wanted manifest.
const KINDS: [(&str, &str, &str); 5] = [
    ("cache.json", "cache", "the folder holds a cache"),
    ("bank.json", "bank", "the folder holds a bank of names"),
    ("kdep.json", "KDEP bank", "the folder holds a KDEP bank"),
    ("run.json", "run", "the folder holds a run"),
    (PLAN, "cache", "the extraction was not finished; go on with `lgd extract --resume`"),
];

/// Creates the output folder `dir` if it is absent, and fails if it holds an artifact of another kind.
///
/// # Errors
/// [`ArtifactError::Occupied`] for a "cache", "bank", "KDEP bank" or "run" other than `kind`; [`ArtifactError::Io`].
pub fn prepare_folder(dir: &Path, kind: &str) -> Result<(), ArtifactError> {
    fs::create_dir_all(dir).during("create the folder", dir)?;
    match KINDS.iter().find(|(name, other, _)| *other != kind && dir.join(name).exists()) {
        Some((_, other, _)) => Err(ArtifactError::Occupied {
            path: dir.to_owned(),
            what: format!("a {other}, which a {kind} cannot replace"),
            hint: "give another folder",
        }),
        None => Ok(()),
    }
}

/// Why `dir` may lack a manifest: no such folder, an artifact of another kind, an unfinished one, or simply the wrong folder.
pub(super) fn missing_hint(dir: &Path) -> &'static str {
    if !dir.is_dir() {
        return "there is no such folder";
    }
    let held = KINDS.iter().find(|(name, ..)| dir.join(name).exists());
    held.map_or("is this the folder that was given as --out?", |(_, _, hint)| hint)
}
