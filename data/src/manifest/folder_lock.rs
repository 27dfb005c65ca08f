//! The lock of a folder: one writer at a time.
//!
//! ```text
//! FOLDER/.lock             held by the only writer, or shared by the parts of an extraction
//! FOLDER/.lock-1-of-4      held by part 1 of 4 of an extraction
//! FOLDER/.lock-x.npy       held by the only writer of x.npy and the file beside it
//! ```
//!
//! The lock is the system's lock on the open file (`flock`), not the file itself: it ends with the process, however the
//! process ends. A lock file that a killed process left is locked again by the next one. Linux passes locks on to the
//! servers of NFS and SMB, so they hold between machines too. A file system without locks cannot guard a folder; the
//! function of [`on_unguarded`] is then called.
//!
//! The file is deleted by its last holder. A process may have opened it just before, and would then hold a lock on a
//! deleted file, which excludes nobody. So after locking, the name is opened again, and must lead to the same file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{ArtifactError, IoContext};

/// Name of the lock file.
pub const LOCK: &str = ".lock";

/// Called with the first folder that cannot be locked.
static UNGUARDED: OnceLock<fn(&Path)> = OnceLock::new();
static NOTIFIED: AtomicBool = AtomicBool::new(false);

/// Sets the function that is called with the first folder whose file system has no locks. Only the first call counts.
pub fn on_unguarded(notify: fn(&Path)) {
    // A second call has no effect, by definition.
    let _ = UNGUARDED.set(notify);
}

/// A held lock. Dropping it releases the folder and deletes the lock file if nobody else holds it.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    file: File,
    guards: bool,
}

impl FolderLock {
    /// Locks the existing folder `dir` against all other writers.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`] if another process or thread writes to the folder; [`ArtifactError::Io`] or
    /// [`ArtifactError::Invalid`] if there can be no lock file in it.
    pub fn exclusive(dir: &Path) -> Result<Self, ArtifactError> {
        Self::acquire(dir, LOCK, FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks `dir` against [`FolderLock::exclusive`] writers, together with others that share it.
    ///
    /// # Errors
    /// Those of [`FolderLock::exclusive`].
    pub fn shared(dir: &Path) -> Result<Self, ArtifactError> {
        Self::acquire(dir, LOCK, FlockOperation::NonBlockingLockShared)
    }

    /// Locks part `name` of `dir` against other writers of the same part.
    ///
    /// # Errors
    /// Those of [`FolderLock::exclusive`].
    pub fn of_part(dir: &Path, name: &str) -> Result<Self, ArtifactError> {
        Self::acquire(dir, &format!("{LOCK}-{name}"), FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks a file that may not exist yet, and what is written with it, against other writers that lock it.
    ///
    /// # Errors
    /// Those of [`FolderLock::exclusive`], of the folder that the file is in.
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::of_part(dir, &name).map_err(|error| match error {
            ArtifactError::Busy { .. } => ArtifactError::Busy { path: path.to_owned() },
            error => error,
        })
    }

    fn acquire(dir: &Path, name: &str, operation: FlockOperation) -> Result<Self, ArtifactError> {
        let path = dir.join(name);
        loop {
            let file = open(&path, true)?;
            if !file.metadata().during("read", &path)?.is_file() {
                return Err(ArtifactError::invalid(
                    &path,
                    "expected an ordinary file for the lock of the folder",
                ));
            }
            match lock(&file, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(ArtifactError::Busy { path: dir.to_owned() }),
                Err(error) if has_no_locks(error) => {
                    if let Some(notify) = UNGUARDED.get().filter(|_| !NOTIFIED.swap(true, Ordering::Relaxed))
                    {
                        notify(dir);
                    }
                    return Ok(Self { path, file, guards: false });
                }
                Err(error) => return Err(io::Error::from(error)).during("lock", &path),
            }
            if is_at(&file, &path).during("read", &path)? {
                return Ok(Self { path, file, guards: true });
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Deleted only under an exclusive lock: other holders of a shared lock still need the name. If that fails, a later
        // holder deletes the file, and nothing depends on it.
        let alone = !self.guards || lock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if alone && is_at(&self.file, &self.path).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the lock file at `path`. A link is not followed, and nothing is truncated.
fn open(path: &Path, create: bool) -> Result<File, ArtifactError> {
    // Writable, because network file systems need that for an exclusive lock. Opening a device or a pipe must not block.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .custom_flags(flags)
        .open(path);
    match opened {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(ArtifactError::invalid(
                path,
                "expected an ordinary file for the lock of the folder, got a link\nhint: delete the link",
            ))
        }
        opened => opened.during("open", path),
    }
}

fn lock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            locked => return locked,
        }
    }
}

/// Whether `error` says that the file system does not support locks.
fn has_no_locks(error: Errno) -> bool {
    [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOLCK].contains(&error)
}

/// Whether `file` is what lies at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    // Opened, not only looked up, because a network file system may answer a look-up from memory.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let other = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(other) => other.metadata()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let own = file.metadata()?;
    Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    fn is_busy(lock: Result<FolderLock, ArtifactError>) -> bool {
        matches!(lock, Err(ArtifactError::Busy { .. }))
    }

    #[test]
    fn one_writer_or_several_parts_hold_a_folder_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let writer = FolderLock::exclusive(dir).unwrap();
        assert!(is_busy(FolderLock::exclusive(dir)) && is_busy(FolderLock::shared(dir)));
        drop(writer);
        let (a, b) = (FolderLock::shared(dir).unwrap(), FolderLock::shared(dir).unwrap());
        let part = FolderLock::of_part(dir, "0-of-2").unwrap();
        assert!(is_busy(FolderLock::of_part(dir, "0-of-2")) && is_busy(FolderLock::exclusive(dir)));
        drop((FolderLock::of_part(dir, "1-of-2").unwrap(), a));
        assert!(is_busy(FolderLock::exclusive(dir)), "a part still holds it");
        drop((part, b));
        FolderLock::exclusive(dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_killed_process_left_is_locked_again_and_a_link_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "").unwrap();
        drop(FolderLock::exclusive(dir.path()).unwrap());
        let other = dir.path().join("precious");
        fs::write(&other, "content").unwrap();
        symlink(&other, dir.path().join(LOCK)).unwrap();
        let error = FolderLock::exclusive(dir.path()).unwrap_err().to_string();
        assert!(error.contains(".lock: expected an ordinary file") && error.contains("hint:"), "{error}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "content");
    }

    #[test]
    fn of_many_threads_only_one_is_inside_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Ok(_lock) = FolderLock::exclusive(dir.path()) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        entered.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(entered.into_inner() > 0);
    }

    #[test]
    fn errors_of_file_systems_without_locks_are_told_from_others() {
        assert!([Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOLCK].into_iter().all(has_no_locks));
        assert!(![Errno::IO, Errno::BADF, Errno::WOULDBLOCK].into_iter().any(has_no_locks));
    }
}
