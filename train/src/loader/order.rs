//! The order of the samples in an epoch.

use std::sync::{Arc, Mutex, PoisonError};

use crate::rng::Stream;

/// Separates this random stream from the others with the same seed.
const PURPOSE: u64 = u64::from_le_bytes(*b"epochord");

/// The permutation of `0..samples` in which epoch `epoch` visits the samples. It depends on (seed, epoch) alone, so a run can resume
/// in the middle of an epoch.
pub fn epoch_order(samples: usize, seed: u64, epoch: u32) -> Vec<usize> {
    Stream::new(&[PURPOSE, seed, u64::from(epoch)]).permutation(samples)
}

/// The orders of all epochs. Each is computed once, no matter how many workers request it.
#[derive(Debug)]
pub struct EpochOrders {
    samples: usize,
    seed: u64,
    /// The two epochs requested last. The look-ahead crosses at most one epoch boundary.
    recent: Mutex<Vec<(u32, Arc<[usize]>)>>,
}

impl EpochOrders {
    /// Orders of `samples` samples from `seed`.
    pub fn new(samples: usize, seed: u64) -> Self {
        Self { samples, seed, recent: Mutex::new(Vec::new()) }
    }

    /// The order of `epoch`, as [`epoch_order`] returns it.
    pub fn get(&self, epoch: u32) -> Arc<[usize]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(at, _)| *at == epoch) {
            return Arc::clone(order);
        }
        let order: Arc<[usize]> = epoch_order(self.samples, self.seed, epoch).into();
        if recent.len() == 2 {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_that_depends_on_seed_and_epoch_only() {
        let order = epoch_order(1000, 7, 3);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(order, epoch_order(1000, 7, 3));
        assert_ne!(order, epoch_order(1000, 7, 4));
        assert_ne!(order, epoch_order(1000, 8, 3));
    }

    #[test]
    fn orders_are_shared_and_may_be_asked_for_again() {
        let orders = EpochOrders::new(50, 1);
        for epoch in [0, 1, 2, 1, 0, 5] {
            assert_eq!(*orders.get(epoch), *epoch_order(50, 1, epoch));
        }
    }

    #[test]
    fn every_position_is_about_equally_likely() {
        let mut first = [0u32; 5];
        for epoch in 0..5000 {
            first[epoch_order(5, 0, epoch)[0]] += 1;
        }
        // Binomial(5000, 0.2) has a standard deviation of 28.
        assert!(first.iter().all(|&count| count.abs_diff(1000) < 140), "{first:?}");
    }
}
