//! Local paths and the URLs that they stand for.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use lgd_store::{Named, redacted};

/// The longest path first, so that a file is named before its folder.
static NAMES: RwLock<Vec<Named>> = RwLock::new(Vec::new());

/// Makes messages show URLs for local paths.
pub fn register(names: &[Named]) {
    let mut names = names.to_vec();
    names.sort_by_key(|name| std::cmp::Reverse(name.path.as_os_str().len()));
    *NAMES.write().unwrap_or_else(PoisonError::into_inner) = names;
}

/// The text with URLs in place of the local paths that stand for them, and without credentials.
pub fn shown(text: &str) -> String {
    let mut text = text.to_owned();
    for Named { path, url, .. } in NAMES.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(path) = path.to_str().filter(|path| text.contains(path)) {
            text = text.replace(path, url);
        }
    }
    if text.contains("://") { redacted(&text) } else { text }
}

/// Whether a folder was fetched from a URL, so that nothing may be written to it.
pub fn is_fetched(path: &Path) -> bool {
    let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
    names.iter().any(|name| name.path == path && !name.is_output)
}

/// The URL that a local path stands for; none if it is an ordinary path.
fn url_of(path: &Path) -> Option<String> {
    let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
    names.iter().find(|name| name.path == path).map(|name| name.url.clone())
}

/// The local path that stands for a URL in this command; any other path unchanged.
pub fn local(path: PathBuf) -> PathBuf {
    let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
    match names.iter().find(|name| path.to_str() == Some(&name.url)) {
        Some(name) => name.path.clone(),
        None => path,
    }
}

/// The URL that a local path stands for, as a path; any other path unchanged.
pub fn named(path: &Path) -> PathBuf {
    url_of(path).map_or_else(|| path.to_owned(), PathBuf::from)
}

/// What a run or report records as the place of an input: its URL, else its absolute path.
pub fn recorded(path: &Path) -> PathBuf {
    match url_of(path) {
        Some(url) => url.into(),
        None => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}
