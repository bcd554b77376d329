//! Two linear maps with an activation between (LLaVA 1.5, Liu et al. 2023, arXiv 2310.03744).
//!
//! Choose it first: it keeps every patch, trains in minutes between frozen towers, and most models
//! that people use have it. Its price is a place in the decoder's sequence for each patch; a
//! [pixel shuffle](super::pixel_shuffle) or a resampler needs fewer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::{Activation, Linear, ops};

/// The choices of an [`MlpFusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Between the maps.
    pub activation: Activation,
    /// Whether the maps have biases.
    pub bias: bool,
}

impl Default for MlpConfig {
    fn default() -> Self {
        MlpConfig { activation: Activation::Gelu, bias: true }
    }
}

/// `y = f(x U) D`, a row for each patch, as wide inside as the decoder.
#[derive(Module, Debug)]
pub struct MlpFusion {
    /// `[vision width, text width]`.
    pub up: Linear,
    /// `[text width, text width]`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl MlpFusion {
    /// Blank maps.
    pub fn new(config: &MlpConfig, vision: usize, text: usize, device: &Device) -> Self {
        MlpFusion {
            up: Linear::new(vision, text, config.bias, device),
            down: Linear::new(text, text, config.bias, device),
            activation: config.activation,
        }
    }

    /// `[pictures, patches, vision width]` to `[pictures, patches, text width]`.
    pub fn forward(&self, picture: Tensor<3>) -> Tensor<3> {
        self.down.forward(ops::activate(self.up.forward(picture), self.activation))
    }
}
