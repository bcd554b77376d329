//! Label propagation (Zhou et al. 2004; on features: Iscen et al. 2019, arXiv 1904.04717).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::choose::{Best, quality};
use super::graph::{Graph, neighbours, shares, solve};
use super::linear::{Fit, LinearClassifier};
#[cfg(test)]
use super::problem::host;
use super::problem::{Answer, Method, Problem};
use crate::Error;
use crate::loss::normalize;

/// Labels spread over a graph of near neighbours of the labelled and the unlabelled pictures. A
/// query hears from its neighbours in the graph, and so is no part of it, unless the problem is
/// transductive. Beside what it hears stands what a linear classifier says that learns what was
/// spread, each picture weighted by its certainty; the answer is the mean of both, as logarithms
/// of shares: the one follows the neighbours where classes are ragged, the other sees through
/// where they are few, and a validation split of a few pictures is no judge between them.
///
/// It decides whether unlabelled pictures are used at all: those whose classes come in other
/// shares than the labels do can lead astray.
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
    /// How much an unlabelled picture that is certain counts there, beside a labelled one.
    pub trusts: Vec<f32>,
}

impl Default for LabelPropagation {
    fn default() -> Self {
        LabelPropagation {
            neighbours: vec![20, 10, 50],
            gammas: vec![3.0, 1.0, 8.0],
            alphas: vec![0.9, 0.99],
            cs: vec![1.0, 10.0, 100.0],
            trusts: vec![1.0, 0.3],
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
        let unlabelled = problem.pool.is_some() || problem.transductive;
        let choose = problem.validation.is_some();
        let mut best = Best::none();
        for open in [true, false] {
            if open != unlabelled && !(unlabelled && choose) {
                continue;
            }
            let nodes = Nodes::new(problem, open, self.most());
            let found = self.spread(&nodes, problem, open);
            let spread = found.take().ok_or(Error::NoPictures)?;
            let taught = self.taught(&nodes, &spread, problem);
            let judged = taught.quality().unwrap_or_default();
            let (classifier, c) = taught.take().ok_or(Error::NoPictures)?;
            best.offer(judged, || {
                let near = nodes.near(&problem.queries, self.most());
                let heard = spread.answer(&near, problem.classes);
                let heard = matrix(heard, problem.classes, &problem.device());
                let said = classifier.logits(nodes.centred(&problem.queries));
                let unlabelled = f64::from(u8::from(open));
                let chosen = vec![
                    ("neighbours", spread.k as f64),
                    ("gamma", f64::from(spread.gamma)),
                    ("alpha", f64::from(spread.alpha)),
                    ("unlabelled", unlabelled),
                    ("C", c),
                ];
                (mean(heard, said), chosen)
            });
        }
        let (scores, chosen) = best.take().ok_or(Error::NoPictures)?;
        Ok(Answer { scores, chosen })
    }
}

/// The pictures that labels spread over, the labelled ones first.
struct Nodes {
    /// `[pictures, dim]`, centred, rows of length 1.
    features: Tensor<2>,
    /// All features of a tower share a direction, beside which classes look alike.
    mean: Tensor<2>,
    /// The neighbours of each.
    nearest: Vec<Vec<(u32, f32)>>,
}

impl Nodes {
    /// With the unlabelled pictures or without.
    fn new(problem: &Problem<'_>, open: bool, neighbours: usize) -> Self {
        let mut parts = vec![problem.labelled.features.clone()];
        if open {
            parts.extend(problem.pool.as_ref().map(|pool| pool.features.clone()));
            parts.extend(problem.transductive.then(|| problem.queries.clone()));
        }
        let all = Tensor::cat(parts, 0);
        let mean = all.clone().mean_dim(0);
        let features = normalize(all - mean.clone());
        let nearest = self::neighbours(&features, &features, neighbours, true);
        Nodes { features, mean, nearest }
    }

    fn centred(&self, x: &Tensor<2>) -> Tensor<2> {
        normalize(x.clone() - self.mean.clone())
    }

