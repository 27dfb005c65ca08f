//! Listing, reading and writing objects. Everything that arrives is counted, and belongs to the version that was listed.

use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};
use tokio::sync::Semaphore;

use crate::error::StoreError;
use crate::url::{Scheme, StoreUrl};

/// Bytes of one range request.
const PART: u64 = 8 << 20;

/// Range requests of one object at the same time.
const PARTS_AT_ONCE: usize = 8;

/// Requests that fetch, of all objects, at the same time.
pub(crate) const REQUESTS: usize = 16;

/// Bytes of a part of an upload, and parts at the same time. S3 takes at most 10,000 parts.
const UPLOAD_PART: u64 = 16 << 20;
const MOST_UPLOAD_PARTS: u64 = 9_000;
const UPLOADS_AT_ONCE: usize = 4;

/// Attempts of a transfer whose body was wrong, the pause after the first, and the time after which none begins: requests are
/// already repeated on their own.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS_TIME: Duration = Duration::from_secs(5);

/// Objects that a listing may have. More would not fit the memory of a small machine.
const MOST_OBJECTS: usize = 10_000_000;

/// The version of an object: what it was when it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// ETag; time of modification if the server has none.
    pub(crate) tag: Box<str>,
}

impl Pin {
    /// Any version of this length, for an object whose content is verified.
    pub(crate) fn of_any_version(bytes: u64) -> Self {
        Self { bytes, tag: "".into() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        // Some stores quote the tag in one answer and not in another.
        let tag = meta.e_tag.as_ref().map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        let tag = tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
        Self { bytes: meta.size, tag: tag.into() }
    }
}

/// The objects below a URL.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) url: StoreUrl,
    store: Arc<dyn ObjectStore>,
    permits: Arc<Semaphore>,
}

impl Remote {
    pub(crate) fn new(url: StoreUrl, store: Arc<dyn ObjectStore>, permits: Arc<Semaphore>) -> Self {
        Self { url, store, permits }
    }

