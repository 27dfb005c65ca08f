//! Held-out samples: part of a cache that is never trained on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rng::Stream;

/// Largest number of samples that are held out or evaluated after an epoch. More would cost time and move no figure by
/// more than its noise.
pub const MAX_HELD_OUT: usize = 2000;

/// Separates this random stream from the others.
const PURPOSE: u64 = u64::from_le_bytes(*b"held-out");

/// How many samples are held out: `2%` or `500`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Holdout {
    /// Percent of the samples, above 0 and below 100.
    Percent(f64),
    /// A number of samples, at least 1.
    Samples(usize),
}

impl Holdout {
    /// The number held out of `samples`: at least 1, at most [`MAX_HELD_OUT`].
    pub fn count(self, samples: usize) -> usize {
        self.wanted(samples).min(MAX_HELD_OUT)
    }

    /// The number without that limit.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive share of a count"
    )]
    pub fn wanted(self, samples: usize) -> usize {
        match self {
            Self::Percent(percent) => ((samples as f64 * percent / 100.0).round() as usize).max(1),
            Self::Samples(count) => count,
        }
    }

    /// Positions of the held-out samples, ascending. They depend on the samples' keys alone: every run on the cache holds
    /// out the same ones, and a smaller number is part of a larger one.
    pub fn choose(self, keys: &[String]) -> Vec<usize> {
        smallest(keys, self.count(keys.len()))
    }
}

/// The positions of the `count` keys with the smallest hashes, ascending.
pub fn smallest(keys: &[String], count: usize) -> Vec<usize> {
    let hash = |key: &String| Stream::named(PURPOSE, key).next_u64();
    let mut order: Vec<(u64, usize)> = keys.iter().map(hash).zip(0..).collect();
    order.sort_unstable();
    let mut chosen: Vec<usize> = order.into_iter().take(count).map(|(_, position)| position).collect();
    chosen.sort_unstable();
    chosen
}

impl FromStr for Holdout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a share such as 2% or a number of samples, got {text:?}");
        match text.strip_suffix('%') {
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent < 100.0 => Ok(Self::Percent(percent)),
                _ => Err(expected()),
            },
            None => match text.parse() {
                Ok(count) if count > 0 => Ok(Self::Samples(count)),
                _ => Err(expected()),
            },
        }
    }
}

impl TryFrom<String> for Holdout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Holdout> for String {
    fn from(holdout: Holdout) -> Self {
        holdout.to_string()
    }
}

impl fmt::Display for Holdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Samples(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("images/{number}.png")).collect()
    }

    #[test]
    fn shares_and_numbers_are_read_as_written() {
        for text in ["2%", "0.5%", "500", "1"] {
            assert_eq!(text.parse::<Holdout>().unwrap().to_string(), text);
        }
        for text in ["", "0", "0%", "100%", "-1", "2.5", "NaN%", "two", "%"] {
            let error = text.parse::<Holdout>().unwrap_err();
            assert!(error.contains("such as 2%") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_number_is_rounded_at_least_one_and_limited() {
        let count = |text: &str, samples| text.parse::<Holdout>().unwrap().count(samples);
        assert_eq!((count("2%", 1000), count("2%", 10), count("50%", 3)), (20, 1, 2));
        assert_eq!((count("2%", 1_000_000), count("5000", 9000)), (MAX_HELD_OUT, MAX_HELD_OUT));
    }

    #[test]
    fn the_choice_depends_on_keys_and_not_on_their_order_or_number() {
        let keys = keys(400);
        let chosen = |holdout: Holdout, keys: &[String]| -> Vec<String> {
            holdout.choose(keys).into_iter().map(|position| keys[position].clone()).collect()
        };
        let (few, many) = (chosen(Holdout::Samples(20), &keys), chosen(Holdout::Samples(80), &keys));
        assert_eq!((few.len(), many.len()), (20, 80));
        assert!(few.iter().all(|key| many.contains(key)));
        let backwards: Vec<String> = keys.iter().rev().cloned().collect();
        let mut again = chosen(Holdout::Samples(20), &backwards);
        again.reverse();
        assert_eq!(again, few);
        // 80 of 400 in each half of the list: hypergeometric, standard deviation 4.
        let first = Holdout::Samples(80).choose(&keys).iter().filter(|position| **position < 200).count();
        assert!(first.abs_diff(40) < 16, "{first}");
    }
}
