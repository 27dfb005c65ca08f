//! Options, checked once.

use crate::error::BankError;
use crate::kernel::Isa;

/// A softmax temperature: finite and above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(f32);

impl Temperature {
    /// The paper's tau_t.
    pub const TEACHER: Self = Self(0.01);

    /// Checks the value.
    ///
    /// # Errors
    /// [`BankError::Option`] for anything but a finite value of at least 0.0001: below that, f32 cannot tell
    /// neighboring logits apart.
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

    /// The value.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// How many entries of a distribution are stored if it is not stored whole: at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK(usize);

impl Default for TopK {
    /// 64.
    fn default() -> Self {
        Self(64)
    }
}

impl TopK {
    /// Checks the value.
    ///
    /// # Errors
    /// [`BankError::Option`] for 0.
    pub fn new(value: usize) -> Result<Self, BankError> {
        if value > 0 {
            return Ok(Self(value));
        }
        Err(BankError::Option { what: "top K", range: "at least 1", got: value.to_string() })
    }

    /// The value.
    pub fn get(self) -> usize {
        self.0
    }
}

/// Power temperature scaling, which brings the very uneven variances of principal components together (docs/methods.md section 2):
/// f(y) = sign(y) |y / T|^(1/n).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerTemperature {
    temperature: f32,
    power: f32,
}

impl Default for PowerTemperature {
    /// The paper's T = 0.1 and n = 3.
    fn default() -> Self {
        Self { temperature: 0.1, power: 3.0 }
    }
}

impl PowerTemperature {
    /// Checks the values.
    ///
    /// # Errors
    /// [`BankError::Option`] for a `temperature` T outside 1e-6 to 1e6, beyond which f32 may not hold a feature of f16 divided by
    /// it, or a `power` n outside 1 to 100: below 1 it would spread the variances instead.
    pub fn new(temperature: f32, power: f32) -> Result<Self, BankError> {
        let refused = |what, range, got: f32| Err(BankError::Option { what, range, got: got.to_string() });
        // A value that is not a number is in no range.
        if !(1e-6..=1e6).contains(&temperature) {
            return refused("the temperature of power temperature scaling", "from 1e-6 to 1e6", temperature);
        }
        if !(1.0..=100.0).contains(&power) {
            return refused("the power of power temperature scaling", "from 1 to 100", power);
        }
        Ok(Self { temperature, power })
    }

    /// T.
    pub fn temperature(self) -> f32 {
        self.temperature
    }

    /// n.
    pub fn power(self) -> f32 {
        self.power
    }

    /// Replaces each value y by f(y), within 1e-5 of itself.
    pub fn apply(self, values: &mut [f32]) {
        Isa::detect().signed_powers(values, self.temperature.recip(), self.power.recip());
    }
}
