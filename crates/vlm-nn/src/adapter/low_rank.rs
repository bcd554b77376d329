//! Low-rank terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::dropped;
use crate::ops;

/// How strongly a term counts: LoRA's α over the rank that is in use, or over its root (rsLoRA,
/// Kalajdzievski 2023, arXiv 2312.03732).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// α.
    pub alpha: f64,
    /// Whether it is divided by the root of the rank.
    pub rooted: bool,
}

impl Scaling {
    /// The factor of a term of that rank.
    pub fn factor(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.alpha / if self.rooted { rank.sqrt() } else { rank }
    }
}

/// Which ranks of a term are in use (DyLoRA, Valipour et al. 2022, arXiv 2210.07558). Clones share
/// it, so that one choice reaches all terms of an adapter.
#[derive(Clone, Debug)]
pub struct Ranks {
    used: Arc<AtomicUsize>,
    last_learns: bool,
}

impl Default for Ranks {
    /// All ranks, and all of them learn.
    fn default() -> Self {
        Ranks { used: Arc::new(AtomicUsize::new(usize::MAX)), last_learns: false }
    }
}

impl Ranks {
    /// The same ranks, of which the last one in use learns alone, or not.
    pub fn last_learning(&self, last_learns: bool) -> Self {
        Ranks { used: self.used.clone(), last_learns }
    }

    /// How many are in use; of a term with fewer, all.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Uses so many from now on, in all terms that share this.
    pub fn use_first(&self, ranks: usize) {
        self.used.store(ranks, Ordering::Relaxed);
    }
}

/// `W + s A B` (LoRA, Hu et al. 2021, arXiv 2106.09685), each output of it stretched to a learned
/// length if there is a magnitude (DoRA, Liu et al. 2024, arXiv 2402.09353).
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[in, rank]`, the transpose of what peft stores.
    pub a: Param<Tensor<2>>,
    /// `[rank, out]`, likewise.
    pub b: Param<Tensor<2>>,
    /// `[out]`.
    pub magnitude: Option<Param<Tensor<1>>>,
    /// s.
    #[module(skip)]
    pub scaling: Scaling,
    /// Ranks in use; `None` for all.
    #[module(skip)]
    pub ranks: Option<Ranks>,
    /// Share of the inputs that this term does not see in training.
    #[module(skip)]
    pub dropout: f64,
}

impl LowRank {
    /// The magnitude at which a DoRA term without effect leaves the weight as it is.
    pub fn resting_magnitude(weight: Tensor<2>) -> Tensor<1> {
        let [_, output] = weight.dims();
        lengths(weight).reshape([output])
    }

    /// `[in, used]` and `s · [used, out]`.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let (a, b) = (self.a.val(), self.b.val());
        let [input, rank] = a.dims();
        let [_, output] = b.dims();
        let Some(ranks) = &self.ranks else {
            return (a, b * self.scaling.factor(rank));
        };
        let used = ranks.used().clamp(1, rank);
        let factor = self.scaling.factor(used);
        if !ranks.last_learns || used == 1 {
            return (a.slice([0..input, 0..used]), b.slice([0..used, 0..output]) * factor);
        }
        let last = used - 1;
        let a_done = a.clone().slice([0..input, 0..last]).detach();
        let b_done = b.clone().slice([0..last, 0..output]).detach();
        let a = Tensor::cat(vec![a_done, a.slice([0..input, last..used])], 1);
        let b = Tensor::cat(vec![b_done, b.slice([last..used, 0..output])], 0);
        (a, b * factor)
    }

    /// The weight with the term, of the weight without it.
    pub(super) fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let (a, b) = self.factors();
        let sum = weight + a.matmul(b);
        match &self.magnitude {
            None => sum,
            Some(magnitude) => {
                let stretch = magnitude.val().unsqueeze::<2>() / lengths(sum.clone().detach());
                sum * stretch
            }
        }
    }

    /// The same on `x: [rows, in]`. `rest` is the map without the term, `plain` its weight.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        bias: Option<Tensor<1>>,
        rest: impl Fn(Tensor<2>, Option<Tensor<1>>) -> Tensor<2>,
        plain: impl FnOnce() -> Tensor<2>,
    ) -> Tensor<2> {
        let (a, b) = self.factors();
        let drops = self.dropout > 0.0 && x.is_autodiff();
        let seen = dropped(x.clone(), self.dropout);
        let term = |x: Tensor<2>| ops::linear(ops::linear(x, a.clone(), None), b.clone(), None);
        let Some(magnitude) = &self.magnitude else {
            return rest(x, bias) + term(seen);
        };
        // Lengths are taken as they are: no gradient passes through them (section 4.3 of the paper).
        let weight = plain().detach() + a.clone().detach().matmul(b.clone().detach());
        let stretch = magnitude.val().unsqueeze::<2>() / lengths(weight);
        if drops {
            // What the stretch changes of the plain map sees the thinned input; the plain map does not.
            let thinned = rest(seen.clone(), None) * (stretch.clone() - 1.0);
            return rest(x, bias) + thinned + term(seen) * stretch;
        }
        let y = (rest(x, None) + term(seen)) * stretch;
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }
}

/// The length of what leads to each output, `[1, out]`.
pub(super) fn lengths(weight: Tensor<2>) -> Tensor<2> {
    (weight.clone() * weight).sum_dim(0).sqrt()
}
