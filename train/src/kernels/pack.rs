//! Copies that put operands in the order the tiles read them.

use std::borrow::Cow;

use rayon::prelude::*;

/// Weights as panels of columns: `[panel][tap][channel][column]`, the last panel narrower where that saves work.
pub(super) struct Panels {
    data: Vec<f32>,
    /// Rows of a panel: taps times channels.
    depth: usize,
    /// Columns of the product.
    pub(super) columns: usize,
    /// Columns of a full panel: two vectors.
    width: usize,
}

/// Where the element (column, channel, tap) of a weight tensor lies.
#[derive(Clone, Copy)]
pub(super) struct WeightStrides {
    pub(super) column: usize,
    pub(super) channel: usize,
}

impl Panels {
    /// Packs `columns` columns of depth `taps.len() * channels`; `weights[column * strides.column + channel *
    /// strides.channel + tap]`.
    pub(super) fn pack(
        weights: &[f32],
        taps: &[usize],
        channels: usize,
        columns: usize,
        strides: WeightStrides,
    ) -> Self {
        let width = 2 * super::simd::lanes();
        let depth = taps.len() * channels;
        let mut panels = Self { data: Vec::new(), depth, columns, width };
        let last = panels.count() - 1;
        panels.data = vec![0.0; last * depth * width + depth * panels.width(last)];
        let fill = |(j, panel): (usize, &mut [f32])| {
            let used = (columns - j * width).min(width);
            let stored = panel.len() / depth;
            for channel in 0..channels {
                for (t, &tap) in taps.iter().enumerate() {
                    let row = &mut panel[(t * channels + channel) * stored..][..used];
                    let start = j * width * strides.column + channel * strides.channel + tap;
                    for (value, source) in row.iter_mut().zip(weights[start..].iter().step_by(strides.column))
                    {
                        *value = *source;
                    }
                }
            }
        };
        panels.data.par_chunks_mut(depth * width).enumerate().for_each(fill);
        panels
    }

    /// Number of panels.
    pub(super) fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// First column of panel `j`.
    pub(super) fn first_column(&self, j: usize) -> usize {
        j * self.width
    }

    /// Columns stored in panel `j`, padding included: one or two vectors.
    pub(super) fn width(&self, j: usize) -> usize {
        let used = self.columns - j * self.width;
        if used <= self.width / 2 { self.width / 2 } else { self.width }
    }

    /// Columns of panel `j` that mean something.
    pub(super) fn used(&self, j: usize) -> usize {
        (self.columns - j * self.width).min(self.width)
    }

    /// The numbers of panel `j`, `[depth][width(j)]`.
    pub(super) fn panel(&self, j: usize) -> &[f32] {
        &self.data[j * self.depth * self.width..][..self.depth * self.width(j)]
    }

    /// Rows of a panel: taps times channels.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }
}

/// Zero rows and columns around an image.
#[derive(Clone, Copy)]
pub(super) struct Border {
    pub(super) top: usize,
    pub(super) bottom: usize,
    pub(super) left: usize,
    pub(super) right: usize,
}

/// An NHWC batch with a border of zeros; borrowed when there is no border.
pub(super) fn pad(
    x: &[f32],
    (height, width, channels): (usize, usize, usize),
    border: Border,
) -> Cow<'_, [f32]> {
    let Border { top, bottom, left, right } = border;
    if top + bottom + left + right == 0 {
        return Cow::Borrowed(x);
    }
    let row = width * channels;
    let (rows, padded_row) = (height + top + bottom, (width + left + right) * channels);
    let mut out = vec![0.0; x.len() / (height * row) * rows * padded_row];
    out.par_chunks_mut(padded_row).enumerate().for_each(|(i, out)| {
        let (image, y) = (i / rows, i % rows);
        if let Some(y) = y.checked_sub(top).filter(|&y| y < height) {
            out[left * channels..][..row].copy_from_slice(&x[(image * height + y) * row..][..row]);
        }
    });
    Cow::Owned(out)
}
