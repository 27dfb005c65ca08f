//! The device that a student trains on.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::error::TrainError;

/// Names a device without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainDevice {
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl TrainDevice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`TrainError::Device`] if the build lacks the feature `cuda`, or the machine lacks the GPU or its driver.
    pub fn open(self) -> Result<Device, TrainError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => crate::engine::CudaBackend::open(ordinal),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(TrainError::Device {
                device: self.to_string(),
                reason: "lgd was built without the cargo feature cuda\nhint: cargo build --release --features cuda"
                    .to_owned(),
            }),
        }
    }
}

impl fmt::Display for TrainDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for TrainDevice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let wrong = || format!("expected cpu or cuda:N, got {name:?}");
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            None if name == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device) in [("cpu", TrainDevice::Cpu), ("cuda:3", TrainDevice::Cuda(3))] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(TrainDevice::Cuda(0)));
        for wrong in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(wrong.parse::<TrainDevice>().is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let error = TrainDevice::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("without the cargo feature cuda"), "{error}");
    }
}
