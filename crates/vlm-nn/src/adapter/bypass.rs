//! What stands in place of an attention.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use serde::{Deserialize, Serialize};

use super::Part;
use crate::ops;

/// A way past an attention, or in front of one that stays (efficient attention skipping, Wu et al. 2024,
/// arXiv 2403.15226). It hangs on the map that makes the attention's queries.
///
/// With both, `skips` says which of them it is at the time.
#[derive(Module, Debug)]
pub struct Bypass {
    /// In place of the attention, which is not computed then and keeps nothing of what it saw.
    pub instead: Option<Propagation>,
    /// In front of the attention.
    pub front: Option<Propagation>,
    /// What is left of `instead` once the feed-forward has taken it up.
    pub folded: Option<Folded>,
    /// The number of the attention among those that may be skipped.
    #[module(skip)]
    pub layer: usize,
    /// The attentions that are skipped, while that is still open.
    #[module(skip)]
    pub skips: Option<Skips>,
}

impl Bypass {
    /// What it is at the time.
    pub fn now(&self) -> Option<Past<'_>> {
        if let Some(folded) = &self.folded {
            return Some(Past::Folded(folded));
        }
        let skipped = match &self.skips {
            Some(skips) => skips.contains(self.layer),
            None => self.instead.is_some(),
        };
        match skipped {
            true => self.instead.as_ref().map(Past::Instead),
            false => self.front.as_ref().map(Past::Front),
        }
    }
}

