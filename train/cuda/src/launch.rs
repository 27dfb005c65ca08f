//! The crate's own kernels: loading, arguments, and grids.
//!
//! Only this module launches kernels. The arguments of a kernel determine what it reads and writes; each operation checks lengths and
//! elements of its views first, and passes arguments in the order of the kernel's signature.
#![expect(unsafe_code, reason = "launches kernels through the driver")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaStream, result};
use cudarc::nvrtc::Ptx;
use lgd_kernels::{Activation, Sliding};

use crate::error::{CudaError, Result, int};
use crate::gpu::Gpu;
use crate::memory::{Element, Slice, SliceMut};

/// Threads of a block: `THREADS` of kernels/common.cuh.
pub(crate) const THREADS: usize = 256;
/// Threads of a block along the channels, if there are that many groups of channels.
const CHANNEL_THREADS: usize = 32;
/// Bytes that a thread reads at a time.
const VECTOR: usize = 16;

const IMAGES: [&[u8]; 5] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/batch_norm.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/depthwise.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/elementwise.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/optimizer.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin")),
];

/// A kernel: its name, and the element type and number of neighboring channels that it is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    name: &'static str,
    of: Option<(Element, usize)>,
}

impl Kernel {
    /// A kernel with a single variant.
    pub(crate) fn single(name: &'static str) -> Self {
        Self { name, of: None }
    }

    /// A kernel for an element type and `lanes` channels at a time.
    pub(crate) fn typed(name: &'static str, element: Element, lanes: usize) -> Self {
        Self { name, of: Some((element, lanes)) }
    }

    fn symbol(self) -> String {
        match self.of {
            None => self.name.to_owned(),
            Some((element, lanes)) => format!("{}_{}_{lanes}", self.name, element.name()),
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// A pointer, or 0 for none.
    Address(u64),
    Int(i32),
    Long(i64),
    Word(u64),
    Float(f32),
    Floats([f32; 3]),
    Norm(NormArg),
    Sliding([i32; 11]),
    /// `Stem` of kernels/elementwise.cu.
    Stem([i32; 12]),
}

/// `Norm` of kernels/common.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NormArg {
    pub(crate) scale: u64,
    pub(crate) shift: u64,
    pub(crate) activation: i32,
}

impl Arg {
    /// No pointer.
    pub(crate) const NULL: Self = Self::Address(0);

    fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Self::Address(value) | Self::Word(value) => std::ptr::from_ref(value).cast(),
            Self::Int(value) => std::ptr::from_ref(value).cast(),
            Self::Long(value) => std::ptr::from_ref(value).cast(),
            Self::Float(value) => std::ptr::from_ref(value).cast(),
            Self::Floats(value) => std::ptr::from_ref(value).cast(),
            Self::Norm(value) => std::ptr::from_ref(value).cast(),
            Self::Sliding(value) => std::ptr::from_ref(value).cast(),
            Self::Stem(value) => std::ptr::from_ref(value).cast(),
        };
        pointer.cast_mut()
    }

    /// The code of an activation: `Activation` of kernels/common.cuh.
    pub(crate) fn activation(activation: Activation) -> i32 {
        match activation {
            Activation::Identity => 0,
            Activation::Relu => 1,
            Activation::Relu6 => 2,
            Activation::HardSwish => 3,
            Activation::HardSigmoid => 4,
            Activation::Silu => 5,
            Activation::Sigmoid => 6,
        }
    }

    /// `Sliding` of kernels/common.cuh.
    pub(crate) fn sliding(s: &Sliding) -> Result<Self> {
        let fields = [
            s.batch,
            s.height,
            s.width,
            s.channels,
            s.kernel.0,
            s.kernel.1,
            s.window.stride,
            s.window.padding,
            s.window.dilation,
            s.out_height,
            s.out_width,
        ];
        let mut values = [0; 11];
        for (value, field) in values.iter_mut().zip(fields) {
            *value = int(field)?;
        }
        Ok(Self::Sliding(values))
    }
}

impl From<Slice<'_>> for Arg {
    fn from(slice: Slice<'_>) -> Self {
        Self::Address(slice.address())
    }
}

impl From<&SliceMut<'_>> for Arg {
    fn from(slice: &SliceMut<'_>) -> Self {
        Self::Address(slice.address())
    }
}

