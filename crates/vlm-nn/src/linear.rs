//! Linear maps.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::ops;
use crate::params::blank;

/// `y = x W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`, the transpose of what PyTorch stores.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A blank map.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device) -> Self {
        Linear {
            weight: blank([input, output], device),
            bias: bias.then(|| blank([output], device)),
        }
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}
