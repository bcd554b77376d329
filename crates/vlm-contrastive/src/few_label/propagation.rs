//! Label propagation (Zhou et al. 2004; on features: Iscen et al. 2019, arXiv 1904.04717).

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::choose::{Best, quality};
use super::graph::{Graph, neighbours, shares, solve};
use super::linear::{Fit, LinearClassifier};
#[cfg(test)]
use super::problem::host;
use super::problem::{Answer, Labelled, Method, Problem};
use crate::Error;
use crate::loss::normalize;

/// Labels spread over a graph of near neighbours of the labelled and the unlabelled pictures. A
/// query hears from its neighbours in the graph, and so is no part of it, unless the problem is
/// transductive. Beside that answer stands one of a linear classifier that learns what was
/// spread, each picture weighted by its certainty; the validation split decides between them.
///
/// Without unlabelled pictures it is the vote of the nearest labelled ones.
#[derive(Clone, Debug)]
pub struct LabelPropagation {
    /// Neighbours of a picture; the first of each list is taken without a validation split.
    pub neighbours: Vec<usize>,
    /// Exponents on the cosine.
    pub gammas: Vec<f32>,
    /// How far labels spread.
    pub alphas: Vec<f32>,
    /// C of the linear classifier.
    pub cs: Vec<f64>,
}

impl Default for LabelPropagation {
    fn default() -> Self {
        LabelPropagation {
            neighbours: vec![20, 10, 50],
            gammas: vec![3.0, 1.0, 8.0],
            alphas: vec![0.9, 0.99],
            cs: vec![1.0, 10.0, 100.0],
        }
    }
}

/// What spread under some settings.
struct Spread {
    graph: Graph,
    k: usize,
    gamma: f32,
    alpha: f32,
    /// `[nodes, classes]`.
    f: Vec<f32>,
}

impl Spread {
    /// What each query hears, `[queries, classes]`, as logarithms of shares.
    fn answer(&self, near: &[Vec<(u32, f32)>], classes: usize) -> Vec<f32> {
        let heard: Vec<f32> = near
            .par_iter()
            .flat_map_iter(|near| {
                self.graph.hear(&near[..self.k.min(near.len())], self.gamma, &self.f)
            })
            .collect();
        logs(&heard, classes)
    }
}

fn logs(spread: &[f32], classes: usize) -> Vec<f32> {
    let (shares, _) = shares(spread, classes);
    shares.into_iter().map(|p| (p + 1e-6).ln()).collect()
}

/// Evens out what the classes got in all (Zhu et al. 2003: class mass normalisation), as the
/// labelled pictures have them. A class with many neighbours would take all else.
fn even(f: &mut [f32], classes: usize, labels: &[usize]) {
    let mut mass = vec![0f64; classes];
    for row in f.chunks_exact(classes) {
        for (mass, f) in mass.iter_mut().zip(row) {
            *mass += f64::from(*f);
        }
    }
    let mut prior = vec![0f64; classes];
    for label in labels {
        prior[*label] += 1.0 / labels.len() as f64;
    }
    for row in f.chunks_exact_mut(classes) {
        for (f, (mass, prior)) in row.iter_mut().zip(mass.iter().zip(&prior)) {
            if *mass > 0.0 {
                *f *= (prior / mass) as f32;
            }
        }
    }
}

impl LabelPropagation {
    fn tried<T: Clone>(list: &[T], choose: bool) -> &[T] {
        if choose { list } else { &list[..list.len().min(1)] }
    }
}

