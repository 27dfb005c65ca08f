//! JSON manifests whose last field is the hash of all bytes before it.

use std::path::Path;
use std::{fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ContentHash;
use super::atomic_file::{write_atomic, write_new};
use super::folder::missing_hint;
use crate::error::{ArtifactError, IoContext};

/// The bytes before and after a manifest's own hash.
const SEAL: (&[u8], &[u8]) = (b",\n  \"blake3\": \"", b"\"\n}\n");

/// Replaces the file at `path` atomically by `value` as indented JSON. Returns the hash of the written bytes.
///
/// The last field is the BLAKE3 hash of all bytes before it, so an altered manifest is detected like any altered file.
///
/// # Errors
/// [`ArtifactError::Io`] or [`ArtifactError::Json`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<ContentHash, ArtifactError> {
    let text = seal(path, value)?;
    Ok(write_atomic(path, &text)?.blake3)
}

/// Like [`write_json`], but keeps an existing file: the first of several writers wins.
pub(crate) fn write_new_json(path: &Path, value: &impl Serialize) -> Result<(), ArtifactError> {
    write_new(path, &seal(path, value)?)
}

fn seal(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, ArtifactError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| ArtifactError::json(path, error))?;
    // Removes the closing brace and its line break.
    text.truncate(text.len().saturating_sub(2));
    let hash = ContentHash::of(&text);
    text.extend_from_slice(SEAL.0);
    text.extend_from_slice(hash.to_string().as_bytes());
    text.extend_from_slice(SEAL.1);
    Ok(text)
}

/// Checks that the last field of a manifest is the hash of the bytes before it. `path` is used for errors.
///
/// # Errors
/// [`ArtifactError::Hash`], or [`ArtifactError::Invalid`] if there is no such field.
pub fn require_sealed(path: &Path, text: &[u8]) -> Result<(), ArtifactError> {
    let unsealed = || {
        ArtifactError::invalid(
            path,
            "expected the file's own hash at its end\nhint: the file was altered; copy it again, or make the folder again",
        )
    };
    let rest = text.strip_suffix(SEAL.1).ok_or_else(unsealed)?;
    let (rest, hash) = rest.split_at_checked(rest.len().saturating_sub(64)).ok_or_else(unsealed)?;
    let expected: ContentHash =
        std::str::from_utf8(hash).ok().and_then(|hash| hash.parse().ok()).ok_or_else(unsealed)?;
    let got = ContentHash::of(rest.strip_suffix(SEAL.0).ok_or_else(unsealed)?);
    if got == expected { Ok(()) } else { Err(ArtifactError::Hash { path: path.to_owned(), expected, got }) }
}

/// Reads JSON that [`write_json`] wrote and returns it with the hash of its bytes; `None` if the file does not exist.
///
/// # Errors
/// [`ArtifactError::Json`], [`ArtifactError::Hash`], [`ArtifactError::Invalid`] or [`ArtifactError::Io`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, ContentHash)>, ArtifactError> {
    let Some(bytes) = read_if_exists(path)? else { return Ok(None) };
    let value = parse(path, &bytes)?;
    require_sealed(path, &bytes)?;
    Ok(Some((value, ContentHash::of(&bytes))))
}

/// Reads a JSON manifest of a format version from 1 to `version` and returns it with the hash of its bytes. Errors call
/// the manifest `what`.
///
/// # Errors
/// [`ArtifactError::Missing`], [`ArtifactError::Version`], [`ArtifactError::Json`], [`ArtifactError::Hash`],
/// [`ArtifactError::Invalid`] or [`ArtifactError::Io`].
pub fn read_manifest<T: DeserializeOwned>(
    path: &Path,
    version: u32,
    what: &'static str,
) -> Result<(T, ContentHash), ArtifactError> {
    #[derive(Deserialize)]
    struct Versioned {
        format_version: u32,
    }
    let bytes = read_if_exists(path)?.ok_or_else(|| ArtifactError::Missing {
        path: path.to_owned(),
        what,
        hint: missing_hint(path.parent().unwrap_or(Path::new(""))),
    })?;
    // The version is checked first: another format version may have other fields, and the version error is more useful
    // then.
    let Versioned { format_version } = parse(path, &bytes)?;
    if !(1..=version).contains(&format_version) {
        return Err(ArtifactError::Version { path: path.to_owned(), expected: version, got: format_version });
    }
    require_sealed(path, &bytes)?;
    Ok((parse(path, &bytes)?, ContentHash::of(&bytes)))
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ArtifactError> {
    serde_json::from_slice(bytes).map_err(|error| ArtifactError::json(path, error))
}

fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, ArtifactError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read", path),
    }
}

#[cfg(test)]
mod tests {
    use super::super::PLAN;
    use super::*;

    #[test]
    fn a_missing_manifest_is_explained_by_what_the_folder_holds() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str| {
            let found = read_manifest::<serde_json::Value>(&dir.path().join(name), 1, "the manifest");
            found.unwrap_err().to_string()
        };
        assert!(error("bank.json").ends_with(
            "hint: the folder holds no cache, bank, bridge or run; give the one that was written"
        ));
        fs::write(dir.path().join("kdep.json"), "{}").unwrap();
        assert!(error("bank.json").contains("hint: the folder holds a KDEP bank"));
        fs::rename(dir.path().join("kdep.json"), dir.path().join("cache.json")).unwrap();
        assert!(error("bank.json").contains("hint: the folder holds a cache"));
        fs::rename(dir.path().join("cache.json"), dir.path().join(PLAN)).unwrap();
        assert!(error("cache.json").contains("hint: the extraction was not finished"));
    }
}
