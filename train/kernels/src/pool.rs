//! Max-pool with overlap and padding, and the global average pool, over NHWC.

use rayon::prelude::*;

use crate::elementwise::{Values, float, fold, period, repeat, single, whole, with_scratch};
use crate::geometry::{Result, Sliding, expect_eq, expect_positive};
use crate::operand::Operand;
use crate::simd;

/// Values read at a time.
const BLOCK: usize = 2048;

/// Writes the largest value of each window to `y` and its tap to `argmax`: the first of equals, as in PyTorch, or a
/// NaN.
///
/// # Errors
/// A length that does not match; more than 256 taps; padding of more than half a window, which could leave a window empty.
pub fn max_pool(s: &Sliding, x: Operand<'_>, y: &mut [f32], argmax: &mut [u8]) -> Result<()> {
    check_max(s, y.len(), argmax.len())?;
    let x = Values::new("pool input", x, s.channels, s.in_len())?;
    let (c, row) = (s.channels, s.width * s.channels);
    let rows = y.par_chunks_mut(s.out_width * c).zip(argmax.par_chunks_mut(s.out_width * c));
    rows.enumerate().for_each(|(number, (y, argmax))| {
        let (image, i) = (number / s.out_height, number % s.out_height);
        with_scratch(s.kernel.0 * row, |scratch| {
            let held = |r| s.source(i, r, s.height);
            for (r, scratch) in scratch.chunks_exact_mut(row).enumerate() {
                if let Some(input) = held(r) {
                    x.copy((image * s.height + input) * row, scratch);
                }
            }
            let taps = |j, taps: &mut Vec<(u8, usize)>| {
                for (tap, number) in (0..s.taps()).zip(0u8..=u8::MAX) {
                    let (r, q) = (tap / s.kernel.1, tap % s.kernel.1);
                    if let (Some(_), Some(x)) = (held(r), s.source(j, q, s.width)) {
                        taps.push((number, r * row + x * c));
                    }
                }
            };
            simd::vectorized(
                #[inline(always)]
                || {
                    let mut inside = Vec::with_capacity(s.taps());
                    for (j, (y, argmax)) in y.chunks_exact_mut(c).zip(argmax.chunks_exact_mut(c)).enumerate()
                    {
                        inside.clear();
                        taps(j, &mut inside);
                        largest(scratch, &inside, y, argmax);
                    }
                },
            );
        });
    });
    Ok(())
}

/// Values compared side by side.
const LANES: usize = 16;

/// The largest of `x[offset + k]` over the (tap, offset)s, and its tap.
#[inline(always)]
fn largest(x: &[f32], taps: &[(u8, usize)], y: &mut [f32], argmax: &mut [u8]) {
    let whole = y.len() / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        largest_of::<LANES>(&x[k..], taps, &mut y[k..], &mut argmax[k..]);
    }
    for k in whole..y.len() {
        largest_of::<1>(&x[k..], taps, &mut y[k..], &mut argmax[k..]);
    }
}

#[inline(always)]
fn largest_of<const N: usize>(x: &[f32], taps: &[(u8, usize)], y: &mut [f32], argmax: &mut [u8]) {
    let (mut best, mut winner) = ([f32::NEG_INFINITY; N], [0; N]);
    for &(tap, offset) in taps {
        let x = &x[offset..][..N];
        for k in 0..N {
            let wins = x[k] > best[k] || x[k].is_nan();
            best[k] = if wins { x[k] } else { best[k] };
            winner[k] = if wins { tap } else { winner[k] };
        }
    }
    y[..N].copy_from_slice(&best);
    argmax[..N].copy_from_slice(&winner);
}

/// The gradient of a max-pool's input: the gradient of every output is added at its tap in `argmax`.
///
/// # Errors
/// Lengths that do not match.
pub fn max_pool_backward(
    s: &Sliding,
    dy: &[f32],
    argmax: &[u8],
    dx: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    check_max(s, dy.len(), argmax.len())?;
    expect_eq("pool input gradient", s.in_len(), dx.len())?;
    let c = s.channels;
    // Divides by the stride once here instead of in every row.
    let column = |j| (0..s.kernel.1).map(move |q| s.target(j, q, s.out_width));
    let columns: Vec<Option<usize>> = (0..s.width).flat_map(column).collect();
    dx.par_chunks_mut(s.width * c).enumerate().for_each(|(row, dx)| {
        let (image, i) = (row / s.height, row % s.height);
        let rows: Vec<_> = (0..s.kernel.0).map(|r| s.target(i, r, s.out_height)).collect();
        let taps = |j: usize, taps: &mut Vec<(u8, usize)>| {
            let mut numbers = 0u8..=u8::MAX;
            for y in &rows {
                for (x, number) in columns[j * s.kernel.1..][..s.kernel.1].iter().zip(&mut numbers) {
                    if let (Some(y), Some(x)) = (y, x) {
                        taps.push((number, ((image * s.out_height + y) * s.out_width + x) * c));
                    }
                }
            }
        };
        simd::vectorized(
            #[inline(always)]
            || {
                let mut over = Vec::with_capacity(s.taps());
                for (j, dx) in dx.chunks_exact_mut(c).enumerate() {
                    over.clear();
                    taps(j, &mut over);
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    won(argmax, dy, &over, dx);
                }
            },
        );
    });
    Ok(())
}

