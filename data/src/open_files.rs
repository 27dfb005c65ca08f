//! A pool of open files that many threads read. A cache or a set of archives may have more shards than the number of
//! files that a process may open, often 1,024.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::ordinary;

/// Open files by number. The most recently opened files stay open. A usage order would not help: rows are drawn from
/// all shards, so no shard is more likely than another to be read next.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Indexed by file number; ends at the highest number opened so far.
    files: Vec<Option<Arc<File>>>,
    /// Numbers of the open files, oldest first.
    order: VecDeque<usize>,
}

impl OpenFiles {
    /// Makes a pool that keeps up to `most` files open, at least one.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), open: Mutex::default() }
    }

    /// Returns file `number`, which is at `path`. Opens it if necessary.
    pub(crate) fn get(&self, number: usize, path: &Path) -> io::Result<Arc<File>> {
        if let Some(Some(file)) = self.lock().files.get(number) {
            return Ok(Arc::clone(file));
        }
        // Opened without the lock, because opening is slow on a network share. Opening the same file twice is harmless.
        let file = ordinary::open(path).or_else(|error| {
            // The process may open fewer files than the pool keeps.
            if Errno::from_io_error(&error) != Some(Errno::MFILE) {
                return Err(error);
            }
            *self.lock() = Open::default();
            ordinary::open(path)
        })?;
        let file = Arc::new(file);
        if !ordinary::is_stand_in(path) {
            self.keep(number, &file);
        }
        Ok(file)
    }

    fn keep(&self, number: usize, file: &Arc<File>) {
        let mut open = self.lock();
        if open.files.len() <= number {
            open.files.resize(number + 1, None);
        }
        if open.files[number].replace(Arc::clone(file)).is_some() {
            return;
        }
        open.order.push_back(number);
        if open.order.len() > self.most
            && let Some(oldest) = open.order.pop_front()
        {
            // The file stays open while a thread is still reading it.
            open.files[oldest] = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::positioned::read_exact_at;

    #[test]
    fn all_files_can_be_read_while_few_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = |number: u8| dir.path().join(number.to_string());
        (0..9).for_each(|number| std::fs::write(path(number), [number]).unwrap());
        let files = OpenFiles::new(3);
        for number in (0..9).chain([4, 4, 8, 0, 5, 4]) {
            let mut byte = [u8::MAX];
            let file = files.get(usize::from(number), &path(number)).unwrap();
            read_exact_at(&file, &mut byte, 0).unwrap();
            let open = files.lock().files.iter().flatten().count();
            assert!(byte == [number] && open <= 3, "file {number}: {byte:?}, {open} open");
        }
        std::fs::remove_file(path(5)).unwrap();
        assert!(files.get(5, &path(5)).is_ok(), "the one opened last is still open");
        std::fs::remove_file(path(1)).unwrap();
        assert!(files.get(1, &path(1)).unwrap_err().kind() == io::ErrorKind::NotFound);
    }
}
