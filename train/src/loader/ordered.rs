//! An order-preserving parallel map with a bounded look-ahead.
//!
//! Workers take tickets 0, 1, 2… in turn and may run at most `window` tickets ahead of the consumer, which receives the
//! results in ticket order. So the consumer's input does not depend on the number of threads, and memory is bounded by
//! `window` results.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

struct State<T> {
    /// First ticket that no worker has taken yet.
    next: usize,
    /// Tickets already handed to the consumer; `results[0]` belongs to this ticket.
    taken: usize,
    results: VecDeque<Option<T>>,
    stopped: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Signals that the consumer took a result, or that the stream stops.
    room: Condvar,
    /// Signals that the consumer's next result is there, or that the stream stops.
    ready: Condvar,
    count: usize,
    window: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.room.notify_all();
        self.ready.notify_all();
    }

    fn take_ticket(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next == self.count {
                return None;
            }
            if state.next < state.taken + self.window {
                state.next += 1;
                state.results.push_back(None);
                return Some(state.next - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn deliver(&self, ticket: usize, value: T) {
        let mut state = self.lock();
        let position = ticket - state.taken;
        if let Some(entry) = state.results.get_mut(position) {
            *entry = Some(value);
        }
        if position == 0 {
            self.ready.notify_one();
        }
    }
}

/// Stops the stream when dropped: when the consumer ends or a worker panics.
struct StopOnDrop<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The results, in ticket order.
pub struct Ordered<'a, T> {
    shared: &'a Shared<T>,
}

impl<T> Iterator for Ordered<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if state.taken == self.shared.count || state.stopped {
                return None;
            }
            if state.results.front().is_some_and(Option::is_some) {
                state.taken += 1;
                self.shared.room.notify_one();
                return state.results.pop_front().flatten();
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Computes `work(0) .. work(count - 1)` on `threads` threads, at most `window` ahead, while `consume` takes the
/// results in order. Returns the result of `consume`. Work in progress at that point is finished, and its results are
/// dropped.
///
/// # Panics
/// If `work` panics, the iterator of `consume` ends early, and the panic is passed on after `consume` returns.
pub fn ordered_map<T: Send, R>(
    count: usize,
    threads: usize,
    window: usize,
    work: impl Fn(usize) -> T + Sync,
    consume: impl FnOnce(&mut Ordered<'_, T>) -> R,
) -> R {
    let state = State { next: 0, taken: 0, results: VecDeque::new(), stopped: false };
    let shared = Shared {
        state: Mutex::new(state),
        room: Condvar::new(),
        ready: Condvar::new(),
        count,
        window: window.max(1),
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(ticket) = shared.take_ticket() {
                    let alarm = StopOnDrop(&shared);
                    let value = work(ticket);
                    std::mem::forget(alarm);
                    shared.deliver(ticket, value);
                }
            });
        }
        let _stop = StopOnDrop(&shared);
        consume(&mut Ordered { shared: &shared })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_arrive_in_order_whatever_the_threads() {
        for threads in [1, 2, 7] {
            let work = |ticket: usize| {
                // Even tickets sleep, so that odd ones overtake them.
                thread::sleep(Duration::from_micros(if ticket.is_multiple_of(2) { 300 } else { 0 }));
                ticket * 3
            };
            let got: Vec<usize> = ordered_map(100, threads, 8, work, |results| results.collect());
            assert_eq!(got, (0..100).map(|ticket| ticket * 3).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn workers_stay_within_the_window_and_stop_early() {
        let started = AtomicUsize::new(0);
        let work = |ticket: usize| {
            started.fetch_add(1, Ordering::SeqCst);
            ticket
        };
        let first: Vec<usize> = ordered_map(1000, 3, 5, work, |results| {
            let first = results.take(10).collect();
            thread::sleep(Duration::from_millis(20));
            first
        });
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        assert!(started.load(Ordering::SeqCst) <= 15, "{started:?} tickets were started");
    }

    #[test]
    fn a_panic_in_a_worker_ends_the_stream_instead_of_hanging() {
        let result = std::panic::catch_unwind(|| {
            let work = |ticket: usize| {
                assert!(ticket != 3, "boom");
                ticket
            };
            ordered_map(10, 1, 2, work, |results| results.count())
        });
        assert!(result.is_err());
    }
}
