//! What every artifact folder shares: content hashes, file entries, atomic replacement and verification.
//!
//! An artifact is a folder of immutable files plus one JSON manifest. A file is written beside its final name,
//! flushed, renamed, and its folder flushed, so that a name is either absent or whole. The manifest lists the
//! length and the BLAKE3 hash of every file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{ArtifactError, IoContext};
use crate::source::Sample;

/// A BLAKE3 hash, 32 bytes; lower-case hexadecimal in text and JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of a file's content, read through a memory map on all threads.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).during("hash", path)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self::from)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The hash of a listing: every key and label, in order. It changes when an image is added, removed, renamed or
/// relabeled.
pub fn listing_hash(samples: &[Sample]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    for sample in samples {
        hasher.update(sample.key.as_bytes());
        match sample.label {
            Some(label) => hasher.update(format!("\0{label}\n").as_bytes()),
            None => hasher.update(b"\0\n"),
        };
    }
    hasher.finalize().into()
}

/// One file of an artifact, as its manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// File name inside the artifact's folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the content.
    pub blake3: ContentHash,
}

impl FileEntry {
    /// Describes a file that has just been written to `dir`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the file cannot be read.
    pub fn describe(dir: &Path, name: &str) -> Result<Self, ArtifactError> {
        let path = dir.join(name);
        let bytes = fs::metadata(&path).during("read", &path)?.len();
        Ok(Self { name: name.to_owned(), bytes, blake3: ContentHash::of_file(&path)? })
    }

    /// Checks the file in `dir` against this entry.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Length`] or [`ArtifactError::Hash`].
    pub fn verify(&self, dir: &Path, depth: Verify) -> Result<(), ArtifactError> {
        let path = dir.join(&self.name);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = "the folder is incomplete; make it again";
                return Err(ArtifactError::Missing { path, what: "a file listed in the manifest", hint });
            }
            Err(error) => return Err(error).during("read", &path),
        };
        if length != self.bytes {
            return Err(ArtifactError::Length { path, expected: self.bytes, got: length });
        }
        if depth == Verify::Full {
            let got = ContentHash::of_file(&path)?;
            if got != self.blake3 {
                return Err(ArtifactError::Hash { path, expected: self.blake3, got });
            }
        }
        Ok(())
    }
}

/// How thoroughly files are checked against their manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Presence and length.
    Length,
    /// Presence, length and BLAKE3 hash: one pass over all bytes at memory or disk speed.
    Full,
}

/// Tells this process from all others that write to a folder. Their numbers do not: containers on one share are all number 1.
static PROCESS: LazyLock<u64> = LazyLock::new(draw);

/// A number that no other call draws, in whatever process.
fn draw() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A file that appears under its name only when [`AtomicFile::commit`] succeeds.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Starts writing what will become `path`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the temporary file cannot be created.
    pub fn create(path: &Path) -> Result<Self, ArtifactError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Several processes may write the same name; each must have a file of its own until the rename.
        let (process, count) = (*PROCESS, COUNTER.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_file_name(format!(".{name}.{process:016x}-{count}.tmp"));
        let file = File::create(&temporary).during("create", &temporary)?;
        let writer = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { writer, temporary, path: path.to_owned(), committed: false })
    }

    /// The name under which the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes to the disk, renames, and flushes the folder.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]; the file is then absent, as if it had never been started.
    pub fn commit(mut self) -> Result<(), ArtifactError> {
        self.write_out()?;
        fs::rename(&self.temporary, &self.path).during("rename", &self.path)?;
        self.committed = true;
        self.flush_folder()
    }

    /// As [`AtomicFile::commit`], but an existing file of that name stays: of several writers the first one wins.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn commit_new(mut self) -> Result<(), ArtifactError> {
        self.write_out()?;
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => self.flush_folder(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // exFAT and some network shares have no links. Where something else is wrong, copying meets it too.
            Err(_) => self.copy_new(),
        }
    }

    /// [`AtomicFile::commit_new`] without a link. The first writer wins here too, but the name is there before its content is: a
    /// reader may come upon half a file, and a crash may leave one. Either is found by the seal or the hash of the content.
    fn copy_new(&self) -> Result<(), ArtifactError> {
        let mut copy = match OpenOptions::new().write(true).create_new(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened.during("create", &self.path)?,
        };
        let written = File::open(&self.temporary)
            .and_then(|mut whole| io::copy(&mut whole, &mut copy))
            .and_then(|_| copy.sync_all());
        if written.is_err() {
            // What went wrong is told below; half a file must not keep the name.
            let _ = fs::remove_file(&self.path);
        }
        written.during("write", &self.path)?;
        self.flush_folder()
    }

    fn write_out(&mut self) -> Result<(), ArtifactError> {
        self.writer.flush().during("write", &self.path)?;
        self.writer.get_ref().sync_all().during("flush", &self.path)
    }

    fn flush_folder(&self) -> Result<(), ArtifactError> {
        match self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            Some(dir) => File::open(dir).and_then(|dir| dir.sync_all()).during("flush", dir),
            None => Ok(()),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a failure here; a leftover is clutter that no reader looks at.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces `path` by `bytes`, atomically.
///
/// # Errors
/// [`ArtifactError::Io`]; the old content is then still in place.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).during("write", path)?;
    file.commit()
}

