//! Prefetches the memory of the next row while the current one is computed.
//!
//! A row is read in a burst, followed by a while of computation; the hardware prefetcher sees too little of the bursts.
//! Prefetching is a hint: it changes no result, and does nothing on machines without such an instruction.

#[cfg(target_arch = "x86_64")]
use pulp::core_arch::x86::Sse;

/// Scalars of a cache line.
const LINE: usize = 16;

/// Ranges of memory to prefetch in small steps.
pub(super) struct Ahead<'a, const N: usize> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "there is no such instruction"))]
    stretches: [std::slice::Chunks<'a, f32>; N],
    #[cfg(target_arch = "x86_64")]
    sse: Option<Sse>,
}

impl<'a, const N: usize> Ahead<'a, N> {
    /// Prefetches `stretches` in about `steps` steps.
    pub(super) fn new(stretches: [&'a [f32]; N], steps: usize) -> Self {
        let share = |stretch: &[f32]| stretch.len().div_ceil(LINE * steps.max(1)).max(1) * LINE;
        Self {
            stretches: stretches.map(|stretch| stretch.chunks(share(stretch))),
            #[cfg(target_arch = "x86_64")]
            sse: Sse::try_new(),
        }
    }

    /// Prefetches the next step.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(sse) = self.sse {
            for stretch in &mut self.stretches {
                for line in stretch.next().unwrap_or_default().chunks(LINE) {
                    sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast());
                }
            }
        }
    }
}

/// Rows `first..first + count` of `data`, or as many of them as exist.
pub(super) fn rows(data: &[f32], first: usize, count: usize, len: usize) -> &[f32] {
    let end = data.len().min((first + count) * len);
    &data[end.min(first * len)..end]
}
