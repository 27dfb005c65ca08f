//! Dense convolution, backward-weight: outer products of gathered input and output gradient, summed over pixels.
//!
//! The split of the pixels into parts depends on the shape only, and the parts are added in order: the number of threads
//! does not change a bit.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::conv::Conv;
use super::geometry::{ShapeError, expect_eq};
use super::simd;
use super::tile::outer_tile;

/// Pixels summed in registers before they are added to the stored sums.
const CHUNK: usize = 240;
/// Input values a tile takes at once.
const ROWS: usize = 8;
/// Stored sums (floats) up to which the pixels, not the sums, are split among tasks.
const SMALL_SUMS: usize = 256 * 1024;
/// Parts the pixels are split into when the sums are small.
const PIXEL_PARTS: usize = 8;
/// Parts the sums are split into when they are large.
const SUM_PARTS: usize = 32;

/// The gradient of the weights, OIHW, from the NHWC input and the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_weight(conv: &Conv, x: &[f32], dy: &[f32]) -> Result<Vec<f32>, ShapeError> {
    let s = &conv.sliding;
    expect_eq("convolution input", s.in_len(), x.len())?;
    expect_eq("convolution output gradient", conv.out_len(), dy.len())?;
    let (padded, height, width) = conv.padded(x);
    let (runs, run_len) = conv.runs(width);
    let mut bases = Vec::with_capacity(s.out_pixels());
    for image in 0..s.batch {
        for y in 0..s.out_height {
            let row = (image * height + y * s.window.stride) * width;
            bases.extend((0..s.out_width).map(|x| (row + x * s.window.stride) * s.channels));
        }
    }
    let bands: Vec<Band> = runs
        .iter()
        .enumerate()
        .flat_map(|(j, &run)| {
            let band = move |first: usize| Band {
                offset: run + first,
                depth: j * run_len + first,
                rows: (run_len - first).min(ROWS),
            };
            (0..run_len).step_by(ROWS).map(band)
        })
        .collect();
    let gradient = PackedGradient::new(dy, conv.out_channels);
    let sums = sum_parts(&padded, &bases, &bands, &gradient);
    Ok(scatter(conv, &sums, &bands, &gradient))
}

/// Up to [`ROWS`] neighbouring rows of the sums: values `offset..offset + rows` from a pixel's base.
struct Band {
    offset: usize,
    /// Row of the product the band starts at: tap * channels + channel.
    depth: usize,
    rows: usize,
}

/// The output gradient as `[chunk][panel][pixel][column]`, columns padded with zeros.
struct PackedGradient {
    data: Vec<f32>,
    width: usize,
    panels: usize,
}

impl PackedGradient {
    fn new(dy: &[f32], columns: usize) -> Self {
        let width = 2 * simd::lanes();
        let panels = columns.div_ceil(width);
        let chunks = (dy.len() / columns).div_ceil(CHUNK);
        let mut data = vec![0.0; chunks * panels * CHUNK * width];
        data.par_chunks_mut(panels * CHUNK * width).zip(dy.par_chunks(CHUNK * columns)).for_each(
            |(out, dy)| {
                for (j, panel) in out.chunks_exact_mut(CHUNK * width).enumerate() {
                    let used = (columns - j * width).min(width);
                    for (out, dy) in panel.chunks_exact_mut(width).zip(dy.chunks_exact(columns)) {
                        out[..used].copy_from_slice(&dy[j * width..][..used]);
                    }
                }
            },
        );
        Self { data, width, panels }
    }

    fn panel(&self, chunk: usize, j: usize, pixels: usize) -> &[f32] {
        &self.data[(chunk * self.panels + j) * CHUNK * self.width..][..pixels * self.width]
    }
}

