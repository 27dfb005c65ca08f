//! Numbers in words: counts, bytes, shares, durations.

/// Thousands separated by commas: 12,345.
pub(crate) fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().map_or_else(|_| "?".to_owned(), |number: u64| number.to_string());
    grouped(&digits)
}

fn grouped(digits: &str) -> String {
    let length = digits.len();
    let grouped = digits.chars().enumerate().flat_map(|(at, digit)| {
        let comma = at > 0 && (length - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    });
    grouped.collect()
}

/// A number with `digits` decimals and thousands separated by commas.
pub(crate) fn decimal(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    if whole.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{sign}{}{fraction}", grouped(whole))
    } else {
        format!("{sign}{text}")
    }
}

/// A number with four significant digits, as few as needed.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 1000.0 || size == 0.0 => 0,
        _ if size >= 100.0 => 1,
        _ if size >= 10.0 => 2,
        _ if size >= 0.1 => 3,
        _ if size >= 0.001 => 5,
        _ => return format!("{value:.2e}"),
    };
    decimal(value, digits)
}

/// A percentage with one decimal, without the sign.
pub(crate) fn percent(value: f64) -> String {
    format!("{value:.1}")
}

/// A percentage of a possibly missing figure.
pub(crate) fn percent_or_dash(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), percent)
}

/// Bytes in decimal units: 1.2 MB.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A duration in seconds: 4.2 s, 3 min 20 s, 2 h 5 min.
pub(crate) fn seconds(value: f64) -> String {
    let whole = |value: f64| decimal(value.floor(), 0);
    match value {
        _ if value < 10.0 => format!("{value:.2} s"),
        _ if value < 90.0 => format!("{value:.1} s"),
        _ if value < 5400.0 => format!("{} min {} s", whole(value / 60.0), whole(value % 60.0)),
        _ => format!("{} h {} min", whole(value / 3600.0), whole(value % 3600.0 / 60.0)),
    }
}

/// `text` with at most `most` characters; a longer one ends in an ellipsis.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `noun` with its number, in the plural unless the number is 1: "3 views".
pub(crate) fn counted(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!((count(7_u64), count(12_345_678_u64)), ("7".to_owned(), "12,345,678".to_owned()));
        assert_eq!(decimal(-1234.56, 1), "-1,234.6");
        assert_eq!(decimal(f64::NAN, 1), "NaN");
        let figures =
            [(0.0, "0"), (1.23456, "1.235"), (0.015, "0.01500"), (812.04, "812.0"), (12_345.6, "12,346")];
        for (value, expected) in figures {
            assert_eq!(figure(value), expected);
        }
        assert_eq!(figure(0.000_012), "1.20e-5");
        assert_eq!((bytes(999), bytes(1_250_000)), ("999 B".to_owned(), "1.2 MB".to_owned()));
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let told = [(4.2, "4.20 s"), (75.0, "75.0 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")];
        for (value, expected) in told {
            assert_eq!(seconds(value), expected);
        }
    }

    #[test]
    fn long_names_are_shortened_by_characters() {
        assert_eq!(shortened("größer als zehn", 8), "größer…");
        assert_eq!(shortened("zehn", 4), "zehn");
    }
}
