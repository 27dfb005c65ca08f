//! Heat maps: a square table of shares between names.

use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, WHITE};

use super::{Frame, Plot, font, rounded, units};
use crate::error::ReportError;
use crate::palette::{GRID, HEAT, LABEL, TEXT};
use crate::text::shortened;

/// Longest name beside a cell, in characters.
const NAME: usize = 16;
/// Maps with at most this many names have numbers in their cells.
const NUMBERED: usize = 14;
/// Share of the full color above which white text has more contrast than dark text, in the light theme.
const DARK: f64 = 0.75;

/// A square table of values with a color for each.
#[derive(Clone, Debug)]
pub(crate) struct HeatMap<'a> {
    /// Identifier of the figure, unique in the page.
    pub id: &'static str,
    /// Title.
    pub title: &'a str,
    /// Content in words.
    pub about: String,
    /// Names of rows and columns.
    pub names: &'a [&'a str],
    /// Values, `[names, names]`, row by row. Cells that are not finite stay empty.
    pub values: &'a [f64],
    /// The values without color and with full color.
    pub range: (f64, f64),
    /// Text of a cell.
    pub show: fn(f64) -> String,
    /// Names of the axes: rows, columns. Empty for none.
    pub axes: (&'a str, &'a str),
}

/// Lengths in CSS pixels.
struct Layout {
    /// Side of a cell.
    cell: f64,
    /// Size of the text.
    text: f64,
    /// Space for names.
    names: f64,
    /// Space for the names of the axes.
    axes: f64,
}

impl HeatMap<'_> {
    /// Draws the map.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    pub(crate) fn plot(&self) -> Result<Plot, ReportError> {
        let longest = self.names.iter().map(|name| name.chars().count().min(NAME)).max().unwrap_or(0);
        let (cell, text): (f64, f64) = match self.names.len() {
            0..=10 => (29.0, 11.0),
            11..=NUMBERED => (27.0, 10.5),
            15..=24 => (19.0, 10.5),
            _ => (13.0, 9.5),
        };
        let axes = if self.axes.0.is_empty() { 0.0 } else { 18.0 };
        let layout = Layout { cell, text, names: longest as f64 * text * 0.58 + 10.0, axes };
        let side = rounded(layout.axes + layout.names + cell * self.names.len() as f64 + 6.0);
        let side = u32::try_from(side).unwrap_or(1).max(40);
        let (id, title, about) = (self.id.to_owned(), self.title.to_owned(), self.about.clone());
        Plot::draw(Frame { id, title, about, size: (side, side) }, |area| self.draw(area, &layout))
    }

    fn draw(&self, area: &super::Area<'_>, layout: &Layout) -> Result<(), String> {
        let Layout { cell, text, names, axes } = *layout;
        let start = axes + names;
        let label = font(text, LABEL.color());
        for (row, name) in self.names.iter().enumerate() {
            let middle = start + cell * (row as f64 + 0.5);
            let name = shortened(name, NAME);
            let right = label.pos(Pos::new(HPos::Right, VPos::Center));
            let at = (units(start - 5.0), units(middle));
            area.draw(&Text::new(name.clone(), at, right)).map_err(|error| error.to_string())?;
            let up = label.pos(Pos::new(HPos::Left, VPos::Center)).transform(FontTransform::Rotate270);
            let at = (units(middle), units(start - 5.0));
            area.draw(&Text::new(name, at, up)).map_err(|error| error.to_string())?;
        }
        for (at, &value) in self.values.iter().enumerate() {
            let (row, column) = (at / self.names.len(), at % self.names.len());
            let (x, y) = (start + cell * column as f64, start + cell * row as f64);
            self.draw_cell(area, (x, y), layout, value).map_err(|error| error.to_string())?;
        }
        let center = start + cell * self.names.len() as f64 / 2.0;
        if axes > 0.0 {
            let style = label.pos(Pos::new(HPos::Center, VPos::Center));
            let columns =
                Text::new(self.axes.1.to_owned(), (units(center), units(axes / 2.0)), style.clone());
            area.draw(&columns).map_err(|error| error.to_string())?;
            let style = style.transform(FontTransform::Rotate270);
            let rows = Text::new(self.axes.0.to_owned(), (units(axes / 2.0), units(center)), style);
            area.draw(&rows).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn draw_cell(
        &self,
        area: &super::Area<'_>,
        (x, y): (f64, f64),
        layout: &Layout,
        value: f64,
    ) -> Result<(), String> {
        let draw = |style: plotters::style::ShapeStyle| {
            let corners = [
                (units(x + 0.5), units(y + 0.5)),
                (units(x + layout.cell - 0.5), units(y + layout.cell - 0.5)),
            ];
            area.draw(&Rectangle::new(corners, style)).map_err(|error| error.to_string())
        };
        let (low, high) = self.range;
        let share = ((value - low) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        // Two decimals of opacity are enough for the eye and short in the file.
        let opacity = (share * 100.0).round() / 100.0;
        if !value.is_finite() || opacity < 0.01 {
            draw(GRID.color().mix(0.45).filled())?;
        } else {
            draw(HEAT.color().mix(opacity).filled())?;
        }
        let shown = if value.is_finite() { (self.show)(value) } else { String::new() };
        if self.names.len() > NUMBERED || shown.is_empty() {
            return Ok(());
        }
        let color = if share > DARK { WHITE } else { TEXT.color() };
        let style = font(layout.text, color).pos(Pos::new(HPos::Center, VPos::Center));
        let at = (units(x + layout.cell / 2.0), units(y + layout.cell / 2.0));
        area.draw(&Text::new(shown, at, style)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shows_numbers_and_escapes_names() {
        let names = ["<script>alert(1)</script>", "a"];
        let values = [1.0, 0.25, f64::NAN, 0.0];
        let map = HeatMap {
            id: "map",
            title: "Map",
            about: "two names".to_owned(),
            names: &names,
            values: &values,
            range: (0.0, 1.0),
            show: |value| format!("{value:.2}"),
            axes: ("row", "column"),
        };
        let html = map.plot().unwrap().html().into_string();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
        assert_eq!(html.matches("<rect").count(), 4);
        assert!(html.contains("0.25") && html.contains("column"), "{html}");
    }
}
