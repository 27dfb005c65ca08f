//! All settings of a run, a cache or a bank.

use maud::{Markup, html};
use serde_json::Value;

use crate::page::{Section, cell, properties};

/// Longest list of values that is shown whole.
const LIST: usize = 12;

/// A table of all settings in `config`; members of members have dotted names.
pub(crate) fn configuration(caption: &str, config: &Value) -> Section {
    let mut rows = Vec::new();
    flatten("", config, &mut rows);
    let body = html! {
        @if rows.is_empty() { p { "No settings are recorded." } } @else { (properties(caption, &rows)) }
    };
    Section::new("configuration", "Configuration", body)
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, Markup)>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                flatten(&name, value, rows);
            }
        }
        Value::Null => {}
        Value::Array(values) if values.len() > LIST => {
            let shown: Vec<String> = values.iter().take(LIST).map(plain).collect();
            rows.push((name.to_owned(), cell(format!("{}, … ({} values)", shown.join(", "), values.len()))));
        }
        value => rows.push((name.to_owned(), cell(plain(value)))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        // f32 settings are written with their decimals in f64, such as 0.029999999329447746.
        Value::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() => shortest(value),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// The shortest text that is the same f32, if the number is one.
#[expect(clippy::cast_possible_truncation, reason = "the rounded number is compared with the exact one")]
fn shortest(value: f64) -> String {
    let single = value as f32;
    if f64::from(single) == value { single.to_string() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_have_dotted_names_and_short_numbers() {
        let config =
            json!({"lr": f64::from(0.03_f32), "optimizer": {"kind": "sgd", "none": null}, "mean": [0.5, 1]});
        let html = configuration("Settings", &config).body.into_string();
        for row in [">lr</th><td>0.03<", ">optimizer.kind</th><td>sgd<", ">mean</th><td>0.5, 1<"] {
            assert!(html.contains(row), "{row} is not in {html}");
        }
        assert!(!html.contains("none"), "{html}");
    }
}
