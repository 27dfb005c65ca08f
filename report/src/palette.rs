//! The colors of plots, in the light and in the dark theme.
//!
//! Plots are drawn in the colors of the light theme. In the dark theme, the style sheet replaces them by attribute
//! selectors, so a plot needs no second drawing and no script.

use std::fmt::Write;

use plotters::style::RGBColor;

/// A color of plots: its value in the light theme, and its value in the dark theme as CSS.
pub(crate) struct Shade {
    light: (u8, u8, u8),
    dark: &'static str,
}

impl Shade {
    const fn new(light: (u8, u8, u8), dark: &'static str) -> Self {
        Self { light, dark }
    }

    /// The color to draw with.
    pub(crate) const fn color(&self) -> RGBColor {
        RGBColor(self.light.0, self.light.1, self.light.2)
    }

    /// The color of the light theme, as plotters writes it into attributes.
    fn attribute(&self) -> String {
        let (red, green, blue) = self.light;
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

/// Colors of lines and bars. The student's is the first, the teacher's the second.
pub(crate) const SERIES: [Shade; 6] = [
    Shade::new((37, 99, 235), "#7fb0ff"),
    Shade::new((194, 87, 12), "#fda45c"),
    Shade::new((15, 118, 110), "#4fd1c5"),
    Shade::new((124, 58, 237), "#b79cff"),
    Shade::new((190, 24, 93), "#f78fbf"),
    Shade::new((71, 85, 105), "#a9b4c4"),
];
/// Lines of the grid.
pub(crate) const GRID: Shade = Shade::new((228, 231, 236), "#2a313b");
/// Axes.
pub(crate) const AXIS: Shade = Shade::new((154, 163, 175), "#4b5563");
/// Labels of axes.
pub(crate) const LABEL: Shade = Shade::new((86, 95, 109), "#a3adba");
/// Text on light cells.
pub(crate) const TEXT: Shade = Shade::new((27, 31, 39), "#e8ebf0");
/// Cells of heat maps, by opacity. White text on the opaque color has a contrast above 4.5 in both themes.
pub(crate) const HEAT: Shade = Shade::new((29, 78, 216), "#2b66d0");

/// CSS rules for the dark theme, to be put into its media query: one for each color.
pub(crate) fn dark_rules() -> String {
    let shades = SERIES.iter().chain([&GRID, &AXIS, &LABEL, &TEXT, &HEAT]);
    shades.fold(String::new(), |mut css, shade| {
        let (light, dark) = (shade.attribute(), shade.dark);
        // Writing to a string cannot fail.
        let _ =
            write!(css, ".plot [fill=\"{light}\"]{{fill:{dark}}}.plot [stroke=\"{light}\"]{{stroke:{dark}}}");
        css
    })
}

/// CSS rules that give the classes `c0` to `c5` the colors of [`SERIES`], as `(light, dark)`.
pub(crate) fn series_rules() -> (String, String) {
    let rule = |number: usize, color: &str| format!(".c{number}{{--c:{color}}}");
    let light = SERIES.iter().enumerate().map(|(number, shade)| rule(number, &shade.attribute()));
    let dark = SERIES.iter().enumerate().map(|(number, shade)| rule(number, shade.dark));
    (light.collect(), dark.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The color `name` in the rules of one theme of the style sheet.
    fn variable(rules: &str, name: &str) -> String {
        let (_, rest) = rules.split_once(&format!("--{name}:")).unwrap();
        rest.split([';', '}']).next().unwrap().to_owned()
    }

    /// Red, green and blue, 0 to 1, of `#rgb` or `#rrggbb`.
    fn channels(color: &str) -> [f64; 3] {
        let digits = color.strip_prefix('#').unwrap();
        let width = digits.len() / 3;
        [0, 1, 2].map(|at| {
            let part = digits[at * width..(at + 1) * width].repeat(3 - width);
            f64::from(u8::from_str_radix(&part, 16).unwrap()) / 255.0
        })
    }

    /// Contrast of two colors, 1 to 21: WCAG 2.1, "contrast ratio".
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |color: &str| {
            let [red, green, blue] = channels(color).map(|value| {
                if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            });
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_and_lines_stand_out_in_both_themes() {
        let style = include_str!("style.css");
        let (light, dark) = style.split_once("@media (prefers-color-scheme:dark)").unwrap();
        for (theme, rules) in [("light", light), ("dark", dark)] {
            let card = variable(rules, "card");
            let of = |shade: &Shade| if theme == "light" { shade.attribute() } else { shade.dark.to_owned() };
            let mut checks = vec![("labels", of(&LABEL), 4.5), ("cells", of(&TEXT), 4.5)];
            checks.extend(SERIES.iter().map(|shade| ("series", of(shade), 3.0)));
            checks.extend(["text", "soft", "link"].map(|name| (name, variable(rules, name), 4.5)));
            for (name, color, least) in checks {
                let found = contrast(&color, &card);
                assert!(found >= least, "{theme}: {name} {color} on {card} has a contrast of {found:.2}");
            }
            for ground in ["page", "note"] {
                let (text, ground) = (variable(rules, "text"), variable(rules, ground));
                assert!(contrast(&text, &ground) >= 7.0, "{theme}: {text} on {ground}");
            }
            assert!(contrast("#ffffff", &of(&HEAT)) >= 4.5, "{theme}: white on a full cell");
        }
    }
}
