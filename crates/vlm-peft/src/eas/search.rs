//! The state of a search for attentions to skip.

use std::sync::{Arc, Mutex, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vlm_nn::adapter::Skips;

use super::Bandit;

/// What a search has found so far, and what is skipped at the time: shared by the method, its clones and the
/// parts that it made.
#[derive(Clone, Debug, Default)]
pub struct Search {
    skips: Skips,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    /// The maps whose attentions may be skipped, in the order in which these are counted.
    arms: Vec<String>,
    bandit: Option<Bandit>,
    /// How many are skipped.
    count: usize,
    /// The step that is made.
    step: u64,
}

/// What scores are multiplied by before their softmax.
const SHARPNESS: f64 = 10.0;

impl Search {
    fn with<R>(&self, f: impl FnOnce(&mut Inside) -> R) -> R {
        f(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins with the attentions whose queries the maps at these paths make, of which `count` are to be skipped.
    pub(super) fn begin(&self, arms: Vec<String>, count: usize, rate: f64) {
        self.with(|inside| {
            inside.bandit = Some(Bandit::new(arms.len(), SHARPNESS, rate));
            inside.arms = arms;
            inside.count = count;
        });
        self.skips.set(self.best());
    }

    /// The number of the attention whose queries the map at a path makes.
    pub fn number(&self, path: &str) -> Option<usize> {
        self.with(|inside| inside.arms.iter().position(|arm| arm == path))
    }

    /// What is skipped at the time.
    pub fn skips(&self) -> Skips {
        self.skips.clone()
    }

    /// The attentions that are best skipped, as far as is known.
    pub fn best(&self) -> Vec<usize> {
        self.with(|inside| inside.bandit.as_ref().map(|bandit| bandit.best(inside.count)))
            .unwrap_or_default()
    }

    /// The score of each attention; the higher, the better it can be done without.
    pub fn scores(&self) -> Vec<f64> {
        self.with(|inside| inside.bandit.as_ref().map(|bandit| bandit.scores().to_vec()))
            .unwrap_or_default()
    }

    /// Goes on with scores that were found before.
    ///
    /// # Errors
    /// If they are of another number of attentions.
    pub fn restore(&self, scores: Vec<f64>) -> Result<(), String> {
        self.with(|inside| match inside.bandit.take() {
            Some(bandit) if bandit.scores().len() == scores.len() => {
                inside.bandit = Some(bandit.with_scores(scores));
                Ok(())
            }
            bandit => {
                let there = bandit.as_ref().map_or(0, |bandit| bandit.scores().len());
                inside.bandit = bandit;
                Err(format!("there are scores of {} attentions, not of {there}", scores.len()))
            }
        })
    }

    /// Skips what is best.
    pub fn use_best(&self) {
        self.skips.set(self.best());
    }

    /// Skips what is drawn for a step: the same for the same seed and scores.
    pub fn use_drawn(&self, seed: u64, step: u64) {
        let sets = self.drawn(seed, step, 1);
        self.with(|inside| inside.step = step);
        self.skips.set(sets.into_iter().next().unwrap_or_default());
    }

    /// Notes which step is made.
    pub fn at(&self, step: u64) {
        self.with(|inside| inside.step = step);
    }

    /// The step that [`use_drawn`](Self::use_drawn) was last called for.
    pub fn step(&self) -> u64 {
        self.with(|inside| inside.step)
    }

    /// So many sets of attentions.
    pub fn drawn(&self, seed: u64, number: u64, sets: usize) -> Vec<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x45_4153);
        rng.set_stream(number.wrapping_mul(2) + u64::from(sets > 1));
        self.with(|inside| {
            let Some(bandit) = &inside.bandit else { return Vec::new() };
            (0..sets).map(|_| bandit.draw(inside.count, &mut rng)).collect()
        })
    }

    /// Skips a set for a trial.
    pub fn try_set(&self, set: &[usize]) {
        self.skips.set(set.iter().copied());
    }

    /// Learns from trials: sets, and the loss with each.
    pub fn learn(&self, trials: &[(Vec<usize>, f64)]) {
        self.with(|inside| {
            if let Some(bandit) = &mut inside.bandit {
                bandit.learn(trials);
            }
        });
    }
}
