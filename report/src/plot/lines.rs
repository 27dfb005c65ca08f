//! Line charts.

use plotters::element::{Circle, PathElement};
use plotters::style::Color;

use super::{Frame, LABEL_SIZE, Plot, SCALE, axes, font, hair, units};
use crate::error::ReportError;
use crate::palette::{AXIS, GRID, LABEL, SERIES};
use crate::text::{decimal, figure};

/// Natural size of a chart in CSS pixels: a phone's width.
const SIZE: (u32, u32) = (380, 230);
/// Largest number of points of a line. More are averaged.
const MOST_POINTS: usize = 400;
/// Lines with at most this many points have markers.
const MARKED: usize = 40;

/// Meaning of the values of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Any number.
    Number,
    /// Percentages, 0 to 100.
    Percent,
}

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Name in the legend.
    pub name: String,
    /// Points in ascending order of x.
    pub points: Vec<(f64, f64)>,
    /// Single values that the points average, drawn faintly.
    pub behind: Vec<(f64, f64)>,
    /// Number of its color.
    pub color: usize,
}

/// A chart of lines over epochs.
#[derive(Clone, Debug)]
pub(crate) struct LineChart {
    /// Identifier of the figure, unique in the page.
    pub id: &'static str,
    /// Title.
    pub title: String,
    /// Meaning of the values.
    pub unit: Unit,
    /// The lines. Points that are not finite are left out.
    pub lines: Vec<Line>,
}

impl LineChart {
    /// Draws the chart; `None` if no line has a point.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    pub(crate) fn plot(mut self) -> Result<Option<Plot>, ReportError> {
        for line in &mut self.lines {
            line.points = thinned(&line.points);
            line.behind = thinned(&line.behind);
        }
        self.lines.retain(|line| !line.points.is_empty() || !line.behind.is_empty());
        if self.lines.is_empty() {
            return Ok(None);
        }
        let frame =
            Frame { id: self.id.to_owned(), title: self.title.clone(), about: self.about(), size: SIZE };
        let plot = Plot::draw(frame, |area| self.draw(area))?;
        let legend = self.lines.iter().filter(|line| !line.name.is_empty());
        let legend = legend.map(|line| (line.color, line.name.clone())).collect();
        Ok(Some(Plot { legend, ..plot }))
    }

    /// First and last value of every line.
    fn about(&self) -> String {
        let ends = self.lines.iter().filter_map(|line| {
            let points = if line.points.is_empty() { &line.behind } else { &line.points };
            let ((_, first), (end, last)) = (points.first()?, points.last()?);
            let name = if line.name.is_empty() { "The line" } else { &line.name };
            Some(format!("{name}: {} first, {} at epoch {}.", figure(*first), figure(*last), trimmed(*end)))
        });
        ends.collect::<Vec<_>>().join(" ")
    }

    fn draw(&self, area: &super::Area<'_>) -> Result<(), String> {
        let all = || self.lines.iter().flat_map(|line| line.points.iter().chain(&line.behind));
        let last = all().map(|(x, _)| *x).fold(0.0, f64::max);
        let values = self.value_range(all().map(|(_, y)| *y));
        let step = (values.1 - values.0) / 5.0;
        let mut chart = axes(area, 12.0, (0.0, last.max(1.0)), values)?;
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
            .y_labels(5)
            .x_desc("epoch")
            .x_label_formatter(&|x| trimmed(*x))
            .y_label_formatter(&|y| decimal(*y, digits(step)))
            .draw()
            .map_err(|error| error.to_string())?;
        for line in &self.lines {
            let color = SERIES[line.color % SERIES.len()].color();
            if line.behind.len() > 1 {
                let style = color.mix(if line.points.is_empty() { 0.9 } else { 0.35 }).stroke_width(5);
                chart
                    .draw_series([PathElement::new(line.behind.clone(), style)])
                    .map_err(|error| error.to_string())?;
            }
            if line.points.len() > 1 {
                let style = color.stroke_width(2 * SCALE);
                chart
                    .draw_series([PathElement::new(line.points.clone(), style)])
                    .map_err(|error| error.to_string())?;
            }
            let single =
                if line.points.is_empty() && line.behind.len() == 1 { &line.behind } else { &line.points };
            if single.len() <= MARKED {
                let dots = single.iter().map(|point| Circle::new(*point, units(2.6), color.filled()));
                chart.draw_series(dots).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Range of the axis of values: the values with a margin, for percentages within 0 to 100.
    fn value_range(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let spread = high - low;
        let least = if self.unit == Unit::Percent { 2.0 } else { high.abs().max(1e-6) * 0.02 };
        let margin = spread.max(least) * 0.08 + (least - spread).max(0.0) / 2.0;
        let (mut from, mut to) = (low - margin, high + margin);
        if low >= 0.0 && (from < 0.0 || low < 0.25 * high) {
            from = 0.0;
        }
        if self.unit == Unit::Percent {
            to = to.min(100.0).max(from + 1.0);
        }
        (from, to)
    }
}

/// Finite points, averaged in equal groups if there are more than [`MOST_POINTS`].
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let group = finite.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / points.len() as f64, y / points.len() as f64)
    };
    finite.chunks(group).map(mean).collect()
}

/// Decimals that tell labels apart whose distance is about `step`.
fn digits(step: f64) -> usize {
    (0..8).find(|&digits| step * 10_f64.powi(i32::try_from(digits).unwrap_or(0)) >= 1.0).unwrap_or(8)
}

/// A number without needless zeros: 3, 2.5.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> LineChart {
        let line = Line { name: "loss <b>".to_owned(), points, ..Line::default() };
        LineChart { id: "loss", title: "Loss".to_owned(), unit: Unit::Number, lines: vec![line] }
    }

    #[test]
    fn a_chart_names_its_content_and_escapes_names() {
        let plot = chart(vec![(1.0, 2.0), (2.0, 1.5), (3.0, f64::NAN)]).plot().unwrap().unwrap();
        let html = plot.html().into_string();
        assert!(html.contains("<title id=\"loss-title\">Loss</title>"), "{html}");
        assert!(html.contains("loss &lt;b&gt;: 2.000 first, 1.500 at epoch 2."), "{html}");
        assert!(!html.contains("<b>") && !html.contains("NaN"), "{html}");
    }

    #[test]
    fn a_chart_without_points_is_not_drawn_and_one_point_is() {
        assert!(chart(Vec::new()).plot().unwrap().is_none());
        let plot = chart(vec![(1.0, 2.0)]).plot().unwrap().unwrap();
        assert!(plot.html().into_string().contains("<circle"));
    }

    #[test]
    fn long_lines_are_averaged_in_groups() {
        let points: Vec<(f64, f64)> = (0..1000).map(|x| (f64::from(x), 1.0)).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0], thin[333]), (334, (1.0, 1.0), (999.0, 1.0)));
    }

    #[test]
    fn labels_have_the_decimals_that_tell_them_apart() {
        assert_eq!([2.0, 0.5, 0.04, 0.000_3].map(digits), [0, 1, 2, 4]);
        assert_eq!([3.0, 2.5, 0.25].map(trimmed), ["3", "2.5", "0.25"]);
    }
}
