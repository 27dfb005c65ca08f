//! Checked shapes of sliding windows, shared by convolutions and pools.

use thiserror::Error;

use crate::activation::Activation;

/// Errors for shapes that a kernel does not support.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ShapeError {
    /// A dimension is zero.
    #[error("{what} is zero")]
    Zero {
        /// The dimension's name.
        what: &'static str,
    },
    /// Two dimensions or lengths disagree.
    #[error("{what}: expected {expected}, got {got}")]
    Mismatch {
        /// Name of the value.
        what: &'static str,
        /// The required value.
        expected: usize,
        /// The value given.
        got: usize,
    },
    /// The window is larger than the padded input.
    #[error("a window of {window} does not fit an input of {input} with padding {padding}")]
    WindowTooLarge {
        /// Extent of the dilated window.
        window: usize,
        /// Input side.
        input: usize,
        /// Padding on each side.
        padding: usize,
    },
    /// The derivative of an activation cannot be computed from its value.
    #[error(
        "the derivative of {activation:?} cannot be computed from its value; Identity, Relu and Relu6 can"
    )]
    Derivative {
        /// The activation.
        activation: Activation,
    },
}

/// Result type of kernels; the error is a [`ShapeError`].
pub type Result<T, E = ShapeError> = std::result::Result<T, E>;

/// Fails unless `got == expected`.
///
/// # Errors
/// [`ShapeError::Mismatch`].
pub fn expect_eq(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(ShapeError::Mismatch { what, expected, got }) }
}

/// Fails if `value` is zero.
///
/// # Errors
/// [`ShapeError::Zero`].
pub fn expect_positive(what: &'static str, value: usize) -> Result<()> {
    if value == 0 { Err(ShapeError::Zero { what }) } else { Ok(()) }
}

/// Stride, padding and dilation of a window, the same along both axes, as in PyTorch with scalar arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Step between windows, at least 1.
    pub stride: usize,
    /// Zeros added on each side; for [`Sliding::same`], before the first value.
    pub padding: usize,
    /// Step between the taps of one window, at least 1.
    pub dilation: usize,
}

impl Window {
    /// Number of windows of `taps` taps along an axis of `input` values.
    fn positions(self, input: usize, taps: usize) -> Result<usize> {
        let window = self.dilation * (taps - 1) + 1;
        let padded = input + 2 * self.padding;
        if padded < window {
            return Err(ShapeError::WindowTooLarge { window, input, padding: self.padding });
        }
        Ok((padded - window) / self.stride + 1)
    }
}

/// A window sliding over an NHWC batch. Every dimension is positive, and the window fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sliding {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub channels: usize,
    /// Taps along the rows and along the columns.
    pub kernel: (usize, usize),
    /// Stride, padding and dilation.
    pub window: Window,
    /// Output rows.
    pub out_height: usize,
    /// Output columns.
    pub out_width: usize,
}

impl Sliding {
    /// Checks `input` = (batch, height, width, channels) against the window.
    ///
    /// # Errors
    /// A zero dimension, or a window larger than the padded input.
    pub fn new(input: (usize, usize, usize, usize), kernel: (usize, usize), window: Window) -> Result<Self> {
        let (batch, height, width, channels) = input;
        expect_positive("batch", batch)?;
        expect_positive("height", height)?;
        expect_positive("width", width)?;
        expect_positive("channels", channels)?;
        expect_positive("kernel height", kernel.0)?;
        expect_positive("kernel width", kernel.1)?;
        expect_positive("stride", window.stride)?;
        expect_positive("dilation", window.dilation)?;
        let out_height = window.positions(height, kernel.0)?;
        let out_width = window.positions(width, kernel.1)?;
        Ok(Self { batch, height, width, channels, kernel, window, out_height, out_width })
    }

