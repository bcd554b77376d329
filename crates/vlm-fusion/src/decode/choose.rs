//! From logits to a token.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Sampling;

/// Chooses the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Chooser<'a> {
    sampling: &'a Sampling,
    /// Of prompt and answer.
    seen: BTreeSet<i64>,
    random: ChaCha8Rng,
}

impl<'a> Chooser<'a> {
    /// For the answer to a prompt of these tokens. Answers with one seed differ by their `stream`.
    pub fn new(sampling: &'a Sampling, prompt: &[i64], stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        random.set_stream(stream);
        Chooser { sampling, seen: prompt.iter().copied().collect(), random }
    }

    /// The next token; `None` if the logits are not numbers.
    pub fn next(&mut self, mut logits: Vec<f32>) -> Option<i64> {
        penalise(&mut logits, &self.seen, self.sampling);
        let place = if self.sampling.is_greedy() {
            likeliest(&logits)?
        } else {
            let drawn = self.random.random::<f64>();
            draw(&warped(logits, self.sampling)?, drawn)
        };
        self.seen.insert(place as i64);
        Some(place as i64)
    }
}

/// The probability of each token after these; `None` if the logits are not numbers.
pub fn probabilities(
    mut logits: Vec<f32>,
    seen: &BTreeSet<i64>,
    sampling: &Sampling,
) -> Option<Vec<f32>> {
    penalise(&mut logits, seen, sampling);
    if sampling.is_greedy() {
        let mut all = vec![0.0; logits.len()];
        all[likeliest(&logits)?] = 1.0;
        return Some(all);
    }
    warped(logits, sampling)
}

fn penalise(logits: &mut [f32], seen: &BTreeSet<i64>, sampling: &Sampling) {
    let penalty = sampling.repetition_penalty as f32;
    if penalty == 1.0 {
        return;
    }
    for id in seen {
        if let Some(logit) = usize::try_from(*id).ok().and_then(|id| logits.get_mut(id)) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    for (place, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|best: usize| *logit > logits[best]) {
            best = Some(place);
        }
    }
    best
}

/// Temperature, top-k and top-p, as probabilities.
fn warped(mut logits: Vec<f32>, sampling: &Sampling) -> Option<Vec<f32>> {
    likeliest(&logits)?;
    let temperature = sampling.temperature as f32;
    logits.iter_mut().for_each(|logit| *logit /= temperature);
    if let Some(k) = sampling.top_k.filter(|k| *k < logits.len()) {
        let mut sorted = logits.clone();
        let (_, last, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let last = *last;
        // What ties with the last of them stays, as in the reference.
        logits.iter_mut().filter(|l| **l < last).for_each(|l| *l = f32::NEG_INFINITY);
    }
    let mut all = softmax(&logits)?;
    if let Some(p) = sampling.top_p.filter(|p| *p < 1.0) {
        let mut order: Vec<usize> = (0..all.len()).filter(|i| logits[*i].is_finite()).collect();
        order.sort_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let (mut sum, rest) = (0f64, (1.0 - p) as f32);
        order.pop();
        // From the unlikeliest on, for as long as all of them together have no more than the rest.
        for place in order {
            sum += f64::from(all[place]);
            if sum as f32 > rest {
                break;
            }
            logits[place] = f32::NEG_INFINITY;
        }
        all = softmax(&logits)?;
    }
    Some(all)
}

fn softmax(logits: &[f32]) -> Option<Vec<f32>> {
    let max = logits[likeliest(logits)?];
    if !max.is_finite() {
        return None;
    }
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f64 = powers.iter().map(|p| f64::from(*p)).sum();
    Some(powers.iter().map(|p| (f64::from(*p) / sum) as f32).collect())
}

/// The token at this part, 0 to 1, of all the probability.
fn draw(all: &[f32], at: f64) -> usize {
    let total: f64 = all.iter().map(|p| f64::from(*p)).sum();
    let (mut sum, mut last) = (0f64, 0);
    for (place, p) in all.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        sum += f64::from(*p);
        last = place;
        if at * total < sum {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let all = [0.1f32, 0.0, 0.6, 0.3];
        let mut counts = [0; 4];
        for i in 0..1000 {
            counts[draw(&all, f64::from(i) / 1000.0)] += 1;
        }
        assert!(counts.iter().zip([100, 0, 600, 300]).all(|(a, b): (&i32, i32)| (a - b).abs() < 2));
        assert_eq!(draw(&all, 0.999_999_999_999), 3);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::default() };
        let say = |stream| {
            let mut chooser = Chooser::new(&sampling, &[], stream);
            (0..32).map(|_| chooser.next(vec![0.0; 100]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(say(0), say(0));
        assert_ne!(say(0), say(1));
    }

    #[test]
    fn what_is_no_number_is_no_token() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let mut chooser = Chooser::new(&sampling, &[], 0);
            assert_eq!(chooser.next(vec![0.0, f32::NAN]), None);
            assert_eq!(chooser.next(vec![]), None);
            assert_eq!(chooser.next(vec![f32::NEG_INFINITY, 1.0]), Some(1));
        }
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(Chooser::new(&sampling, &[], 0).next(vec![f32::NEG_INFINITY; 3]), None);
    }
}
