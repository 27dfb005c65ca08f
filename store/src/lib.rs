//! Caches, banks, runs and images in object stores: `s3://`, `gs://`, `az://` and `http(s)://`.
//!
//! Commands work on local files. A [`Session`] gives them local paths for URLs:
//!
//! - an input artifact is fetched into a local folder before the command runs, and every file is verified against the
//!   manifest ([`Session::artifact`]);
//! - images are listed once. Their files are fetched when they are opened, and a few ahead ([`Session::images`]);
//! - an output artifact is made in a local folder, then its files are stored, then its manifest, which fails if
//!   another writer was faster ([`Session::output_folder`]).
//!
//! ```text
//! DIR/objects/3f/3f9a…      one fetched object: an image, an archive, a Parquet file
//! DIR/artifacts/0b51…/      the files of a cache, bank or run; the name is the hash of its manifest
//! DIR/out/77c0…/NAME/       an artifact that is being made, or could not be stored yet
//! DIR/jobs/c01d…/           stand-ins of the listed images of a running command: empty files of the right lengths
//! ```
//!
//! `objects` and `artifacts` are bounded together: the longest unused are deleted first. An artifact that a process
//! uses is locked and stays.

mod artifact;
mod client;
mod error;
mod images;
mod output;
mod secrets;
mod session;
mod shelf;
mod transfer;
mod url;

pub use error::StoreError;
pub use images::Access;
pub use output::Output;
pub use secrets::redacted;
pub use session::{Named, Session, Settings};
pub use shelf::Limit;
pub use url::is_url;
