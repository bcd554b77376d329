//! A graph of near neighbours, and labels that spread over it.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::problem::host;

/// Rows whose similarities are looked at together.
const CHUNK: usize = 512;
/// Rounds of conjugate gradients at most.
const ROUNDS: usize = 60;
/// Where they stop: the residual's length over that of the labels.
const CLOSE: f64 = 1e-5;

/// The `k` nearest of `nodes` for each of `rows`, nearest first, with the cosine. `own` tells that
/// row i is node i, which is then no neighbour of itself.
pub(super) fn neighbours(
    rows: &Tensor<2>,
    nodes: &Tensor<2>,
    k: usize,
    own: bool,
) -> Vec<Vec<(u32, f32)>> {
    let ([count, _], [all, _]) = (rows.dims(), nodes.dims());
    let nodes = nodes.clone().transpose();
    let k = k.min(if own { all.saturating_sub(1) } else { all });
    let mut found = Vec::with_capacity(count);
    for start in (0..count).step_by(CHUNK) {
        let taken = CHUNK.min(count - start);
        let cosines = host(rows.clone().narrow(0, start, taken).matmul(nodes.clone()));
        found.par_extend(cosines.par_chunks(all).enumerate().map(|(i, row)| {
            let others = row.iter().enumerate().filter(|(j, _)| !(own && *j == start + i));
            let mut list: Vec<(u32, f32)> = others.map(|(j, cos)| (j as u32, *cos)).collect();
            let nearest = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            if k < list.len() {
                list.select_nth_unstable_by(k, nearest);
                list.truncate(k);
            }
            list.sort_by(nearest);
            list
        }));
    }
    found
}

/// A symmetric graph with normalised weights, `S = D^-½ W D^-½`.
#[derive(Clone, Debug)]
pub struct Graph {
    /// For each node its neighbours and the weights of S.
    edges: Vec<Vec<(u32, f32)>>,
    /// `D^-½`.
    scale: Vec<f32>,
}

impl Graph {
    /// From each node's nearest with their cosines: the weight is `max(cos, 0)^gamma`, and an edge
    /// holds both ways (Iscen et al. 2019, arXiv 1904.04717: `W = A + Aᵀ`).
    pub(super) fn new(nearest: &[Vec<(u32, f32)>], k: usize, gamma: f32) -> Self {
        let mut weights: Vec<Vec<(u32, f32)>> = vec![Vec::new(); nearest.len()];
        for (i, list) in nearest.iter().enumerate() {
            for (j, cos) in &list[..k.min(list.len())] {
                let weight = affinity(*cos, gamma);
                weights[i].push((*j, weight));
                weights[*j as usize].push((i as u32, weight));
            }
        }
        Self::of(weights)
    }

    /// From weights; those of one pair are added.
    pub fn of(mut edges: Vec<Vec<(u32, f32)>>) -> Self {
        for list in &mut edges {
            list.sort_by_key(|edge| edge.0);
            list.dedup_by(|b, a| {
                a.0 == b.0 && {
                    a.1 += b.1;
                    true
                }
            });
        }
        let sums = edges.iter().map(|list| list.iter().map(|edge| edge.1).sum::<f32>());
        // A node without neighbours keeps what it knows.
        let scale: Vec<f32> =
            sums.map(|sum| if sum > 0.0 { sum.powf(-0.5) } else { 0.0 }).collect();
        for (i, list) in edges.iter_mut().enumerate() {
            for (j, weight) in list {
                *weight *= scale[i] * scale[*j as usize];
            }
        }
        Graph { edges, scale }
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// What a node that is not of the graph hears from it: `Σ max(cos, 0)^gamma · Fⱼ / √dⱼ`, one
    /// step of the spreading. `spread: [nodes, classes]`.
    pub(super) fn hear(&self, near: &[(u32, f32)], gamma: f32, spread: &[f32]) -> Vec<f32> {
        let classes = spread.len() / self.len().max(1);
        let mut heard = vec![0f32; classes];
        for (j, cos) in near {
            let j = *j as usize;
            let weight = affinity(*cos, gamma) * self.scale[j];
            for (heard, f) in heard.iter_mut().zip(&spread[j * classes..]) {
                *heard += weight * f;
            }
        }
        heard
    }

    /// `(I − αS) x`.
    fn apply(&self, x: &[f32], alpha: f32, classes: usize) -> Vec<f32> {
        let mut out = x.to_vec();
        out.par_chunks_mut(classes).zip(&self.edges).for_each(|(out, list)| {
            for (j, weight) in list {
                let weight = alpha * weight;
                for (out, x) in out.iter_mut().zip(&x[*j as usize * classes..]) {
                    *out -= weight * x;
                }
            }
        });
        out
    }
}

fn affinity(cos: f32, gamma: f32) -> f32 {
    cos.max(0.0).powf(gamma)
}

/// `F = (I − αS)^-1 Y` (Zhou et al. 2004), by conjugate gradients for all classes at a time.
/// `labels: [nodes, classes]`, row after row.
pub fn solve(graph: &Graph, labels: &[f32], classes: usize, alpha: f32) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| -> Vec<f64> {
        let mut sums = vec![0f64; classes];
        for (a, b) in a.chunks_exact(classes).zip(b.chunks_exact(classes)) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        sums
    };
    let add = |to: &mut [f32], step: &[f64], x: &[f32]| {
        for (to, x) in to.chunks_exact_mut(classes).zip(x.chunks_exact(classes)) {
            for (to, (step, x)) in to.iter_mut().zip(step.iter().zip(x)) {
                *to += *step as f32 * x;
            }
        }
    };
    let over = |a: &[f64], b: &[f64]| -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect()
    };
    let mut f = vec![0f32; labels.len()];
    let mut residual = labels.to_vec();
    let mut direction = residual.clone();
    let mut size = dot(&residual, &residual);
    let wanted: Vec<f64> = size.iter().map(|size| size * CLOSE * CLOSE).collect();
    for _ in 0..ROUNDS {
        if size.iter().zip(&wanted).all(|(size, wanted)| size <= wanted) {
            break;
        }
        let applied = graph.apply(&direction, alpha, classes);
        let step = over(&size, &dot(&direction, &applied));
        add(&mut f, &step, &direction);
        let back: Vec<f64> = step.iter().map(|step| -step).collect();
        add(&mut residual, &back, &applied);
        let next = dot(&residual, &residual);
        let turn = over(&next, &size);
        let mut turned = residual.clone();
        add(&mut turned, &turn, &direction);
        (direction, size) = (turned, next);
    }
    f
}

/// Shares of each row that sum to 1, and how certain they are: `1 − entropy / ln classes`. A row
/// that nothing reached knows nothing.
pub(super) fn shares(spread: &[f32], classes: usize) -> (Vec<f32>, Vec<f32>) {
    let mut shares = Vec::with_capacity(spread.len());
    let mut certainty = Vec::with_capacity(spread.len() / classes.max(1));
    for row in spread.chunks_exact(classes) {
        let sum: f32 = row.iter().map(|f| f.max(0.0)).sum();
        let p = |f: &f32| if sum > 0.0 { f.max(0.0) / sum } else { 1.0 / classes as f32 };
        let row: Vec<f32> = row.iter().map(p).collect();
        let entropy: f32 = row.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        certainty.push((1.0 - entropy / (classes.max(2) as f32).ln()).clamp(0.0, 1.0));
        shares.extend(row);
    }
    (shares, certainty)
}
