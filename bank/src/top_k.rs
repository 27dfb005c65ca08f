//! Positions of the K largest values in a row of logits, in order.

use crate::kernel::Isa;

/// Reusable buffers of the selection.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    groups: Vec<f32>,
    keys: Vec<u64>,
}

impl Selector {
    /// Writes the positions of the `out.len()` largest `values`, largest first; on a tie the lower position comes
    /// first. `values` holds no NaN and at least `out.len()` elements.
    ///
    /// The values are divided into more than K interleaved groups. The K-th largest group maximum is a lower bound
    /// for the K-th largest value, so only values that reach it have to be sorted (of 1,000 values, about 1.5 K if K
    /// is 64).
    pub(crate) fn select(&mut self, values: &[f32], isa: Isa, out: &mut [i32]) {
        let k = out.len();
        let bound = self.lower_bound(values, k, isa);
        // One element more than needed: the loop writes one position past the last key.
        self.keys.resize(values.len() + 1, 0);
        let mut found = 0;
        for (position, &value) in (0u32..).zip(values) {
            self.keys[found] = key(value, position);
            found += usize::from(value >= bound);
        }
        let keys = &mut self.keys[..found];
        if k < keys.len() {
            keys.select_nth_unstable_by(k, |a, b| b.cmp(a));
        }
        let keys = &mut keys[..k];
        keys.sort_unstable_by(|a, b| b.cmp(a));
        for (out, &key) in out.iter_mut().zip(&*keys) {
            *out = position(key);
        }
    }

    fn lower_bound(&mut self, values: &[f32], k: usize, isa: Isa) -> f32 {
        let groups = (4 * k).next_multiple_of(16);
        if values.len() < 2 * groups {
            return f32::NEG_INFINITY;
        }
        self.groups.resize(groups, 0.0);
        isa.group_maxima(values, &mut self.groups);
        *self.groups.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    }
}

/// A key that increases with the value and, among equal values, decreases with the position.
fn key(value: f32, position: u32) -> u64 {
    // Adding 0 makes -0 equal to 0. Then comes the usual order-preserving map from f32 to u32.
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!position)
}

fn position(key: u64) -> i32 {
    let low = !u32::try_from(key & u64::from(u32::MAX)).unwrap_or_default();
    i32::try_from(low).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_sorting(values: &[f32], k: usize) -> Vec<i32> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap().then(a.cmp(&b)));
        order[..k].iter().map(|&i| i32::try_from(i).unwrap()).collect()
    }

    proptest! {
        /// Few distinct values, so ties (also of -0 and 0) are common.
        #[test]
        fn the_selection_is_the_head_of_a_stable_sort(
            values in prop::collection::vec((-20i8..20).prop_map(|v| f32::from(v) / 7.0 * if v == 0 { -1.0 } else { 1.0 }), 1..900),
            share in 0.0..1.0f64,
            masked in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
        ) {
            let mut values = values;
            for index in masked {
                let at = index.index(values.len());
                values[at] = f32::NEG_INFINITY;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a test's K")]
            let k = 1 + ((values.len() - 1) as f64 * share * share * share) as usize;
            let mut out = vec![0; k];
            Selector::default().select(&values, Isa::detect(), &mut out);
            prop_assert_eq!(out, by_sorting(&values, k));
        }
    }
}
