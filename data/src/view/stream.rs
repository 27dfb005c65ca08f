//! The counter-based random stream that views are drawn from, defined in [`crate::view`].

use blake3::{Hasher, OutputReader};

const CONTEXT: &str = "lgd view generator v1";

/// A stream of uniform numbers for one (seed, sample key, view index).
pub(super) struct Stream {
    output: OutputReader,
}

impl Stream {
    pub(super) fn new(seed: u64, key: &str, index: u16) -> Self {
        let mut hasher = Hasher::new_derive_key(CONTEXT);
        hasher.update(&seed.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.update(key.as_bytes());
        Self { output: hasher.finalize_xof() }
    }

    /// Draws a uniform number in [0, 1), a multiple of 2^-53.
    fn unit(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        let mut bytes = [0; 8];
        self.output.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 * STEP
    }

    /// Draws a uniform number in [low, high).
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Draws a uniform number in [low, high], rounded to the precision in which views are stored.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the stored precision is the purpose")]
    pub(super) fn uniform_f32(&mut self, low: f64, high: f64) -> f32 {
        self.uniform(low, high) as f32
    }

    /// Draws a standard normal number (Box and Muller's first value of a pair).
    pub(super) fn normal(&mut self) -> f64 {
        // 1 - u is in (0, 1], so its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Returns true with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Draws a whole number in [0, count). `count` is a whole number far below 2^53, so the bias is below 2^-29.
    pub(super) fn below(&mut self, count: f64) -> f64 {
        (self.unit() * count).floor()
    }

    /// Draws a whole number in [0, count).
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is in [0, count)")]
    pub(super) fn below_u8(&mut self, count: u8) -> u8 {
        self.below(f64::from(count)) as u8
    }
}