/// What stands between a manifest's fields and its own hash, and behind it.
const SEAL: (&[u8], &[u8]) = (b",\n  \"blake3\": \"", b"\"\n}\n");

/// Replaces `path` by `value` as indented JSON, atomically; returns the hash of what was written.
///
/// The last field is the BLAKE3 of all bytes before it, so that an altered manifest is found like any altered file.
///
/// # Errors
/// [`ArtifactError::Io`] or [`ArtifactError::Json`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<ContentHash, ArtifactError> {
    let text = seal(path, value)?;
    write_atomic(path, &text)?;
    Ok(ContentHash::of(&text))
}

/// As [`write_json`], but an existing file stays.
pub(crate) fn write_new_json(path: &Path, value: &impl Serialize) -> Result<(), ArtifactError> {
    write_new(path, &seal(path, value)?)
}

/// Writes `bytes` to `path`, unless a file is there already: of several writers the first one wins.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).during("write", path)?;
    file.commit_new()
}

fn seal(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, ArtifactError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| ArtifactError::Json { path: path.to_owned(), reason: error.to_string() })?;
    // Without the closing brace and its line break.
    text.truncate(text.len().saturating_sub(2));
    let hash = ContentHash::of(&text);
    text.extend_from_slice(SEAL.0);
    text.extend_from_slice(hash.to_string().as_bytes());
    text.extend_from_slice(SEAL.1);
    Ok(text)
}

/// Refuses JSON whose last field is not the hash of what stands before it.
fn check_seal(path: &Path, text: &[u8]) -> Result<(), ArtifactError> {
    let unsealed = || {
        ArtifactError::invalid(path, "it does not end in its own hash\nhint: it was altered; make it again")
    };
    let rest = text.strip_suffix(SEAL.1).ok_or_else(unsealed)?;
    let (rest, hash) = rest.split_at_checked(rest.len().saturating_sub(64)).ok_or_else(unsealed)?;
    let expected: ContentHash =
        std::str::from_utf8(hash).ok().and_then(|hash| hash.parse().ok()).ok_or_else(unsealed)?;
    let got = ContentHash::of(rest.strip_suffix(SEAL.0).ok_or_else(unsealed)?);
    if got == expected { Ok(()) } else { Err(ArtifactError::Hash { path: path.to_owned(), expected, got }) }
}

/// Reads JSON that [`write_json`] wrote; `None` where the file is absent. Returns it with the hash of its bytes.
///
/// # Errors
/// [`ArtifactError::Json`], [`ArtifactError::Hash`], [`ArtifactError::Invalid`] or [`ArtifactError::Io`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, ContentHash)>, ArtifactError> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    let value = parse(path, &bytes)?;
    check_seal(path, &bytes)?;
    Ok(Some((value, ContentHash::of(&bytes))))
}

/// Reads a JSON manifest whose `format_version` must be `version`; returns it with the hash of its bytes.
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
    let bytes = read_if_there(path)?.ok_or_else(|| missing_manifest(path, what))?;
    // The version comes first: a later format may have other fields, and its reader's advice is the useful one.
    let Versioned { format_version } = parse(path, &bytes)?;
    if format_version != version {
        return Err(ArtifactError::Version { path: path.to_owned(), expected: version, got: format_version });
    }
    check_seal(path, &bytes)?;
    Ok((parse(path, &bytes)?, ContentHash::of(&bytes)))
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ArtifactError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ArtifactError::Json { path: path.to_owned(), reason: error.to_string() })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ArtifactError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read", path),
    }
}

/// Why a manifest may be absent: never begun, not finished, or the wrong folder.
fn missing_manifest(path: &Path, what: &'static str) -> ArtifactError {
    let dir = path.parent().unwrap_or(Path::new(""));
    let hint = if !dir.is_dir() {
        "there is no such folder"
    } else if let Some(&(_, _, held)) = KINDS.iter().find(|(name, ..)| dir.join(name).exists()) {
        held
    } else {
        "is this the folder that was given as --out?"
    };
    ArtifactError::Missing { path: path.to_owned(), what, hint }
}

/// The plan of an unfinished cache; it stands in for the manifest while extraction runs.
pub const PLAN: &str = "extract.json";

