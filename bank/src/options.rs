//! Validated option types.

use std::fmt;
use std::str::FromStr;

use crate::error::BankError;
use crate::kernel::Isa;

/// A softmax temperature: finite and at least 0.0001.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(f32);

impl Temperature {
    /// The paper's tau_t, 0.01.
    pub const TEACHER: Self = Self(0.01);

    /// Validates a temperature.
    ///
    /// [`BankError::Option`] unless the value is finite and at least 0.0001. Below that, f32 cannot distinguish
    /// neighboring logits.
    pub fn new(value: f32) -> Result<Self, BankError> {
        if value.is_finite() && value >= 1e-4 {
            return Ok(Self(value));
        }
        Err(BankError::Option {
            what: "a temperature",
            range: "finite and at least 0.0001",
            got: value.to_string(),
        })
    }

    /// The temperature.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// Number of entries stored per distribution over many categories: at least 1, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK(usize);

impl Default for TopK {
    /// 64 entries.
    fn default() -> Self {
        Self(64)
    }
}

impl TopK {
    /// Every entry: distributions are stored whole, at 2 bytes per entry.
    pub const ALL: Self = Self(usize::MAX);

    /// Validates a number of entries.
    ///
    /// # Errors
    /// [`BankError::Option`] for 0.
    pub fn new(value: usize) -> Result<Self, BankError> {
        if value > 0 {
            return Ok(Self(value));
        }
        Err(BankError::Option { what: "top K", range: "at least 1", got: value.to_string() })
    }

    /// The number of entries, K.
    pub fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for TopK {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL { f.write_str("all") } else { write!(f, "{}", self.0) }
    }
}

impl FromStr for TopK {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || text.parse().ok().and_then(|number| Self::new(number).ok());
        let entries = if text == "all" { Some(Self::ALL) } else { number() };
        entries.ok_or_else(|| format!("expected all or a number of entries from 1, got {text:?}"))
    }
}

/// Power temperature scaling, which evens out the variances of the principal components (docs/methods.md section 2):
/// f(y) = sign(y) |y / T|^(1/n).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerTemperature {
    temperature: f32,
    power: f32,
}

impl Default for PowerTemperature {
    /// The paper's values, T = 0.1 and n = 3.
    fn default() -> Self {
        Self { temperature: 0.1, power: 3.0 }
    }
}

impl PowerTemperature {
    /// Validates T and n.
    ///
    /// # Errors
    /// [`BankError::Option`] if the `temperature` T is outside 1e-6 to 1e6, since a feature in f16 divided by it
    /// might not fit f32, or if the `power` n is outside 1 to 100, since n < 1 would spread the variances further
    /// apart.
    pub fn new(temperature: f32, power: f32) -> Result<Self, BankError> {
        let refused = |what, range, got: f32| Err(BankError::Option { what, range, got: got.to_string() });
        // NaN is in no range.
        if !(1e-6..=1e6).contains(&temperature) {
            return refused("the temperature of power temperature scaling", "from 1e-6 to 1e6", temperature);
        }
        if !(1.0..=100.0).contains(&power) {
            return refused("the power of power temperature scaling", "from 1 to 100", power);
        }
        Ok(Self { temperature, power })
    }

    /// The temperature, T.
    pub fn temperature(self) -> f32 {
        self.temperature
    }

    /// The power, n.
    pub fn power(self) -> f32 {
        self.power
    }

    /// Replaces each value y by f(y), with a relative error below 1e-5.
    pub fn apply(self, values: &mut [f32]) {
        Isa::detect().signed_powers(values, self.temperature.recip(), self.power.recip());
    }
}