impl From<bool> for Arg {
    fn from(value: bool) -> Self {
        Self::Int(i32::from(value))
    }
}

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Blocks along the channels, or the total.
    pub(crate) x: usize,
    /// Blocks along the rows: the parts of a reduction.
    pub(crate) y: usize,
    /// Threads of a block.
    pub(crate) block: (usize, usize),
}

impl Grid {
    /// Blocks of [`THREADS`] for a total of `threads` threads; at most `limit` blocks.
    pub(crate) fn flat(threads: usize, limit: usize) -> Self {
        Self { x: threads.div_ceil(THREADS).clamp(1, limit), y: 1, block: (THREADS, 1) }
    }

    /// `blocks` blocks of [`THREADS`].
    pub(crate) fn blocks(blocks: usize) -> Self {
        Self { x: blocks.max(1), y: 1, block: (THREADS, 1) }
    }

    /// Blocks of 32 columns x 8 that add up the parts of a reduction.
    pub(crate) fn finish(channels: usize) -> Self {
        Self { x: channels.div_ceil(32), y: 1, block: (32, 8) }
    }

    /// Threads over `[rows, channels]`, `lanes` channels each. Neighboring threads take neighboring channels, a block
    /// takes several rows, and there are at most `blocks` blocks in total.
    pub(crate) fn rows(rows: usize, channels: usize, lanes: usize, blocks: usize) -> Self {
        Self::rows_of(THREADS, rows, channels, lanes, blocks)
    }

    /// [`rows`](Self::rows) with `threads` threads per block.
    pub(crate) fn rows_of(threads: usize, rows: usize, channels: usize, lanes: usize, blocks: usize) -> Self {
        let groups = channels.div_ceil(lanes);
        let chunks = groups.div_ceil(CHANNEL_THREADS);
        let wide = groups.div_ceil(chunks);
        let high = threads / wide;
        let y = (blocks / chunks).clamp(1, rows.div_ceil(high).max(1)).min(65_535);
        Self { x: chunks, y, block: (wide, high) }
    }
}

/// Channels per thread at a time: 16 bytes if the number of channels and all addresses allow it, else one.
pub(crate) fn lanes(element: Element, channels: usize, addresses: &[u64]) -> usize {
    let full = VECTOR / element.size();
    let aligned = addresses.iter().all(|address| address.is_multiple_of(16));
    if channels.is_multiple_of(full) && aligned { full } else { 1 }
}

/// The loaded kernels.
pub(crate) struct Kernels {
    modules: Vec<Arc<CudaModule>>,
    functions: HashMap<Kernel, CudaFunction>,
}

impl Kernels {
    /// Loads every fat binary into the stream's context.
    pub(crate) fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let load = |image: &&[u8]| stream.context().load_module(Ptx::from_binary(image.to_vec()));
        let modules = IMAGES.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { modules, functions: HashMap::new() })
    }

    fn get(&mut self, kernel: Kernel) -> Result<&CudaFunction> {
        match self.functions.entry(kernel) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let symbol = kernel.symbol();
                let found = self.modules.iter().find_map(|module| module.load_function(&symbol).ok());
                Ok(entry.insert(found.ok_or(CudaError::Unsupported { what: format!("kernel {symbol}") })?))
            }
        }
    }
}

impl Gpu {
    /// Launches a kernel.
    pub(crate) fn launch(&mut self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let size = |value: usize| u32::try_from(value).map_err(|_| CudaError::TooLarge { value });
        let (blocks, threads) =
            ((size(grid.x)?, size(grid.y)?, 1), (size(grid.block.0)?, size(grid.block.1)?, 1));
        let mut pointers = [std::ptr::null_mut(); 20];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.pointer();
        }
        let stream = Arc::clone(self.stream());
        stream.context().bind_to_thread()?;
        let function = self.kernels().get(kernel)?.cu_function();
        // SAFETY: `pointers` has one value for each parameter of the kernel, in order and of its type. The caller
        // checked the views among them. They stay valid until the kernel has run, because their memory is freed in
        // stream order.
        unsafe {
            result::launch_kernel(
                function,
                blocks,
                threads,
                0,
                stream.cu_stream(),
                &mut pointers[..args.len()],
            )
        }?;
        Ok(())
    }
}
