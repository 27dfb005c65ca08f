//! Prepares the pixels of a sample's K views: reads and decodes the image once, then draws and renders each view.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};
use lgd_data::cache::{CacheConfig, ImageStamp, Reject, StoredFormat};
use lgd_data::contained::contained;
use lgd_data::image::{DecodeLimits, Decoded, RgbImage, decode, decode_with_transparency};
use lgd_data::render::{Normalization, PixelLayout, RenderError, Resample, render};
use lgd_data::source::{ImageSource, SourceError};
use lgd_data::view::{CenterCrop, Policy, View};

use super::feed::ReadTask;
use super::options::ExtractOptions;
use crate::encoder::{ImageEncoder, PixelBuffer, PixelType};
use crate::error::ExtractError;

/// A sample that is ready to be batched, or the reason why it is not.
pub(super) type Prepared = Result<Rendered, Unprepared>;

/// Reasons why a sample is not ready to be batched.
pub(super) enum Unprepared {
    /// The sample is rejected.
    Rejected(Reject),
    /// The storage failed, so no sample can be read, and the run ends.
    Failed(SourceError),
}

/// The views of one sample and their pixels.
pub(super) struct Rendered {
    pub image: ImageStamp,
    pub views: Vec<View>,
    /// The K encoded views to be stored in the cache; empty if the cache stores no views.
    pub stored: Vec<Vec<u8>>,
    /// Normalized pixels of the K views, one after the other.
    pub pixels: PixelBuffer,
}

/// A sample's file content on its way to a decoder.
struct DecodeTask {
    sample: usize,
    bytes: Vec<u8>,
    reply: Sender<Prepared>,
}

/// Settings shared by all samples.
pub(super) struct Preparer<'a> {
    source: &'a dyn ImageSource,
    limits: DecodeLimits,
    views: u16,
    center: Option<CenterCrop>,
    policy: Policy,
    seed: u64,
    size: u32,
    resample: Resample,
    normalization: Normalization,
    layout: PixelLayout,
    pixel_type: PixelType,
    image_len: usize,
    stored: Option<StoredFormat>,
    rewrite_details: Option<fn(&str) -> String>,
    /// Number of images with transparency among those prepared.
    transparent: AtomicU64,
}

impl<'a> Preparer<'a> {
    pub(super) fn new(
        source: &'a dyn ImageSource,
        config: &CacheConfig,
        encoder: &ImageEncoder,
        options: &ExtractOptions,
    ) -> Self {
        Self {
            source,
            limits: options.limits,
            views: config.views,
            center: config.center,
            policy: config.policy,
            seed: config.seed,
            size: encoder.size(),
            resample: encoder.resample(),
            normalization: *encoder.normalization(),
            layout: encoder.layout(),
            pixel_type: encoder.pixel_type(),
            image_len: encoder.image_len(),
            stored: config.stored_views,
            rewrite_details: options.rewrite_details,
            transparent: AtomicU64::new(0),
        }
    }

    /// The source of the images.
    pub(super) fn source(&self) -> &dyn ImageSource {
        self.source
    }

    /// Number of images with transparency among those prepared so far.
    pub(super) fn transparent(&self) -> u64 {
        self.transparent.load(Ordering::Relaxed)
    }

    /// Bytes of one stored view's pixels before encoding; 0 if the cache stores no views.
    pub(super) fn stored_bytes(&self) -> usize {
        self.stored.and_then(|format| format.pixel_bytes().ok()).unwrap_or(0)
    }

    /// Number of elements of one image.
    pub(super) fn image_len(&self) -> usize {
        self.image_len
    }

    /// Bytes of one sample's pixels, stored views included.
    pub(super) fn sample_bytes(&self) -> usize {
        let element = match self.pixel_type {
            PixelType::F32 => 4,
            PixelType::F16 => 2,
            PixelType::U8 => 1,
        };
        usize::from(self.views) * (self.image_len * element + self.stored_bytes())
    }

    fn reject(&self, sample: usize, reason: &str, detail: String) -> Reject {
        let detail = self.rewrite_details.map_or_else(|| detail.clone(), |rewrite| rewrite(&detail));
        Reject { key: self.source.samples()[sample].key.clone(), reason: reason.to_owned(), detail }
    }

    fn read(&self, sample: usize) -> Result<Vec<u8>, Unprepared> {
        self.source.read(sample, self.limits.max_bytes).map_err(|error| {
            if error.is_storage_failure() {
                return Unprepared::Failed(error);
            }
            Unprepared::Rejected(self.reject(sample, error.reason(), error.to_string()))
        })
    }

    fn prepare(
        &self,
        sample: usize,
        bytes: &[u8],
        buffers: &BufferPool,
        scratch: &mut Vec<f32>,
    ) -> Result<Rendered, Reject> {
        let Decoded { image, transparent } = decode_with_transparency(bytes, &self.limits)
            .map_err(|error| self.reject(sample, error.reason(), error.to_string()))?;
        self.transparent.fetch_add(transparent.into(), Ordering::Relaxed);
        let (width, height) = (image.width(), image.height());
        let mut views = Vec::with_capacity(usize::from(self.views));
        let mut stored = Vec::new();
        let mut pixels = buffers.take(self.pixel_type, usize::from(self.views) * self.image_len);
        for index in 0..self.views {
            let view = self.view(sample, index, &image);
            let start = usize::from(index) * self.image_len;
            render(&image, &view, self.size, self.resample)
                .and_then(|shown| {
                    pixels.normalize(start, &shown, &self.normalization, self.layout, scratch)?;
                    stored.extend(
                        self.stored.map(|format| self.store(format, &image, &view, shown)).transpose()?,
                    );
                    Ok(())
                })
                .map_err(|error| self.reject(sample, "render", error.to_string()))?;
            views.push(view);
        }
        Ok(Rendered { image: ImageStamp::new(bytes, width, height), views, stored, pixels })
    }

