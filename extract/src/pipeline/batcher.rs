//! Collects prepared samples, in order, into whole batches.

use crossbeam_channel::{Receiver, Sender, bounded};
use lgd_data::cache::{ImageStamp, Reject};
use lgd_data::job::Job;
use lgd_data::source::SourceError;
use lgd_data::view::View;

use super::encode::{EncodeTask, Encoded};
use super::feed::Ordered;
use super::prepare::{BufferPool, Prepared, Preparer, Rendered, Unprepared};
use crate::encoder::{ImageEncoder, PixelBuffer};

/// An item of the listing, as the writer receives it.
pub(super) enum Item {
    /// A sample whose rows are all in the batches sent so far.
    Sample(BatchedSample),
    /// A rejected sample, which has no rows.
    Reject(Reject),
}

/// A sample whose rows are being encoded.
pub(super) struct BatchedSample {
    /// Its index in the listing.
    pub sample: usize,
    pub image: ImageStamp,
    pub views: Vec<View>,
    /// The K encoded views to be stored in the cache; empty if the cache stores no views.
    pub stored: Vec<Vec<u8>>,
}

/// The parts of a shard in the order in which the writer receives them.
pub(super) enum ShardPart {
    /// Starts a shard.
    Begin(usize),
    /// The next rows, and the samples that they complete.
    Batch { items: Vec<Item>, encoded: Receiver<Encoded> },
    /// The rejected samples after the last batch. Ends the shard.
    End { items: Vec<Item> },
    /// The storage of the images failed. This is the last part.
    Failed(SourceError),
}

/// The next stage has ended, or the job was interrupted.
struct Stopped;

/// Creates `count` batch buffers. Batcher and encoders recycle them, so `count` limits the number of waiting batches.
pub(super) fn batch_buffers(
    encoder: &ImageEncoder,
    count: usize,
) -> (Sender<PixelBuffer>, Receiver<PixelBuffer>) {
    let (give, take) = bounded(count);
    for _ in 0..count {
        // The queue's capacity is exactly `count`.
        let _ = give.try_send(encoder.new_batch());
    }
    (give, take)
}

/// The stage between decoders and encoders.
pub(super) struct Batcher<'a> {
    pub preparer: &'a Preparer<'a>,
    pub batch: usize,
    pub pool: &'a BufferPool,
    pub buffers: Receiver<PixelBuffer>,
    pub encoders: Sender<EncodeTask>,
    pub writer: Sender<ShardPart>,
}

/// The batch being filled.
#[derive(Default)]
struct Filling {
    pixels: Option<PixelBuffer>,
    rows: usize,
    items: Vec<Item>,
}

impl Batcher<'_> {
    /// Runs until the listing ends, a neighboring stage ends, or the job is interrupted.
    pub(super) fn run(self, ordered: &Receiver<Ordered>, job: &Job) {
        let mut filling = Filling::default();
        for next in ordered {
            if job.interrupted() || self.handle(next, &mut filling).is_err() {
                return;
            }
        }
    }

    fn handle(&self, next: Ordered, filling: &mut Filling) -> Result<(), Stopped> {
        match next {
            Ordered::Begin(shard) => self.writer.send(ShardPart::Begin(shard)).map_err(|_| Stopped),
            Ordered::Sample { sample, prepared } => {
                let prepared = prepared.recv().map_err(|_| Stopped)?;
                self.add(sample, prepared, filling)
            }
            Ordered::End => {
                if filling.rows > 0 {
                    self.send_batch(filling)?;
                }
                let items = std::mem::take(&mut filling.items);
                self.writer.send(ShardPart::End { items }).map_err(|_| Stopped)
            }
        }
    }

    fn add(&self, sample: usize, prepared: Prepared, filling: &mut Filling) -> Result<(), Stopped> {
        let rendered = match prepared {
            Ok(rendered) => rendered,
            Err(Unprepared::Rejected(reject)) => {
                filling.items.push(Item::Reject(reject));
                return Ok(());
            }
            Err(Unprepared::Failed(error)) => {
                // If the writer has ended, it has reported its own error.
                let _ = self.writer.send(ShardPart::Failed(error));
                return Err(Stopped);
            }
        };
        let (len, views) = (self.preparer.image_len(), rendered.views.len());
        let Rendered { image, views: drawn, stored, pixels: block } = rendered;
        let mut item = Some(Item::Sample(BatchedSample { sample, image, views: drawn, stored }));
        for view in 0..views {
            let pixels = match &mut filling.pixels {
                Some(pixels) => pixels,
                empty => empty.insert(self.buffers.recv().map_err(|_| Stopped)?),
            };
            pixels.copy_from(filling.rows * len, &block, view * len, len);
            filling.rows += 1;
            if view + 1 == views {
                filling.items.extend(item.take());
            }
            if filling.rows == self.batch {
                self.send_batch(filling)?;
            }
        }
        self.pool.give_back(block);
        Ok(())
    }

    /// Sends the batch to the encoders, and to the writer a channel that will deliver its embeddings.
    fn send_batch(&self, filling: &mut Filling) -> Result<(), Stopped> {
        let Some(mut pixels) = filling.pixels.take() else { return Ok(()) };
        let rows = std::mem::take(&mut filling.rows);
        // The padding must not depend on the buffer's previous content, which might change a kernel's results.
        pixels.clear_from(rows * self.preparer.image_len());
        let (reply, encoded) = bounded(1);
        self.encoders.send(EncodeTask { pixels, rows, reply }).map_err(|_| Stopped)?;
        let items = std::mem::take(&mut filling.items);
        self.writer.send(ShardPart::Batch { items, encoded }).map_err(|_| Stopped)
    }
}
