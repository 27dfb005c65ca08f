//! The input rows that a task reads, padded and normalized.

use super::axis::Axis;
use crate::activation::Activation;
use crate::operand::{Affine, Operand};
use crate::simd::{self, MAX_VECTORS};
use crate::workspace::{Buffer, LINE};

/// Minimum length of a repeated scale or shift, so that loops are long even for few channels.
const PERIOD: usize = 256;

/// The input of a gather.
pub(super) struct Source<'a> {
    data: &'a [f32],
    norm: Option<Norm>,
    height: usize,
    width: usize,
    channels: usize,
    pub(super) groups: usize,
}

/// Scale and shift of a pixel's channels, repeated over several pixels.
struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: Activation,
}

/// Some output rows: `rows` positions from position `first` on, of image `image`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) image: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// Some input channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channels {
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Scratch memory of a strip.
#[derive(Debug, Default)]
pub(super) struct Strip {
    data: Buffer,
    /// Whole windows, one per pixel, if windows are small.
    windows: Buffer,
    /// Where each pixel's window starts.
    pub(super) bases: Vec<usize>,
}

/// How the pixels of a strip are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Contiguous.
    Dense,
    /// Aligned to cache lines, an odd number of lines apart, so that some channels of many pixels fit the level-1
    /// cache: they do not compete for the same few sets. The padding of the lines has no meaning.
    Spread,
}

/// The part of the input that a strip reads.
pub(super) struct Window<'a> {
    pub(super) rows: &'a Axis,
    pub(super) columns: &'a Axis,
    /// Positions along the columns.
    pub(super) positions: usize,
    pub(super) channels: Channels,
    pub(super) layout: Layout,
    /// Whether the windows are copied out whole.
    pub(super) folded: bool,
}

/// Longest row of a window's taps for which windows are copied out whole; also the length of one copy.
const SHORT: usize = 32;

/// Whether windows of `channels` channels should be copied out whole: their rows are too short for loops of their own.
pub(super) fn is_short(rows: &Axis, columns: &Axis, channels: usize) -> bool {
    columns.taps.len() * channels <= SHORT && columns.spacing() == 1 && rows.taps.len() > 1
}

