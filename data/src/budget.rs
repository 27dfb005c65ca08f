//! A number of bytes that all threads share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Memory that threads take before they allocate, so that they never hold more than this together.
#[derive(Debug)]
pub struct Budget {
    most: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Bytes of a [`Budget`], which are returned when this is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// A budget of `most` bytes.
    pub const fn new(most: u64) -> Self {
        Self { most, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Takes `bytes`, and waits until they are free. A request beyond the whole budget is granted alone. A thread that holds
    /// a permit must not ask for another of the same budget: all threads could wait for each other.
    pub fn take(&self, bytes: u64) -> Permit<'_> {
        let bytes = bytes.min(self.most);
        let mut used = self.lock();
        while *used + bytes > self.most {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Permit { budget: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.budget.lock() -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn threads_never_hold_more_than_the_budget() {
        let (budget, held, most) = (Budget::new(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (budget, held, most) = (&budget, &held, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = 1 + (thread * 37 + round * 13) % 120;
                        let permit = budget.take(bytes);
                        let now = held.fetch_add(bytes.min(100), Ordering::SeqCst) + bytes.min(100);
                        most.fetch_max(now, Ordering::SeqCst);
                        held.fetch_sub(bytes.min(100), Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100 && *budget.lock() == 0);
    }
}
