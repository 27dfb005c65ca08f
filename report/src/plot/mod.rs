//! Plots as SVG, drawn by plotters.
//!
//! A plot is a `<figure>`: its title, the drawing with a title and a description for screen readers, and a legend. The
//! drawing takes the colors of [`crate::palette`] and scales with its column.

mod heat;
mod histogram;
mod lines;

use maud::{Markup, PreEscaped, html};
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::Pos;
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

use crate::error::ReportError;

pub(crate) use heat::HeatMap;
pub(crate) use histogram::Histogram;
pub(crate) use lines::{Line, LineChart, Unit};

/// Drawing units per CSS pixel of a plot at its natural width. plotters draws at whole units.
const SCALE: u32 = 4;
/// Size of labels in CSS pixels at the natural width.
const LABEL_SIZE: f64 = 12.0;
/// plotters-svg divides font sizes by this.
const FONT_FACTOR: f64 = 1.24;

/// An area that is drawn on.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A drawing with two linear axes.
type Axes<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Axes over the ranges `x` and `y`, with room for their labels and `right` CSS pixels at the right.
fn axes<'a, 'b>(
    area: &'a Area<'b>,
    right: f64,
    x: (f64, f64),
    y: (f64, f64),
) -> Result<Axes<'a, 'b>, String> {
    ChartBuilder::on(area)
        .margin_top(units(8.0))
        .margin_right(units(right))
        .x_label_area_size(units(38.0))
        .y_label_area_size(units(48.0))
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(|error| error.to_string())
}

/// The thinnest line, for axes and grids.
fn hair(color: RGBColor) -> ShapeStyle {
    ShapeStyle { color: color.into(), filled: false, stroke_width: SCALE }
}

/// The name and the size of a drawing.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Identifier of the figure, unique in the page.
    pub id: String,
    /// Title, shown above the drawing.
    pub title: String,
    /// Content in words, for screen readers.
    pub about: String,
    /// Natural width and height in CSS pixels.
    pub size: (u32, u32),
}

/// A finished plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    frame: Frame,
    /// Content of the `<svg>` element.
    drawing: String,
    /// Color number and name of each entry.
    legend: Vec<(usize, String)>,
    /// A line below the drawing.
    note: String,
}

impl Plot {
    /// Draws a plot with `draw`.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    fn draw<E: std::fmt::Display>(
        frame: Frame,
        draw: impl FnOnce(&Area<'_>) -> Result<(), E>,
    ) -> Result<Self, ReportError> {
        let mut text = String::new();
        let drawn = {
            let size = (frame.size.0 * SCALE, frame.size.1 * SCALE);
            let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
            draw(&area)
                .map_err(|error| error.to_string())
                .and_then(|()| area.present().map_err(|error| error.to_string()))
        };
        drawn.map_err(|reason| ReportError::Plot { plot: frame.title.clone(), reason })?;
        // The element itself is written with a title and a description, which plotters has not.
        let inside = text.split_once('>').map_or("", |(_, rest)| rest).trim();
        let drawing = inside.strip_suffix("</svg>").unwrap_or(inside).to_owned();
        Ok(Self { frame, drawing, legend: Vec::new(), note: String::new() })
    }

    /// Adds a line below the drawing.
    pub(crate) fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The figure. Drawings that are wider than a phone scroll in their own box.
    pub(crate) fn html(&self) -> Markup {
        let Frame { id, title, about, size: (width, height) } = &self.frame;
        let (title_id, about_id) = (format!("{id}-title"), format!("{id}-about"));
        let wide = *width > 460;
        let (style, labelled) = (format!("--w:{width}px"), format!("{title_id} {about_id}"));
        let view_box = format!("0 0 {} {}", width * SCALE, height * SCALE);
        html! {
            figure.plot.wide[wide] id=(id) style=(style) {
                p.plot-title { (title) }
                div.drawing tabindex=[wide.then_some("0")] role=[wide.then_some("region")]
                    aria-label=[wide.then_some(format!("{title}, drawing"))] {
                    svg xmlns="http://www.w3.org/2000/svg" viewBox=(view_box) role="img" aria-labelledby=(labelled) {
                        title id=(title_id) { (title) }
                        desc id=(about_id) { (about) }
                        (PreEscaped(&self.drawing))
                    }
                }
                @if !self.legend.is_empty() {
                    ul.legend {
                        @for (color, name) in &self.legend { li { i class={ "swatch c" (color) } aria-hidden="true" {} (name) } }
                    }
                }
                @if !self.note.is_empty() { p.note { (self.note) } }
            }
        }
    }
}

/// Draws plots side by side, as many as fit.
pub(crate) fn side_by_side(plots: &[Plot]) -> Markup {
    html! { div.plots { @for plot in plots { (plot.html()) } } }
}

/// A length in drawing units.
fn units(pixels: f64) -> i32 {
    rounded(pixels * f64::from(SCALE))
}

/// The nearest whole number of a coordinate.
#[expect(
    clippy::cast_possible_truncation,
    reason = "coordinates of a drawing are far below 2^31; the cast saturates"
)]
fn rounded(value: f64) -> i32 {
    value.round() as i32
}

/// Text of `size` CSS pixels.
fn font(size: f64, color: RGBColor) -> TextStyle<'static> {
    let font = ("sans-serif", size * f64::from(SCALE) * FONT_FACTOR).into_font();
    TextStyle { font, color: color.to_backend_color(), pos: Pos::default() }
}
