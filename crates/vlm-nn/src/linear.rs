//! Linear maps.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::adapter::Adapters;
use crate::ops;
use crate::params::blank;

/// `y = x W + b`, with what [adapters](crate::adapter) make of it.
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
        let bias = self.bias.as_ref().map(Param::val);
        match self.weight.reparameterization::<Adapters>() {
            Some(adapters) => adapters.forward(x, &self.weight, bias),
            None => ops::linear(x, self.weight.val(), bias),
        }
    }
}
