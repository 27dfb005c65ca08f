//! One spatial axis of a gather: which input coordinates an output position reads.

use crate::geometry::Sliding;

/// Position `j` reads, for every tap, the input coordinate `j * step + at - shift`; coordinates outside `0..size` are padding.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// Input coordinates.
    size: usize,
    /// Input coordinates between neighboring positions.
    step: usize,
    /// Shift that keeps `at` from being negative.
    shift: usize,
    /// Taps in ascending order of `at`, which is evenly spaced.
    pub(super) taps: Vec<Tap>,
}

/// A tap that positions read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    /// Index in the kernel.
    pub(super) tap: usize,
    at: usize,
}

impl Axis {
    /// The rows and the columns of a forward pass: tap `t` of window `j` reads `j * stride + t * dilation - padding`.
    pub(super) fn forward(s: &Sliding) -> (Self, Self) {
        let window = s.window;
        let axis = |taps: usize, size: usize| Self {
            size,
            step: window.stride,
            shift: window.padding,
            taps: (0..taps).map(|tap| Tap { tap, at: tap * window.dilation }).collect(),
        };
        (axis(s.kernel.0, s.height), axis(s.kernel.1, s.width))
    }

    /// The phases of the rows and of the columns of a backward-data pass.
    ///
    /// Input `phase + j * stride` receives tap `t` from output `j + (phase + padding - t * dilation) / stride` if that
    /// division is exact.
    pub(super) fn backward(s: &Sliding) -> (Vec<Self>, Vec<Self>) {
        let window = s.window;
        let phases = |taps: usize, input: usize, size: usize| -> Vec<Self> {
            let shift = ((taps - 1) * window.dilation).div_ceil(window.stride);
            let axis = |phase: usize| {
                let tap = |tap: usize| {
                    let start = phase + window.padding + shift * window.stride - tap * window.dilation;
                    start.is_multiple_of(window.stride).then_some(Tap { tap, at: start / window.stride })
                };
                Self { size, step: 1, shift, taps: (0..taps).rev().filter_map(tap).collect() }
            };
            (0..window.stride.min(input)).map(axis).collect()
        };
        (phases(s.kernel.0, s.height, s.out_height), phases(s.kernel.1, s.width, s.out_width))
    }

    /// Coordinates of a strip between neighboring taps.
    pub(super) fn spacing(&self) -> usize {
        if self.taps.len() > 1 { self.taps[1].at - self.taps[0].at } else { 1 }
    }

    /// Coordinates of a strip that `positions` neighboring positions read. A single tap does not read the coordinates
    /// between them.
    pub(super) fn extent(&self, positions: usize) -> usize {
        (positions - 1) * self.strip_step() + (self.taps.len() - 1) * self.spacing() + 1
    }

    /// Coordinates of a strip between neighboring positions.
    pub(super) fn strip_step(&self) -> usize {
        if self.taps.len() > 1 { self.step } else { 1 }
    }

    /// Input coordinates between neighboring coordinates of a strip.
    pub(super) fn source_step(&self) -> usize {
        if self.taps.len() > 1 { 1 } else { self.step }
    }

    /// Input coordinate of coordinate `at` of a strip that starts at position `first`, or `None` in the padding.
    pub(super) fn source(&self, first: usize, at: usize) -> Option<usize> {
        (first * self.step + self.taps[0].at + at * self.source_step())
            .checked_sub(self.shift)
            .filter(|&at| at < self.size)
    }

    /// The coordinates of a strip over positions `0..positions` that are inside the input: the first, and their number.
    pub(super) fn inside(&self, positions: usize) -> (usize, usize) {
        let (extent, step, first) = (self.extent(positions), self.source_step(), self.taps[0].at);
        let before = self.shift.saturating_sub(first).div_ceil(step).min(extent);
        let end = (self.shift + self.size).saturating_sub(first).div_ceil(step).clamp(before, extent);
        (before, end - before)
    }
}