    /// The nearest of these to other pictures.
    fn near(&self, x: &Tensor<2>, neighbours: usize) -> Vec<Vec<(u32, f32)>> {
        self::neighbours(&self.centred(x), &self.features, neighbours, false)
    }
}

fn matrix(values: Vec<f32>, classes: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / classes;
    Tensor::from_data(TensorData::new(values, [rows, classes]), device)
}

impl LabelPropagation {
    fn most(&self) -> usize {
        self.neighbours.iter().copied().max().unwrap_or(1)
    }

    /// The best way of spreading; the first without a validation split.
    fn spread(&self, nodes: &Nodes, problem: &Problem<'_>, open: bool) -> Best<Spread> {
        let (labels, classes) = (&problem.labelled.labels, problem.classes);
        let split = problem.validation.as_ref();
        let near = split.map(|split| nodes.near(&split.features, self.most()));
        let mut known = vec![0f32; nodes.nearest.len() * classes];
        for (row, label) in labels.iter().enumerate() {
            known[row * classes + label] = 1.0;
        }
        let choose = split.is_some();
        // Where classes are not alike in number, evening them out does harm.
        let evened: &[bool] = if open { &[true, false] } else { &[true] };
        let mut best = Best::none();
        for k in Self::tried(&self.neighbours, choose) {
            for gamma in Self::tried(&self.gammas, choose) {
                let graph = Graph::new(&nodes.nearest, *k, *gamma);
                for alpha in Self::tried(&self.alphas, choose) {
                    let solved = solve(&graph, &known, classes, *alpha);
                    for evened in Self::tried(evened, choose) {
                        let mut f = solved.clone();
                        if *evened {
                            even(&mut f, classes, labels);
                        }
                        let graph = graph.clone();
                        let spread = Spread { graph, k: *k, gamma: *gamma, alpha: *alpha, f };
                        let judged = match (split, &near) {
                            (Some(split), Some(near)) => {
                                let scores = spread.answer(near, classes);
                                quality(matrix(scores, classes, &problem.device()), split)
                            }
                            _ => (0.0, 0.0),
                        };
                        best.offer(judged, || spread);
                    }
                }
            }
        }
        best
    }

    /// A linear classifier that learns what was spread, the best beside the graph.
    fn taught(
        &self,
        nodes: &Nodes,
        spread: &Spread,
        problem: &Problem<'_>,
    ) -> Best<(LinearClassifier, f64)> {
        let (labelled, classes) = (&problem.labelled, problem.classes);
        let (mut targets, certainty) = shares(&spread.f, classes);
        for (row, label) in labelled.labels.iter().enumerate() {
            targets[row * classes..][..classes].fill(0.0);
            targets[row * classes + label] = 1.0;
        }
        let (device, rows) = (nodes.features.device(), certainty.len());
        let seen = problem.validation.as_ref().map(|split| {
            let heard = spread.answer(&nodes.near(&split.features, self.most()), classes);
            (split, nodes.centred(&split.features), matrix(heard, classes, &device))
        });
        let only_labelled = rows == labelled.len();
        let trusts = Self::tried(&self.trusts, seen.is_some() && !only_labelled);
        let mut best = Best::none();
        for trust in trusts {
            let weigh = |(row, certain): (usize, &f32)| {
                if row < labelled.len() { 1.0 } else { certain * trust }
            };
            let weights: Vec<f32> = certainty.iter().enumerate().map(weigh).collect();
            let fit = Fit {
                x: nodes.features.clone(),
                targets: matrix(targets.clone(), classes, &device),
                weights: Some(Tensor::from_data(TensorData::new(weights, [rows]), &device)),
                iterations: 60,
            };
            let mut last = LinearClassifier::zero(nodes.features.dims()[1], classes, &fit.x);
            for c in Self::tried(&self.cs, seen.is_some()) {
                last = fit.run(&last, *c);
                let judged = seen.as_ref().map_or((0.0, 0.0), |(split, seen, heard)| {
                    quality(mean(heard.clone(), last.logits(seen.clone())), split)
                });
                best.offer(judged, || (last.clone(), *c));
            }
        }
        best
    }
}

/// Of logarithms of shares and of logits, `[pictures, classes]` both.
fn mean(heard: Tensor<2>, said: Tensor<2>) -> Tensor<2> {
    (heard + log_softmax(said, 1)) / 2.0
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
