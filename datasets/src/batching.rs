//! Which samples come together, and when.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;

/// The order of an epoch: a shuffle of `0..count` that depends on seed and epoch alone.
pub fn order(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}

/// Batches of an order; the rest that fills no batch is left for the next epoch's shuffle.
///
/// # Errors
/// If the set does not fill one batch.
pub fn plain(order: &[usize], batch: usize) -> Result<Vec<Vec<usize>>, Error> {
    if batch == 0 || batch > order.len() {
        return Err(Error::BatchTooLarge { batch, samples: order.len() });
    }
    Ok(order.chunks_exact(batch).map(<[usize]>::to_vec).collect())
}

/// Batches in which the samples of a group stand together, so that several positives a row
/// occur: groups in the order of their first sample, each with all its samples. A group on the
/// border of two batches is cut. Samples that `groups` does not reach are groups of their own.
///
/// # Errors
/// If the set does not fill one batch.
pub fn grouped(order: &[usize], groups: &[u32], batch: usize) -> Result<Vec<Vec<usize>>, Error> {
    let mut places = HashMap::new();
    let mut together: Vec<Vec<usize>> = Vec::new();
    for sample in order {
        let Some(group) = groups.get(*sample) else {
            together.push(vec![*sample]);
            continue;
        };
        let place = *places.entry(*group).or_insert(together.len());
        if place == together.len() {
            together.push(Vec::new());
        }
        together[place].push(*sample);
    }
    plain(&together.concat(), batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_fixed_for_ever() {
        assert_eq!(order(1, 0, 8), order(1, 0, 8));
        assert_ne!(order(1, 0, 100), order(1, 1, 100));
        assert_ne!(order(1, 0, 100), order(2, 0, 100));
        let mut sorted = order(3, 5, 1000);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn groups_stand_together_and_nothing_is_lost() {
        let groups = [0, 1, 0, 2, 1, 3];
        let batches = grouped(&order(1, 0, 6), &groups, 2).unwrap();
        let flat: Vec<usize> = batches.concat();
        let mut sorted = flat.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        let place = |sample: usize| flat.iter().position(|s| *s == sample).unwrap();
        assert_eq!(place(0).abs_diff(place(2)), 1);
        assert_eq!(place(1).abs_diff(place(4)), 1);
    }

    #[test]
    fn a_batch_border_may_cut_a_group() {
        let batches = grouped(&[0, 1, 2, 3, 4], &[0, 0, 0, 1], 2).unwrap();
        assert_eq!(batches, [vec![0, 1], vec![2, 3]]);
        // The fifth sample, whose group is not told, would have come alone.
        assert_eq!(grouped(&[4, 0, 2], &[7, 7, 7], 1).unwrap(), [vec![4], vec![0], vec![2]]);
    }

    #[test]
    fn a_batch_larger_than_the_set_is_refused() {
        let message = plain(&[0, 1], 3).unwrap_err().to_string();
        assert!(message.contains("smaller batch"), "{message}");
    }
}
