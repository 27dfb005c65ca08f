//! The first stage: samples in listing order, as tasks for the readers and as promises for the batcher.

use crossbeam_channel::{Receiver, Sender, bounded};
use lgd_data::cache::CacheBuilder;
use lgd_data::job::Job;

use super::prepare::Prepared;

/// A sample to be read, and where its result goes.
pub(super) struct ReadTask {
    pub sample: usize,
    pub reply: Sender<Prepared>,
}

/// The listing as the batcher sees it.
pub(super) enum Ordered {
    /// A shard begins.
    Begin(usize),
    /// The next sample of the shard, and the channel for its pixels.
    Sample { sample: usize, prepared: Receiver<Prepared> },
    /// The shard has no more samples.
    End,
}

/// Feeds `shards` until done, asked to stop, or a later stage has ended (it reports its error).
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
