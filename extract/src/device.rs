//! The device that models run on: the CPU, or one or more GPUs through CUDA or TensorRT.
//!
//! A GPU that cannot be used is always an error, although ONNX Runtime itself would silently fall back to the CPU.

use std::fmt;
use std::str::FromStr;

use ort::ep::ExecutionProviderDispatch;

use crate::error::ExtractError;

/// The device or devices of an encoder: `cpu`, `cuda:0,1` or `tensorrt:0`. Each GPU gets its own session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExecutionDevice {
    /// The CPU.
    #[default]
    Cpu,
    /// GPUs by ordinal, through the CUDA execution provider.
    Cuda(Vec<u32>),
    /// GPUs by ordinal, through TensorRT, with CUDA for operations that TensorRT does not support.
    TensorRt(Vec<u32>),
}

impl ExecutionDevice {
    /// The device of each session.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        match self {
            Self::Cpu => vec![Slot::Cpu],
            Self::Cuda(ordinals) => ordinals.iter().copied().map(Slot::Cuda).collect(),
            Self::TensorRt(ordinals) => ordinals.iter().copied().map(Slot::TensorRt).collect(),
        }
    }

    /// Whether models run on the CPU.
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

impl fmt::Display for ExecutionDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ordinals) = match self {
            Self::Cpu => return f.write_str("cpu"),
            Self::Cuda(ordinals) => ("cuda", ordinals),
            Self::TensorRt(ordinals) => ("tensorrt", ordinals),
        };
        let ordinals: Vec<String> = ordinals.iter().map(u32::to_string).collect();
        write!(f, "{name}:{}", ordinals.join(","))
    }
}

impl FromStr for ExecutionDevice {
    type Err = ExtractError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason: String| ExtractError::DeviceSyntax { asked: text.to_owned(), reason };
        let (name, list) = text.split_once(':').map_or((text, None), |(name, list)| (name, Some(list)));
        let mut ordinals = Vec::new();
        for part in list.unwrap_or("0").split(',') {
            let ordinal: u32 =
                part.parse().map_err(|_| wrong(format!("expected the number of a GPU, got '{part}'")))?;
            if i32::try_from(ordinal).is_err() || ordinals.contains(&ordinal) {
                return Err(wrong(format!("GPU {ordinal} is given twice or out of range")));
            }
            ordinals.push(ordinal);
        }
        match (name, list) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cpu", Some(_)) => Err(wrong("cpu takes no number".to_owned())),
            ("cuda", _) => Ok(Self::Cuda(ordinals)),
            ("tensorrt", _) => Ok(Self::TensorRt(ordinals)),
            _ => Err(wrong(format!("'{name}' is no device"))),
        }
    }
}

/// The device of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Cpu,
    Cuda(u32),
    TensorRt(u32),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::TensorRt(ordinal) => write!(f, "tensorrt:{ordinal}"),
        }
    }
}

/// Whether f32 matrix products on a GPU may round their inputs to TF32 (10-bit mantissa).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Full f32, for text encoders: their few outputs become the classifier.
    Exact,
    /// TF32 if the GPU supports it, for image encoders: their outputs are stored as f16.
    Fast,
}

impl Slot {
    /// The execution providers to register. Registration fails if any of them is unavailable.
    pub(crate) fn providers(
        self,
        precision: Precision,
    ) -> Result<Vec<ExecutionProviderDispatch>, ExtractError> {
        match self {
            Self::Cpu => Ok(Vec::new()),
            Self::Cuda(ordinal) => Ok(vec![self.cuda(ordinal, precision)?]),
            Self::TensorRt(ordinal) => Ok(vec![self.tensorrt(ordinal)?, self.cuda(ordinal, precision)?]),
        }
    }

    #[cfg(feature = "cuda")]
    fn ordinal(self, ordinal: u32) -> Result<i32, ExtractError> {
        i32::try_from(ordinal).map_err(|_| ExtractError::DeviceUnavailable {
            device: self.to_string(),
            reason: "the GPU's number is out of range".into(),
            hint: "",
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, ordinal: u32, precision: Precision) -> Result<ExecutionProviderDispatch, ExtractError> {
        use ort::ep::cuda::{CUDA, ConvAlgorithmSearch};
        // The exhaustive search times the algorithms, so it may choose another one in each run and change the last
        // bits of the results.
        let provider = CUDA::default()
            .with_device_id(self.ordinal(ordinal)?)
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            .with_tf32(precision == Precision::Fast);
        Ok(provider.build().error_on_failure())
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(self, _ordinal: u32, _precision: Precision) -> Result<ExecutionProviderDispatch, ExtractError> {
        Err(self.not_built("cuda"))
    }

    #[cfg(feature = "tensorrt")]
    fn tensorrt(self, ordinal: u32) -> Result<ExecutionProviderDispatch, ExtractError> {
        Ok(ort::ep::TensorRT::default().with_device_id(self.ordinal(ordinal)?).build().error_on_failure())
    }

    #[cfg(not(feature = "tensorrt"))]
    fn tensorrt(self, _ordinal: u32) -> Result<ExecutionProviderDispatch, ExtractError> {
        Err(self.not_built("tensorrt"))
    }

    #[cfg(not(feature = "tensorrt"))]
    fn not_built(self, feature: &'static str) -> ExtractError {
        ExtractError::DeviceNotBuilt { device: self.to_string(), feature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_printed() {
        for (text, device) in [
            ("cpu", ExecutionDevice::Cpu),
            ("cuda:0", ExecutionDevice::Cuda(vec![0])),
            ("cuda:2,0", ExecutionDevice::Cuda(vec![2, 0])),
            ("tensorrt:1", ExecutionDevice::TensorRt(vec![1])),
        ] {
            assert_eq!(text.parse::<ExecutionDevice>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse::<ExecutionDevice>().unwrap(), ExecutionDevice::Cuda(vec![0]));
    }

    #[test]
    fn malformed_devices_are_refused() {
        for text in
            ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:0,0", "cuda:-1", "cuda:4294967295", "CUDA:0"]
        {
            assert!(text.parse::<ExecutionDevice>().is_err(), "{text}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_in_is_an_error() {
        let text = Slot::Cuda(0).providers(Precision::Fast).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("cuda:0") && text.contains("built without cuda"), "{text}");
    }
}