    /// TensorFlow's "same" windows of `side` x `side` taps: `ceil(size / stride)` positions along each axis, and as many zeros before
    /// the input as after it, or one more after it.
    ///
    /// # Errors
    /// A zero dimension, or axes that need different padding before them.
    pub fn same(input: (usize, usize, usize, usize), side: usize, stride: usize) -> Result<Self> {
        let (batch, height, width, channels) = input;
        expect_positive("batch", batch)?;
        expect_positive("height", height)?;
        expect_positive("width", width)?;
        expect_positive("channels", channels)?;
        expect_positive("side of the window", side)?;
        expect_positive("stride", stride)?;
        let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
        let before =
            |size: usize, positions: usize| ((positions - 1) * stride + side).saturating_sub(size) / 2;
        let (rows, columns) = (before(height, out_height), before(width, out_width));
        expect_eq("zeros before the columns, as before the rows", rows, columns)?;
        let window = Window { stride, padding: rows, dilation: 1 };
        Ok(Self { batch, height, width, channels, kernel: (side, side), window, out_height, out_width })
    }

    /// Zeros after the rows and after the columns: as many as before them, or more if the last window reaches further.
    pub fn padding_after(&self) -> (usize, usize) {
        let Window { stride, padding, dilation } = self.window;
        let after = |size: usize, taps: usize, positions: usize| {
            let end = (positions - 1) * stride + (taps - 1) * dilation + 1;
            end.saturating_sub(size + padding).max(padding)
        };
        (after(self.height, self.kernel.0, self.out_height), after(self.width, self.kernel.1, self.out_width))
    }

    /// Number of output positions over the whole batch.
    pub fn out_pixels(&self) -> usize {
        self.batch * self.out_height * self.out_width
    }

    /// Number of scalars of the input.
    pub fn in_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Number of taps of one window.
    pub fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Input coordinate of `tap` in window `position` along an axis of `size`, or `None` in the padding.
    pub(crate) fn source(&self, position: usize, tap: usize, size: usize) -> Option<usize> {
        (position * self.window.stride + tap * self.window.dilation)
            .checked_sub(self.window.padding)
            .filter(|&at| at < size)
    }

    /// The window whose `tap` meets input coordinate `at`, along an axis of `positions` windows.
    pub(crate) fn target(&self, at: usize, tap: usize, positions: usize) -> Option<usize> {
        let start = (at + self.window.padding).checked_sub(tap * self.window.dilation)?;
        if !start.is_multiple_of(self.window.stride) {
            return None;
        }
        Some(start / self.window.stride).filter(|&position| position < positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_size_is_pytorchs() {
        let window = Window { stride: 2, padding: 3, dilation: 1 };
        let s = Sliding::new((2, 32, 33, 3), (7, 7), window).unwrap();
        assert_eq!((s.out_height, s.out_width), (16, 17));
    }

    /// TensorFlow's rule, by hand: out = ceil(n / s), padding max((out - 1) s + k - n, 0), of which the smaller half is before.
    #[test]
    fn same_windows_are_tensorflows() {
        let cases = [
            ((224, 3, 2), (112, 0, 1)),
            ((56, 5, 2), (28, 1, 2)),
            ((7, 3, 2), (4, 1, 1)),
            ((14, 5, 1), (14, 2, 2)),
        ];
        for ((size, side, stride), (positions, before, after)) in cases {
            let s = Sliding::same((1, size, size, 1), side, stride).unwrap();
            let found = (s.out_height, s.out_width, s.window.padding, s.padding_after());
            assert_eq!(found, (positions, positions, before, (after, after)), "{size}, {side}, {stride}");
        }
        let window = Window { stride: 2, padding: 1, dilation: 1 };
        assert_eq!(Sliding::new((1, 8, 8, 1), (3, 3), window).unwrap().padding_after(), (1, 1), "PyTorch's");
        let uneven = Sliding::same((1, 8, 7, 1), 3, 2);
        let what = "zeros before the columns, as before the rows";
        assert_eq!(uneven, Err(ShapeError::Mismatch { what, expected: 0, got: 1 }));
    }

    #[test]
    fn bad_shapes_are_errors() {
        let window = Window { stride: 1, padding: 0, dilation: 2 };
        assert_eq!(
            Sliding::new((1, 4, 4, 1), (3, 3), window),
            Err(ShapeError::WindowTooLarge { window: 5, input: 4, padding: 0 })
        );
        assert_eq!(Sliding::new((0, 4, 4, 1), (1, 1), window), Err(ShapeError::Zero { what: "batch" }));
        let still = Window { stride: 0, ..window };
        assert_eq!(Sliding::new((1, 9, 9, 1), (1, 1), still), Err(ShapeError::Zero { what: "stride" }));
    }
}