impl Method for LabelPropagation {
    fn name(&self) -> &'static str {
        "label-propagation"
    }

    fn uses_pool(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let (labelled, classes) = (&problem.labelled, problem.classes);
        let mut parts = vec![labelled.features.clone()];
        parts.extend(problem.pool.as_ref().map(|pool| pool.features.clone()));
        if problem.transductive {
            parts.push(problem.queries.clone());
        }
        let nodes = Tensor::cat(parts, 0);
        let count = nodes.dims()[0];
        // All features of a tower share a direction, beside which classes look alike.
        let mean = nodes.clone().mean_dim(0);
        let centred = |x: &Tensor<2>| normalize(x.clone() - mean.clone());
        let nodes = centred(&nodes);
        let most = self.neighbours.iter().copied().max().unwrap_or(1);
        let near = neighbours(&nodes, &nodes, most, true);
        let of = |x: &Tensor<2>| neighbours(&centred(x), &nodes, most, false);
        let split = problem.validation.as_ref();
        let split_near = split.map(|split| of(&split.features));

        let mut known = vec![0f32; count * classes];
        for (row, label) in labelled.labels.iter().enumerate() {
            known[row * classes + label] = 1.0;
        }
        let device = problem.device();
        let matrix = |values: Vec<f32>| -> Tensor<2> {
            let rows = values.len() / classes;
            Tensor::from_data(TensorData::new(values, [rows, classes]), &device)
        };
        let choose = split.is_some();
        let mut best = Best::none();
        for k in Self::tried(&self.neighbours, choose) {
            for gamma in Self::tried(&self.gammas, choose) {
                let graph = Graph::new(&near, *k, *gamma);
                for alpha in Self::tried(&self.alphas, choose) {
                    let mut f = solve(&graph, &known, classes, *alpha);
                    even(&mut f, classes, &labelled.labels);
                    let spread =
                        Spread { graph: graph.clone(), k: *k, gamma: *gamma, alpha: *alpha, f };
                    let judged = match (split, &split_near) {
                        (Some(split), Some(near)) => {
                            quality(matrix(spread.answer(near, classes)), split)
                        }
                        _ => (0.0, 0.0),
                    };
                    best.offer(judged, || spread);
                }
            }
        }
        let judged = best.quality();
        let spread = best.take().ok_or(Error::NoPictures)?;
        let mut chosen = vec![
            ("neighbours", spread.k as f64),
            ("gamma", f64::from(spread.gamma)),
            ("alpha", f64::from(spread.alpha)),
        ];
        if let (Some(_), Some(split), Some(judged)) = (&problem.pool, split, judged)
            && let Some((classifier, c)) =
                self.taught(&nodes, &spread, labelled, split, &centred, judged)
        {
            chosen.push(("C", c));
            let scores = classifier.logits(centred(&problem.queries));
            return Ok(Answer { scores, chosen });
        }
        let scores = matrix(spread.answer(&of(&problem.queries), classes));
        Ok(Answer { scores, chosen })
    }
}

impl LabelPropagation {
    /// A linear classifier that learnt what was spread, if the validation split finds it better
    /// than the graph.
    fn taught(
        &self,
        nodes: &Tensor<2>,
        spread: &Spread,
        labelled: &Labelled,
        split: &Labelled,
        centred: &dyn Fn(&Tensor<2>) -> Tensor<2>,
        graph: (f64, f64),
    ) -> Option<(LinearClassifier, f64)> {
        let classes = spread.f.len() / spread.graph.len();
        let (mut targets, mut weights) = shares(&spread.f, classes);
        for (row, label) in labelled.labels.iter().enumerate() {
            targets[row * classes..][..classes].fill(0.0);
            targets[row * classes + label] = 1.0;
            weights[row] = 1.0;
        }
        let (device, rows) = (nodes.device(), weights.len());
        let fit = Fit {
            x: nodes.clone(),
            targets: Tensor::from_data(TensorData::new(targets, [rows, classes]), &device),
            weights: Some(Tensor::from_data(TensorData::new(weights, [rows]), &device)),
            iterations: 60,
        };
        let seen = centred(&split.features);
        let mut last = LinearClassifier::zero(nodes.dims()[1], classes, nodes);
        let mut best = Best::none();
        best.offer(graph, || None);
        for c in &self.cs {
            last = fit.run(&last, *c);
            best.offer(quality(last.logits(seen.clone()), split), || Some((last.clone(), *c)));
        }
        best.take().flatten()
    }
}

/// `F = (I − αS)^-1 Y` with `W = exp(−d² / 2σ²)` between all points.
#[cfg(test)]
pub(super) fn dense(points: Tensor<2>, sigma: f32, alpha: f32, labels: &[f32]) -> Vec<f32> {
    let [count, dim] = points.dims();
    let points = host(points);
    let weight = |i: usize, j: usize| {
        let (a, b) = (&points[i * dim..][..dim], &points[j * dim..][..dim]);
        let square: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        (j as u32, (-square / (2.0 * sigma * sigma)).exp())
    };
    let edges = (0..count)
        .map(|i| (0..count).filter(|j| *j != i).map(|j| weight(i, j)).collect())
        .collect();
    solve(&Graph::of(edges), labels, labels.len() / count, alpha)
}
