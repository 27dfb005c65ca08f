//! Small pictures of a cache's samples, as JPEG in data URIs.

use std::cell::Cell;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lgd_data::cache::{Cache, CachedViews, ImageStamp, StoredViews};
use lgd_data::image::{DecodeLimits, RgbImage, decode, encode_jpeg};
use lgd_data::render::{Resample, render};
use lgd_data::source::ImageSource;
use lgd_data::view::{CenterCrop, View};
use maud::{Markup, html};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

/// Largest side in pixels.
const SIDE: u32 = 96;
const QUALITY: u8 = 72;
/// Bytes of pictures in a page, before encoding as text.
const BUDGET: usize = 1_200_000;

/// The source of the pictures of a cache's samples.
pub(crate) struct Thumbnails<'a> {
    origin: Origin<'a>,
    views: &'a CachedViews,
    spent: Cell<usize>,
    failed: Cell<usize>,
}

enum Origin<'a> {
    /// The views that the cache stores.
    Stored(StoredViews),
    /// The images that the cache was extracted from.
    Images {
        source: &'a dyn ImageSource,
        positions: HashMap<&'a str, usize>,
        resample: Resample,
    },
    None,
}

/// A picture of a sample.
#[derive(Clone, Debug)]
pub(crate) struct Thumbnail {
    /// `data:image/jpeg;base64,…`; empty if the picture is not available.
    uri: String,
    key: String,
}

impl<'a> Thumbnails<'a> {
    /// Pictures from the views that the cache stores, else from `images`, else none.
    pub(crate) fn new(cache: &Cache, views: &'a CachedViews, images: Option<&'a dyn ImageSource>) -> Self {
        let origin = match (cache.stored_views(), images) {
            (Ok(Some(stored)), _) => Origin::Stored(stored),
            (_, Some(source)) => {
                let samples = source.samples().iter().enumerate();
                let positions = samples.map(|(position, sample)| (sample.key.as_str(), position)).collect();
                Origin::Images { source, positions, resample: cache.manifest().config.teacher.resample }
            }
            _ => Origin::None,
        };
        Self { origin, views, spent: Cell::new(0), failed: Cell::new(0) }
    }

    /// Whether there is a source of pictures.
    pub(crate) fn exist(&self) -> bool {
        !matches!(self.origin, Origin::None)
    }

    /// Number of pictures that could not be shown because their image is missing, damaged or another one.
    pub(crate) fn failed(&self) -> usize {
        self.failed.get()
    }

    /// Pictures of `samples`, in order: the central square, or view 0 of a cache that stores its views.
    pub(crate) fn load(&self, samples: &[usize]) -> Vec<Thumbnail> {
        self.show(&samples.iter().map(|&sample| (sample, None)).collect::<Vec<_>>())
    }

    /// Pictures of the first `most` views of a sample.
    pub(crate) fn load_views(&self, sample: usize, most: usize) -> Vec<Thumbnail> {
        let views = self.views.views.len() / self.views.samples().max(1);
        self.show(&(0..views.min(most)).map(|view| (sample, Some(view))).collect::<Vec<_>>())
    }

    /// Pictures of samples or of their views. Once the page's budget is spent, they are empty.
    fn show(&self, wanted: &[(usize, Option<usize>)]) -> Vec<Thumbnail> {
        let available = self.exist() && self.spent.get() < BUDGET;
        let encoded: Vec<Option<Vec<u8>>> = if available {
            let (origin, views) = (&self.origin, self.views);
            wanted.par_iter().map(|&(sample, view)| picture(origin, views, sample, view)).collect()
        } else {
            vec![None; wanted.len()]
        };
        let pictures = wanted.iter().zip(encoded).map(|(&(sample, _), bytes)| {
            self.failed.set(self.failed.get() + usize::from(available && bytes.is_none()));
            let bytes = bytes.unwrap_or_default();
            self.spent.set(self.spent.get() + bytes.len());
            let uri = if bytes.is_empty() {
                String::new()
            } else {
                format!("data:image/jpeg;base64,{}", STANDARD.encode(&bytes))
            };
            Thumbnail { uri, key: self.views.keys[sample].clone() }
        });
        pictures.collect()
    }
}

/// The JPEG of a sample or one of its views; `None` if its image is missing, damaged or not the one that the cache saw.
fn picture(origin: &Origin<'_>, views: &CachedViews, sample: usize, view: Option<usize>) -> Option<Vec<u8>> {
    let square = View::of_center(CenterCrop::shortest(1.0));
    let image = match origin {
        Origin::Stored(stored) => {
            let side = stored.format().size;
            let mut pixels = vec![0; stored.format().pixel_bytes().ok()?];
            stored.read_into(views.row(sample, view.unwrap_or(0)), &mut pixels).ok()?;
            shrunk(&RgbImage::new(side, side, pixels).ok()?, &square, Resample::Bicubic)?
        }
        Origin::Images { source, positions, resample } => {
            let limits = DecodeLimits::default();
            let bytes = source.read(*positions.get(views.keys[sample].as_str())?, limits.max_bytes).ok()?;
            let seen = views.images[sample];
            if ImageStamp::new(&bytes, seen.width, seen.height) != seen {
                return None;
            }
            let image = decode(&bytes, &limits).ok()?;
            match view {
                Some(view) => render(&image, views.view(sample, view), SIDE, *resample).ok()?,
                None => shrunk(&image, &square, Resample::Bicubic)?,
            }
        }
        Origin::None => return None,
    };
    encode_jpeg(&image, QUALITY).ok()
}

/// The view at the size of a picture, or at the image's own size if that is smaller.
fn shrunk(image: &RgbImage, view: &View, resample: Resample) -> Option<RgbImage> {
    let side = image.width().min(image.height()).min(SIDE);
    render(image, view, side, resample).ok()
}

impl Thumbnail {
    /// The picture with `caption` below. Without a picture, the key takes its place.
    pub(crate) fn html(&self, caption: &str) -> Markup {
        let alternative =
            if caption.is_empty() { self.key.clone() } else { format!("{}: {caption}", self.key) };
        html! {
            figure.thumb title=(self.key) {
                @if self.uri.is_empty() {
                    span.no-picture { (last_part(&self.key)) }
                } @else {
                    img src=(self.uri) alt=(alternative) width="88" height="88" decoding="async";
                }
                @if !caption.is_empty() { figcaption { (caption) } }
            }
        }
    }
}

/// The last part of a key, which is a path.
fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
