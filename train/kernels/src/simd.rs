//! Run-time choice of instruction set (AVX-512, AVX2, NEON, portable), through the safe interface of `pulp`.
//!
//! The environment variable `LGD_SIMD=avx2` or `LGD_SIMD=portable` selects fewer instructions than the machine has: for
//! the same bits on machines of different generations, and for tests.

use std::sync::OnceLock;

use pulp::{Arch, Scalar256b, Simd, WithSimd};

/// Instruction set of this process.
fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| match std::env::var("LGD_SIMD").as_deref() {
        Ok("portable") => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    })
}

/// Runs `op` with the process's instruction set.
#[inline(always)]
pub(crate) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    match arch() {
        // Eight lanes of plain floats: the compiler maps them to the target's baseline instructions.
        Arch::Scalar => Scalar256b.vectorize(op),
        arch => arch.dispatch(op),
    }
}

/// Compiles `f`, with everything inlined into it, for the process's instruction set. Use it for loops that the compiler
/// vectorizes by itself.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    arch().dispatch(f)
}

/// Lanes of one f32 vector in the instruction set that [`dispatch`] chooses.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    dispatch(Lanes)
}

/// Whether there are enough registers for tiles of 24 sums; otherwise tiles have 12.
pub(crate) const fn is_wide<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

/// Maximum vectors in a row of a tile on machines with many registers.
pub(crate) const MAX_VECTORS: usize = 4;

/// Maximum vectors in a row of a tile.
pub(crate) fn max_vectors() -> usize {
    struct Wide;
    impl WithSimd for Wide {
        type Output = bool;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> bool {
            is_wide::<S>()
        }
    }
    if dispatch(Wide) { MAX_VECTORS } else { MAX_VECTORS / 2 }
}
