//! Replayable views: a view describes which pixels of an image are visible and how they are altered.
//!
//! A view is drawn once, from a generator keyed by (seed, sample key, view index), and stored next to its embedding.
//! Rendering reads only the stored value, so a later change of the generator changes no existing cache.
//!
//! The generator is counter-based: it is the BLAKE3 extendable output of
//!
//! ```text
//! BLAKE3-derive-key("lgd view generator v1", seed: u64 LE | index: u16 LE | key: UTF-8)
//! ```
//!
//! read as little-endian `u64`s. A uniform number in [0, 1) is the upper 53 bits times 2^-53. Numbers are consumed in
//! the order of the code in [`Policy::draw`]. `tests/views.rs` freezes the results for fixed keys.
//!
//! The distributions of `moco-v2` are those of torchvision's `RandomResizedCrop`, `ColorJitter`, `RandomGrayscale` and
//! `RandomHorizontalFlip`, and of MoCo-v2's Gaussian blur (docs/methods.md section 1, "View").

mod center;
mod stream;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use center::{CenterCrop, CropRounding, ResizeMode};

use stream::Stream;

/// Output side, in pixels, that [`View::blur_sigma`] refers to.
pub const REFERENCE_SIZE: u32 = 224;

/// Fraction of the short side that the usual evaluation crop keeps: resize to 256, crop to 224.
pub const CENTER_FRACTION: f32 = 0.875;

const SCALE: (f64, f64) = (0.2, 1.0);
/// KDEP's, torchvision's default (docs/methods.md section 2).
const KDEP_SCALE: (f64, f64) = (0.08, 1.0);
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
const CROP_ATTEMPTS: usize = 10;
const BRIGHTNESS: f64 = 0.4;
const CONTRAST: f64 = 0.4;
const SATURATION: f64 = 0.4;
const HUE: f64 = 0.1;
/// KDEP's brightness, contrast and saturation; the hue is not changed.
const KDEP_COLOR: f64 = 0.1;
/// Standard deviation of the coefficients of KDEP's lighting.
const LIGHTING: f64 = 0.05;
/// Principal axes of the colors of ImageNet's pixels in 0..1, columns by variance, and the axes' weights (AlexNet's, as KDEP
/// and many others have them).
const COLOR_AXES: [[f64; 3]; 3] =
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]];
const COLOR_WEIGHTS: [f64; 3] = [0.2175, 0.0188, 0.0045];
const JITTER_PROBABILITY: f64 = 0.8;
const GRAY_PROBABILITY: f64 = 0.2;
const BLUR_PROBABILITY: f64 = 0.5;
const BLUR_SIGMA: (f64, f64) = (0.1, 2.0);
const FLIP_PROBABILITY: f64 = 0.5;

/// Largest brightness, contrast and saturation factor that a stored view may have.
const MAX_FACTOR: f32 = 100.0;

/// The part of the image that a view shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crop {
    /// A box in pixels of the original after its EXIF orientation was applied. It is resized to the output without
    /// keeping the aspect ratio. Drawn boxes have integer sides; stored boxes may not.
    Box {
        /// Left edge.
        x: f32,
        /// Top edge.
        y: f32,
        /// Width, above 0.
        w: f32,
        /// Height, above 0.
        h: f32,
    },
    /// The center of the resized image, as in a teacher's own preprocessing.
    Center(CenterCrop),
}

/// One of the four color changes of a [`Jitter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JitterStep {
    /// Blends with black.
    Brightness,
    /// Blends with the image's mean gray.
    Contrast,
    /// Blends with the gray image.
    Saturation,
    /// Rotates the hue.
    Hue,
}

/// The order of the four color changes, stored as the index of a permutation in lexicographic order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JitterOrder(u8);

impl JitterOrder {
    /// Number of orders, 4!.
    pub const COUNT: u8 = 24;

    /// The order with this index.
    ///
    /// # Errors
    /// [`ViewError::Order`] if `index` is 24 or more.
    pub fn new(index: u8) -> Result<Self, ViewError> {
        if index < Self::COUNT { Ok(Self(index)) } else { Err(ViewError::Order { index }) }
    }

    /// The permutation index, 0..24; 0 is brightness, contrast, saturation, hue.
    pub fn index(self) -> u8 {
        self.0
    }

    /// The four steps, in the order of application.
    pub fn steps(self) -> [JitterStep; 4] {
        use JitterStep::{Brightness, Contrast, Hue, Saturation};
        let mut steps = [Brightness, Contrast, Saturation, Hue];
        let mut rest = usize::from(self.0);
        // The digits of the index in the factorial number system select, place by place, one of the remaining steps.
        for (place, radix) in [(0, 6), (1, 2), (2, 1)] {
            steps[place..=place + rest / radix].rotate_right(1);
            rest %= radix;
        }
        steps
    }
}

/// Color factors, drawn like those of torchvision's `ColorJitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    /// Factor on the distance from black, 1 = unchanged.
    pub brightness: f32,
    /// Factor on the distance from the mean gray, 1 = unchanged.
    pub contrast: f32,
    /// Factor on the distance from the pixel's own gray, 1 = unchanged.
    pub saturation: f32,
    /// Hue rotation in turns, [-0.5, 0.5]; `None` skips the step, which also rounds colors.
    pub hue: Option<f32>,
    /// Order of the four changes.
    pub order: JitterOrder,
}

