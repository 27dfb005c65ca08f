//! What a command does with URLs, and the folder on this machine.

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lgd_data::manifest::{ContentHash, FolderLock};
use lgd_data::ordinary;
use object_store::ObjectStore;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::artifact;
use crate::client;
use crate::error::StoreError;
use crate::images::{Access, Images};
use crate::output::{Form, Output};
use crate::shelf::{Limit, Shelf};
use crate::transfer::{Pin, REQUESTS, Remote};
use crate::url::{Scheme, StoreUrl};

const OUT: &str = "out";
const JOBS: &str = "jobs";

/// Longest time until a command has locked its folder.
const BEGINNING: Duration = Duration::from_secs(60);

/// Pause between two questions whether to stop.
const STOP_PAUSE: Duration = Duration::from_millis(50);

/// Where fetched files are kept, and how a session talks to the command.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of fetched files and of outputs that are being made.
    pub dir: PathBuf,
    /// Bytes that fetched files may take.
    pub limit: Limit,
    /// Whether the command was interrupted.
    pub stop: fn() -> bool,
    /// Prints a line for the user.
    pub say: fn(&str),
}

/// A local path and the URL that it stands for.
#[derive(Clone, Debug)]
pub struct Named {
    /// The local path.
    pub path: PathBuf,
    /// The URL, without credentials.
    pub url: String,
    /// Whether the command makes what is there, and did not fetch it.
    pub is_output: bool,
}

/// The URLs of one command. Local stand-ins are deleted when it is dropped; fetched files stay for the next command.
pub struct Session {
    settings: Settings,
    runtime: Runtime,
    shelf: Arc<Shelf>,
    stores: HashMap<String, Arc<dyn ObjectStore>>,
    permits: Arc<Semaphore>,
    images: Arc<Images>,
    names: Vec<Named>,
    /// Artifacts that must not be deleted while the command runs.
    artifacts: Vec<FolderLock>,
    /// The folder of this command, and its lock, by which other commands see that it is used. The lock is dropped first.
    _lock: FolderLock,
    job: TempDir,
}

