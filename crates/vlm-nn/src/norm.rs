//! Norms over the last dimension.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::ops;
use crate::params::blank;

/// Which statistic a [`Norm`] divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean taken out, divided by the standard deviation; with a bias.
    Layer,
    /// Divided by the root mean square; without a bias.
    Rms,
    /// The same with the weight counted from 1, as Gemma stores it.
    RmsFromOne,
}

/// Layer norm or RMS norm.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`; layer norm only.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added under the root.
    pub eps: f64,
    from_one: bool,
}

impl Norm {
    /// A blank norm; its weight must be loaded or initialised to be of use.
    pub fn new(kind: NormKind, width: usize, eps: f64, device: &Device) -> Self {
        Norm {
            weight: blank([width], device),
            bias: (kind == NormKind::Layer).then(|| blank([width], device)),
            eps,
            from_one: kind == NormKind::RmsFromOne,
        }
    }

    /// Only what it multiplies by, and the bias: nothing is divided.
    pub fn stretched(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val() + if self.from_one { 1.0 } else { 0.0 };
        let y = x * weight.unsqueeze();
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// `[..., width]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.bias {
            Some(bias) => ops::layer_norm(x, self.weight.val(), bias.val(), self.eps),
            None if self.from_one => ops::rms_norm(x, self.weight.val() + 1.0, self.eps),
            None => ops::rms_norm(x, self.weight.val(), self.eps),
        }
    }
}
