//! Options, checked once.

use crate::error::BankError;

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
    /// neighbouring logits apart.
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

/// How many entries of a distribution are stored where it is not stored whole: at least 1.
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
