//! Max-pool with overlap and padding, and the global average pool, over NHWC.

use rayon::prelude::*;

use super::geometry::{ShapeError, Sliding, expect_eq, expect_positive};
use super::simd;

/// Max-pool: the outputs, and per output the tap that won (the first among equals, as in PyTorch; a NaN wins).
///
/// # Errors
/// A length that does not match; more than 256 taps; padding of more than half a window, which could leave a window empty.
pub fn max_forward(s: &Sliding, x: &[f32]) -> Result<(Vec<f32>, Vec<u8>), ShapeError> {
    expect_eq("pool input", s.in_len(), x.len())?;
    if s.taps() > 256 {
        return Err(ShapeError::Mismatch { what: "most taps of a pool", expected: 256, got: s.taps() });
    }
    let half = s.kernel.0.min(s.kernel.1) / 2;
    if s.window.padding > half {
        return Err(ShapeError::Mismatch {
            what: "most padding of a pool",
            expected: half,
            got: s.window.padding,
        });
    }
    let c = s.channels;
    let mut y = vec![f32::NEG_INFINITY; s.out_pixels() * c];
    let mut winners = vec![0u8; y.len()];
    let row = s.out_width * c;
    y.par_chunks_mut(row).zip(winners.par_chunks_mut(row)).enumerate().for_each(|(row, (y, winners))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for_windows(s, row, |j, tap, at| {
                    let (y, winners) = (&mut y[j * c..][..c], &mut winners[j * c..][..c]);
                    let x = &x[at..][..c];
                    for k in 0..c {
                        let wins = x[k] > y[k] || x[k].is_nan();
                        y[k] = if wins { x[k] } else { y[k] };
                        winners[k] = if wins { tap } else { winners[k] };
                    }
                });
            },
        );
    });
    Ok((y, winners))
}

/// The gradient of a max-pool's input: every output's gradient goes to its winner.
///
/// # Errors
/// Lengths that do not match.
pub fn max_backward(s: &Sliding, winners: &[u8], dy: &[f32]) -> Result<Vec<f32>, ShapeError> {
    let c = s.channels;
    expect_eq("pool output gradient", s.out_pixels() * c, dy.len())?;
    expect_eq("pool winners", dy.len(), winners.len())?;
    let image_len = s.height * s.width * c;
    let mut dx = vec![0.0; s.in_len()];
    dx.par_chunks_mut(image_len).enumerate().for_each(|(image, dx)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for row in image * s.out_height..(image + 1) * s.out_height {
                    for_windows(s, row, |j, tap, at| {
                        let out = (row * s.out_width + j) * c;
                        let (winners, dy) = (&winners[out..][..c], &dy[out..][..c]);
                        let dx = &mut dx[at - image * image_len..][..c];
                        for k in 0..c {
                            dx[k] += if winners[k] == tap { dy[k] } else { 0.0 };
                        }
                    });
                }
            },
        );
    });
    Ok(dx)
}

/// Calls `f(column, tap, offset of the input pixel)` for every tap inside the image of every window of an output row.
#[inline(always)]
fn for_windows(s: &Sliding, row: usize, mut f: impl FnMut(usize, u8, usize)) {
    let (image, i) = (row / s.out_height, row % s.out_height);
    for j in 0..s.out_width {
        for (tap, number) in (0..s.taps()).zip(0u8..=u8::MAX) {
            let (r, q) = (tap / s.kernel.1, tap % s.kernel.1);
            let (Some(y), Some(x)) = (s.source(i, r, s.height), s.source(j, q, s.width)) else { continue };
            f(j, number, ((image * s.height + y) * s.width + x) * s.channels);
        }
    }
}

/// The mean over the `pixels` of each image: `[B, pixels, C]` to `[B, C]`.
///
/// # Errors
/// Lengths that do not match, or a zero.
pub fn average_forward(x: &[f32], pixels: usize, channels: usize) -> Result<Vec<f32>, ShapeError> {
    expect_positive("pixels to average", pixels)?;
    expect_positive("channels", channels)?;
    let batch = x.len() / (pixels * channels);
    expect_positive("batch", batch)?;
    expect_eq("values to average", batch * pixels * channels, x.len())?;
    let share = share(pixels);
    let mut y = vec![0.0; batch * channels];
    y.par_chunks_mut(channels).zip(x.par_chunks(pixels * channels)).for_each(|(y, x)| {
        for x in x.chunks_exact(channels) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= share);
    });
    Ok(y)
}

/// The gradient of [`average_forward`]'s input.
///
/// # Errors
/// A length that does not match.
pub fn average_backward(dy: &[f32], pixels: usize, channels: usize) -> Result<Vec<f32>, ShapeError> {
    expect_positive("pixels to average", pixels)?;
    expect_positive("channels", channels)?;
    expect_eq("gradient of an average", dy.len() / channels * channels, dy.len())?;
    let share = share(pixels);
    let mut dx = vec![0.0; dy.len() * pixels];
    dx.par_chunks_mut(pixels * channels).zip(dy.par_chunks(channels)).for_each(|(dx, dy)| {
        for dx in dx.chunks_exact_mut(channels) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    });
    Ok(dx)
}

#[expect(clippy::cast_precision_loss, reason = "an image side is far below 2^12")]
fn share(pixels: usize) -> f32 {
    1.0 / pixels as f32
}
