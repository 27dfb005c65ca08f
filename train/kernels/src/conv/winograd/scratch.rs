//! Aligned memory for one task; the thread keeps it from task to task.

use std::cell::RefCell;

/// Floats of a cache line: vectors that straddle two lines cost two accesses.
pub(super) const LINE: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The `len` floats of `buffer` from its first whole cache line on; `buffer` must have at least [`LINE`] more.
pub(super) fn aligned(buffer: &mut [f32], len: usize) -> &mut [f32] {
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    &mut buffer[start..][..len]
}

/// Calls `work` with a buffer of arbitrary content for each of `lens`.
pub(super) fn with<const N: usize, R>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let lens = lens.map(|len| len.next_multiple_of(LINE));
    let total = lens.iter().sum();
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < total + LINE {
            // The content is arbitrary: a new vector avoids the copy that growing the old one would make.
            *scratch = vec![0.0; total + LINE];
        }
        let mut rest = aligned(scratch, total);
        work(lens.map(|len| rest.split_off_mut(..len).unwrap_or_default()))
    })
}