/// Everything that determines the pixels of an image that a network sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Visible part of the image.
    pub crop: Crop,
    /// Whether the result is mirrored left to right, as the last step.
    pub flip: bool,
    /// Color factors, if the colors are changed.
    pub jitter: Option<Jitter>,
    /// Added to every pixel's red, green and blue in 0..1 after the color factors, if the lighting is changed.
    pub lighting: Option<[f32; 3]>,
    /// Whether the colors are reduced to gray (three equal channels).
    pub gray: bool,
    /// Standard deviation of the Gaussian blur, in pixels at [`REFERENCE_SIZE`]. It is scaled by size / 224 when
    /// rendered, so that a teacher and a student with different input sizes see the same blur.
    pub blur_sigma: Option<f32>,
}

/// Why a stored view cannot be rendered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ViewError {
    /// A number is NaN, infinite or outside its range.
    #[error("view: expected {field} in [{low}, {high}], got {value}")]
    Range {
        /// Name of the number.
        field: &'static str,
        /// Value of the number.
        value: f32,
        /// Smallest allowed value.
        low: f32,
        /// Largest allowed value.
        high: f32,
    },
    /// The crop box is empty, not finite or not inside the image.
    #[error(
        "view: expected a crop box inside {width} x {height} pixels, got x {x}, y {y}, width {w}, height {h}"
    )]
    Box {
        /// Left edge.
        x: f32,
        /// Top edge.
        y: f32,
        /// Width.
        w: f32,
        /// Height.
        h: f32,
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
    },
    /// The index of the order of color changes is out of range.
    #[error("view: expected a jitter order below 24, got {index}")]
    Order {
        /// The invalid index.
        index: u8,
    },
}

impl View {
    /// The plain evaluation view: a center crop of 224/256, otherwise unaltered.
    pub fn center() -> Self {
        Self::of_center(CenterCrop::default())
    }

    /// A center crop, otherwise unaltered.
    pub fn of_center(crop: CenterCrop) -> Self {
        let crop = Crop::Center(crop);
        Self { crop, flip: false, jitter: None, lighting: None, gray: false, blur_sigma: None }
    }

    /// Checks that an untrusted view can be rendered from an image of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`ViewError`] if a number is not finite or out of range, or the box is not inside the image.
    pub fn validate(&self, width: u32, height: u32) -> Result<(), ViewError> {
        match self.crop {
            Crop::Box { x, y, w, h } => {
                let fits = |start: f32, extent: f32, side: u32| {
                    // NaN and infinities fail these comparisons.
                    start >= 0.0 && extent > 0.0 && f64::from(start) + f64::from(extent) <= f64::from(side)
                };
                if !fits(x, w, width) || !fits(y, h, height) {
                    return Err(ViewError::Box { x, y, w, h, width, height });
                }
            }
            Crop::Center(crop) => crop.validate()?,
        }
        if let Some(jitter) = &self.jitter {
            in_range("brightness", jitter.brightness, 0.0, MAX_FACTOR)?;
            in_range("contrast", jitter.contrast, 0.0, MAX_FACTOR)?;
            in_range("saturation", jitter.saturation, 0.0, MAX_FACTOR)?;
            in_range("hue", jitter.hue.unwrap_or(0.0), -0.5, 0.5)?;
        }
        for shift in self.lighting.into_iter().flatten() {
            in_range("lighting", shift, -1.0, 1.0)?;
        }
        match self.blur_sigma {
            Some(sigma) => in_range("blur sigma", sigma, 0.0, 224.0),
            None => Ok(()),
        }
    }
}

fn in_range(field: &'static str, value: f32, low: f32, high: f32) -> Result<(), ViewError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(ViewError::Range { field, value, low, high }) }
}

