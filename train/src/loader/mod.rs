//! From cached views to batches: which samples, in which order, rendered as the teacher saw them.
//!
//! - [`order`]: the permutation of an epoch, a function of (seed, epoch) alone;
//! - [`ordered`]: worker threads with a bounded look-ahead that hand results over in order;
//! - [`origin`]: whether pixels come from the images or from the cache's stored views;
//! - [`matching`]: a cache's samples found again in an image source;
//! - [`pixels`]: read, decode, check, render and normalize; [`blocks`]: the memory that batches lie in;
//! - [`batches`]: the training stream; [`targets`]: the columns of a batch that objectives ask for, of which [`labels`] are some.

pub mod batches;
pub mod blocks;
pub mod labels;
pub mod matching;
pub mod order;
pub mod ordered;
pub mod origin;
pub mod pixels;
pub mod targets;
