//! The linear probe, the baseline of all others.

use burn::tensor::Tensor;

use super::choose::{Best, quality};
use super::linear::{Fit, LinearClassifier};
use super::problem::{Answer, Labelled, Method, Problem};
use crate::Error;

/// Regularisations that are tried first, in the order of rising freedom.
const GRID: [f64; 7] = [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6];
/// Halvings of the range about the best of them.
const HALVINGS: usize = 8;
/// What CLIP's authors found for ImageNet.
const DEFAULT: f64 = 0.316;
/// Iterations at most; each fit starts where its neighbour ended.
const ITERATIONS: usize = 200;

/// Logistic regression whose C is searched as CoOp's `lpclip` does (Zhou et al. 2022, arXiv
/// 2109.01134): the best of a coarse grid, then halvings of the range a decade to both sides.
#[derive(Clone, Copy, Debug)]
pub struct LinearProbe;

impl Method for LinearProbe {
    fn name(&self) -> &'static str {
        "linear-probe"
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let fit = Fit {
            x: problem.labelled.features.clone(),
            targets: problem.labelled.one_hot(problem.classes),
            weights: None,
            iterations: ITERATIONS,
        };
        let (classifier, c) = search(&fit, &problem.validation, &|x| x);
        let scores = classifier.logits(problem.queries.clone());
        Ok(Answer { scores, chosen: vec![("C", c)] })
    }
}

/// The best classifier over C; `map` is what a validation picture goes through first.
pub(super) fn search(
    fit: &Fit,
    validation: &Option<Labelled>,
    map: &dyn Fn(Tensor<2>) -> Tensor<2>,
) -> (LinearClassifier, f64) {
    let ([_, dim], [_, classes]) = (fit.x.dims(), fit.targets.dims());
    let zero = LinearClassifier::zero(dim, classes, &fit.x);
    let Some(split) = validation else { return (fit.run(&zero, DEFAULT), DEFAULT) };
    let seen = map(split.features.clone());
    let judge = |c: &LinearClassifier| quality(c.logits(seen.clone()), split);
    let mut best = Best::none();
    let mut last = zero;
    for c in GRID {
        last = fit.run(&last, c);
        best.offer(judge(&last), || (last.clone(), c));
    }
    let Some((start, peak)) = best.clone().take() else { return (last, DEFAULT) };
    let (mut left, mut right) = (peak / 10.0, peak * 10.0);
    let mut at = [left, right].map(|c| fit.run(&start, c));
    let mut judged = at.each_ref().map(judge);
    for step in 0..=HALVINGS {
        best.offer(judged[0], || (at[0].clone(), left));
        best.offer(judged[1], || (at[1].clone(), right));
        if step == HALVINGS {
            break;
        }
        let middle = (left * right).sqrt();
        let worse = usize::from(judged[0] > judged[1]);
        let side = if worse == 0 { &mut left } else { &mut right };
        *side = middle;
        at[worse] = fit.run(&at[worse], middle);
        judged[worse] = judge(&at[worse]);
    }
    best.take().unwrap_or((last, DEFAULT))
}
