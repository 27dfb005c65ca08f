//! Images in a store: listed once as stand-ins on this machine, fetched when they are opened, and a few ahead.
//!
//! A stand-in is an empty file with the name and the length of an object. The sources of `lgd-data` list the stand-ins like
//! any files. When one is opened, [`Images::open`] opens the fetched object in its place.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{StreamExt, TryStreamExt, stream};
use lgd_data::source::expand_range;
use tokio::runtime::Handle;

use crate::error::StoreError;
use crate::shelf::Shelf;
use crate::transfer::{Pin, REQUESTS, Remote};

/// Objects that are fetched ahead of the one that is opened, while they are opened in order; fewer if they are large.
const AHEAD: usize = 32;
const LARGE: u64 = 64 << 20;
const LARGE_AHEAD: usize = 2;

/// Endings of lists, whose images are beside them.
const LISTS: [&str; 4] = [".csv", ".tsv", ".txt", ".jsonl"];

/// Endings of files that hold many images.
const ARCHIVES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".parquet"];

/// The order in which a command opens images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As they are listed, so that the next ones can be fetched ahead.
    InOrder,
    /// In any order, several times. Archives and Parquet files must then fit the limit all together.
    Random,
}

/// One listed URL.
struct Set {
    /// The folder of the stand-ins, for the URL of `remote`.
    root: PathBuf,
    remote: Remote,
    /// Names and versions, in the order of the names.
    objects: Vec<(Box<str>, Pin)>,
    access: Access,
    /// The object that was opened last, and the last one that is fetched ahead.
    last: AtomicUsize,
    ahead: AtomicUsize,
}

/// All listed URLs of a command.
pub(crate) struct Images {
    sets: RwLock<Vec<Arc<Set>>>,
    shelf: Arc<Shelf>,
    runtime: Handle,
}

impl Images {
    pub(crate) fn new(shelf: Arc<Shelf>, runtime: Handle) -> Self {
        Self { sets: RwLock::default(), shelf, runtime }
    }

    /// Lists the images at the URL into `dir`, an empty folder. Returns the local path that stands for the URL.
    pub(crate) async fn list(
        &self,
        remote: Remote,
        access: Access,
        dir: &Path,
    ) -> Result<PathBuf, StoreError> {
        let (remote, below, objects) = find(remote).await?;
        let root = dir.join(remote.url.name());
        let total = objects.iter().filter(|(name, _)| ARCHIVES.iter().any(|ending| name.ends_with(ending)));
        let total = total.map(|(_, pin)| pin.bytes).fold(0, u64::saturating_add);
        if access == Access::Random && total > self.shelf.limit() {
            let (url, limit) = (remote.url.shown_of(&below), self.shelf.limit());
            return Err(StoreError::TooLarge { url, bytes: total, limit });
        }
        stand_in(&root, &objects, &remote)?;
        let path = if below.is_empty() { root.clone() } else { root.join(&below) };
        let (last, ahead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let set = Set { root, remote, objects, access, last, ahead };
        self.sets.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(set));
        Ok(path)
    }

    /// Opens the object that a stand-in stands for; `None` for any other path.
    pub(crate) fn open(&self, path: &Path) -> Option<io::Result<File>> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let found =
            sets.iter().find_map(|set| Some((Arc::clone(set), path.strip_prefix(&set.root).ok()?.to_str()?)));
        let (set, name) = found?;
        drop(sets);
        let at = set.objects.binary_search_by(|(object, _)| (**object).cmp(name)).ok()?;
        self.fetch_ahead(&set, at);
        let (name, pin) = &set.objects[at];
        // Not interrupted: the job stops at its next safe point, and the image may be part of the way there.
        let opened = self.runtime.block_on(self.shelf.open_object(&set.remote, name, pin));
        Some(opened.map_err(io::Error::other))
    }

    /// Starts to fetch the objects after number `at`, if objects are opened in order.
    fn fetch_ahead(&self, set: &Arc<Set>, at: usize) {
        let last = set.last.swap(at, Ordering::Relaxed);
        if set.access == Access::Random || at != 0 && at.abs_diff(last) > AHEAD {
            return;
        }
        if at == 0 {
            // A second pass over the images.
            set.ahead.store(0, Ordering::Relaxed);
        }
        let (mut bytes, mut large) = (0_u64, 0);
        let next = set.objects.iter().enumerate().skip(at + 1).take(AHEAD);
        for (number, (_, pin)) in next {
            bytes = bytes.saturating_add(pin.bytes);
            large += usize::from(pin.bytes >= LARGE);
            if bytes > self.shelf.limit() / 4 || large > LARGE_AHEAD {
                break;
            }
            if set.ahead.fetch_max(number, Ordering::Relaxed) >= number {
                continue;
            }
            let (set, shelf) = (Arc::clone(set), Arc::clone(&self.shelf));
            self.runtime.spawn(async move {
                let (name, pin) = &set.objects[number];
                // The command tries again when it opens the object, and reports the error.
                let _ = shelf.open_object(&set.remote, name, pin).await;
            });
        }
    }
}

