//! FixMatch (Sohn et al. 2020, arXiv 2001.07685) on features.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::choose::{Best, quality};
use super::linear::{Fit, LinearClassifier};
use super::probe::search;
use super::problem::{Answer, Method, Problem, one_hot};
use super::train::{Batches, rows};
use crate::Error;
use crate::loss::normalize;

/// A linear classifier starts from the labelled pictures alone and goes on with the labelled pictures and with
/// what it is sure of itself: where the picture as it is (the weak view) gives a class a share of
/// the threshold or more, a changed view of it (the strong one) is to give that class too. What is
/// used is the running average of the weights, at the moment that the validation split likes best.
///
/// One start is as free as the linear probe. It is sure of all it says, and so learns little from
/// itself; the other starts are held back, and become sure of what the labels and each other say.
#[derive(Clone, Debug)]
pub struct FixMatch {
    /// Steps; the validation split looks at the average twenty times.
    pub steps: usize,
    /// Learning rate at the start of the cosine `cos(7πk / 16K)`.
    pub lr: f64,
    /// Labelled pictures of a step.
    pub batch: usize,
    /// Unlabelled pictures for each labelled one of a step.
    pub ratio: usize,
    /// Thresholds that are tried; the first is the paper's.
    pub thresholds: Vec<f64>,
    /// C of the starts that are tried beside the linear probe's.
    pub starts: Vec<f64>,
    /// How much the unlabelled pictures count.
    pub weight: f64,
    /// Decay of the average.
    pub average: f64,
    /// Decay of the weights.
    pub decay: f64,
    /// Whether guesses are evened out to the classes' shares among the labelled pictures
    /// (distribution alignment, Berthelot et al. 2020, arXiv 1911.09785).
    pub align: bool,
}

impl Default for FixMatch {
    fn default() -> Self {
        FixMatch {
            steps: 400,
            lr: 0.03,
            batch: 64,
            ratio: 7,
            thresholds: vec![0.95, 0.8, 0.6],
            starts: vec![1.0],
            weight: 1.0,
            average: 0.99,
            decay: 5e-4,
            align: true,
        }
    }
}

/// Length of the features in this training: with 1 the paper's learning rate would take hours.
const LENGTH: f64 = 8.0;
/// Momentum of SGD, Nesterov's.
const MOMENTUM: f64 = 0.9;

/// The gradient of `Σ wᵢ CE(xᵢ, tᵢ) / rows` for weight and bias, with what the classifier says.
/// `targets: [rows, classes]`, each row summing to 1; `weights: [rows, 1]`.
pub(super) fn gradient(
    classifier: &LinearClassifier,
    x: &Tensor<2>,
    targets: Tensor<2>,
    weights: Option<Tensor<2>>,
) -> (Tensor<2>, Tensor<2>) {
    let count = x.dims()[0].max(1) as f64;
    let mut wrong = softmax(classifier.logits(x.clone()), 1) - targets;
    if let Some(weights) = weights {
        wrong = wrong * weights;
    }
    let wrong = wrong / count;
    (x.clone().transpose().matmul(wrong.clone()), wrong.sum_dim(0))
}

/// One weight with its momentum and its average.
struct Moving {
    value: Tensor<2>,
    velocity: Tensor<2>,
    average: Tensor<2>,
}

impl Moving {
    fn new(value: Tensor<2>) -> Self {
        Moving { velocity: value.zeros_like(), average: value.clone(), value }
    }

    fn step(&mut self, gradient: Tensor<2>, lr: f64, decay: f64, average: f64) {
        let gradient = gradient + self.value.clone() * decay;
        self.velocity = self.velocity.clone() * MOMENTUM + gradient.clone();
        let ahead = gradient + self.velocity.clone() * MOMENTUM;
        self.value = self.value.clone() - ahead * lr;
        self.average = self.average.clone() * average + self.value.clone() * (1.0 - average);
    }
}

impl FixMatch {
    /// One training; returns the average that was judged best, with its steps.
    fn train(
        &self,
        problem: &Problem<'_>,
        start: &LinearClassifier,
        threshold: f64,
        centred: &dyn Fn(&Tensor<2>) -> Tensor<2>,
        judge: &dyn Fn(&LinearClassifier) -> (f64, f64),
    ) -> Best<(LinearClassifier, usize)> {
        let classes = problem.classes;
        let (x, labels) = problem.labelled.with_views();
        let wide = |x: Tensor<2>| centred(&x) * LENGTH;
        let x = wide(x);
        let targets = one_hot(&labels, classes, &problem.device());
        let prior = problem.labelled.one_hot(classes).mean_dim(0);
        let pool = problem.pool.as_ref();
        let many = pool.map_or(0, |pool| pool.features.dims()[0]);
        let mut few = Batches::new(x.dims()[0], self.batch, problem.seed);
        let mut unlabelled = Batches::new(many, self.batch * self.ratio, problem.seed ^ 1);
        let (mut weight, mut bias) =
            (Moving::new(start.weight.clone() / LENGTH), Moving::new(start.bias.clone()));
        let mut guessed = prior.clone();
        let mut best = Best::none();
        best.offer(judge(start), || (start.clone(), 0));
        let every = (self.steps / 20).max(1);
        for step in 0..self.steps {
            let now = LinearClassifier { weight: weight.value.clone(), bias: bias.value.clone() };
            let picked = few.next();
            let (mut by_weight, mut by_bias) =
                gradient(&now, &rows(&x, &picked), rows(&targets, &picked), None);
            if let Some(pool) = pool {
                let picked = unlabelled.next();
                let weak = wide(rows(&pool.features, &picked));
                let strong = match pool.views.get(step % pool.views.len().max(1)) {
                    Some(view) => wide(rows(view, &picked)),
                    None => weak.clone(),
                };
                let mut p = softmax(now.logits(weak), 1);
                if self.align {
                    guessed = guessed * 0.99 + p.clone().mean_dim(0) * 0.01;
                    p = p * (prior.clone() / guessed.clone().clamp_min(1e-6));
                    p = p.clone() / p.sum_dim(1);
                }
                let surest = p.clone().max_dim(1);
                let sure = surest.clone().greater_equal_elem(threshold).float();
                // Of equals all are meant; they share the target.
                let guess = p.greater_equal(surest.expand([picked.len(), classes])).float();
                let guess = guess.clone() / guess.sum_dim(1);
                let (w, b) = gradient(&now, &strong, guess, Some(sure));
                by_weight = by_weight + w * self.weight;
                by_bias = by_bias + b * self.weight;
            }
            let angle = 7.0 * std::f64::consts::PI * step as f64 / (16.0 * self.steps as f64);
            let lr = self.lr * angle.cos();
            weight.step(by_weight, lr, self.decay, self.average);
            bias.step(by_bias, lr, 0.0, self.average);
            if (step + 1) % every == 0 {
                let average = LinearClassifier {
                    weight: weight.average.clone() * LENGTH,
                    bias: bias.average.clone(),
                };
                best.offer(judge(&average), || (average, step + 1));
            }
        }
        best
    }
}

