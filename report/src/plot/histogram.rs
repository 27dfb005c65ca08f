//! Histograms.

use plotters::element::Rectangle;
use plotters::style::Color;

use super::{Frame, LABEL_SIZE, Plot, axes, font, hair, units};
use crate::error::ReportError;
use crate::palette::{AXIS, GRID, LABEL, SERIES};
use crate::text::{count, decimal, figure};

/// Natural size in CSS pixels.
const SIZE: (u32, u32) = (380, 210);
const BINS: usize = 40;

/// A histogram of values.
#[derive(Clone, Debug)]
pub(crate) struct Histogram<'a> {
    /// Identifier of the figure, unique in the page.
    pub id: &'static str,
    /// Title.
    pub title: &'a str,
    /// Name of the axis of values.
    pub axis: &'a str,
    /// The values.
    pub values: &'a [f64],
    /// Decimals of the labels.
    pub digits: usize,
}

impl Histogram<'_> {
    /// Draws the histogram; `None` without a finite value.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    pub(crate) fn plot(&self) -> Result<Option<Plot>, ReportError> {
        let mut values: Vec<f64> = self.values.iter().copied().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (Some(&low), Some(&high)) = (values.first(), values.last()) else { return Ok(None) };
        let about = format!(
            "{} values from {} to {}, median {}.",
            count(values.len()),
            figure(low),
            figure(high),
            figure(values[values.len() / 2])
        );
        let (id, title) = (self.id.to_owned(), self.title.to_owned());
        let frame = Frame { id, title, about, size: SIZE };
        // One value has no range of its own.
        let spread = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
        let from = if high > low { low } else { low - spread / 2.0 };
        let mut bins = [0_usize; BINS];
        for value in &values {
            let at = super::rounded(((value - from) / spread * BINS as f64).floor());
            bins[usize::try_from(at).unwrap_or(0).min(BINS - 1)] += 1;
        }
        Plot::draw(frame, |area| self.draw(area, &bins, (from, spread))).map(Some)
    }

    fn draw(
        &self,
        area: &super::Area<'_>,
        bins: &[usize; BINS],
        (from, spread): (f64, f64),
    ) -> Result<(), String> {
        let most = bins.iter().copied().max().unwrap_or(1) as f64;
        let mut chart = axes(area, 14.0, (from, from + spread), (0.0, most * 1.06))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(hair(GRID.color()))
            .axis_style(hair(AXIS.color()))
            .label_style(font(LABEL_SIZE, LABEL.color()))
            .axis_desc_style(font(LABEL_SIZE, LABEL.color()))
            .set_all_tick_mark_size(units(4.0))
            .x_labels(6)
            .y_labels(4)
            .x_desc(self.axis)
            .x_label_formatter(&|x| decimal(*x, self.digits))
            .y_label_formatter(&|y| decimal(*y, 0))
            .draw()
            .map_err(|error| error.to_string())?;
        let width = spread / BINS as f64;
        let bars = bins.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, &count)| {
            let (left, right) = (from + width * (bin as f64 + 0.06), from + width * (bin as f64 + 0.94));
            Rectangle::new([(left, count as f64), (right, 0.0)], SERIES[0].color().mix(0.85).filled())
        });
        chart.draw_series(bars).map_err(|error| error.to_string())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_says_its_range_and_takes_one_value() {
        let plot = |values: &[f64]| {
            let (id, title, axis) = ("sizes", "Sizes", "px");
            Histogram { id, title, axis, values, digits: 0 }.plot().unwrap()
        };
        assert!(plot(&[]).is_none() && plot(&[f64::NAN]).is_none());
        let html = plot(&[3.0, 1.0, 2.0]).unwrap().html().into_string();
        assert!(html.contains("3 values from 1.000 to 3.000, median 2.000."), "{html}");
        assert_eq!(plot(&[5.0]).unwrap().html().into_string().matches("<rect").count(), 1);
    }
}
