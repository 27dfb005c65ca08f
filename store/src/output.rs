//! Stores what a command made in a local folder. Of two writers, one fails, and changes nothing of the other's.
//!
//! The files get a folder named by the hash of their manifest, so that two writers never share one. The manifest is
//! stored last, on the condition that what was there when the command began is still there. A reader starts at the manifest
//! and therefore sees one artifact or the other, never a mixture.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use lgd_data::manifest::ContentHash;
use object_store::{PutMode, UpdateVersion};

use crate::artifact::{MANIFESTS, MOST_MANIFEST, manifests, version_folder};
use crate::error::StoreError;
use crate::transfer::Remote;

/// Files that are stored at the same time.
const FILES_AT_ONCE: usize = 4;

/// Largest file that is stored in one request: only such a request can be conditional. S3 takes 5 GiB.
const MOST_FILE: u64 = 4 << 30;

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A folder with this manifest.
    Folder(&'static str),
    /// A single file.
    File,
}

/// An output that is made locally and not yet stored.
pub struct Output {
    remote: Remote,
    form: Form,
    /// Where the command writes: a folder or a file, inside a folder of its own.
    path: PathBuf,
    /// What is to be replaced: its version, and for a folder the hash of its manifest.
    before: Option<(UpdateVersion, Option<ContentHash>)>,
}

impl Output {
    /// Checks that the output may be stored at the URL. The command then writes to `path`.
    ///
    /// # Errors
    /// [`StoreError::Occupied`] if there is an output already that `overwrite` does not allow to replace.
    pub(crate) async fn begin(
        remote: Remote,
        form: Form,
        path: PathBuf,
        overwrite: bool,
    ) -> Result<Self, StoreError> {
        let occupied =
            |what: String, hint| StoreError::Occupied { url: remote.url.shown.clone(), what, hint };
        let before = match form {
            Form::File => remote
                .head("")
                .await?
                .map(|meta| (UpdateVersion { e_tag: meta.e_tag, version: meta.version }, None)),
            Form::Folder(manifest) => {
                let found = manifests(&remote).await?;
                if let Some(other) = found.iter().find(|found| found.name != manifest) {
                    return Err(occupied(format!("{}, of another kind", other.name), "choose another --out"));
                }
                found.into_iter().next().map(|found| {
                    let hash = found.hash();
                    (found.version, Some(hash))
                })
            }
        };
        if before.is_some() && !overwrite {
            let what = if form == Form::File { "a file" } else { "an artifact" };
            return Err(occupied(what.to_owned(), "give --overwrite, or another --out"));
        }
        Ok(Self { remote, form, path, before })
    }

    /// The URL, for messages.
    pub(crate) fn url(&self) -> &str {
        &self.remote.url.shown
    }

    /// Where the command writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores the output, and deletes the local one. Returns the notes for the user.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if another writer was faster; any error of the store. The local output is then kept.
    pub(crate) async fn store(&self) -> Result<Vec<String>, StoreError> {
        let mut notes = Vec::new();
        match self.form {
            Form::File => self.store_file().await?,
            Form::Folder(manifest) => notes.extend(self.store_folder(manifest).await?),
        }
        if let Some(own) = self.path.parent() {
            fs::remove_dir_all(own).map_err(|error| StoreError::io("delete", own, error))?;
        }
        Ok(notes)
    }

    fn mode(&self) -> PutMode {
        self.before.as_ref().map_or(PutMode::Create, |(version, _)| PutMode::Update(version.clone()))
    }

    fn lost(&self) -> StoreError {
        StoreError::Lost {
            url: self.remote.url.shown.clone(),
            kept: self.path.parent().unwrap_or(&self.path).to_owned(),
        }
    }

    async fn store_file(&self) -> Result<(), StoreError> {
        let io = |error| StoreError::io("read", &self.path, error);
        let bytes = self.path.metadata().map_err(io)?.len();
        if bytes > MOST_FILE {
            return Err(StoreError::Failed {
                action: "write",
                url: self.remote.url.shown.clone(),
                reason: format!("it has {bytes} bytes, and one file may have {MOST_FILE}"),
                hint: "\nhint: give a local path, and copy the file",
            });
        }
        let content = fs::read(&self.path).map_err(io)?;
        if self.remote.put_if("", &content, self.mode()).await? {
            return Ok(());
        }
        self.require_ours("", &content, bytes).await
    }

    /// After a failed condition: an answer may have been lost, and the repeated request then finds its own object.
    async fn require_ours(&self, name: &str, content: &[u8], most: u64) -> Result<(), StoreError> {
        match self.remote.read(name, most).await {
            Ok(Some((there, _))) if there == content => Ok(()),
            Ok(_) | Err(StoreError::TooLarge { .. }) => Err(self.lost()),
            Err(error) => Err(error),
        }
    }

    async fn store_folder(&self, manifest: &str) -> Result<Option<String>, StoreError> {
        let path = self.path.join(manifest);
        let content = fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
        let hash = ContentHash::of(&content);
        let folder = version_folder(hash);
        let names = files(&self.path)?;
        let put = |name: String| {
            let object = format!("{folder}/{name}");
            async move { self.remote.put_file(&object, &self.path.join(&name)).await }
        };
        stream::iter(names.into_iter().map(put)).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        self.remote.put_file(&format!("{folder}/{manifest}"), &path).await?;
        if !self.remote.put_if(manifest, &content, self.mode()).await?
            && let Err(error) = self.require_ours(manifest, &content, MOST_MANIFEST).await
        {
            // Nobody reads these files. If they cannot be deleted, they only take space.
            let _ = self.remote.delete_below(&folder).await;
            return Err(error);
        }
        let old = self.before.as_ref().and_then(|(_, hash)| *hash).filter(|old| *old != hash);
        let Some(old) = old.map(version_folder) else { return Ok(None) };
        let deleted = self.remote.delete_below(&old).await;
        Ok(deleted.err().map(|error| format!("the replaced files stay: {error}")))
    }
}

/// The files below a folder, as names relative to it: without manifests, locks and unfinished files.
fn files(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let io = |error| StoreError::io("list", &folder, error);
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if name.starts_with('.') || MANIFESTS.contains(&&*path) {
                continue;
            }
            if entry.path().is_dir() {
                folders.push((entry.path(), format!("{path}/")));
            } else {
                names.push(path);
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}
