//! One linear map (LLaVA 1, Liu et al. 2023, arXiv 2304.08485; PaliGemma, Beyer et al. 2024,
//! arXiv 2407.07726).
//!
//! Choose it where the decoder is trained with it and data is plenty; with frozen towers an
//! [MLP](super::mlp) aligns better for little more.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::Linear;

/// The choices of a [`LinearFusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearConfig {
    /// Whether there is a bias.
    pub bias: bool,
}

impl Default for LinearConfig {
    fn default() -> Self {
        LinearConfig { bias: true }
    }
}

/// `y = x W + b`, a row for each patch.
#[derive(Module, Debug)]
pub struct LinearFusion {
    /// `[vision width, text width]`.
    pub linear: Linear,
}

impl LinearFusion {
    /// A blank map.
    pub fn new(config: &LinearConfig, vision: usize, text: usize, device: &Device) -> Self {
        LinearFusion { linear: Linear::new(vision, text, config.bias, device) }
    }

    /// `[pictures, patches, vision width]` to `[pictures, patches, text width]`.
    pub fn forward(&self, picture: Tensor<3>) -> Tensor<3> {
        self.linear.forward(picture)
    }
}
