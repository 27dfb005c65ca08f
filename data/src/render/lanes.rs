//! Loops over blocks of pixels, compiled for the instruction set of the processor.
//!
//! The compiler vectorizes them: an operation is a plain loop over [`LANES`] pixels without branches. `pulp` compiles it for
//! AVX-512, AVX2 and the baseline, and selects at run time. All of them give the same bits, because no operation is fused or
//! reordered.

use pulp::{Arch, NullaryFnOnce};

/// Pixels of one block.
pub(super) const LANES: usize = 16;

/// A block of RGB8 pixels.
pub(super) type Block = [[u8; 3]; LANES];

/// An operation on a block. `apply` must be `#[inline(always)]`: only what is inlined is compiled for the instruction set.
pub(super) trait BlockOp {
    /// Changes every pixel on its own.
    fn apply(&self, block: &mut Block);
}

/// Applies `operation` to RGB8 pixels, `[n, 3]`.
pub(super) fn for_each_block(pixels: &mut [u8], operation: impl BlockOp) {
    struct Run<'a, O>(&'a mut [u8], O);

    impl<O: BlockOp> NullaryFnOnce for Run<'_, O> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(pixels, operation) = self;
            let (pixels, _) = pixels.as_chunks_mut::<3>();
            let (blocks, rest) = pixels.as_chunks_mut::<LANES>();
            for block in blocks {
                operation.apply(block);
            }
            let mut last = [[0; 3]; LANES];
            last[..rest.len()].copy_from_slice(rest);
            operation.apply(&mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    vectorized(Run(pixels, operation));
}

/// Runs `operation`, compiled for the processor's instruction set.
pub(super) fn vectorized<O: NullaryFnOnce>(operation: O) -> O::Output {
    Arch::new().dispatch(operation)
}

/// A block with its channels apart.
pub(super) struct Channels {
    pub r: [u8; LANES],
    pub g: [u8; LANES],
    pub b: [u8; LANES],
}

impl Channels {
    #[inline(always)]
    pub(super) fn split(block: &Block) -> Self {
        let mut channels = Self { r: [0; LANES], g: [0; LANES], b: [0; LANES] };
        for (lane, pixel) in block.iter().enumerate() {
            [channels.r[lane], channels.g[lane], channels.b[lane]] = *pixel;
        }
        channels
    }

    #[inline(always)]
    pub(super) fn store(&self, block: &mut Block) {
        for (lane, pixel) in block.iter_mut().enumerate() {
            *pixel = [self.r[lane], self.g[lane], self.b[lane]];
        }
    }
}

/// `value` in `[0, 256)`, truncated. Adding 2^23 moves the whole number to the low bits; a cast would check for NaN and range
/// in every lane.
#[inline(always)]
pub(super) fn truncated(value: f32) -> u8 {
    const SHIFT: f32 = 8_388_608.0;
    low_byte((value.floor() + SHIFT).to_bits())
}

/// [`truncated`] for f64.
#[inline(always)]
pub(super) fn truncated_f64(value: f64) -> u8 {
    const SHIFT: f64 = 4_503_599_627_370_496.0;
    #[expect(clippy::cast_possible_truncation, reason = "the whole number is in the low byte")]
    let byte = (value.floor() + SHIFT).to_bits() as u8;
    byte
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the whole number is in the low byte")]
fn low_byte(bits: u32) -> u8 {
    bits as u8
}
