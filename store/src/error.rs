//! Errors of object stores. None contains a credential: texts of servers and libraries are redacted first.

use std::io;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::manifest::ContentHash;

use crate::secrets::redacted;

/// Why something cannot be read from, or written to, an object store. URLs are redacted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The text is not a URL that can be used.
    #[error("{url}: {problem}\nhint: {hint}")]
    Url {
        /// The URL.
        url: String,
        /// Why it cannot be used.
        problem: String,
        /// The way out.
        hint: &'static str,
    },
    /// The store has no such object.
    #[error("{url} does not exist{hint}")]
    Missing {
        /// The URL.
        url: String,
        /// Empty, or a hint on a line of its own.
        hint: &'static str,
    },
    /// The store failed, or refused the request.
    #[error("cannot {action} {url}: {reason}{hint}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// The URL.
        url: String,
        /// What the store or the library said.
        reason: String,
        /// Empty, or a hint on a line of its own.
        hint: &'static str,
    },
    /// An object changed while a command used it.
    #[error(
        "{url} changed while it was in use: {change}\nhint: keep objects as they are while a command reads them; start again"
    )]
    Changed {
        /// The URL.
        url: String,
        /// How it changed.
        change: String,
    },
    /// The bytes that arrived are not those that the manifest lists.
    #[error(
        "{url}: expected BLAKE3 hash {expected}, got {got}\nhint: the object is damaged, or belongs to another manifest; store the artifact again"
    )]
    Hash {
        /// The URL.
        url: String,
        /// Hash in the manifest.
        expected: ContentHash,
        /// Hash of the bytes that arrived.
        got: ContentHash,
    },
    /// Something is larger than allowed.
    #[error("{url} takes {bytes} bytes, more than the limit of {limit}\nhint: give a larger --store-limit")]
    TooLarge {
        /// The URL.
        url: String,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The output already exists.
    #[error("{url} already holds {what}\nhint: {hint}")]
    Occupied {
        /// The URL.
        url: String,
        /// What it holds.
        what: String,
        /// The way out.
        hint: &'static str,
    },
    /// Another writer stored its output first.
    #[error("{url} was written by another process in the meantime; nothing of it was changed\nhint: this one is in {}; give another --out, or --overwrite to replace the other", kept.display())]
    Lost {
        /// The URL.
        url: String,
        /// Local folder of the output that could not be stored.
        kept: PathBuf,
    },
    /// The command was interrupted while it transferred something.
    #[error("interrupted while {url} was transferred; run the command again")]
    Interrupted {
        /// The URL.
        url: String,
    },
    /// A local file or folder failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A manifest or a lock failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// Hint for requests that lack a valid credential.
const CREDENTIALS: &str = "\nhint: set the credentials of the store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket, AWS_SKIP_SIGNATURE=true";

impl StoreError {
    /// The error of the store for the object or folder at `url`.
    pub(crate) fn remote(action: &'static str, url: &str, error: &object_store::Error) -> Self {
        use object_store::Error as Remote;
        let hint = match error {
            Remote::NotFound { .. } => return Self::Missing { url: url.to_owned(), hint: "" },
            Remote::PermissionDenied { .. } | Remote::Unauthenticated { .. } => CREDENTIALS,
            error if error.to_string().contains("169.254.169.254") => CREDENTIALS,
            _ => "",
        };
        Self::Failed { action, url: url.to_owned(), reason: redacted(&chain(error)), hint }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Whether a second attempt may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Failed { hint: "", .. })
    }

    /// Whether the command line is wrong, and not the store.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Occupied { .. } | Self::TooLarge { .. } => true,
            Self::Artifact(error) => matches!(error, ArtifactError::Busy { .. }),
            _ => false,
        }
    }
}

/// An error with its causes, on one line. Skips a cause that an outer message already contains.
fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
