//! Learned factors of inputs or outputs.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// What a [`Scale`] multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes in: the way for the last map of a feed-forward.
    Input,
    /// What comes out, the bias included: the way for keys and values.
    Output,
}

/// A factor for each input or output (IA³, Liu et al. 2022, arXiv 2205.05638).
#[derive(Module, Debug)]
pub struct Scale {
    /// `[in]` or `[out]`.
    pub factors: Param<Tensor<1>>,
    /// Which of them.
    #[module(skip)]
    pub side: Side,
}

impl Scale {
    /// The weight with the factors, of the weight without them. What they do to a bias,
    /// [`forward`](Self::forward) alone can do.
    pub(super) fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let factors = self.factors.val().unsqueeze::<2>();
        weight
            * match self.side {
                Side::Input => factors.transpose(),
                Side::Output => factors,
            }
    }

    /// The same on `x: [rows, in]`; `rest` is the map without the factors.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        rest: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let factors = self.factors.val().unsqueeze::<2>();
        match self.side {
            Side::Input => rest(x * factors),
            Side::Output => rest(x) * factors,
        }
    }
}