    /// View `index` of the sample whose image is `image`.
    fn view(&self, sample: usize, index: u16, image: &RgbImage) -> View {
        match self.center {
            Some(crop) if index == 0 => View::of_center(crop),
            _ => {
                let key = &self.source.samples()[sample].key;
                self.policy.draw(self.seed, key, index, image.width(), image.height())
            }
        }
    }

    /// Encodes a view for storage. `shown` is the teacher's rendering, reused if the sizes are equal.
    fn store(
        &self,
        format: StoredFormat,
        image: &RgbImage,
        view: &View,
        shown: RgbImage,
    ) -> Result<Vec<u8>, RenderError> {
        if format.size == self.size {
            return format.encode(shown);
        }
        format.encode(render(image, view, format.size, self.resample)?)
    }

    /// Normalized pixels of view `index` of a sample; `None` if the sample is unusable.
    ///
    /// # Errors
    /// [`ExtractError::Storage`] if the storage of the images fails.
    pub(super) fn single(&self, sample: usize, index: usize) -> Result<Option<PixelBuffer>, ExtractError> {
        match self.read(sample) {
            Ok(bytes) => Ok(self.single_of(sample, index, &bytes)),
            Err(Unprepared::Rejected(_)) => Ok(None),
            Err(Unprepared::Failed(source)) => Err(ExtractError::Storage { source }),
        }
    }

    fn single_of(&self, sample: usize, index: usize, bytes: &[u8]) -> Option<PixelBuffer> {
        let index = u16::try_from(index).ok()?;
        let render_one = || {
            let image = decode(bytes, &self.limits).ok()?;
            let shown = render(&image, &self.view(sample, index, &image), self.size, self.resample).ok()?;
            let mut pixels = PixelBuffer::zeros(self.pixel_type, self.image_len);
            pixels.normalize(0, &shown, &self.normalization, self.layout, &mut Vec::new()).ok()?;
            Some(pixels)
        };
        // As in `decode_all`, a panic in a decoder must not end the run.
        contained(render_one).ok().flatten()
    }

    /// Bytes of view `index` of a sample as encoded by `format`; `None` if the sample is unusable.
    pub(super) fn stored_length(&self, format: StoredFormat, sample: usize, index: usize) -> Option<usize> {
        let bytes = self.read(sample).ok()?;
        let index = u16::try_from(index).ok()?;
        let image = decode(&bytes, &self.limits).ok()?;
        let view = self.view(sample, index, &image);
        let shown = render(&image, &view, format.size, self.resample).ok()?;
        format.encode(shown).ok().map(|bytes| bytes.len())
    }
}

/// Spawns the threads that read, decode and render the samples of `tasks`: so many readers and so many decoders.
pub(super) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    preparer: &'scope Preparer<'scope>,
    pool: &'scope BufferPool,
    (readers, decoders): (usize, usize),
    tasks: &Receiver<ReadTask>,
) {
    let (to_decoders, decoder_tasks) = bounded(decoders);
    for _ in 0..readers {
        let (tasks, decoders) = (tasks.clone(), to_decoders.clone());
        scope.spawn(move || read_all(preparer, &tasks, &decoders));
    }
    for _ in 0..decoders {
        let tasks = decoder_tasks.clone();
        scope.spawn(move || decode_all(preparer, &tasks, pool));
    }
}

/// Reads samples until there are no more tasks or all decoders have ended.
fn read_all(preparer: &Preparer<'_>, tasks: &Receiver<ReadTask>, decoders: &Sender<DecodeTask>) {
    for ReadTask { sample, reply } in tasks {
        let sent = match preparer.read(sample) {
            Ok(bytes) => decoders.send(DecodeTask { sample, bytes, reply }).is_ok(),
            // A closed reply channel means that the batcher has ended. No more tasks will come.
            Err(reason) => reply.send(Err(reason)).is_ok(),
        };
        if !sent {
            return;
        }
    }
}

/// Decodes and renders samples until there are no more tasks.
fn decode_all(preparer: &Preparer<'_>, tasks: &Receiver<DecodeTask>, buffers: &BufferPool) {
    let mut scratch = Vec::new();
    for DecodeTask { sample, bytes, reply } in tasks {
        // A decoder may panic on a damaged file; that must not end the run.
        let prepared = contained(|| preparer.prepare(sample, &bytes, buffers, &mut scratch))
            .unwrap_or_else(|_| Err(preparer.reject(sample, "panic", "the decoder panicked".to_owned())));
        if reply.send(prepared.map_err(Unprepared::Rejected)).is_err() {
            return;
        }
    }
}

/// Recycles pixel buffers between decoders and batcher.
pub(super) struct BufferPool {
    give: Sender<PixelBuffer>,
    take: Receiver<PixelBuffer>,
}

impl BufferPool {
    pub(super) fn new(capacity: usize) -> Self {
        let (give, take) = bounded(capacity);
        Self { give, take }
    }

    fn take(&self, pixel_type: PixelType, len: usize) -> PixelBuffer {
        self.take.try_recv().unwrap_or_else(|_| PixelBuffer::zeros(pixel_type, len))
    }

    pub(super) fn give_back(&self, buffer: PixelBuffer) {
        // If the pool is full, the buffer is freed.
        let _ = self.give.try_send(buffer);
    }
}