impl Session {
    /// Opens the folder, and takes over opening the stand-ins of images in it.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be made.
    pub fn open(mut settings: Settings) -> Result<Self, StoreError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::io(action, path, error)
        };
        let jobs = settings.dir.join(JOBS);
        fs::create_dir_all(&jobs).map_err(io("create the folder", &jobs))?;
        settings.dir = settings.dir.canonicalize().map_err(io("find", &settings.dir))?;
        let jobs = settings.dir.join(JOBS);
        remove_abandoned(&jobs);
        let job = TempDir::new_in(&jobs).map_err(io("create a folder in", &jobs))?;
        let lock = FolderLock::exclusive(job.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(io("start the threads of", &settings.dir))?;
        let shelf = Arc::new(Shelf::open(&settings.dir, settings.limit.0)?);
        let images = Arc::new(Images::new(Arc::clone(&shelf), runtime.handle().clone()));
        let opener = Arc::clone(&images);
        ordinary::set_stand_ins(job.path().to_owned(), Box::new(move |path| opener.open(path)));
        Ok(Self {
            settings,
            runtime,
            shelf,
            stores: HashMap::new(),
            permits: Arc::new(Semaphore::new(REQUESTS)),
            images,
            names: Vec::new(),
            artifacts: Vec::new(),
            _lock: lock,
            job,
        })
    }

    /// Fetches the cache, bank, bridge or run at a URL, except files that the manifest lists in the fields `skipped`.
    /// Returns its local folder. Files of an earlier command are not fetched again.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without a manifest; [`StoreError::Hash`] for damage; any error of the store.
    pub fn artifact(&mut self, url: &Path, skipped: &[&str]) -> Result<PathBuf, StoreError> {
        self.fetch(url, skipped, None)
    }

    /// Like [`Session::artifact`], but fetches all files anew, into a folder that is deleted with the session.
    ///
    /// # Errors
    /// Those of [`Session::artifact`].
    pub fn fresh_artifact(&mut self, url: &Path) -> Result<PathBuf, StoreError> {
        let dir = self.folder()?;
        self.fetch(url, &[], Some(dir))
    }

    fn fetch(&mut self, url: &Path, skipped: &[&str], dir: Option<PathBuf>) -> Result<PathBuf, StoreError> {
        let remote = self.remote(url)?;
        let fetched = self.run(&remote, artifact::fetch(&remote, &self.shelf, skipped, dir))?;
        if fetched.files > 0 {
            let (megabytes, files) = (fetched.bytes as f64 / 1e6, fetched.files);
            (self.settings.say)(&format!("fetched {}: {files} files, {megabytes:.1} MB", remote.url.shown));
        }
        self.artifacts.push(fetched.lock);
        Ok(self.fetched(fetched.dir, remote.url.shown))
    }

    /// Fetches the file at a URL. Returns its local path, which has the same name.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; any error of the store.
    pub fn file(&mut self, url: &Path) -> Result<PathBuf, StoreError> {
        let remote = self.remote(url)?;
        let path = self.folder()?.join(remote.url.name());
        self.run(&remote, async {
            let meta = remote.head("").await?;
            let missing = || StoreError::Missing { url: remote.url.shown.clone(), hint: "" };
            let pin = Pin::of(&meta.ok_or_else(missing)?);
            let io = |error| StoreError::io("write", &path, error);
            let mut file = self.shelf.open_object(&remote, "", &pin).await?;
            std::io::copy(&mut file, &mut fs::File::create_new(&path).map_err(io)?).map_err(io)
        })?;
        Ok(self.fetched(path, remote.url.shown))
    }

    /// Lists the images at a URL. Returns the local path of their stand-ins, which [`lgd_data::source`] opens like any.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there are none; [`StoreError::TooLarge`] for archives that do not fit the limit and are
    /// read in any order; any error of the store.
    pub fn images(&mut self, url: &Path, access: Access) -> Result<PathBuf, StoreError> {
        let remote = self.remote(url)?;
        let (dir, shown) = (self.folder()?, remote.url.shown.clone());
        let path = self.run(&remote, self.images.list(remote.clone(), access, &dir))?;
        // Names of other objects are shown with the URL of the folder.
        let folder = shown.rsplit_once('/').map_or(shown.as_str(), |(folder, _)| folder).to_owned();
        if let Some(parent) = path.parent().filter(|parent| *parent != dir) {
            self.fetched(parent.to_owned(), folder);
        }
        Ok(self.fetched(path, shown))
    }

    /// Begins an output folder with the manifest `manifest` at a URL. The command writes to [`Output::path`], and
    /// [`Session::store`] stores it.
    ///
    /// # Errors
    /// [`StoreError::Occupied`]; [`StoreError::Url`] for a web server; any error of the store.
    pub fn output_folder(
        &mut self,
        url: &Path,
        manifest: &'static str,
        overwrite: bool,
    ) -> Result<Output, StoreError> {
        self.output(url, Form::Folder(manifest), overwrite)
    }

    /// Like [`Session::output_folder`], for a single file.
    ///
    /// # Errors
    /// Those of [`Session::output_folder`].
    pub fn output_file(&mut self, url: &Path, overwrite: bool) -> Result<Output, StoreError> {
        self.output(url, Form::File, overwrite)
    }

    fn output(&mut self, url: &Path, form: Form, overwrite: bool) -> Result<Output, StoreError> {
        let remote = self.remote(url)?;
        if remote.url.scheme == Scheme::Http || remote.url.key.is_empty() {
            let http = remote.url.scheme == Scheme::Http;
            return Err(StoreError::Url {
                url: remote.url.shown.clone(),
                problem: if http { "a web server is only read" } else { "it is a whole bucket" }.to_owned(),
                hint: "give a local --out, or one such as s3://bucket/name",
            });
        }
        let path = self.output_path(&remote.url);
        let begun = self.run(&remote, Output::begin(remote.clone(), form, path.clone(), overwrite))?;
        if form == Form::File {
            // What an earlier command could not store is made anew.
            let own = path.parent().unwrap_or(&path);
            let _ = fs::remove_dir_all(own);
            fs::create_dir_all(own).map_err(|error| StoreError::io("create the folder", own, error))?;
        }
        self.made(path, remote.url.shown);
        Ok(begun)
    }

    /// Local path of an output that is only planned: nothing is stored.
    ///
    /// # Errors
    /// [`StoreError::Url`].
    pub fn planned_output(&mut self, url: &Path) -> Result<PathBuf, StoreError> {
        let url = StoreUrl::parse(url)?;
        let path = self.output_path(&url);
        Ok(self.made(path, url.shown))
    }

    fn output_path(&self, url: &StoreUrl) -> PathBuf {
        let hash = ContentHash::of(format!("{}\0{}", url.origin(), url.key).as_bytes());
        self.settings.dir.join(OUT).join(artifact::version_folder(hash)).join(url.name())
    }

    /// Stores an output that the command has made, and deletes the local one.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if another writer was faster; any error of the store.
    pub fn store(&self, output: &Output) -> Result<(), StoreError> {
        let url = output.url();
        let notes = self.runtime.block_on(until_stopped(self.settings.stop, url, output.store()))?;
        notes.iter().for_each(|note| (self.settings.say)(&format!("note: {url}: {note}")));
        (self.settings.say)(&format!("stored {url}"));
        Ok(())
    }

    /// The folder of fetched files, for what a command keeps beside its output.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Local paths and the URLs that they stand for, for messages.
    pub fn names(&self) -> &[Named] {
        &self.names
    }

    fn fetched(&mut self, path: PathBuf, url: String) -> PathBuf {
        self.names.push(Named { path: path.clone(), url, is_output: false });
        path
    }

    fn made(&mut self, path: PathBuf, url: String) -> PathBuf {
        self.names.push(Named { path: path.clone(), url, is_output: true });
        path
    }

    /// A new, empty folder of this command.
    fn folder(&self) -> Result<PathBuf, StoreError> {
        let io = |error| StoreError::io("create a folder in", self.job.path(), error);
        Ok(TempDir::new_in(self.job.path()).map_err(io)?.keep())
    }

    fn remote(&mut self, url: &Path) -> Result<Remote, StoreError> {
        let url = StoreUrl::parse(url)?;
        let identity = format!("{:?} {}?{:?}", url.scheme, url.base, url.query);
        let store = match self.stores.get(&identity) {
            Some(store) => Arc::clone(store),
            None => {
                let store = client::open(&url)?;
                self.stores.insert(identity, Arc::clone(&store));
                store
            }
        };
        Ok(Remote::new(url, store, Arc::clone(&self.permits)))
    }

    fn run<T>(
        &self,
        remote: &Remote,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(until_stopped(self.settings.stop, &remote.url.shown, work))
    }
}

/// Deletes the stand-ins of commands that were killed.
fn remove_abandoned(jobs: &Path) {
    // A command that has just begun may not have locked its folder yet.
    let is_old = |job: &DirEntry| {
        let modified = job.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > BEGINNING))
    };
    for job in fs::read_dir(jobs).into_iter().flatten().flatten().filter(is_old) {
        // The lock file is deleted with its folder; what cannot be deleted only takes space.
        if let Ok(_lock) = FolderLock::exclusive(&job.path()) {
            let _ = fs::remove_dir_all(job.path());
        }
    }
}

/// Does `work`, unless the command is interrupted: then what it had begun is dropped.
async fn until_stopped<T>(
    stop: fn() -> bool,
    url: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let stopped = async {
        while !stop() {
            tokio::time::sleep(STOP_PAUSE).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = stopped => Err(StoreError::Interrupted { url: url.to_owned() }),
    }
}
