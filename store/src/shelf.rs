//! The bounded folder on this machine that holds what was fetched.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lgd_data::manifest::{ContentHash, FolderLock};
use tempfile::NamedTempFile;

use crate::error::StoreError;
use crate::transfer::{Pin, Remote};

const OBJECTS: &str = "objects";
const ARTIFACTS: &str = "artifacts";

/// Pause between two looks at what is arriving.
const PAUSE: Duration = Duration::from_millis(50);

/// Age of an unfinished file that nobody writes to any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Objects from this length on are flushed to the disk before they get their name.
const FLUSHED: u64 = 1 << 20;

/// A number of bytes, as `64GB`, `500 MB` or `1.5TB`, in powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub u64);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("expected a size such as 64GB, got {text:?}");
        let digits =
            text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match text[digits..].trim().to_ascii_uppercase().as_str() {
            "B" => 1.0,
            "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            _ => return Err(wrong()),
        };
        let bytes = number * unit;
        if !(1.0..=1e18).contains(&bytes) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in the range checked above"
        )]
        let bytes = bytes as u64;
        Ok(Self(bytes))
    }
}

/// The folder, and the bytes in it.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    limit: u64,
    space: Mutex<Space>,
    /// One lock per object that is being fetched.
    pending: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

/// The bytes of the folder.
#[derive(Debug, Default)]
struct Space {
    /// Bytes on the disk: of this process exactly, of others as of the last look; `None` before the first.
    used: Option<u64>,
    /// Bytes that this process is fetching.
    arriving: u64,
}

/// Room for something that is being fetched.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    shelf: &'a Shelf,
    bytes: u64,
    is_kept: bool,
}

impl Reservation<'_> {
    /// Notes that it is on the disk now.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut space = self.shelf.space();
        space.arriving -= self.bytes;
        if let Some(used) = space.used.as_mut().filter(|_| self.is_kept) {
            *used += self.bytes;
        }
    }
}

/// Something that can be deleted to make room.
struct Item {
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
    is_artifact: bool,
}

impl Shelf {
    pub(crate) fn open(dir: &Path, limit: u64) -> Result<Self, StoreError> {
        for part in [OBJECTS, ARTIFACTS] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(|error| StoreError::io("create the folder", path, error))?;
        }
        Ok(Self { dir: dir.to_owned(), limit, space: Mutex::default(), pending: Mutex::default() })
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The folder of the artifact whose manifest has this hash.
    pub(crate) fn artifact(&self, hash: ContentHash) -> PathBuf {
        self.dir.join(ARTIFACTS).join(hash.to_string())
    }

    /// Where a version of an object is kept.
    pub(crate) fn object(&self, remote: &Remote, name: &str, pin: &Pin) -> PathBuf {
        let identity =
            format!("{}\0{}\0{name}\0{}\0{}", remote.url.origin(), remote.url.key, pin.bytes, pin.tag);
        let hash = ContentHash::of(identity.as_bytes()).to_string();
        self.dir.join(OBJECTS).join(&hash[..2]).join(hash)
    }

    /// Opens a version of an object; fetches it first if it is not here.
    pub(crate) async fn open_object(
        &self,
        remote: &Remote,
        name: &str,
        pin: &Pin,
    ) -> Result<File, StoreError> {
        let path = self.object(remote, name, pin);
        if let Some(file) = held(&path, pin.bytes)? {
            return Ok(file);
        }
        let lock = Arc::clone(self.pending().entry(path.clone()).or_default());
        let guard = lock.lock().await;
        let opened = match held(&path, pin.bytes)? {
            Some(file) => Ok(file),
            None => self.fetch(remote, name, pin, &path).await,
        };
        self.pending().remove(&path);
        drop(guard);
        opened
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, remote: &Remote, name: &str, pin: &Pin, path: &Path) -> Result<File, StoreError> {
        let room = self.reserve(&remote.url.shown_of(name), pin.bytes).await?;
        let dir = path.parent().unwrap_or(path);
        let io = |error| StoreError::io("write", path, error);
        fs::create_dir_all(dir).map_err(io)?;
        let temporary = NamedTempFile::new_in(dir).map_err(io)?;
        remote.fetch(name, pin, temporary.as_file()).await?;
        if pin.bytes >= FLUSHED {
            temporary.as_file().sync_all().map_err(io)?;
        }
        let file = temporary.persist(path).map_err(|error| io(error.error))?;
        room.keep();
        Ok(file)
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves room for `bytes` more: deletes the longest unused, and waits for what is arriving.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if they do not fit although all that can be deleted was.
    pub(crate) async fn reserve(&self, url: &str, bytes: u64) -> Result<Reservation<'_>, StoreError> {
        loop {
            match self.take_room(bytes) {
                Ok(()) => return Ok(Reservation { shelf: self, bytes, is_kept: false }),
                Err(arriving) if arriving > 0 && bytes <= self.limit => tokio::time::sleep(PAUSE).await,
                Err(_) => {
                    return Err(StoreError::TooLarge { url: url.to_owned(), bytes, limit: self.limit });
                }
            }
        }
    }

