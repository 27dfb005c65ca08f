//! The encoder stage: one thread per session. Each takes the next batch when it is free.

use crossbeam_channel::{Receiver, Sender};
use lgd_data::job::Job;
use lgd_data::projection::Projection;

use crate::encoder::{EncodedViews, ImageEncoder, PixelBuffer, Tokens};
use crate::error::ExtractError;

/// A batch's result, as the writer receives it.
pub(super) type Encoded = Result<EncodedViews, ExtractError>;

/// A whole batch of pixels. Rows at and after `rows` are padding.
pub(super) struct EncodeTask {
    pub pixels: PixelBuffer,
    pub rows: usize,
    pub reply: Sender<Encoded>,
}

/// Encodes batches until there are no more, and projects their tokens if there is a projection. After an
/// interruption, waiting batches are dropped without a reply.
pub(super) fn encode_all(
    encoder: &mut ImageEncoder,
    projection: Option<&Projection>,
    batches: &Receiver<EncodeTask>,
    buffers: &Sender<PixelBuffer>,
    job: &Job,
) {
    for EncodeTask { pixels, rows, reply } in batches {
        if job.interrupted() {
            return;
        }
        let encoded = encoder.encode_views(&pixels, rows);
        // Both failures can be ignored: the buffer queue has room for all buffers, and a writer that has ended has
        // reported its error.
        let _ = buffers.try_send(pixels);
        let _ = reply.send(encoded.map(|views| project(views, projection)));
    }
}

fn project(mut views: EncodedViews, projection: Option<&Projection>) -> EncodedViews {
    if let Some((tokens, projection)) = views.tokens.as_mut().zip(projection) {
        *tokens = Tokens::project(tokens, projection);
    }
    views
}