/// The manifests, the kind of artifact that each marks, and what is said of a folder that holds it and not the one looked for.
const KINDS: [(&str, &str, &str); 5] = [
    ("cache.json", "cache", "the folder holds a cache"),
    ("bank.json", "bank", "the folder holds a bank of names"),
    ("kdep.json", "KDEP bank", "the folder holds a KDEP bank"),
    ("run.json", "run", "the folder holds a run"),
    (PLAN, "cache", "the extraction was not finished; go on with `lgd extract --resume`"),
];

/// Creates the output folder `dir` where it is absent, and refuses one that holds an artifact of another kind.
///
/// # Errors
/// [`ArtifactError::Occupied`] for a "cache", "bank", "KDEP bank" or "run" where `kind` is another; [`ArtifactError::Io`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_leaves_nothing_and_a_committed_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        write_atomic(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    type Commit = fn(AtomicFile) -> Result<(), ArtifactError>;

    #[test]
    fn of_several_writers_the_first_one_wins_with_links_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let written = |path: &Path, bytes: &[u8]| {
            let mut file = AtomicFile::create(path).unwrap();
            file.write_all(bytes).unwrap();
            file.write_out().unwrap();
            file
        };
        let ways: [(&str, Commit); 2] =
            [("linked", AtomicFile::commit_new), ("copied", |file| file.copy_new())];
        for (name, commit) in ways {
            let path = dir.path().join(name);
            let (first, second) = (written(&path, b"first"), written(&path, b"second"));
            commit(first).unwrap();
            commit(second).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"first", "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary is left");
    }

    #[test]
    fn temporary_names_do_not_rest_on_the_number_of_the_process() {
        assert_ne!(draw(), draw(), "it is drawn, not derived from what two processes may share");
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [0, 1].map(|_| AtomicFile::create(&dir.path().join("views-00000.parquet")).unwrap());
        let names = [&a, &b].map(|file| file.temporary.file_name().unwrap().to_str().unwrap().to_owned());
        assert_ne!(names[0], names[1]);
        for name in names {
            let unique = name.strip_prefix(".views-00000.parquet.").unwrap().strip_suffix(".tmp").unwrap();
            let (process, _) = unique.split_once('-').unwrap();
            assert!(process.len() == 16 && u64::from_str_radix(process, 16) == Ok(*PROCESS), "{name}");
        }
    }

    #[test]
    fn verification_tells_missing_shortened_and_altered_files_apart() {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join("a"), b"0123456789").unwrap();
        let entry = FileEntry::describe(dir.path(), "a").unwrap();
        entry.verify(dir.path(), Verify::Full).unwrap();

        fs::write(dir.path().join("a"), b"0123456780").unwrap();
        entry.verify(dir.path(), Verify::Length).unwrap();
        assert!(matches!(entry.verify(dir.path(), Verify::Full), Err(ArtifactError::Hash { .. })));
        fs::write(dir.path().join("a"), b"012345678").unwrap();
        assert!(matches!(
            entry.verify(dir.path(), Verify::Length),
            Err(ArtifactError::Length { expected: 10, got: 9, .. })
        ));
        fs::remove_file(dir.path().join("a")).unwrap();
        assert!(matches!(entry.verify(dir.path(), Verify::Length), Err(ArtifactError::Missing { .. })));
    }

    #[test]
    fn a_missing_manifest_is_explained_by_what_the_folder_holds() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str| {
            let found = read_manifest::<serde_json::Value>(&dir.path().join(name), 1, "the manifest");
            found.unwrap_err().to_string()
        };
        assert!(error("bank.json").ends_with("hint: is this the folder that was given as --out?"));
        fs::write(dir.path().join("kdep.json"), "{}").unwrap();
        assert!(error("bank.json").contains("hint: the folder holds a KDEP bank"));
        fs::rename(dir.path().join("kdep.json"), dir.path().join("cache.json")).unwrap();
        assert!(error("bank.json").contains("hint: the folder holds a cache"));
        fs::rename(dir.path().join("cache.json"), dir.path().join(PLAN)).unwrap();
        assert!(error("cache.json").contains("hint: the extraction was not finished"));
    }

    #[test]
    fn a_listing_hash_notices_every_kind_of_drift() {
        let sample = |key: &str, label| Sample { key: key.to_owned(), label };
        let base = listing_hash(&[sample("a/1", Some(0)), sample("b/1", Some(1))]);
        assert_ne!(base, listing_hash(&[sample("a/1", Some(0)), sample("b/1", Some(2))]));
        assert_ne!(base, listing_hash(&[sample("b/1", Some(1)), sample("a/1", Some(0))]));
        assert_ne!(base, listing_hash(&[sample("a/1", Some(0))]));
        assert_ne!(base, listing_hash(&[sample("a/1", None), sample("b/1", Some(1))]));
    }
}
