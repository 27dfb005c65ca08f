//! Reads goldens and compares results with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lgd_train::rng::Stream;

use crate::device::TestDevice;

/// A fixture's tensors and metadata.
pub struct Golden {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    /// Reads `tests/goldens/{name}.safetensors` onto the device.
    pub fn on<D: TestDevice>(name: &str) -> Self {
        let Self { tensors, metadata } = Self::open(name);
        Self {
            tensors: tensors.into_iter().map(|(name, tensor)| (name, D::tensor(&tensor))).collect(),
            metadata,
        }
    }

    /// Reads `tests/goldens/{name}.safetensors`.
    pub fn open(name: &str) -> Self {
        // Cargo sets the crate's folder. So does scripts/gpu-check, which runs this program on another machine than the
        // one that built it.
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
        let path = Path::new(&folder).join("tests/goldens").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        Self { tensors: tensors.into_iter().collect(), metadata }
    }

    /// A value of the header.
    pub fn metadata(&self, key: &str) -> &str {
        &self.metadata[key]
    }

    /// A tensor.
    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    /// The values of a tensor, in row-major order.
    pub fn values(&self, name: &str) -> Vec<f32> {
        values(self.get(name))
    }

    /// Whether the fixture has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Every tensor's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl Golden {
    /// Relative error of `got`. The fixture has all values or a summary under `name`.
    ///
    /// A projection of the difference onto a vector uniform within 1 has the expected square `|difference|² / 3`.
    pub fn summary_error(&self, seed: u64, name: &str, got: &Tensor) -> f64 {
        let got = values(got);
        if self.has(&format!("{name}.full")) {
            return error(&got, &self.values(&format!("{name}.full")));
        }
        let expected_norm = f64::from(self.values(&format!("{name}.norm"))[0]);
        let mut stream = Stream::named(seed, &format!("{name}.sample"));
        let expected = self.values(&format!("{name}.sample"));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let picked: Vec<f32> =
            expected.iter().map(|_| got[(stream.uniform() * real(got.len())) as usize]).collect();
        let projections = self.values(&format!("{name}.projections"));
        let mut squares = 0.0;
        for (i, expected) in projections.iter().enumerate() {
            let mut stream = Stream::named(seed, &format!("{name}.direction{i}"));
            let projected: f64 = got.iter().map(|v| f64::from(*v) * (2.0 * stream.uniform() - 1.0)).sum();
            squares += (projected - f64::from(*expected)).powi(2);
        }
        let projected = (3.0 * squares / real(projections.len())).sqrt() / expected_norm;
        error(&picked, &expected).max((norm(&got) - expected_norm).abs() / expected_norm).max(projected)
    }

    /// The tensors whose names start with `prefix`, without the prefix.
    pub fn part(self, prefix: &str) -> Self {
        let named = |(name, tensor): (String, Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor));
        Self { tensors: self.tensors.into_iter().filter_map(named).collect(), ..self }
    }

    /// Stems of the summaries whose names start with `prefix`, without the prefix.
    pub fn summaries(&self, prefix: &str) -> BTreeSet<String> {
        let parts = [".full", ".norm", ".sample", ".projections"];
        let stem = |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)).map(str::to_owned);
        self.names().filter_map(|name| name.strip_prefix(prefix).and_then(stem)).collect()
    }

    /// A JSON list in the header.
    pub fn list(&self, key: &str) -> BTreeSet<String> {
        serde_json::from_str(self.metadata(key)).unwrap()
    }

    /// A whole number in the header.
    pub fn number(&self, key: &str) -> usize {
        self.metadata(key).parse().unwrap()
    }
}

/// Values uniform within `bound` of `center`, as the goldens' scripts draw them.
pub fn spread(seed: u64, name: &str, shape: &[usize], bound: f64, center: f64) -> Tensor {
    let mut stream = Stream::named(seed, name);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| center + (2.0 * stream.uniform() - 1.0) * bound).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

/// Standard normal values from the stream `name`.
pub fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut stream = Stream::named(11, name);
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// Random unit vectors `[rows, dim]`.
pub fn unit_rows(name: &str, rows: usize, dim: usize) -> Tensor {
    let mut unit = normal(name, rows * dim);
    for row in unit.chunks_exact_mut(dim) {
        let length = norm(row);
        #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    Tensor::from_vec(unit, (rows, dim), &Device::Cpu).unwrap()
}

/// A length as a real number.
pub fn real(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap())
}

/// L2 norm.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

/// The values of a tensor, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `|got - expected| / |expected|`, L2. The error is absolute if `expected` is zero.
pub fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|v| square(f64::from(*v))).sum();
    // A NaN counts as an infinite error.
    if difference.is_nan() {
        f64::INFINITY
    } else {
        (difference / if norm > 0.0 { norm } else { 1.0 }).sqrt()
    }
}
