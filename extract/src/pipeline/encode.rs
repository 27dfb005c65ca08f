//! The encoder stage: one thread per session, each taking the next batch when it is free.

use crossbeam_channel::{Receiver, Sender};
use lgd_data::job::Job;

use crate::encoder::{Embeddings, ImageEncoder, PixelBuffer};
use crate::error::ExtractError;

/// A batch's embeddings.
pub(super) type Encoded = Result<Embeddings, ExtractError>;

/// A whole batch of pixels, of which the first `rows` count.
pub(super) struct EncodeTask {
    pub pixels: PixelBuffer,
    pub rows: usize,
    pub reply: Sender<Encoded>,
}

/// Encodes batches until there are no more. Once the job is to stop, what waits is dropped unanswered.
pub(super) fn encode_all(
    encoder: &mut ImageEncoder,
    batches: &Receiver<EncodeTask>,
    buffers: &Sender<PixelBuffer>,
    job: &Job,
) {
    for EncodeTask { pixels, rows, reply } in batches {
        if job.interrupted() {
            return;
        }
        let encoded = encoder.encode(&pixels, rows);
        // Neither can fail in a way that matters: the buffers' queue has room for all of them, and a writer that has gone
        // has said why.
        let _ = buffers.try_send(pixels);
        let _ = reply.send(encoded);
    }
}
