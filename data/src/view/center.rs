//! The center crop: the resize and crop that a teacher's own preprocessing does before inference.
//!
//! A teacher is published with two lengths in pixels: the side S of its input and the length R that the image is resized
//! to before the central S x S pixels are cut out. A view stores S / R, because it is rendered at the student's size too.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CENTER_FRACTION, ViewError, in_range};

/// Smallest and largest S / R that a stored view may have. Above 1, the image is smaller than the output.
const FRACTIONS: (f32, f32) = (0.01, 100.0);

/// A resize, then the central square. With S the side of the output and R = round(S / fraction), both in pixels:
/// the image is resized by [`ResizeMode`], then the S x S pixels at [`CropOffset`] are kept. If the resized image is
/// smaller than S on an axis, it is padded with black instead, with floor((S - size) / 2) pixels in front, as by
/// torchvision, open_clip and the torchvision processors of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CenterCrop {
    /// S / R, in [0.01, 100]; 0.875 is 224 of 256. Above 1, the resized image is smaller than the output.
    pub fraction: f32,
    /// Which length of the image becomes R.
    pub resize: ResizeMode,
    /// First pixel that is kept.
    pub offset: CropOffset,
}

/// Which length of the image becomes R.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeMode {
    /// The shortest side; the other side becomes floor(R * long / short), as in torchvision and transformers.
    #[default]
    Shortest,
    /// Both sides, without keeping the aspect ratio.
    Squash,
    /// The longest side; the other side becomes round(short / (long / R)), as in open_clip, but at least 1.
    Longest,
}

impl ResizeMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Shortest, Self::Squash, Self::Longest];

    /// Name in manifests and shards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shortest => "shortest",
            Self::Squash => "squash",
            Self::Longest => "longest",
        }
    }

    /// The value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}

/// First row and column of the resized image that the crop keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropOffset {
    /// (size - S) / 2, halves rounded to even: torchvision, timm, open_clip.
    #[default]
    HalfEven,
    /// floor((size - S) / 2): the processors of transformers.
    Floor,
}

impl CropOffset {
    /// All roundings.
    pub const ALL: [Self; 2] = [Self::HalfEven, Self::Floor];

    /// Name in manifests and shards.
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfEven => "half-even",
            Self::Floor => "floor",
        }
    }

    /// The value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// Offset of the central `size` pixels of `resized` pixels; `resized` is not smaller.
    fn of(self, resized: u64, size: u64) -> u64 {
        let spare = resized - size;
        let floor = spare / 2;
        match self {
            // Half of an odd number is rounded up if its floor is odd.
            Self::HalfEven => floor + (spare & floor & 1),
            Self::Floor => floor,
        }
    }
}

impl Default for CenterCrop {
    fn default() -> Self {
        Self::shortest(CENTER_FRACTION)
    }
}

impl CenterCrop {
    /// torchvision's `Resize(R)` and `CenterCrop(S)` with S / R = `fraction`.
    pub const fn shortest(fraction: f32) -> Self {
        Self { fraction, resize: ResizeMode::Shortest, offset: CropOffset::HalfEven }
    }

    /// Whether resize and offset are torchvision's, which they were in all caches of format version 1.
    pub fn is_torchvisions(self) -> bool {
        (self.resize, self.offset) == (ResizeMode::default(), CropOffset::default())
    }

    /// The crop of a teacher whose input has `size` pixels per side and whose preprocessing resizes to `resized`
    /// pixels. Both are above 0 and below 2^16, so that [`CenterCrop::length`] at `size` is `resized` again.
    pub fn of_lengths(size: u32, resized: u32, resize: ResizeMode, offset: CropOffset) -> Self {
        Self { fraction: size as f32 / resized as f32, resize, offset }
    }

    /// The length R in pixels at the output side `size`: round(size / fraction), halves to even, at least 1.
    pub fn length(self, size: u32) -> u32 {
        whole((f64::from(size) / f64::from(self.fraction)).round_ties_even()).max(1)
    }

    /// In words, at the output side `size`: "shortest side to 256, center 224", "squash to 224".
    pub fn describe(self, size: u32) -> String {
        let length = self.length(size);
        let side = match self.resize {
            ResizeMode::Shortest => "shortest side",
            ResizeMode::Squash => "squash",
            ResizeMode::Longest => "longest side",
        };
        match length.cmp(&size) {
            Ordering::Equal if self.resize == ResizeMode::Squash => format!("{side} to {length}"),
            Ordering::Equal if self.resize == ResizeMode::Longest => {
                format!("{side} to {length}, padded to a square")
            }
            Ordering::Less => format!("{side} to {length}, padded to {size}"),
            Ordering::Equal | Ordering::Greater => format!("{side} to {length}, center {size}"),
        }
    }

