//! Parsers of command-line values, for clap's `value_parser`.

/// A share: 0.01 to 1.
///
/// # Errors
/// If the text is not a number, or the number is out of range.
pub fn fraction(text: &str) -> Result<f32, String> {
    bounded(text, 0.01, 1.0).map(single)
}

/// A weight: 0 to 1.
///
/// # Errors
/// Those of [`fraction`].
pub fn fraction_or_zero(text: &str) -> Result<f32, String> {
    bounded(text, 0.0, 1.0).map(single)
}

/// A temperature that logits are divided by: 0.0001 to 1.
///
/// # Errors
/// Those of [`fraction`].
pub fn temperature(text: &str) -> Result<f32, String> {
    bounded(text, 1e-4, 1.0).map(single).map_err(|error| {
        format!("{error}\nhint: this divides the logits; a logit scale of 100 is a temperature of 0.01")
    })
}

/// A whole number above 0.
///
/// # Errors
/// If the text is anything else.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(format!("expected a whole number above 0, got {text:?}")),
    }
}

/// A number from `low` to `high`.
///
/// # Errors
/// Those of [`fraction`].
pub fn bounded(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("expected a number, got {text:?}"))?;
    if value >= low && value <= high {
        Ok(value)
    } else {
        Err(format!("expected {low} to {high}, got {value}"))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "settings are stored in f32; rounding is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
