//! From cached views to batches: the order of samples, and their pixels as the teacher saw them.
//!
//! - [`holdout`]: the samples that are never trained on;
//! - [`order`]: the permutation of an epoch, a function of (seed, epoch) alone;
//! - [`ordered`]: worker threads with a bounded look-ahead, whose results arrive in order;
//! - [`origin`]: whether pixels come from the images or from the cache's stored views;
//! - [`matching`]: finds a cache's samples in an image source;
//! - [`pixels`]: read, decode, check, render and normalize; [`blocks`]: the recycled buffers of batches;
//! - [`batches`]: the training stream; [`targets`]: the target columns of a batch, with [`labels`].

pub mod batches;
pub mod blocks;
mod error;
pub mod holdout;
pub mod labels;
pub mod matching;
pub mod order;
pub mod ordered;
pub mod origin;
pub mod pixels;
pub mod targets;

pub use error::LoaderError;
