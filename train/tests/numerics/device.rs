//! The devices that the suite runs on, and the tolerance of each.
//!
//! A test is a function `fn name<D: TestDevice>()`. One of the macros below turns it into a test for each device of the
//! build: `name::cpu`, `name::cuda_f32` and `name::cuda_bf16`. The latter two need a build with `--features cuda` and
//! run on `cuda:0`. A test fails if its device is missing.
//!
//! Plain `#[test]` functions test the CPU only, or no device.

use candle_core::{Device, Tensor};
use lgd_train::engine::parameters::State;
use lgd_train::engine::{Backend, CpuBackend, Tape};
use lgd_train::student::{Student, StudentConfig};

/// Runs tests on the CPU, and on the GPU in f32 and in bf16.
macro_rules! on_every_device {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn cpu() {
                super::$test::<crate::device::Cpu>();
            }
            #[cfg(feature = "cuda")]
            #[test]
            fn cuda_f32() {
                super::$test::<crate::device::CudaF32>();
            }
            #[cfg(feature = "cuda")]
            #[test]
            fn cuda_bf16() {
                super::$test::<crate::device::CudaBf16>();
            }
        }
    )+};
}

/// Runs tests on the CPU, and on the GPU in f32. These are tests of objectives, which compute in f32 on every device,
/// and of effects that rounding to bf16 would hide.
macro_rules! on_every_f32_device {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn cpu() {
                super::$test::<crate::device::Cpu>();
            }
            #[cfg(feature = "cuda")]
            #[test]
            fn cuda_f32() {
                super::$test::<crate::device::CudaF32>();
            }
        }
    )+};
}

pub(crate) use {on_every_device, on_every_f32_device};

/// Element type of activations, and of the weights that layers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F32,
    Bf16,
}

/// A device and an element type.
pub trait TestDevice: 'static {
    /// The backend that runs layers and students.
    type Backend: Backend<Buffer: Send> + Send + 'static;

    const ELEMENT: Element;

    /// The device of objectives.
    fn device() -> Device;

    /// A backend that starts from `state`.
    fn backend(state: &State) -> Self::Backend;

    /// The allowed relative error, L2, on this device. `cpu`: the one allowed on the CPU.
    fn tolerance(cpu: f64) -> f64;

    /// A student on this device.
    fn student(config: StudentConfig) -> Student {
        Student::with_engine(config, |state| Ok(Box::new(Tape::new(Self::backend(state))))).unwrap()
    }

    /// A tensor on this device.
    fn tensor(tensor: &Tensor) -> Tensor {
        tensor.to_device(&Self::device()).unwrap()
    }

    /// Rounds values as activations do.
    fn rounded(values: &[f32]) -> Vec<f32> {
        match Self::ELEMENT {
            Element::F32 => values.to_vec(),
            Element::Bf16 => values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect(),
        }
    }
}

/// The CPU. Tests state its tolerances themselves.
pub struct Cpu;

impl TestDevice for Cpu {
    type Backend = CpuBackend;
    const ELEMENT: Element = Element::F32;

    fn device() -> Device {
        Device::Cpu
    }

    fn backend(state: &State) -> CpuBackend {
        CpuBackend::new(state.clone())
    }

    fn tolerance(cpu: f64) -> f64 {
        cpu
    }
}

#[cfg(feature = "cuda")]
pub use self::cuda::{CudaBf16, CudaF32};

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::OnceLock;

    use candle_core::Device;
    use lgd_cuda::Tuning;
    use lgd_train::engine::CudaBackend;
    use lgd_train::engine::parameters::State;

    use super::{Element, TestDevice};

    /// Smallest tolerance in f32, for results that are the same bits on the CPU: the GPU sums in another order and
    /// fuses products with sums.
    const F32: f64 = 2e-6;
    /// Smallest tolerance in bf16, whose values have 8 bits: each is off by up to 2^-9 of itself. A layer that starts
    /// from the same rounded values is off by up to 7e-3 (measured). The rest is for graphs of several layers: if a
    /// value is within rounding of an activation's kink, a term of the gradient can appear or vanish.
    const BF16: f64 = 3e-2;

    /// `cuda:0` in f32.
    pub struct CudaF32;
    /// `cuda:0` in bf16, with f32 parameters, as students are trained.
    pub struct CudaBf16;

    impl TestDevice for CudaF32 {
        type Backend = CudaBackend;
        const ELEMENT: Element = Element::F32;

        fn device() -> Device {
            device()
        }

        fn backend(state: &State) -> CudaBackend {
            backend(state, lgd_cuda::Element::F32)
        }

        fn tolerance(cpu: f64) -> f64 {
            cpu.max(F32)
        }
    }

    impl TestDevice for CudaBf16 {
        type Backend = CudaBackend;
        const ELEMENT: Element = Element::Bf16;

        fn device() -> Device {
            device()
        }

        fn backend(state: &State) -> CudaBackend {
            backend(state, lgd_cuda::Element::Bf16)
        }

        fn tolerance(cpu: f64) -> f64 {
            cpu.max(BF16)
        }
    }

    /// `cuda:0`, opened once: Candle and the engine must share a stream.
    fn device() -> Device {
        static DEVICE: OnceLock<Device> = OnceLock::new();
        DEVICE
            .get_or_init(|| {
                CudaBackend::open(0).expect("a test for cuda:0 needs a GPU, or scripts/software-gpu")
            })
            .clone()
    }

    /// Without measuring, which takes longer than the tests and may choose another algorithm in each run.
    fn backend(state: &State, element: lgd_cuda::Element) -> CudaBackend {
        CudaBackend::new(device(), state, element, Tuning { measure: false, tf32: false }).unwrap()
    }
}
