//! Reading goldens and comparing with them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

/// A fixture's tensors and metadata.
pub struct Golden {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    /// Reads `tests/goldens/{name}.safetensors`.
    pub fn open(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.safetensors"));
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

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Every tensor's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

/// The values of a tensor, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `|got - expected| / |expected|`, L2; absolute where nothing is expected.
pub fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|v| square(f64::from(*v))).sum();
    // A NaN compares as too large.
    if difference.is_nan() {
        f64::INFINITY
    } else {
        (difference / if norm > 0.0 { norm } else { 1.0 }).sqrt()
    }
}