impl Method for FixMatch {
    fn name(&self) -> &'static str {
        "fixmatch"
    }

    fn uses_pool(&self) -> bool {
        true
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        // All features of a tower share a direction, which no class needs.
        let mut all = vec![problem.labelled.features.clone()];
        all.extend(problem.pool.as_ref().map(|pool| pool.features.clone()));
        let mean = Tensor::cat(all, 0).mean_dim(0);
        let centred = |x: &Tensor<2>| normalize(x.clone() - mean.clone());
        let split = problem.validation.as_ref();
        let fit = Fit {
            x: centred(&problem.labelled.features),
            targets: problem.labelled.one_hot(problem.classes),
            weights: None,
            iterations: 200,
        };
        let (free, c) = search(&fit, &problem.validation, &|x| centred(&x));
        let zero = LinearClassifier::zero(fit.x.dims()[1], problem.classes, &fit.x);
        let mut starts = vec![(free, c)];
        if split.is_some() {
            starts.extend(self.starts.iter().map(|c| (fit.run(&zero, *c), *c)));
        }
        let count = std::cell::Cell::new(0.0);
        let judge = |classifier: &LinearClassifier| match split {
            Some(split) => quality(classifier.logits(centred(&split.features)), split),
            None => {
                // Without a split the last one counts.
                count.set(count.get() + 1.0);
                (count.get(), 0.0)
            }
        };
        let choose = split.is_some() && problem.pool.is_some();
        let tried = if choose { self.thresholds.len() } else { 1 };
        let mut best = Best::none();
        for (start, c) in &starts {
            for threshold in self.thresholds.iter().take(tried) {
                let found = self.train(problem, start, *threshold, &centred, &judge);
                if let (Some(quality), Some((classifier, steps))) = (found.quality(), found.take())
                {
                    best.offer(quality, || (classifier, steps, *threshold, *c));
                }
            }
        }
        let (classifier, steps, threshold, c) = best.take().ok_or(Error::NoPictures)?;
        let scores = classifier.logits(centred(&problem.queries));
        let chosen = vec![("C", c), ("steps", steps as f64), ("threshold", threshold)];
        Ok(Answer { scores, chosen })
    }
}

#[cfg(test)]
mod tests {
    use vlm_nn::ops::cross_entropy;

    use super::*;
    use crate::few_label::fixture::{Normal, matrix};
    use crate::few_label::problem::host;

    /// Against finite differences of the loss, for every value of weight and bias.
    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let random = &mut Normal::new(1);
        let mut drawn = |rows: usize, columns: usize| -> Vec<Vec<f32>> {
            (0..rows).map(|_| (0..columns).map(|_| random.next()).collect()).collect()
        };
        let (x, weight, bias) = (matrix(&drawn(6, 4)), drawn(4, 3), drawn(1, 3));
        let targets = softmax(matrix(&drawn(6, 3)), 1);
        let counts = matrix(&[[1f32], [0.], [1.], [0.5], [1.], [0.]].map(|w| w.to_vec()));
        let loss = |weight: &[Vec<f32>], bias: &[Vec<f32>]| -> f64 {
            let c = LinearClassifier { weight: matrix(weight), bias: matrix(bias) };
            let losses = cross_entropy(c.logits(x.clone()), targets.clone()).reshape([6, 1]);
            host(losses * counts.clone()).into_iter().map(f64::from).sum::<f64>() / 6.0
        };
        let at = LinearClassifier { weight: matrix(&weight), bias: matrix(&bias) };
        let (by_weight, by_bias) = gradient(&at, &x, targets.clone(), Some(counts.clone()));
        let (by_weight, by_bias) = (host(by_weight), host(by_bias));
        let step = 1e-2f32;
        for i in 0..15 {
            let moved = |by: f32| {
                let (mut w, mut b) = (weight.clone(), bias.clone());
                let value = if i < 12 { &mut w[i / 3][i % 3] } else { &mut b[0][i - 12] };
                *value += by;
                loss(&w, &b)
            };
            let want = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let got = f64::from(if i < 12 { by_weight[i] } else { by_bias[i - 12] });
            assert!((got - want).abs() < 2e-4, "{i}: {got} should be {want}");
        }
    }
}
