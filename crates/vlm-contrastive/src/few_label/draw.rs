//! Which pictures a run learns from.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;

/// Validation pictures of a class at most, as CoOp has it.
const VALIDATION: usize = 4;

/// Pictures of a training set, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The few, class after class.
    pub labelled: Vec<usize>,
    /// Those that settings are chosen on.
    pub validation: Vec<usize>,
    /// Those whose labels nobody looks at.
    pub pool: Vec<usize>,
}

/// How pictures are drawn: always the same for the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct Draws<'a> {
    /// The class of each picture of the training set.
    pub truth: &'a [usize],
    /// The names of the classes.
    pub classes: &'a [String],
    /// Validation pictures a class; `None` is as many as there are labels, up to 4. They are drawn
    /// beside the labelled ones, as far as a class has any left.
    pub validation: Option<usize>,
    /// Unlabelled pictures; 0 for none. They are the same for all seeds, save those that a seed
    /// draws with their labels.
    pub unlabelled: usize,
}

impl Draws<'_> {
    /// The pictures of a run. Those of fewer labels are among those of more.
    ///
    /// # Errors
    /// [`Error::FewPictures`] for a class that does not have as many.
    pub fn draw(&self, shots: usize, seed: u64) -> Result<Draw, Error> {
        let mut members = vec![Vec::new(); self.classes.len()];
        for (picture, class) in self.truth.iter().enumerate() {
            members[*class].push(picture);
        }
        let wanted = self.validation.unwrap_or(shots.min(VALIDATION));
        let mut draw = Draw { labelled: vec![], validation: vec![], pool: vec![] };
        for (class, mut members) in members.into_iter().enumerate() {
            if members.len() < shots {
                let (class, there) = (self.classes[class].clone(), members.len());
                return Err(Error::FewPictures { class, there, shots });
            }
            shuffle(&mut members, seed, 1 + class as u64);
            // From the other end, so that more labels push none of fewer labels out.
            let rest = members.split_off(shots);
            draw.labelled.extend(members);
            draw.validation.extend(rest.iter().rev().take(wanted));
        }
        if self.unlabelled > 0 {
            let mut all: Vec<usize> = (0..self.truth.len()).collect();
            shuffle(&mut all, 0, 0);
            let mut told = vec![false; self.truth.len()];
            for picture in draw.labelled.iter().chain(&draw.validation) {
                told[*picture] = true;
            }
            all.truncate(self.unlabelled);
            all.retain(|picture| !told[*picture]);
            draw.pool = all;
        }
        Ok(draw)
    }

    /// So many of all pictures, the same whenever they are asked for; all if there are fewer. In
    /// the order of the set.
    pub fn limit(count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        shuffle(&mut all, 0, u64::MAX);
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

fn shuffle(list: &mut [usize], seed: u64, stream: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    for i in (1..list.len()).rev() {
        list.swap(i, rng.random_range(0..=i));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn set() -> (Vec<usize>, Vec<String>) {
        let truth = (0..60).map(|i| usize::from(i % 6 == 0) + usize::from(i % 3 == 0)).collect();
        (truth, ["a", "b", "c"].map(str::to_owned).to_vec())
    }

    #[test]
    fn draws_are_nested_and_never_overlap() {
        let (truth, classes) = set();
        let draws = Draws { truth: &truth, classes: &classes, validation: None, unlabelled: 40 };
        let mut before: HashSet<usize> = HashSet::new();
        for shots in [1, 2, 4, 8] {
            let draw = draws.draw(shots, 7).unwrap();
            assert_eq!(draw, draws.draw(shots, 7).unwrap());
            assert_ne!(draw, draws.draw(shots, 8).unwrap());
            let labelled: HashSet<usize> = draw.labelled.iter().copied().collect();
            assert!(labelled.is_superset(&before), "{shots}");
            assert_eq!(labelled.len(), 3 * shots);
            for class in 0..3 {
                let of = |list: &[usize]| list.iter().filter(|i| truth[**i] == class).count();
                assert_eq!(of(&draw.labelled), shots);
                let there = truth.iter().filter(|t| **t == class).count();
                assert_eq!(of(&draw.validation), shots.min(4).min(there - shots));
            }
            let all: Vec<usize> =
                draw.labelled.iter().chain(&draw.validation).chain(&draw.pool).copied().collect();
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
            before = labelled;
        }
    }

    #[test]
    fn a_small_class_is_named() {
        let (truth, classes) = set();
        let draws = Draws { truth: &truth, classes: &classes, validation: None, unlabelled: 0 };
        let message = draws.draw(11, 1).unwrap_err().to_string();
        assert!(message.starts_with("class `b` has 10 training pictures"), "{message}");
    }

    #[test]
    fn a_limit_is_a_fixed_part() {
        let part = Draws::limit(5, 100);
        assert!(part.len() == 5 && part.is_sorted() && part == Draws::limit(5, 100));
        assert_eq!(Draws::limit(200, 3), [0, 1, 2]);
    }
}
