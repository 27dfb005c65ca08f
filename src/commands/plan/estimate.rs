//! Throughput, its uncertainty, the stage that limits it, and the time that follows.

use lgd_data::job::Pace;
use serde::Serialize;

/// A stage of a job.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Name, one word.
    pub name: &'static str,
    /// What it does, and with what.
    pub what: String,
    /// Throughput of the stage alone.
    pub per_second: f64,
}

/// The throughput of all stages together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Units per second.
    pub per_second: f64,
    /// Twice the standard error of the measured parts, as a share; absent if there is one part only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

impl Throughput {
    /// The throughput of `whole`, which was measured in `parts`.
    pub fn new(whole: Pace, parts: &[Pace]) -> Self {
        Self { per_second: whole.per_second(), relative_error: relative_error(parts) }
    }

    /// The throughput of all `parts`.
    pub fn of(parts: &[Pace]) -> Self {
        let units = parts.iter().map(|part| part.units).sum();
        Self::new(Pace { units, seconds: parts.iter().map(|part| part.seconds).sum() }, parts)
    }

    /// Seconds for `units`; 0 for none.
    pub fn seconds(self, units: u64) -> f64 {
        if units == 0 { 0.0 } else { units as f64 / self.per_second.max(f64::MIN_POSITIVE) }
    }
}

/// Twice the standard error of the mean time per unit, as a share of it; `None` for fewer than two parts.
fn relative_error(parts: &[Pace]) -> Option<f64> {
    let parts = parts.iter().filter(|part| part.units > 0);
    let times: Vec<f64> = parts.map(|part| part.seconds / part.units as f64).collect();
    let count = times.len() as f64;
    let mean = times.iter().sum::<f64>() / count;
    if times.len() < 2 || mean <= 0.0 {
        return None;
    }
    let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some(2.0 * (variance / count).sqrt() / mean)
}

/// The stage with the lowest throughput; the first of equal ones.
pub fn limit(stages: &[Stage]) -> Option<&Stage> {
    stages.iter().min_by(|a, b| a.per_second.total_cmp(&b.per_second))
}

/// A duration such as `27 ± 2 min`, or `about 27 min` if the uncertainty is unknown.
pub fn duration(seconds: f64, relative_error: Option<f64>) -> String {
    let (unit, scale) = match seconds {
        ..120.0 => ("s", 1.0),
        120.0..7200.0 => ("min", 60.0),
        7200.0..172_800.0 => ("h", 3600.0),
        _ => ("days", 86_400.0),
    };
    let value = seconds / scale;
    let digits = if value < 10.0 { 1 } else { 0 };
    match relative_error {
        Some(error) => format!("{value:.digits$} ± {:.digits$} {unit}", value * error),
        None => format!("about {value:.digits$} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(units: u64, seconds: f64) -> Pace {
        Pace { units, seconds }
    }

    #[test]
    fn the_throughput_of_parts_is_that_of_the_whole_and_their_spread_its_error() {
        let even = Throughput::of(&[pace(10, 1.0), pace(20, 2.0)]);
        assert_eq!((even.per_second, even.relative_error), (10.0, Some(0.0)));
        assert_eq!(even.seconds(600), 60.0);
        // 1 s and 3 s per unit: mean 2, standard deviation 2^0.5, standard error 1.
        let uneven = Throughput::of(&[pace(1, 1.0), pace(1, 3.0)]);
        assert_eq!((uneven.per_second, uneven.relative_error), (0.5, Some(1.0)));
        let single = Throughput::of(&[pace(4, 1.0)]);
        assert_eq!((single.per_second, single.relative_error, single.seconds(0)), (4.0, None, 0.0));
    }

    #[test]
    fn the_slowest_stage_limits() {
        let stage = |name, per_second| Stage { name, what: String::new(), per_second };
        let stages = [stage("images", 40.0), stage("encoder", 12.0), stage("writing", 900.0)];
        assert_eq!(limit(&stages).map(|stage| stage.name), Some("encoder"));
        assert!(limit(&[]).is_none());
    }

    #[test]
    fn durations_have_one_unit() {
        let texts =
            [(0.0, None), (95.0, Some(0.04)), (1620.0, Some(0.05)), (30_000.0, None), (4e5, Some(0.2))]
                .map(|(seconds, error)| duration(seconds, error));
        assert_eq!(texts, ["about 0.0 s", "95 ± 4 s", "27 ± 1 min", "about 8.3 h", "4.6 ± 0.9 days"]);
    }
}