/// The distribution that views are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// MoCo-v2: random resized crop, color jitter, gray, blur, flip (docs/methods.md section 1).
    MocoV2,
    /// Random resized crop and flip only.
    CropFlip,
    /// KDEP's: random resized crop from 0.08, flip, slight color changes, PCA lighting (docs/methods.md section 2).
    Kdep,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::MocoV2, Self::CropFlip, Self::Kdep];

    /// Name used in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::MocoV2 => "moco-v2",
            Self::CropFlip => "crop-flip",
            Self::Kdep => "kdep",
        }
    }

    /// Whether its views change the lighting, and so have columns for that.
    pub(crate) fn lights(self) -> bool {
        self == Self::Kdep
    }

    /// Draws view `index` of the sample `key`, whose oriented image has `width` x `height` pixels, both above 0. This
    /// is a pure function of its arguments: the number of workers and the order of calls do not matter.
    pub fn draw(self, seed: u64, key: &str, index: u16, width: u32, height: u32) -> View {
        let mut stream = Stream::new(seed, key, index);
        let scale = if self == Self::Kdep { KDEP_SCALE } else { SCALE };
        let crop = random_resized_crop(&mut stream, scale, width, height);
        let flip = stream.chance(FLIP_PROBABILITY);
        let plain = View { crop, flip, jitter: None, lighting: None, gray: false, blur_sigma: None };
        match self {
            Self::CropFlip => plain,
            Self::MocoV2 => {
                let jitter = random_jitter(&mut stream);
                let gray = stream.chance(GRAY_PROBABILITY);
                let blurred = stream.chance(BLUR_PROBABILITY);
                let sigma = stream.uniform_f32(BLUR_SIGMA.0, BLUR_SIGMA.1);
                View { jitter, gray, blur_sigma: blurred.then_some(sigma), ..plain }
            }
            Self::Kdep => {
                let jitter = slight_jitter(&mut stream);
                View { jitter: Some(jitter), lighting: Some(random_lighting(&mut stream)), ..plain }
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error of parsing a [`Policy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown view policy \"{0}\"\nhint: use moco-v2, crop-flip or kdep")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// torchvision's `RandomResizedCrop.get_params`, with Python's rounding of halves to even.
fn random_resized_crop(stream: &mut Stream, scale: (f64, f64), width: u32, height: u32) -> Crop {
    let (full_w, full_h) = (f64::from(width), f64::from(height));
    for _ in 0..CROP_ATTEMPTS {
        let area = full_w * full_h * stream.uniform(scale.0, scale.1);
        let ratio = stream.uniform(RATIO.0.ln(), RATIO.1.ln()).exp();
        let w = (area * ratio).sqrt().round_ties_even();
        let h = (area / ratio).sqrt().round_ties_even();
        if w > 0.0 && w <= full_w && h > 0.0 && h <= full_h {
            let y = stream.below(full_h - h + 1.0);
            let x = stream.below(full_w - w + 1.0);
            return integer_box(x, y, w, h);
        }
    }
    let ratio = full_w / full_h;
    let (w, h) = if ratio < RATIO.0 {
        (full_w, (full_w / RATIO.0).round_ties_even())
    } else if ratio > RATIO.1 {
        ((full_h * RATIO.1).round_ties_even(), full_h)
    } else {
        (full_w, full_h)
    };
    integer_box(((full_w - w) / 2.0).floor(), ((full_h - h) / 2.0).floor(), w, h)
}

/// Makes a crop box. Sides are whole numbers of at most [`crate::image::MAX_SIDE`] pixels, which `f32` represents
/// exactly.
#[expect(clippy::cast_possible_truncation, reason = "whole numbers below 2^24 are exact in f32")]
fn integer_box(x: f64, y: f64, w: f64, h: f64) -> Crop {
    Crop::Box { x: x as f32, y: y as f32, w: w as f32, h: h as f32 }
}

fn random_jitter(stream: &mut Stream) -> Option<Jitter> {
    // All numbers are drawn even if they are not used, so that later numbers do not depend on the results.
    let applied = stream.chance(JITTER_PROBABILITY);
    let jitter = Jitter {
        brightness: stream.uniform_f32(1.0 - BRIGHTNESS, 1.0 + BRIGHTNESS),
        contrast: stream.uniform_f32(1.0 - CONTRAST, 1.0 + CONTRAST),
        saturation: stream.uniform_f32(1.0 - SATURATION, 1.0 + SATURATION),
        hue: Some(stream.uniform_f32(-HUE, HUE)),
        order: JitterOrder(stream.below_u8(JitterOrder::COUNT)),
    };
    applied.then_some(jitter)
}

/// KDEP's color changes, which every view has.
fn slight_jitter(stream: &mut Stream) -> Jitter {
    let mut factor = || stream.uniform_f32(1.0 - KDEP_COLOR, 1.0 + KDEP_COLOR);
    let (brightness, contrast, saturation) = (factor(), factor(), factor());
    Jitter {
        brightness,
        contrast,
        saturation,
        hue: None,
        order: JitterOrder(stream.below_u8(JitterOrder::COUNT)),
    }
}

/// A random multiple of each axis of [`COLOR_AXES`], by channel.
#[expect(clippy::cast_possible_truncation, reason = "rounding to the stored precision is the purpose")]
fn random_lighting(stream: &mut Stream) -> [f32; 3] {
    let weights = COLOR_WEIGHTS.map(|weight| weight * LIGHTING * stream.normal());
    COLOR_AXES.map(|axes| axes.iter().zip(weights).map(|(axis, weight)| axis * weight).sum::<f64>() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_orders_are_the_permutations_in_lexicographic_order() {
        let all: Vec<Vec<u8>> = (0..24)
            .map(|i| JitterOrder::new(i).unwrap().steps().iter().map(|step| *step as u8).collect())
            .collect();
        assert_eq!(all[0], [0, 1, 2, 3]);
        assert_eq!(all[23], [3, 2, 1, 0]);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
        assert_eq!(JitterOrder::new(24), Err(ViewError::Order { index: 24 }));
    }

    #[test]
    fn policy_names_round_trip() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse::<Policy>().unwrap(), policy);
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
        }
        assert!("moco".parse::<Policy>().unwrap_err().to_string().contains("hint:"));
    }
}