/// What is to be done at an attention.
#[derive(Clone, Copy, Debug)]
pub enum Past<'a> {
    /// It is skipped, and this stands in its place.
    Instead(&'a Propagation),
    /// The same, taken up by the feed-forward.
    Folded(&'a Folded),
    /// It stays, with this in front of it.
    Front(&'a Propagation),
}

/// What is left of a [`Propagation`] in place of an attention once its feed-forward has taken it up: what is heard of
/// other tokens goes straight to the feed-forward's inner values, and so do constants.
#[derive(Module, Debug)]
pub struct Folded {
    /// Which norm makes the rows.
    #[module(skip)]
    pub norm: NormOf,
    /// A, to the mean.
    pub global: Map,
    /// From the mean to what is added in front of the activation.
    pub up: Map,
    /// The same of the gate.
    pub gate: Option<Map>,
}

impl Folded {
    /// What is added to the inner values, and to those of the gate, for the normed `x: [batch, tokens, width]`.
    pub fn heard(
        &self,
        x: Tensor<3>,
        mean: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> (Tensor<3>, Option<Tensor<3>>) {
        let mean = mean(self.global.forward(x));
        let gate = self.gate.as_ref().map(|gate| gate.forward(mean.clone()));
        (self.up.forward(mean), gate)
    }
}

/// What a feed-forward's first maps become with a [`Propagation`] in front of them.
#[derive(Debug)]
pub struct Fold {
    /// The new maps `[width, inner]`, in the order in which they were given.
    pub weights: Vec<Tensor<2>>,
    /// What is left.
    pub left: Folded,
}

impl Propagation {
    /// Takes this up in the maps `[width, inner]` behind it: that of the inner values, and that of the gate if there is
    /// one. Between may stand a factor for each value, `[width]`, and perhaps a constant.
    ///
    /// `None` if it has a router: its weights differ from token to token, and no map is all of them.
    pub fn folded(
        &self,
        maps: &[Tensor<2>],
        stretch: Option<(Tensor<1>, Option<Tensor<1>>)>,
    ) -> Option<Fold> {
        let (Some(global), None) = (&self.global, &self.router) else { return None };
        let (local, bias) = (self.local.weight.val(), self.local.bias.val());
        let [groups, input, output] = self.up.weight.val().dims();
        // B as one matrix, [inner, width].
        let part = |group: usize| {
            let own = self.up.weight.val().narrow(0, group, 1).reshape([input, output]);
            let device = own.device();
            let beside = |count: usize| Tensor::<2>::zeros([input, count * output], &device);
            Tensor::cat(vec![beside(group), own, beside(groups - 1 - group)], 1)
        };
        let up = Tensor::cat((0..groups).map(part).collect(), 0);
        let half = 0.5 * self.scale;
        let (width, device) = (groups * output, local.device());
        let straight = Tensor::<2>::eye(width, &device) + local.matmul(up.clone()) * half;
        let still = bias.unsqueeze::<2>().matmul(up.clone()).reshape([width]) * half
            + self.up.bias.val() * self.scale;
        let heard = up * half;
        let (still, heard, straight) = match stretch {
            Some((factors, constant)) => {
                let still = still * factors.clone();
                let factors = factors.unsqueeze::<2>();
                let still = match constant {
                    Some(constant) => still + constant,
                    None => still,
                };
                (still, heard * factors.clone(), straight * factors)
            }
            None => (still, heard, straight),
        };
        let map = |weight: &Tensor<2>| {
            let inner = weight.dims()[1];
            Map {
                weight: Param::from_tensor(heard.clone().matmul(weight.clone())),
                bias: Param::from_tensor(
                    still.clone().unsqueeze::<2>().matmul(weight.clone()).reshape([inner]),
                ),
            }
        };
        let mut left = maps.iter().map(map);
        let up = left.next()?;
        Some(Fold {
            weights: maps.iter().map(|weight| straight.clone().matmul(weight.clone())).collect(),
            left: Folded { norm: self.norm, global: global.clone(), up, gate: left.next() },
        })
    }
}

/// The attentions that are skipped, shared by all bypasses of an adapter: to be changed from step to
/// step.
#[derive(Clone, Debug, Default)]
pub struct Skips(Arc<RwLock<BTreeSet<usize>>>);

impl Skips {
    /// Skips these from now on.
    pub fn set(&self, layers: impl IntoIterator<Item = usize>) {
        let layers = layers.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = layers;
    }

    /// Whether one of them is.
    pub fn contains(&self, layer: usize) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&layer)
    }
}

/// A map with a bias, `x W + b`.
#[derive(Module, Debug)]
pub struct Map {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Map {
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

/// A map in groups: each part of what comes in makes the same part of what goes out, and no other.
#[derive(Module, Debug)]
pub struct Grouped {
    /// `[groups, in / groups, out / groups]`.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Grouped {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let ([batch, tokens, _], [groups, input, output]) = (x.dims(), self.weight.val().dims());
        let x = x.reshape([batch * tokens, groups, input]).swap_dims(0, 1);
        let y = x.matmul(self.weight.val()).swap_dims(0, 1);
        y.reshape([batch, tokens, groups * output]) + self.bias.val().unsqueeze()
    }
}

/// `x + s (w₀ B z + w₁ D z)`, where `z = ½ (mean of A x + C x)` (the information propagation of EAS): what a
/// token hears of those before it, in a few values. Without A, `z = C x` (the adapter of RepAdapter, Luo et al.
/// 2023, arXiv 2302.08106).
///
/// The mean is over what the attention would have seen from that token, itself included: the same whether a text
/// is read at once or token by token, alone or among others. `w` is a softmax of a map of the mean of `x`. In
/// place of an attention to other rows, A is of those rows ([`across`](Self::across)).
#[derive(Module, Debug)]
pub struct Propagation {
    /// A, to the mean.
    pub global: Option<Map>,
    /// C, of the token itself.
    pub local: Map,
    /// B.
    pub up: Grouped,
    /// D, and what weighs the two; B alone counts without.
    pub other: Option<Grouped>,
    /// Makes w.
    pub router: Option<Map>,
    /// s.
    #[module(skip)]
    pub scale: f64,
    /// What the logits of w are divided by.
    #[module(skip)]
    pub temperature: f64,
    /// Share of z that is dropped in training.
    #[module(skip)]
    pub dropout: f64,
    /// In place of a block's attention, which norm makes `x`.
    #[module(skip)]
    pub norm: NormOf,
}

/// Which of a block's norms makes the rows that what stands in place of its attention hands on to the feed-forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormOf {
    /// The attention's, stretched as the feed-forward's stretches, as in the code of EAS: the feed-forward sees
    /// other rows than it has learned to see where the attention's norm stretches values unevenly.
    Attention,
    /// The feed-forward's: at the start, the block is what it was, less its attention.
    #[default]
    FeedForward,
}

impl Propagation {
    /// `x: [batch, tokens, width]` to the same; `mean` gives for each token the mean over what it sees.
    pub fn forward(&self, x: Tensor<3>, mean: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        x.clone() + self.said(x, mean)
    }

    /// What it adds to `x`.
    pub fn said(&self, x: Tensor<3>, mean: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let width = x.dims()[2];
        let local = self.local.forward(x.clone());
        let narrow = local.dims()[2];
        let of_all = self.told(x.clone());
        let asked = of_all.iter().chain(self.router.as_ref().map(|_| &x)).cloned();
        let asked: Vec<Tensor<3>> = asked.collect();
        let means = if asked.is_empty() { None } else { Some(mean(Tensor::cat(asked, 2))) };
        let z = match (&means, of_all) {
            (Some(means), Some(_)) => (means.clone().narrow(2, 0, narrow) + local) * 0.5,
            _ => local,
        };
        let seen = means.filter(|_| self.router.is_some()).map(|means| {
            let from = means.dims()[2] - width;
            means.narrow(2, from, width)
        });
        self.mixed(z, seen)
    }

    /// A of the rows that an attention would look at.
    pub fn told(&self, rows: Tensor<3>) -> Option<Tensor<3>> {
        self.global.as_ref().map(|global| global.forward(rows))
    }

    /// What it says in place of an attention to other rows: `z = ½ (heard + C x)`, where `heard: [batch, tokens
    /// or 1, inner]` is the mean of what was [`told`](Self::told) over what each token would have seen, and `w`
    /// is of the token itself.
    pub fn across(&self, x: Tensor<3>, heard: Option<Tensor<3>>) -> Tensor<3> {
        let local = self.local.forward(x.clone());
        let shape = local.dims();
        let z = match heard {
            Some(heard) => (heard.expand(shape) + local) * 0.5,
            None => local,
        };
        self.mixed(z, Some(x))
    }

    /// `s (w₀ B z + w₁ D z)`, `w` by what was seen.
    fn mixed(&self, z: Tensor<3>, seen: Option<Tensor<3>>) -> Tensor<3> {
        let z = super::dropped(z, self.dropout);
        let said = match (&self.other, &self.router, seen) {
            (Some(other), Some(router), Some(seen)) => {
                let w = softmax(router.forward(seen) / self.temperature, 2);
                let said = self.up.forward(z.clone());
                let shape = said.dims();
                let share = |which| w.clone().narrow(2, which, 1).expand(shape);
                said * share(0) + other.forward(z) * share(1)
            }
            _ => self.up.forward(z),
        };
        said * self.scale
    }
}

/// The mean of `rows: [batch, keys, width]` over those that a mask which is added to scores, `[batch or 1,
/// queries or 1, keys]`, leaves to be seen: `[batch, queries or 1, width]`, 0 where it leaves none.
pub fn mean_of_shown(rows: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
    let Some(mask) = mask else { return rows.mean_dim(1) };
    let ([batch, keys, _], queries) = (rows.dims(), mask.dims()[1]);
    let sees = mask.greater_equal_elem(ops::MASKED / 2.0).float();
    let count = sees.clone().sum_dim(2).clamp_min(1.0);
    sees.expand([batch, queries, keys]).matmul(rows) / count
}

/// What is to be done at an attention whose queries this weight makes.
pub fn bypass(weight: &Param<Tensor<2>>) -> Option<Past<'_>> {
    let parts = super::active(weight).filter_map(|part| match part {
        Part::Bypass(part) => part.now(),
        _ => None,
    });
    parts.last()
}
