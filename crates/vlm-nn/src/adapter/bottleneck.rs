//! Narrow layers around a linear map.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::Part;
use crate::ops::{self, Activation};

/// Where a [`Bottleneck`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In front of the map, with a residual: `y = W (x + s f(x))`.
    Before,
    /// Behind it, with a residual: `h = W x; y = h + s f(h)`.
    After,
    /// Beside it: `y = W x + s f(x)`.
    Beside,
    /// Beside the whole feed-forward whose inner map it hangs on: `y = FF(x) + s f(x)`.
    Around,
}

/// `f(x) = up(act(down(x)))` in front of, behind or beside a linear map (LLM-Adapters, Hu et al. 2023,
/// arXiv 2304.01933), or beside a feed-forward (He et al. 2021, arXiv 2110.04366).
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// `[in, narrow]`; of one behind the map, `[out, narrow]`.
    pub down: Param<Tensor<2>>,
    /// `[narrow, in]`, or `[narrow, out]` behind and beside the map.
    pub up: Param<Tensor<2>>,
    /// Between the two.
    #[module(skip)]
    pub activation: Activation,
    /// s.
    #[module(skip)]
    pub scale: f64,
    /// Where it stands.
    #[module(skip)]
    pub place: Place,
    /// Share of what it says that is dropped in training.
    #[module(skip)]
    pub dropout: f64,
}

impl Bottleneck {
    /// `x: [rows, in]` through the map `rest` with the bottleneck.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        rest: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        match self.place {
            Place::Before => rest(x.clone() + self.narrow(x)),
            Place::After => {
                let y = rest(x);
                y.clone() + self.narrow(y)
            }
            Place::Beside => rest(x.clone()) + self.narrow(x),
            // The feed-forward asks for it.
            Place::Around => rest(x),
        }
    }

    fn narrow<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inner = ops::activate(ops::linear(x, self.down.val(), None), self.activation);
        super::dropped(ops::linear(inner, self.up.val(), None) * self.scale, self.dropout)
    }
}

/// What is said beside the feed-forward whose inner map this weight is.
pub fn around<const D: usize>(weight: &Param<Tensor<2>>, x: &Tensor<D>) -> Option<Tensor<D>> {
    let said = super::active(weight).filter_map(|part| match part {
        Part::Bottleneck(part) if part.place == Place::Around => Some(part.narrow(x.clone())),
        _ => None,
    });
    said.reduce(|sum, more| sum + more)
}
