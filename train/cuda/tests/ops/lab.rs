//! A GPU, an element type, random values, and the results so far.

use half::{bf16, f16};
use lgd_cuda::{Buffer, CudaError, Element, Gpu, Slice, Tuning};

/// Checks operations for one element type.
pub struct Lab {
    pub gpu: Gpu,
    pub element: Element,
    passed: usize,
    failures: Vec<String>,
    worst: (f64, String),
    state: u64,
}

impl Lab {
    /// Runs `checks` for `element` on the first GPU; fails unless all of them pass.
    pub fn run(element: Element, checks: impl Fn(&mut Self) -> Result<(), CudaError>) {
        // Measuring candidates would take longer than the checks.
        let gpu = Gpu::first(Tuning { measure: false, ..Tuning::default() })
            .expect("these tests need a GPU, or scripts/software-gpu");
        let mut lab =
            Self { gpu, element, passed: 0, failures: Vec::new(), worst: (0.0, String::new()), state: 1 };
        checks(&mut lab).unwrap();
        let Self { passed, failures, worst: (share, name), .. } = lab;
        eprintln!(
            "{element:?}: {passed} passed; closest to its tolerance: {name} ({:.0}% of it)",
            share * 100.0
        );
        assert!(failures.is_empty(), "{element:?}: {} failed:\n{}", failures.len(), failures.join("\n"));
        assert!(passed > 0, "{element:?}: nothing was checked");
    }

    /// The error of one value, relative to the largest, that the rounding of the element type explains.
    fn tolerance(&self, element: Element) -> f64 {
        match element {
            Element::Bf16 => 1.2e-2,
            Element::F16 => 1.5e-3,
            _ => 2e-5,
        }
    }

    /// Random values about 0, rounded to the element type.
    pub fn random(&mut self, len: usize) -> Vec<f32> {
        self.random_at(len, 0.0)
    }

    /// Random values about `mean`, rounded to the element type.
    pub fn random_at(&mut self, len: usize, mean: f64) -> Vec<f32> {
        let values: Vec<f32> = (0..len).map(|_| single(mean + self.normal())).collect();
        self.rounded(&values)
    }

    /// Random f32 values from `low` to `high`.
    pub fn uniform(&mut self, len: usize, low: f64, high: f64) -> Vec<f32> {
        (0..len).map(|_| single(low + (high - low) * self.unit())).collect()
    }

    /// SplitMix64, uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        real(z ^ (z >> 31)) / 18_446_744_073_709_551_616.0
    }

    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        sum - 6.0
    }

    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        let round = |&value: &f32| match self.element {
            Element::Bf16 => bf16::from_f32(value).to_f32(),
            Element::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        };
        values.iter().map(round).collect()
    }

    /// Uploads values in the lab's element type.
    pub fn up(&self, values: &[f32]) -> Result<Buffer, CudaError> {
        let stream = self.gpu.stream();
        match self.element {
            Element::Bf16 => {
                Buffer::from_host(stream, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>())
            }
            Element::F16 => {
                Buffer::from_host(stream, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>())
            }
            _ => Buffer::from_host(stream, values),
        }
    }

    /// Uploads values as f32.
    pub fn up_f32(&self, values: &[f32]) -> Result<Buffer, CudaError> {
        Buffer::from_host(self.gpu.stream(), values)
    }

    /// Memory for values of the lab's element type, filled with NaN so that a value that is not written shows.
    pub fn room(&self, len: usize) -> Result<Buffer, CudaError> {
        self.up(&vec![f32::NAN; len])
    }

    /// Downloads values as f32.
    pub fn down(&self, values: Slice<'_>) -> Result<Vec<f32>, CudaError> {
        let stream = self.gpu.stream();
        Ok(match values.element() {
            Element::Bf16 => values.to_host::<bf16>(stream)?.into_iter().map(bf16::to_f32).collect(),
            Element::F16 => values.to_host::<f16>(stream)?.into_iter().map(f16::to_f32).collect(),
            _ => values.to_host::<f32>(stream)?,
        })
    }

    /// Compares values on the device with the expected ones, with the tolerance of the lab's element type.
    pub fn expect(&mut self, name: &str, got: &Buffer, want: &[f64]) -> Result<(), CudaError> {
        self.expect_within(name, got.as_slice(), want, 1.0)
    }

    /// The same comparison with `factor` times the tolerance.
    pub fn expect_within(
        &mut self,
        name: &str,
        got: Slice<'_>,
        want: &[f64],
        factor: f64,
    ) -> Result<(), CudaError> {
        let tolerance = self.tolerance(self.element) * factor;
        let got = self.down(got)?;
        let largest = want.iter().fold(1e-30_f64, |max, value| max.max(value.abs()));
        let error = |(got, want): (&f32, &f64)| (f64::from(*got) - want).abs() / largest;
        let mut worst = (0, 0.0_f64);
        for (at, pair) in got.iter().zip(want).enumerate() {
            let error = error(pair);
            // A NaN is worse than any error.
            if error.is_nan() || error > worst.1 {
                worst = (at, if error.is_nan() { f64::INFINITY } else { error });
            }
        }
        let name = format!("{:?} {name}", self.element);
        if got.len() != want.len() || worst.1 > tolerance {
            let (at, error) = worst;
            self.failures.push(format!(
                "{name}: error {error:.2e} over {tolerance:.1e} at {at} of {}: got {:?}, expected {:?}",
                want.len(),
                got.get(at),
                want.get(at)
            ));
        } else {
            self.passed += 1;
            if worst.1 / tolerance > self.worst.0 {
                self.worst = (worst.1 / tolerance, name);
            }
        }
        Ok(())
    }

    /// Records a check that passed or failed.
    pub fn require(&mut self, name: &str, good: bool) {
        if good {
            self.passed += 1;
        } else {
            self.failures.push(format!("{:?} {name}", self.element));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
pub fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_precision_loss, reason = "random bits")]
fn real(value: u64) -> f64 {
    value as f64
}
