//! The parts that all artifact folders share: caches, banks, KDEP banks, bridges and runs.
//!
//! An artifact is a folder of immutable files and one JSON manifest. The manifest lists the length and the BLAKE3 hash
//! of every file and ends in its own hash. A file in the folder is either missing or complete.
//!
//! - `hash`: [`ContentHash`], the BLAKE3 hash of a file, a listing or a configuration;
//! - `atomic_file`: [`AtomicFile`], a file that appears under its name when it is complete;
//! - `file_entry`: [`FileEntry`], the manifest entry of a file, and its verification;
//! - `sealed`: writing and reading manifests that end in their own hash;
//! - `files_in_use`: verified files that must stay as they are while a command reads them;
//! - `folder_lock`: [`FolderLock`], by which a folder has one writer at a time;
//! - `folder`: which kind of artifact a folder holds, and how to treat an existing one ([`Existing`]).

mod atomic_file;
mod file_entry;
mod files_in_use;
mod folder;
mod folder_lock;
mod hash;
mod sealed;

pub(crate) use atomic_file::write_new;
pub use atomic_file::{AtomicFile, GrowingFile, write_atomic};
pub use file_entry::{FileEntry, Verify};
pub(crate) use files_in_use::{FilesInUse, VerifiedFile};
pub use folder::{ClaimedFolder, Existing, PLAN, prepare_folder, remove_leftovers, require_kind};
pub use folder_lock::{FolderLock, LOCK, on_unguarded};
pub use hash::ContentHash;
pub(crate) use sealed::{read_json, write_new_json};
pub use sealed::{read_manifest, require_sealed, write_json};
