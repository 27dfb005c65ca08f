//! Random numbers that depend only on a key, not on threads, order of calls, or the platform's generator.

/// A stream of random numbers named by a key such as (seed, purpose, step).
///
/// SplitMix64's finalizer folds the key into a state. From there the stream is SplitMix64.
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

/// SplitMix64's increment, the golden ratio in 64 bits.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Stream {
    /// The stream of `key`.
    pub fn new(key: &[u64]) -> Self {
        let fold =
            |state: u64, &word: &u64| mix(state.wrapping_add(INCREMENT) ^ mix(word.wrapping_add(INCREMENT)));
        Self { state: key.iter().fold(0, fold) }
    }

    /// The stream of (`seed`, `name`), with `name` folded in by its bytes (FNV-1a).
    pub fn named(seed: u64, name: &str) -> Self {
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        Self::new(&[seed, name.bytes().fold(0xCBF2_9CE4_8422_2325, fold)])
    }

    /// The state before the next number. A GPU continues the stream from it.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(INCREMENT);
        mix(self.state)
    }

    /// A uniform index below `count`, which must be above 0.
    pub fn below(&mut self, count: usize) -> usize {
        // The upper half of a 128-bit product; its bias is at most count / 2^64.
        let count = u128::try_from(count).unwrap_or(u128::MAX);
        usize::try_from((u128::from(self.next_u64()) * count) >> 64).unwrap_or(0)
    }

    /// A uniform permutation of `0..count` (Fisher-Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }

    /// Uniform in [0, 1), with 53 random bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A random unit vector of `dim` values.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    pub fn unit_vector(&mut self, dim: usize) -> Vec<f32> {
        let row: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter().map(|v| (v / norm) as f32).collect()
    }

    /// Standard normal (Box and Muller's first value of a pair).
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], so its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_every_word_of_the_key_and_its_order() {
        let first = |key: &[u64]| Stream::new(key).next_u64();
        let all = [first(&[1, 2]), first(&[2, 1]), first(&[1]), first(&[1, 2, 0]), first(&[0, 1, 2])];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(first(&[7, 9]), first(&[7, 9]));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::named(3, "moments");
        let n = 200_000;
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let variance = normal.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
        let uniform = (0..n).map(|_| stream.uniform()).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.005, "uniform mean {uniform}");
    }
}
