//! Runs single stages of the pipeline, to find the one that limits an extraction.

use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use crossbeam_channel::bounded;
use lgd_data::cache::CacheConfig;
use lgd_data::job::{Job, Pace};
use lgd_data::source::ImageSource;

use super::feed::ReadTask;
use super::prepare::{self, BufferPool, Preparer, Unprepared};
use super::{Extractor, window};
use crate::encoder::ImageEncoder;
use crate::error::ExtractError;

impl Extractor {
    /// Number of encoder sessions, which run at the same time.
    pub fn sessions(&self) -> usize {
        self.encoders.len()
    }

    /// Number of threads that decode and render.
    pub fn decode_threads(&self) -> usize {
        self.prepare_threads().1
    }

    /// Encodes `batches` batches of zeros in every session, all sessions at the same time. Returns the pace in views. The
    /// first batches of a session are slower.
    ///
    /// # Errors
    /// [`ExtractError::Inference`].
    pub fn time_encoder(&mut self, batches: usize) -> Result<Pace, ExtractError> {
        let (started, views) = (Instant::now(), self.sessions() * batches * self.encoder().batch());
        thread::scope(|scope| {
            let run = |encoder| scope.spawn(move || encode(encoder, batches));
            let sessions: Vec<_> = self.encoders.iter_mut().map(run).collect();
            let ended = sessions
                .into_iter()
                .map(|session| session.join().unwrap_or_else(|panic| resume_unwind(panic)));
            ended.collect::<Result<(), _>>()
        })?;
        Ok(Pace::since(started, views))
    }

    /// Reads, decodes and renders all views of all samples of `source`, which `config` describes, with the threads of an
    /// extraction. Returns the pace in views, those of unusable samples included.
    ///
    /// # Errors
    /// [`ExtractError::Interrupted`] if `job` is; [`ExtractError::Storage`].
    pub fn time_preparing(
        &self,
        source: &dyn ImageSource,
        config: &CacheConfig,
        job: &Job,
    ) -> Result<Pace, ExtractError> {
        let preparer = Preparer::new(source, config, self.encoder(), &self.options);
        let (threads, samples) = (self.prepare_threads(), source.samples().len());
        let window = window(threads.1, preparer.sample_bytes());
        let (to_readers, tasks) = bounded(window);
        let (in_order, ordered) = bounded(window);
        let pool = BufferPool::new(window);
        let started = Instant::now();
        thread::scope(|scope| {
            prepare::spawn(scope, &preparer, &pool, threads, &tasks);
            drop(tasks);
            scope.spawn(move || {
                for sample in 0..samples {
                    let (reply, prepared) = bounded(1);
                    let task = ReadTask { sample, reply };
                    if in_order.send(prepared).is_err() || to_readers.send(task).is_err() {
                        return;
                    }
                }
            });
            for prepared in ordered {
                match prepared.recv() {
                    _ if job.interrupted() => return Err(ExtractError::Interrupted),
                    Ok(Ok(rendered)) => pool.give_back(rendered.pixels),
                    Ok(Err(Unprepared::Failed(source))) => return Err(ExtractError::Storage { source }),
                    Ok(Err(Unprepared::Rejected(_))) | Err(_) => {}
                }
            }
            Ok(())
        })?;
        Ok(Pace::since(started, samples * usize::from(config.views)))
    }
}

/// Encodes `batches` batches of zeros.
fn encode(encoder: &mut ImageEncoder, batches: usize) -> Result<(), ExtractError> {
    let (pixels, rows) = (encoder.new_batch(), encoder.batch());
    (0..batches).try_for_each(|_| encoder.encode_views(&pixels, rows).map(drop))
}