/// The objects of a URL: a folder as a remote, what the URL names below it, and the objects of the folder that belong to it.
async fn find(remote: Remote) -> Result<(Remote, String, Vec<(Box<str>, Pin)>), StoreError> {
    let url = &remote.url;
    if let Some(brace) = url.key.find('{') {
        let folder = url.key[..brace].rfind('/').unwrap_or(0);
        let (remote, pattern) = split(remote, folder);
        let wanted: HashSet<String> = expand_range(Path::new(&pattern))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|path| path.into_os_string().into_string().ok())
            .collect();
        let objects = match remote.url.lists() {
            true => {
                let mut objects = remote.list().await?;
                objects.retain(|(name, _)| wanted.contains(&**name));
                objects
            }
            false => heads(&remote, wanted).await?,
        };
        return Ok((remote, pattern, objects));
    }
    // A web server answers the name of a folder with a page.
    let is_folder = url.key.is_empty() || !url.lists() && !url.name().contains('.');
    let object = if is_folder { None } else { remote.head("").await? };
    let Some(meta) = object else {
        if !url.lists() {
            return Err(StoreError::Missing {
                url: url.shown.clone(),
                hint: "\nhint: a web server cannot be listed: give an archive, a Parquet file, or a range such as shards-{000..127}.tar",
            });
        }
        let objects = remote.list().await?;
        if objects.is_empty() {
            return Err(StoreError::Missing {
                url: url.shown.clone(),
                hint: "\nhint: no object has this key or begins with it; check bucket and key",
            });
        }
        return Ok((remote, String::new(), objects));
    };
    let folder = url.key.rfind('/').unwrap_or(0);
    let is_list = LISTS.iter().any(|ending| url.key.ends_with(ending));
    if is_list && !url.lists() {
        return Err(StoreError::Url {
            url: url.shown.clone(),
            problem: "a list on a web server is not read, because the images beside it cannot be listed"
                .to_owned(),
            hint: "give an archive or a Parquet file, or copy the list and its images",
        });
    }
    let (remote, name) = split(remote, folder);
    let objects = match is_list {
        true => remote.list().await?,
        false => vec![(name.as_str().into(), Pin::of(&meta))],
    };
    Ok((remote, name, objects))
}

/// The folder of a URL, whose key ends at `folder`, and the rest of the key.
fn split(mut remote: Remote, folder: usize) -> (Remote, String) {
    let rest = remote.url.key[folder..].trim_start_matches('/').to_owned();
    remote.url.key.truncate(folder);
    let shown =
        remote.url.shown.rfind(&rest).map(|at| remote.url.shown[..at].trim_end_matches('/').to_owned());
    remote.url.shown = shown.unwrap_or_else(|| remote.url.shown.clone());
    (remote, rest)
}

/// The wanted objects that a web server has.
async fn heads(remote: &Remote, wanted: HashSet<String>) -> Result<Vec<(Box<str>, Pin)>, StoreError> {
    let head = |name: String| async move {
        let meta = remote.head(&name).await?;
        Ok::<_, StoreError>(meta.map(|meta| (name.into_boxed_str(), Pin::of(&meta))))
    };
    let found: Vec<_> =
        stream::iter(wanted.into_iter().map(head)).buffer_unordered(REQUESTS).try_collect().await?;
    let mut objects: Vec<_> = found.into_iter().flatten().collect();
    objects.sort_unstable_by(|(a, _): &(Box<str>, Pin), (b, _)| a.cmp(b));
    Ok(objects)
}

/// Makes an empty file of the right length for every object.
fn stand_in(root: &Path, objects: &[(Box<str>, Pin)], remote: &Remote) -> Result<(), StoreError> {
    fs::create_dir_all(root).map_err(|error| StoreError::io("create the folder", root, error))?;
    let mut folder = PathBuf::new();
    let failed = |name: &str, error: io::Error| StoreError::Failed {
        action: "list",
        url: remote.url.shown_of(name),
        reason: format!("there can be no file of this name: {error}"),
        hint: "\nhint: rename the object",
    };
    for (name, _) in objects {
        let path = root.join(&**name);
        if let Some(parent) = path.parent().filter(|parent| *parent != folder) {
            fs::create_dir_all(parent).map_err(|error| failed(name, error))?;
            folder = parent.to_owned();
        }
    }
    for (name, pin) in objects {
        let path = root.join(&**name);
        // An empty object whose name ends in a slash stands for a folder.
        if pin.bytes == 0 && path.is_dir() {
            continue;
        }
        File::create_new(&path)
            .and_then(|file| file.set_len(pin.bytes))
            .map_err(|error| failed(name, error))?;
    }
    Ok(())
}