    /// Checks the fraction of an untrusted crop.
    pub(crate) fn validate(self) -> Result<(), ViewError> {
        in_range("crop fraction", self.fraction, FRACTIONS.0, FRACTIONS.1)
    }

    /// The columns and the rows that an output with the side `size` shows of a `width` x `height` image.
    pub(crate) fn spans(self, width: u32, height: u32, size: u32) -> [Span; 2] {
        let [columns, rows] = self.resized(width, height, size);
        [self.span(width, columns, size), self.span(height, rows, size)]
    }

    /// Width and height after the resize. A side may be longer than 2^32 pixels if the image is very narrow.
    fn resized(self, width: u32, height: u32, size: u32) -> [u64; 2] {
        let length = self.length(size);
        let (short, long) = (width.min(height), width.max(height));
        let (short_to, long_to) = match self.resize {
            ResizeMode::Shortest => (length, u64::from(length) * u64::from(long) / u64::from(short)),
            ResizeMode::Squash => (length, u64::from(length)),
            ResizeMode::Longest => (other_side(short, long, length), u64::from(length)),
        };
        if width <= height { [short_to.into(), long_to] } else { [long_to, short_to.into()] }
    }

    /// The part that an output with the side `size` shows of a side that is resized from `from` to `to` pixels.
    fn span(self, from: u32, to: u64, size: u32) -> Span {
        let from = f64::from(from);
        match u32::try_from(to) {
            Ok(pixels) if pixels < size => Span { start: 0.0, extent: from, at: (size - pixels) / 2, pixels },
            _ => {
                let scale = from / to as f64;
                let start = self.offset.of(to, size.into()) as f64 * scale;
                let extent = (f64::from(size) * scale).min(from - start);
                Span { start, extent, at: 0, pixels: size }
            }
        }
    }
}

/// The fraction, then the resize and the offset if they are not torchvision's: "0.875", "1, squash, offset floor".
impl fmt::Display for CenterCrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fraction, resize, offset } = self;
        write!(f, "{fraction}")?;
        if *resize != ResizeMode::default() {
            write!(f, ", {}", resize.name())?;
        }
        if *offset != CropOffset::default() {
            write!(f, ", offset {}", offset.name())?;
        }
        Ok(())
    }
}

/// The short side after the long side is resized to `length`, in the arithmetic of open_clip and timm, which fail if it
/// rounds to 0.
fn other_side(short: u32, long: u32, length: u32) -> u32 {
    let ratio = f64::from(long) / f64::from(length);
    whole((f64::from(short) / ratio).round_ties_even()).max(1)
}

/// Converts a whole number that is not negative and at most 2^20, such as a side of an output divided by 0.01.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers far below 2^32")]
fn whole(value: f64) -> u32 {
    value as u32
}

/// One axis of a center crop: which source pixels are stretched over which output pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    /// First source pixel.
    pub(crate) start: f64,
    /// Source pixels.
    pub(crate) extent: f64,
    /// First output pixel; black before it.
    pub(crate) at: u32,
    /// Output pixels; black after them.
    pub(crate) pixels: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes and offsets that the tools themselves compute: `tests/goldens/make_centers.py`.
    #[test]
    fn sizes_and_offsets_are_those_of_the_tools() {
        let table = include_str!("../../tests/goldens/centers.txt");
        for line in table.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let side = |at: usize| words[at].parse::<u32>().unwrap();
            let (resize, offset) = (ResizeMode::from_name(words[0]), CropOffset::from_name(words[1]));
            let (image, size) = ([side(2), side(3)], side(4));
            let crop = CenterCrop::of_lengths(size, side(5), resize.unwrap(), offset.unwrap());
            let resized = [side(6), side(7)];
            assert_eq!(crop.resized(image[0], image[1], size), resized.map(u64::from), "{line}");
            for (axis, span) in crop.spans(image[0], image[1], size).into_iter().enumerate() {
                let scale = f64::from(image[axis]) / f64::from(resized[axis]);
                let first = (span.start / scale).round() - f64::from(span.at);
                assert_eq!(first.to_string(), words[8 + axis], "{line}: {span:?}");
                assert_eq!(span.pixels, resized[axis].min(size), "{line}: {span:?}");
                assert!((span.extent - f64::from(span.pixels) * scale).abs() < 1e-6, "{line}: {span:?}");
            }
        }
        assert_eq!(table.lines().count(), 694);
    }
}
