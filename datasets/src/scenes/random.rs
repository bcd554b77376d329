//! Draws that are the same on every machine and with every version of the library.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A source of draws.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The source of a seed and a number.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Dice(rng)
    }

    /// A whole number from 0 to below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.0.next_u64()) * count as u128) >> 64) as usize
    }

    /// Whether something of a chance of `percent` happens.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A number from `low` to `high` in steps of a quarter, which floats hold exactly.
    pub(super) fn quarter(&mut self, low: f64, high: f64) -> f64 {
        let steps = ((high - low) * 4.0).max(0.0) as usize + 1;
        low + self.below(steps) as f64 / 4.0
    }

    /// Puts a list into an order.
    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}
