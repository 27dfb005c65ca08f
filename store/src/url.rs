//! URLs of object stores.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::path::Path as Key;

use crate::error::StoreError;
use crate::secrets::redacted;

/// Hint for a URL with another scheme.
const SCHEMES: &str = "give a local path, or a URL that begins with s3://, gs://, az://, https:// or http://";

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    S3,
    Gs,
    Az,
    /// A plain web server, which can only be read.
    Http,
}

/// A URL of an object or of all objects below a prefix.
#[derive(Clone, Debug)]
pub(crate) struct StoreUrl {
    pub(crate) scheme: Scheme,
    /// Bucket, container, or `https://user:password@host:port`.
    pub(crate) base: String,
    /// What follows a `?`; only for web servers.
    pub(crate) query: Option<String>,
    /// The object or the prefix, without a slash at either end.
    pub(crate) key: String,
    /// The URL in messages, without credentials and without a slash at its end.
    pub(crate) shown: String,
}

/// Whether a path of the command line is a URL, of a known scheme or another.
pub fn is_url(path: &Path) -> bool {
    let Some((scheme, rest)) = path.to_str().and_then(|text| text.split_once(':')) else { return false };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let known = ["s3", "gs", "az", "http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    // A single slash remains if another program normalized a URL as a path.
    scheme.len() > 1
        && scheme.bytes().all(letter)
        && (rest.starts_with("//") || known && rest.starts_with('/'))
}

impl StoreUrl {
    /// Reads a URL of the command line.
    ///
    /// # Errors
    /// [`StoreError::Url`].
    pub(crate) fn parse(path: &Path) -> Result<Self, StoreError> {
        let text = path.to_str().unwrap_or_default();
        let shown = redacted(text).trim_end_matches('/').to_owned();
        let wrong =
            |problem: &str, hint| StoreError::Url { url: shown.clone(), problem: problem.to_owned(), hint };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("a URL has two slashes behind its scheme", "write it as s3://bucket/key"));
        };
        let scheme_name = scheme.to_ascii_lowercase();
        let scheme = match &*scheme_name {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "http" | "https" => Scheme::Http,
            _ => return Err(wrong("this kind of URL is not read", SCHEMES)),
        };
        let (rest, query) = match rest.split_once('?').filter(|_| scheme == Scheme::Http) {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let (base, key) = rest.split_once('/').unwrap_or((rest, ""));
        if base.is_empty() {
            return Err(wrong("it names no bucket or host", "write it as s3://bucket/key"));
        }
        if scheme != Scheme::Http && base.contains(['@', ':']) {
            return Err(wrong(
                "credentials do not belong into the URL of a bucket",
                "set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        }
        let base = if scheme == Scheme::Http { format!("{scheme_name}://{base}") } else { base.to_owned() };
        let key = key.trim_matches('/').to_owned();
        if key.split('/').any(|part| matches!(part, "." | "..") || part.is_empty() && !key.is_empty()) {
            return Err(wrong("it has an empty part, or one that is . or ..", "write the key without them"));
        }
        Ok(Self { scheme, base, query, key, shown })
    }

    /// The key of `name` below this URL; of the URL itself if `name` is empty.
    ///
    /// # Errors
    /// [`StoreError::Url`] if a store cannot have such a key.
    pub(crate) fn key_of(&self, name: &str) -> Result<Key, StoreError> {
        let text = match (self.key.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.key.clone(),
            _ => format!("{}/{name}", self.key),
        };
        // Web servers have URLs with escapes, buckets have keys as they are.
        let key = if self.scheme == Scheme::Http { Key::from_url_path(&text) } else { Key::parse(&text) };
        key.map_err(|error| StoreError::Url {
            url: self.shown_of(name),
            problem: error.to_string(),
            hint: "rename the object",
        })
    }

    /// The URL of `name` below this URL, for messages.
    pub(crate) fn shown_of(&self, name: &str) -> String {
        if name.is_empty() { self.shown.clone() } else { format!("{}/{name}", self.shown) }
    }

    /// The last part of the key; that of the bucket or host if there is none.
    pub(crate) fn name(&self) -> &str {
        let last = self.key.rsplit('/').next().unwrap_or_default();
        if !last.is_empty() {
            return last;
        }
        let host = self.base.rsplit(['/', '@']).next().unwrap_or_default();
        if host.is_empty() { "store" } else { host }
    }

    /// What tells objects of this URL's bucket or host from those of others: never a credential.
    pub(crate) fn origin(&self) -> String {
        let host = self.base.rsplit('@').next().unwrap_or_default();
        format!("{:?} {host}", self.scheme)
    }

    /// The base without its user, and the value of the header `Authorization` that the user stands for.
    pub(crate) fn without_user(&self) -> (String, Option<String>) {
        let split = self.base.split_once("://").and_then(|(scheme, rest)| {
            let (user, host) = rest.rsplit_once('@')?;
            Some((format!("{scheme}://{host}"), Some(format!("Basic {}", STANDARD.encode(user)))))
        });
        split.unwrap_or_else(|| (self.base.clone(), None))
    }

    /// Whether the store lists what is below a prefix. A plain web server does not.
    pub(crate) fn lists(&self) -> bool {
        self.scheme != Scheme::Http
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for text in [
            "s3://b/k",
            "S3://b",
            "gs://b",
            "az://c/k",
            "http://h",
            "https://h/p",
            "hf://x",
            "s3:/b/k",
            "file:///x",
        ] {
            assert!(is_url(Path::new(text)), "{text}");
        }
        for text in ["s3", "a/s3://b", "./s3:/b", "c:/x", "images:/x", "images/{000..127}.tar", "a:b", ""] {
            assert!(!is_url(Path::new(text)), "{text}");
        }
    }

    #[test]
    fn a_url_is_taken_apart_and_shown_without_credentials() {
        let parse = |text: &str| StoreUrl::parse(Path::new(text));
        let url = parse("s3://bucket/a/b c/?x/").unwrap();
        assert_eq!((&*url.base, &*url.key, url.name()), ("bucket", "a/b c/?x", "?x"));
        let url = parse("https://me:pw@host:81/a/b.tar?sig=1").unwrap();
        assert_eq!(
            (&*url.base, &*url.key, url.query.as_deref()),
            ("https://me:pw@host:81", "a/b.tar", Some("sig=1"))
        );
        assert_eq!(url.shown, "https://***@host:81/a/b.tar?***");
        assert_eq!(url.without_user(), ("https://host:81".to_owned(), Some("Basic bWU6cHc=".to_owned())));
        assert!(
            !url.origin().contains("pw") && !format!("{}{}", url.shown_of("x"), url.name()).contains("pw")
        );
        assert_eq!(parse("s3://bucket").unwrap().name(), "bucket");
        for (text, part) in [
            ("hf://datasets/x", "hint: give a local path"),
            ("s3:/bucket/x", "two slashes"),
            ("s3:///x", "no bucket"),
            ("s3://key:secret@bucket/x", "credentials"),
            ("s3://bucket/a/../b", ".."),
            ("s3://bucket/a//b", "empty part"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.contains(part) && message.contains("hint:") && !message.contains("secret"),
                "{message}"
            );
        }
    }
}
