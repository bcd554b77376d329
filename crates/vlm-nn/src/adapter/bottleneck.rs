//! Narrow layers around a linear map.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

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
}

/// `f(x) = up(act(down(x)))` in front of, behind or beside a linear map (LLM-Adapters, Hu et al. 2023,
/// arXiv 2304.01933).
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
        }
    }

    fn narrow(&self, x: Tensor<2>) -> Tensor<2> {
        let inner = ops::activate(x.matmul(self.down.val()), self.activation);
        super::dropped(inner.matmul(self.up.val()) * self.scale, self.dropout)
    }
}
