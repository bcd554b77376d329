//! Which attentions a model can do without, found by trying.

use rand::{Rng, RngExt};

/// A bandit with an arm for each attention: what is skipped with less loss than others scores higher, and is
/// tried more often (section 3.3 of EAS, arXiv 2403.15226).
#[derive(Clone, Debug, PartialEq)]
pub struct Bandit {
    scores: Vec<f64>,
    /// What scores are multiplied by before their softmax.
    pub sharpness: f64,
    /// How fast scores change.
    pub rate: f64,
}

impl Bandit {
    /// So many arms, none better than another.
    pub fn new(arms: usize, sharpness: f64, rate: f64) -> Self {
        Bandit { scores: vec![0.0; arms], sharpness, rate }
    }

    /// The score of each arm.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// The same with these scores.
    pub fn with_scores(mut self, scores: Vec<f64>) -> Self {
        self.scores = scores;
        self
    }

    /// How likely each arm is to be drawn first.
    pub fn chances(&self) -> Vec<f64> {
        let most = self.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> =
            self.scores.iter().map(|score| (self.sharpness * (score - most)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    /// Draws so many different arms, in order.
    pub fn draw(&self, count: usize, rng: &mut impl Rng) -> Vec<usize> {
        let mut chances = self.chances();
        let mut drawn = Vec::new();
        for _ in 0..count.min(chances.len()) {
            let sum: f64 = chances.iter().sum();
            let mut at = rng.random::<f64>() * sum;
            let found = chances.iter().position(|chance| {
                at -= chance;
                *chance > 0.0 && at < 0.0
            });
            // Rounding may leave a little; and very small chances may all be 0.
            let left = |i: &usize| !drawn.contains(i);
            let Some(arm) = found.or_else(|| (0..chances.len()).rev().find(left)) else { break };
            chances[arm] = 0.0;
            drawn.push(arm);
        }
        drawn.sort_unstable();
        drawn
    }

    /// Learns from what happened: sets of arms, and the loss with each.
    ///
    /// The reward of a set is how likely what was wanted is with it, of how likely it is with the best of them. The
    /// paper's, exp(−loss), is that of a model that has learned its task; before, when every loss is high, it would be
    /// 0 for all, and nothing would be learned of them.
    pub fn learn(&mut self, trials: &[(Vec<usize>, f64)]) {
        if trials.is_empty() || trials.iter().any(|(_, loss)| !loss.is_finite()) {
            return;
        }
        let least = trials.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        let rewards: Vec<f64> = trials.iter().map(|(_, loss)| (least - loss).exp()).collect();
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let chances = self.chances();
        for ((arms, _), reward) in trials.iter().zip(&rewards) {
            for arm in arms {
                let chance = chances[*arm];
                let score = self.scores[*arm];
                let score = score + (reward - mean) * chance * (1.0 - chance) * self.rate;
                // As a checkpoint keeps it.
                self.scores[*arm] = f64::from(score as f32);
            }
        }
    }

    /// The arms with the best scores, in order.
    pub fn best(&self, count: usize) -> Vec<usize> {
        let mut arms: Vec<usize> = (0..self.scores.len()).collect();
        // Of equal ones the later: early attentions bring order among tokens.
        arms.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]).then(b.cmp(a)));
        arms.truncate(count);
        arms.sort_unstable();
        arms
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// What skipping costs in a model of twelve attentions, of which four do nothing, with the noise of
    /// batches.
    fn loss(skipped: &[usize], rng: &mut impl Rng) -> f64 {
        const COSTS: [f64; 12] = [0.9, 0.5, 0.0, 0.4, 0.3, 0.0, 0.6, 0.35, 0.0, 0.45, 0.0, 0.3];
        let cost: f64 = skipped.iter().map(|arm| COSTS[*arm]).sum();
        0.4 + cost + 0.05 * (rng.random::<f64>() - 0.5)
    }

    #[test]
    fn what_does_nothing_is_found() {
        let mut right = 0;
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut bandit = Bandit::new(12, 10.0, 0.5);
            for _ in 0..300 {
                let trials: Vec<(Vec<usize>, f64)> = (0..3)
                    .map(|_| {
                        let arms = bandit.draw(4, &mut rng);
                        let loss = loss(&arms, &mut rng);
                        (arms, loss)
                    })
                    .collect();
                bandit.learn(&trials);
            }
            right += usize::from(bandit.best(4) == [2, 5, 8, 10]);
        }
        assert!(right >= 18, "{right} of 20 seeds");
    }

    #[test]
    fn drawing_and_learning_are_as_written() {
        let bandit = Bandit::new(3, 10.0, 2.0).with_scores(vec![0.0, 0.1, 0.0]);
        let e = std::f64::consts::E;
        let want = [1.0 / (2.0 + e), e / (2.0 + e), 1.0 / (2.0 + e)];
        for (chance, want) in bandit.chances().iter().zip(want) {
            assert!((chance - want).abs() < 1e-12);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn = (0..4000).filter(|_| bandit.draw(1, &mut rng) == [1]).count();
        assert!((drawn as f64 / 4000.0 - want[1]).abs() < 0.03, "{drawn}");
        assert_eq!(bandit.draw(3, &mut rng), [0, 1, 2]);
        assert_eq!(bandit.draw(9, &mut rng), [0, 1, 2]);
        let mut learned = bandit.clone();
        learned.learn(&[(vec![0, 1], 0.5), (vec![1, 2], 1.5)]);
        let half = (1.0 - (-1f64).exp()) / 2.0;
        let step = |i: usize| 2.0 * want[i] * (1.0 - want[i]);
        let wants = [half * step(0), 0.1, -half * step(2)];
        for (score, want) in learned.scores().iter().zip(wants) {
            assert!((score - want).abs() < 1e-7, "{:?}", learned.scores());
        }
        assert_eq!(learned.best(2), [0, 1]);
        // However high losses are, what is learned of their difference is the same.
        let mut high = bandit.clone();
        high.learn(&[(vec![0, 1], 900.5), (vec![1, 2], 901.5)]);
        assert_eq!(high, learned);
        // What is no number teaches nothing.
        let before = learned.clone();
        learned.learn(&[(vec![0], f64::NAN), (vec![1], 0.1)]);
        assert_eq!(learned, before);
        let steep = Bandit::new(3, 10.0, 2.0).with_scores(vec![1e6, 0.0, -1e6]);
        assert_eq!(steep.draw(2, &mut rng).len(), 2);
    }
}