impl Window<'_> {
    /// Values between the start of neighboring pixels of a strip.
    fn pixel_len(&self) -> usize {
        match self.layout {
            Layout::Spread if !self.folded => spread(self.channels.count),
            _ => self.channels.count,
        }
    }

    /// Values between the start of neighboring strip rows.
    fn row_len(&self) -> usize {
        self.columns.extent(self.positions) * self.pixel_len()
    }

    /// Offsets of a window's runs from its start, and their common length. The runs hold the taps in order: one run per
    /// row of taps if the columns are neighbors, else one per tap.
    pub(super) fn runs(&self) -> (Vec<usize>, usize) {
        let count = self.channels.count;
        let (rows, columns) = (self.rows.taps.len(), self.columns.taps.len());
        if self.folded {
            return (vec![0], rows * columns * count);
        }
        let row = self.rows.spacing() * self.row_len();
        match self.columns.spacing() {
            1 => ((0..rows).map(|r| r * row).collect(), columns * count),
            _ => (self.taps(), count),
        }
    }

    /// Offset of every tap from a window's start.
    pub(super) fn taps(&self) -> Vec<usize> {
        let columns = self.columns.taps.len();
        let row = self.rows.spacing() * self.row_len();
        let column = self.columns.spacing() * self.pixel_len();
        (0..self.rows.taps.len() * columns).map(|tap| tap / columns * row + tap % columns * column).collect()
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(
        x: Operand<'a>,
        (height, width, channels): (usize, usize, usize),
        groups: usize,
    ) -> Self {
        let norm = x.norm.map(|Affine { scale, shift, activation }| {
            let repeated = |values: &[f32]| values.repeat(PERIOD.div_ceil(channels));
            Norm { scale: repeated(scale), shift: repeated(shift), activation }
        });
        Self { data: x.data, norm, height, width, channels, groups }
    }

    /// Values per output pixel, of `pixels`.
    pub(super) fn values_per(&self, pixels: usize) -> usize {
        self.data.len().div_ceil(pixels)
    }

    /// The strip of some segments, and the start of each pixel's window in it.
    ///
    /// A plain input whose windows are single pixels is read in place.
    pub(super) fn strip<'s>(
        &'s self,
        window: &Window<'_>,
        segments: &[Segment],
        strip: &'s mut Strip,
    ) -> (&'s [f32], &'s [usize])
    where
        'a: 's,
    {
        strip.bases.clear();
        if self.in_place(window, segments) {
            self.locate(window, segments, &mut strip.bases);
            return (self.data, &strip.bases);
        }
        let row_len = window.row_len();
        let rows: usize = segments.iter().map(|segment| window.rows.extent(segment.rows)).sum();
        let data = &mut strip.data;
        data.reserve(rows * row_len + SHORT);
        let mut out = data.chunks_exact_mut(row_len);
        let mut start = 0;
        for segment in segments {
            let extent = window.rows.extent(segment.rows);
            for (at, out) in out.by_ref().take(extent).enumerate() {
                match window.rows.source(segment.first, at) {
                    Some(row) => self.fill(window, segment.image * self.height + row, out),
                    None => out.fill(0.0),
                }
            }
            for row in 0..segment.rows {
                let start = (start + row * window.rows.strip_step()) * row_len;
                let step = window.columns.strip_step() * window.pixel_len();
                strip.bases.extend((0..window.positions).map(|position| start + position * step));
            }
            start += extent;
        }
        if window.folded {
            return (fold(window, data, &mut strip.bases, &mut strip.windows), &strip.bases);
        }
        (data, &strip.bases)
    }

    /// Whether the windows are single pixels of a plain input.
    fn in_place(&self, window: &Window<'_>, segments: &[Segment]) -> bool {
        let Window { rows, columns, positions, .. } = *window;
        let single = rows.taps.len() == 1 && columns.taps.len() == 1;
        let inside = |segment: &Segment| {
            rows.source(segment.first, 0).is_some() && rows.source(segment.first, segment.rows - 1).is_some()
        };
        self.norm.is_none()
            && (window.layout == Layout::Dense || self.is_whole(window))
            && single
            && columns.inside(positions) == (0, positions)
            && segments.iter().all(inside)
    }

    /// Whether a pixel of the strip is a pixel of the input, with all its channels and no gaps.
    fn is_whole(&self, window: &Window<'_>) -> bool {
        window.channels.count == self.channels && window.pixel_len() == self.channels
    }

    fn locate(&self, window: &Window<'_>, segments: &[Segment], bases: &mut Vec<usize>) {
        let first = window.columns.source(0, 0).unwrap_or(0);
        let step = window.columns.source_step() * self.channels;
        for segment in segments {
            for row in 0..segment.rows {
                let row = segment.image * self.height + window.rows.source(segment.first, row).unwrap_or(0);
                let start = (row * self.width + first) * self.channels + window.channels.first;
                bases.extend((0..window.positions).map(|position| start + position * step));
            }
        }
    }

    /// Fills one strip row from row `row` of the batch's rows.
    fn fill(&self, window: &Window<'_>, row: usize, out: &mut [f32]) {
        let Channels { first, count } = window.channels;
        let (before, inside) = window.columns.inside(window.positions);
        let len = window.pixel_len();
        let (padding, out) = out.split_at_mut(before * len);
        padding.fill(0.0);
        let (out, padding) = out.split_at_mut(inside * len);
        padding.fill(0.0);
        let step = window.columns.source_step();
        let start = window.columns.source(0, before).unwrap_or(0);
        let source = &self.data[(row * self.width + start) * self.channels..];
        if step == 1 && self.is_whole(window) {
            return self.normalize(&source[..out.len()], 0, out);
        }
        for (out, source) in out.chunks_exact_mut(len).zip(source.chunks(step * self.channels)) {
            self.normalize(&source[first..][..count], first, &mut out[..count]);
        }
    }

    /// Writes the normalized values of `x`, which starts at channel `first`, to `out`.
    fn normalize(&self, x: &[f32], first: usize, out: &mut [f32]) {
        let Some(norm) = &self.norm else {
            return out.copy_from_slice(x);
        };
        let norm = (&norm.scale[first..], &norm.shift[first..], norm.activation);
        simd::vectorized(
            #[inline(always)]
            || normalize(x, norm, out),
        );
    }
}

/// Copies the window of every pixel out of a strip; updates `bases` to the copies.
fn fold<'s>(window: &Window<'_>, strip: &[f32], bases: &mut [usize], windows: &'s mut Buffer) -> &'s [f32] {
    let row = window.rows.spacing() * window.row_len();
    let run = window.columns.taps.len() * window.channels.count;
    let rows = window.rows.taps.len();
    let stride = (rows * run).next_multiple_of(LINE);
    windows.reserve(bases.len() * stride + SHORT);
    simd::vectorized(
        #[inline(always)]
        || {
            for (p, base) in bases.iter_mut().enumerate() {
                // Copying a fixed length takes a few instructions; the next copy overwrites the excess.
                for r in 0..rows {
                    let strip = &strip[*base + r * row..][..SHORT];
                    windows[p * stride + r * run..][..SHORT].copy_from_slice(strip);
                }
                *base = p * stride;
            }
        },
    );
    windows
}

#[inline(always)]
fn normalize(x: &[f32], (scale, shift, activation): (&[f32], &[f32], Activation), out: &mut [f32]) {
    /// One loop per activation: a branch inside the loop would prevent vectorization.
    #[inline(always)]
    fn each(x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
        for (x, out) in x.chunks(scale.len()).zip(out.chunks_mut(scale.len())) {
            for (((out, x), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                *out = f(x * scale + shift);
            }
        }
    }
    match activation {
        Activation::Identity => each(x, scale, shift, out, |v| v),
        Activation::Relu => each(x, scale, shift, out, |v| Activation::Relu.apply(v)),
        Activation::Relu6 => each(x, scale, shift, out, |v| Activation::Relu6.apply(v)),
        Activation::HardSwish => each(x, scale, shift, out, |v| Activation::HardSwish.apply(v)),
        other => each(x, scale, shift, out, |v| other.apply(v)),
    }
}

/// Rounds `count` values up to an odd number of cache lines, or to whole lines if they are few enough to be read
/// together.
pub(super) fn spread(count: usize) -> usize {
    let lines = count.div_ceil(LINE);
    LINE * if lines > MAX_VECTORS { lines | 1 } else { lines }
}