    fn failed<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl Fn(object_store::Error) -> StoreError + 'a {
        move |error| StoreError::remote(action, &self.url.shown_of(name), &error)
    }

    /// What the store says of object `name`; `None` if there is no such object.
    pub(crate) async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let key = self.url.key_of(name)?;
        attempts(|| async {
            let head = match self.store.head(&key).await {
                // A signed URL is often signed for GET alone.
                Err(error) if self.url.scheme == Scheme::Http && !is_missing(&error) => {
                    let options =
                        GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                    self.store.get_opts(&key, options).await.map(|got| got.meta)
                }
                head => head,
            };
            match head {
                Ok(meta) => Ok(Some(meta)),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(self.failed("read", name)(error)),
            }
        })
        .await
    }

    /// All objects below the URL with their names, in the order of the names.
    ///
    /// # Errors
    /// [`StoreError::Url`] for a name that cannot be that of a file.
    pub(crate) async fn list(&self) -> Result<Vec<(Box<str>, Pin)>, StoreError> {
        attempts(|| self.list_once()).await
    }

    async fn list_once(&self) -> Result<Vec<(Box<str>, Pin)>, StoreError> {
        let prefix = self.url.key_of("")?;
        let failed = self.failed("list", "");
        let mut listed = Vec::new();
        let mut objects = self.store.list(Some(&prefix));
        while let Some(meta) = objects.next().await {
            let meta = meta.map_err(&failed)?;
            let key: &str = meta.location.as_ref();
            let name = key.strip_prefix(&self.url.key).unwrap_or(key).trim_start_matches('/');
            // An empty object under the prefix itself stands for the folder.
            if name.is_empty() {
                continue;
            }
            if listed.len() == MOST_OBJECTS {
                return Err(StoreError::Failed {
                    action: "list",
                    url: self.url.shown.clone(),
                    reason: format!("it has more than {MOST_OBJECTS} objects"),
                    hint: "\nhint: give a part of it, or archives",
                });
            }
            listed.push((name.into(), Pin::of(&meta)));
        }
        listed.sort_unstable_by(|(a, _): &(Box<str>, Pin), (b, _)| a.cmp(b));
        Ok(listed)
    }

    /// The bytes of a small object with its version; `None` if there is no such object.
    pub(crate) async fn read(
        &self,
        name: &str,
        most: u64,
    ) -> Result<Option<(Vec<u8>, UpdateVersion)>, StoreError> {
        let key = self.url.key_of(name)?;
        let url = || self.url.shown_of(name);
        attempts(|| async {
            let got = match self.store.get(&key).await {
                Err(error) if is_missing(&error) => return Ok(None),
                got => got.map_err(self.failed("read", name))?,
            };
            let (bytes, version) = (got.meta.size, got.meta.version.clone());
            if bytes > most {
                return Err(StoreError::TooLarge { url: url(), bytes, limit: most });
            }
            let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version };
            let content = got.bytes().await.map_err(self.failed("read", name))?;
            require_bytes(bytes, content.len() as u64, url)?;
            Ok(Some((content.to_vec(), version)))
        })
        .await
    }

    /// Fetches the whole object `name` of version `pin` into an empty file, in ranges at the same time if it is large.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if the object is no longer of this version.
    pub(crate) async fn fetch(&self, name: &str, pin: &Pin, to: &File) -> Result<(), StoreError> {
        if pin.bytes == 0 {
            return Ok(());
        }
        let key = &self.url.key_of(name)?;
        let fetch =
            move |range: Range<u64>| attempts(move || self.fetch_range(key, name, pin, range.clone(), to));
        if pin.bytes <= PART {
            return fetch(0..pin.bytes).await;
        }
        match fetch(0..PART).await {
            // A plain web server may not know ranges.
            Err(error) if self.url.scheme == Scheme::Http && error.is_transient() => {
                return fetch(0..pin.bytes).await;
            }
            first => first?,
        }
        let starts = (1..pin.bytes.div_ceil(PART)).map(|number| number * PART);
        let parts = starts.map(move |start| fetch(start..pin.bytes.min(start + PART)));
        stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect().await
    }

    async fn fetch_range(
        &self,
        key: &Key,
        name: &str,
        pin: &Pin,
        range: Range<u64>,
        to: &File,
    ) -> Result<(), StoreError> {
        let url = || self.url.shown_of(name);
        let is_whole = range == (0..pin.bytes);
        let options = GetOptions {
            range: (!is_whole).then(|| GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        // A closed semaphore does not limit; nothing closes it.
        let _permit = self.permits.acquire().await;
        let got = match self.store.get_opts(key, options).await {
            Err(error) if is_missing(&error) && !pin.tag.is_empty() => {
                return Err(StoreError::Changed { url: url(), change: "it was deleted".to_owned() });
            }
            got => got.map_err(self.failed("read", name))?,
        };
        let now = Pin::of(&got.meta);
        if now.tag != pin.tag && !pin.tag.is_empty() {
            let change = format!("its version was {} and is {} now", pin.tag, now.tag);
            return Err(StoreError::Changed { url: url(), change });
        }
        require_bytes(pin.bytes, now.bytes, url)?;
        let (mut at, mut body) = (range.start, got.into_stream());
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(self.failed("read", name))?;
            let end = at + bytes.len() as u64;
            if end > range.end {
                return require_bytes(range.end - range.start, end - range.start, url);
            }
            to.write_all_at(&bytes, at).map_err(|error| StoreError::io("write", "the store cache", error))?;
            at = end;
        }
        require_bytes(range.end - range.start, at - range.start, url)
    }

    /// Stores a file as object `name`, which is replaced if it exists.
    pub(crate) async fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        attempts(|| self.put_file_once(name, path)).await
    }

    async fn put_file_once(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        let key = self.url.key_of(name)?;
        let failed = self.failed("write", name);
        let io = |error| StoreError::io("read", path, error);
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let part = UPLOAD_PART.max(bytes.div_ceil(MOST_UPLOAD_PARTS));
        let piece = |start: u64| {
            let mut content = vec![0; usize::try_from(part.min(bytes - start)).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut content, start).map_err(io)?;
            Ok::<_, StoreError>(PutPayload::from(content))
        };
        if bytes <= part {
            self.store.put(&key, piece(0)?).await.map_err(failed)?;
            return Ok(());
        }
        let mut upload = self.store.put_multipart(&key).await.map_err(&failed)?;
        let sent = async {
            let mut pending = stream::FuturesUnordered::new();
            for number in 0..bytes.div_ceil(part) {
                if pending.len() == UPLOADS_AT_ONCE {
                    pending.try_next().await.map_err(&failed)?;
                }
                pending.push(upload.put_part(piece(number * part)?));
            }
            pending.try_collect::<()>().await.map_err(&failed)
        }
        .await;
        match sent {
            Ok(()) => upload.complete().await.map(drop).map_err(&failed),
            Err(error) => {
                // The error is returned. A store deletes an abandoned upload by its own rules if this fails too.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Stores bytes as object `name`, if the object is as `mode` expects. Returns whether it was. It was not, too, if the
    /// answer to a first request was lost: the object is then the one that is stored.
    pub(crate) async fn put_if(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<bool, StoreError> {
        let key = self.url.key_of(name)?;
        let payload = PutPayload::from(bytes.to_vec());
        attempts(|| async {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            match self.store.put_opts(&key, payload.clone(), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(false)
                }
                Err(error) => Err(self.failed("write", name)(error)),
            }
        })
        .await
    }

    /// Deletes all objects below `name`.
    pub(crate) async fn delete_below(&self, name: &str) -> Result<(), StoreError> {
        let key = self.url.key_of(name)?;
        let failed = self.failed("delete", name);
        let listed = self.store.list(Some(&key)).map_ok(|meta| meta.location).boxed();
        self.store.delete_stream(listed).try_for_each(|_| async { Ok(()) }).await.map_err(failed)
    }
}

fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
}

fn require_bytes(expected: u64, got: u64, url: impl Fn() -> String) -> Result<(), StoreError> {
    if expected == got {
        return Ok(());
    }
    let reason = format!("expected {expected} bytes, got {got}");
    Err(StoreError::Failed { action: "read", url: url(), reason, hint: "" })
}

/// Repeats what fails for a reason that may pass.
async fn attempts<T, F: Future<Output = Result<T, StoreError>>>(
    once: impl Fn() -> F,
) -> Result<T, StoreError> {
    let begin = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        match once().await {
            Err(error) if error.is_transient() && attempt < ATTEMPTS && begin.elapsed() < ATTEMPTS_TIME => {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            ended => return ended,
        }
    }
}
