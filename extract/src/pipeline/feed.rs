//! The first stage: sends samples in listing order, as tasks to the readers and as result channels to the batcher.

use crossbeam_channel::{Receiver, Sender, bounded};
use lgd_data::cache::CacheBuilder;
use lgd_data::job::Job;

use super::prepare::Prepared;

/// A sample to be read, and the channel for its result.
pub(super) struct ReadTask {
    pub sample: usize,
    pub reply: Sender<Prepared>,
}

/// The listing in order, as the batcher receives it.
pub(super) enum Ordered {
    /// Starts a shard.
    Begin(usize),
    /// The next sample of the shard, and the channel for its pixels.
    Sample { sample: usize, prepared: Receiver<Prepared> },
    /// Ends the shard.
    End,
}

/// Sends the samples of `shards` until all are sent, the job is interrupted, or a later stage ends (it reports its
/// own error).
pub(super) fn feed(
    builder: &CacheBuilder,
    shards: &[usize],
    job: &Job,
    readers: &Sender<ReadTask>,
    batcher: &Sender<Ordered>,
) {
    for &shard in shards {
        if batcher.send(Ordered::Begin(shard)).is_err() {
            return;
        }
        for sample in builder.sample_range(shard) {
            let (reply, prepared) = bounded(1);
            let closed = batcher.send(Ordered::Sample { sample, prepared }).is_err()
                || readers.send(ReadTask { sample, reply }).is_err();
            if closed || job.interrupted() {
                return;
            }
        }
        if batcher.send(Ordered::End).is_err() {
            return;
        }
    }
}