/// All sums, `[band][panel][ROWS][width]`.
fn sum_parts(x: &[f32], bases: &[usize], bands: &[Band], gradient: &PackedGradient) -> Vec<f32> {
    let band_len = gradient.panels * ROWS * gradient.width;
    let chunks = bases.len().div_ceil(CHUNK);
    if bands.len() * band_len > SMALL_SUMS {
        let mut sums = vec![0.0; bands.len() * band_len];
        let per = bands.len().div_ceil(SUM_PARTS);
        sums.par_chunks_mut(per * band_len).zip(bands.par_chunks(per)).for_each(|(sums, bands)| {
            simd::dispatch(SumTask { x, bases, bands, gradient, chunks: (0, chunks), sums });
        });
        return sums;
    }
    let per = chunks.div_ceil(PIXEL_PARTS);
    let parts: Vec<Vec<f32>> = (0..chunks.div_ceil(per))
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![0.0; bands.len() * band_len];
            let chunks = (part * per, ((part + 1) * per).min(chunks));
            simd::dispatch(SumTask { x, bases, bands, gradient, chunks, sums: &mut sums });
            sums
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (total, part) in total.iter_mut().zip(&part) {
            *total += part;
        }
    }
    total
}

/// Adds some chunks of pixels to the sums of some bands.
struct SumTask<'a> {
    x: &'a [f32],
    bases: &'a [usize],
    bands: &'a [Band],
    gradient: &'a PackedGradient,
    chunks: (usize, usize),
    sums: &'a mut [f32],
}

impl WithSimd for SumTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, bases, bands, gradient, chunks, sums } = self;
        let (panels, tile_len) = (gradient.panels, ROWS * gradient.width);
        for chunk in chunks.0..chunks.1 {
            let bases = &bases[chunk * CHUNK..bases.len().min((chunk + 1) * CHUNK)];
            for j in 0..panels {
                let panel = gradient.panel(chunk, j, bases.len());
                for (band, sums) in bands.iter().zip(sums.chunks_exact_mut(panels * tile_len)) {
                    let sums = &mut sums[j * tile_len..][..tile_len];
                    add_band(simd, x, bases, band, panel, sums);
                }
            }
        }
    }
}

/// Full bands go eight rows at once on machines with many registers, four otherwise; the rest row by row.
#[inline(always)]
fn add_band<S: Simd>(simd: S, x: &[f32], bases: &[usize], band: &Band, panel: &[f32], sums: &mut [f32]) {
    let width = 2 * S::F32_LANES;
    let mut row = 0;
    if S::REGISTER_COUNT >= 32 && band.rows == ROWS {
        outer_tile::<S, ROWS, 2>(simd, x, (bases, band.offset), panel, sums);
        return;
    }
    while row + 4 <= band.rows {
        outer_tile::<S, 4, 2>(simd, x, (bases, band.offset + row), panel, &mut sums[row * width..]);
        row += 4;
    }
    for row in row..band.rows {
        outer_tile::<S, 1, 2>(simd, x, (bases, band.offset + row), panel, &mut sums[row * width..]);
    }
}

/// The sums as OIHW weights.
fn scatter(conv: &Conv, sums: &[f32], bands: &[Band], gradient: &PackedGradient) -> Vec<f32> {
    let (channels, taps) = (conv.sliding.channels, conv.sliding.taps());
    let (width, panels) = (gradient.width, gradient.panels);
    let filter = channels * taps;
    let mut out = vec![0.0; conv.weight_len()];
    out.par_chunks_mut(filter * width).enumerate().for_each(|(j, out)| {
        for (band, sums) in bands.iter().zip(sums.chunks_exact(panels * ROWS * width)) {
            for (row, sums) in sums[j * ROWS * width..].chunks_exact(width).take(band.rows).enumerate() {
                let (tap, channel) = ((band.depth + row) / channels, (band.depth + row) % channels);
                for (filter, &sum) in out.chunks_exact_mut(filter).zip(sums) {
                    filter[channel * taps + tap] = sum;
                }
            }
        }
    });
    out
}