/// Adds `dy[offset + k]` for the (tap, offset)s that are the maximum there.
#[inline(always)]
fn won(argmax: &[u8], dy: &[f32], taps: &[(u8, usize)], dx: &mut [f32]) {
    let whole = dx.len() / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        won_of::<LANES>(&argmax[k..], &dy[k..], taps, &mut dx[k..]);
    }
    for k in whole..dx.len() {
        won_of::<1>(&argmax[k..], &dy[k..], taps, &mut dx[k..]);
    }
}

#[inline(always)]
fn won_of<const N: usize>(argmax: &[u8], dy: &[f32], taps: &[(u8, usize)], dx: &mut [f32]) {
    let mut sums = [0.0; N];
    for &(tap, offset) in taps {
        let (argmax, dy) = (&argmax[offset..][..N], &dy[offset..][..N]);
        for k in 0..N {
            // A mask instead of a choice, which the compiler would compile to branches.
            let won = if argmax[k] == tap { u32::MAX } else { 0 };
            sums[k] += f32::from_bits(dy[k].to_bits() & won);
        }
    }
    for (dx, sum) in dx[..N].iter_mut().zip(sums) {
        *dx += sum;
    }
}

fn check_max(s: &Sliding, y: usize, argmax: usize) -> Result<()> {
    expect_eq("pool output", s.out_pixels() * s.channels, y)?;
    expect_eq("pool winners", y, argmax)?;
    expect_eq("most taps of a pool", s.taps().min(256), s.taps())?;
    let half = s.kernel.0.min(s.kernel.1) / 2;
    expect_eq("most padding of a pool", s.window.padding.min(half), s.window.padding)
}

/// The mean over the `pixels` of each image: `[B, pixels, C]` to `[B, C]`.
///
/// # Errors
/// Lengths that do not match, or a zero.
pub fn global_average(x: Operand<'_>, pixels: usize, channels: usize, y: &mut [f32]) -> Result<()> {
    check_average(pixels, channels, y.len())?;
    let x = Values::new("values to average", x, channels, y.len() * pixels)?;
    let period = period(channels);
    let block = whole(BLOCK, period);
    let share = share(pixels);
    y.par_chunks_mut(channels).enumerate().for_each(|(image, y)| {
        let (start, end) = (image * pixels * channels, (image + 1) * pixels * channels);
        with_scratch(block + period, |scratch| {
            let (scratch, sums) = scratch.split_at_mut(block);
            sums.fill(0.0);
            for at in (start..end).step_by(block) {
                let x = x.read(at, &mut scratch[..block.min(end - at)]);
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for x in x.chunks(period) {
                            for (sum, x) in sums.iter_mut().zip(x) {
                                *sum += x;
                            }
                        }
                    },
                );
            }
            fold(sums, y);
        });
        y.iter_mut().for_each(|y| *y *= share);
    });
    Ok(())
}

/// The gradient of [`global_average`]'s input.
///
/// # Errors
/// Lengths that do not match, or a zero.
pub fn global_average_backward(
    dy: &[f32],
    pixels: usize,
    channels: usize,
    dx: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    check_average(pixels, channels, dy.len())?;
    expect_eq("gradient of averaged values", dy.len() * pixels, dx.len())?;
    let share = share(pixels);
    dx.par_chunks_mut(pixels * channels).zip(dy.par_chunks(channels)).for_each(|(dx, dy)| {
        let mut gradient = repeat(dy, channels);
        gradient.iter_mut().for_each(|g| *g *= share);
        simd::vectorized(
            #[inline(always)]
            || {
                for dx in dx.chunks_mut(gradient.len()) {
                    if accumulate {
                        for (dx, g) in dx.iter_mut().zip(&*gradient) {
                            *dx += g;
                        }
                    } else {
                        dx.copy_from_slice(&gradient[..dx.len()]);
                    }
                }
            },
        );
    });
    Ok(())
}

fn check_average(pixels: usize, channels: usize, averages: usize) -> Result<()> {
    expect_positive("pixels to average", pixels)?;
    expect_positive("channels", channels)?;
    expect_positive("averages", averages)?;
    expect_eq("averages", averages / channels * channels, averages)
}

fn share(pixels: usize) -> f32 {
    single(1.0 / float(pixels))
}