    /// Counts `bytes` more as arriving if they fit, for which it deletes the longest unused if need be. Else returns how many
    /// are arriving.
    fn take_room(&self, bytes: u64) -> Result<(), u64> {
        let mut space = self.space();
        let fits =
            |used: u64, arriving: u64| used.saturating_add(arriving).saturating_add(bytes) <= self.limit;
        if !space.used.is_some_and(|used| fits(used, space.arriving)) {
            let mut items = self.items();
            let mut used: u64 = items.iter().map(|item| item.bytes).sum();
            if !fits(used, space.arriving) {
                items.sort_unstable_by_key(|item| item.used);
                // A tenth more, so that not every object looks through the folder.
                let needed = space.arriving.saturating_add(bytes).saturating_add(self.limit / 10);
                let goal = self.limit.saturating_sub(needed);
                for item in items {
                    if used <= goal {
                        break;
                    }
                    if item.delete() {
                        used -= item.bytes;
                    }
                }
            }
            space.used = Some(used);
        }
        if !space.used.is_some_and(|used| fits(used, space.arriving)) {
            return Err(space.arriving);
        }
        space.arriving += bytes;
        Ok(())
    }

    fn items(&self) -> Vec<Item> {
        let entries =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let item = |path: PathBuf, bytes, is_artifact| {
            let used = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
            Some(Item { path, used, bytes, is_artifact })
        };
        let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let objects = entries(self.dir.join(OBJECTS)).flat_map(&entries).filter_map(|path| {
            let bytes = length(&path);
            item(path, bytes, false).filter(|item| !item.is_arriving())
        });
        let artifacts = entries(self.dir.join(ARTIFACTS)).filter_map(|path| {
            let nested = entries(path.clone())
                .flat_map(|path| if path.is_dir() { entries(path).collect() } else { vec![path] });
            let bytes = nested.map(|path| length(&path)).sum();
            item(path, bytes, true)
        });
        objects.chain(artifacts).collect()
    }
}

impl Item {
    /// Whether it is an object that a process may still be fetching, which has a hidden name.
    fn is_arriving(&self) -> bool {
        let is_hidden = self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        is_hidden && self.used.elapsed().is_ok_and(|age| age < ABANDONED)
    }

    /// Whether it could be deleted: an artifact that a process uses stays.
    fn delete(&self) -> bool {
        if !self.is_artifact {
            return fs::remove_file(&self.path).is_ok();
        }
        let Ok(_lock) = FolderLock::exclusive(&self.path) else { return false };
        fs::remove_dir_all(&self.path).is_ok()
    }
}

/// Opens a file that was fetched before, and notes that it is used; `None` if it is not there.
fn held(path: &Path, bytes: u64) -> Result<Option<File>, StoreError> {
    let io = |error| StoreError::io("open", path, error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    if file.metadata().map_err(io)?.len() != bytes {
        return Ok(None);
    }
    // Without the time, the file is only deleted earlier.
    let _ = touch(&file);
    Ok(Some(file))
}

/// Marks a file or folder as used now.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    file.set_times(FileTimes::new().set_modified(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in
            [("64GB", 64_000_000_000), ("1.5 tb", 1_500_000_000_000), ("500 MB", 500_000_000), ("7B", 7)]
        {
            assert_eq!(text.parse(), Ok(Limit(bytes)), "{text}");
        }
        for text in ["", "64", "GB", "-1GB", "0GB", "1e3GB", "1.2.3MB", "64 GiBs", "9999999TB"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn room_is_made_of_the_longest_unused_and_never_of_artifacts_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), 100).unwrap();
        let put = |name: &str, bytes: usize, age: u64| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![0; bytes]).unwrap();
            let old = SystemTime::now() - Duration::from_secs(age);
            for path in [path.as_path(), path.parent().unwrap()] {
                File::open(path).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
            }
            path
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let room = |bytes| runtime.block_on(shelf.reserve("s3://b/k", bytes)).map(Reservation::keep);
        let locked = put("artifacts/a/cache.json", 30, 900);
        let free = put("artifacts/b/cache.json", 30, 800);
        let old = put("objects/00/old", 20, 700);
        let new = put("objects/01/new", 10, 0);
        let lock = FolderLock::exclusive(locked.parent().unwrap()).unwrap();
        File::open(locked.parent().unwrap())
            .unwrap()
            .set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
            .unwrap();
        room(10).unwrap();
        assert!([&locked, &free, &old, &new].iter().all(|path| path.exists()), "everything fits");
        room(25).unwrap();
        assert!(locked.exists() && !free.exists() && old.exists() && new.exists());
        let error = room(71).unwrap_err().to_string();
        assert!(error.contains("71 bytes") && error.contains("--store-limit"), "{error}");
        assert!(locked.exists() && !old.exists() && !new.exists());
        drop(lock);
        room(71).unwrap();
        assert!(!locked.exists());
    }
}
