//! Feed-forward layers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::Linear;
use crate::adapter;
use crate::ops::{self, Activation};

/// `down(act(up(x)))`, or gated `down(act(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Module, Debug)]
pub struct FeedForward {
    /// To the inner width.
    pub up: Linear,
    /// The gate, if there is one.
    pub gate: Option<Linear>,
    /// Back to the width.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    /// Blank maps.
    pub fn new(
        width: usize,
        inner: usize,
        gated: bool,
        bias: bool,
        activation: Activation,
        device: &Device,
    ) -> Self {
        FeedForward {
            up: Linear::new(width, inner, bias, device),
            gate: gated.then(|| Linear::new(width, inner, bias, device)),
            down: Linear::new(inner, width, bias, device),
            activation,
        }
    }

    /// What stands between its maps.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// `[..., width]` to the same, with something added to the inner values and to those of the gate.
    pub fn forward_with(
        &self,
        x: Tensor<3>,
        (more, of_gate): (Tensor<3>, Option<Tensor<3>>),
    ) -> Tensor<3> {
        let inner = self.up.forward(x.clone()) + more;
        let inner = match (&self.gate, of_gate) {
            (Some(gate), Some(of_gate)) => {
                ops::gated(gate.forward(x) + of_gate, inner, self.activation)
            }
            (Some(gate), None) => ops::gated(gate.forward(x), inner, self.activation),
            (None, _) => ops::activate(inner, self.activation),
        };
        self.down.forward(inner)
    }

    /// `[..., width]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let beside = adapter::around(&self.up.weight, &x);
        let inner = match &self.gate {
            None => ops::activate(self.up.forward(x), self.activation),
            Some(gate) => ops::gated(gate.forward(x.clone()), self.up.forward(x), self.activation),
        };
        let y = self.down.forward(inner);
        match beside {
            Some(beside) => y + beside,
            None => y,
        }
    }
}
