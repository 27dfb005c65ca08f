//! Comparisons of images and of memory.

use lgd_data::image::RgbImage;

/// How far an image is from a reference, over all bytes of its pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Largest difference, in levels.
    pub max: u8,
    /// Mean difference, in levels.
    pub mean: f64,
    /// Share of bytes that differ.
    pub share: f64,
}

/// Compares two images.
///
/// # Panics
/// If they differ in size.
pub fn distance(image: &RgbImage, reference: &RgbImage) -> Distance {
    assert_eq!((image.width(), image.height()), (reference.width(), reference.height()), "sizes");
    let levels = image.pixels().iter().zip(reference.pixels()).map(|(a, b)| a.abs_diff(*b));
    let (mut max, mut sum, mut differing) = (0, 0.0, 0.0);
    for level in levels {
        max = level.max(max);
        sum += f64::from(level);
        differing += f64::from(u8::from(level > 0));
    }
    let count = image.pixels().len() as f64;
    Distance { max, mean: sum / count, share: differing / count }
}

/// Peak address space of this process in KiB, including memory that was allocated but never touched. `None` if the system
/// does not report it.
pub fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
