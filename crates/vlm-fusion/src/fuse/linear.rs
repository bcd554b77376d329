//! One linear map (LLaVA 1, Liu et al. 2023, arXiv 2304.08485; PaliGemma, Beyer et al. 2024,
//! arXiv 2407.07726).
//!
//! Choose it where the decoder is trained with it and data is plenty; with frozen towers an
//! [MLP](super::mlp) aligns better for little more.

use super::pool;
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
    /// Side of the squares of patches whose mean becomes one row; 1 for a row each.
    pub pool: usize,
}

impl Default for LinearConfig {
    fn default() -> Self {
        LinearConfig { bias: true, pool: 1 }
    }
}

/// `y = x W + b`, a row for each patch.
#[derive(Module, Debug)]
pub struct LinearFusion {
    /// `[vision width, text width]`.
    pub linear: Linear,
    pool: usize,
}

impl LinearFusion {
    /// A blank map.
    pub fn new(config: &LinearConfig, vision: usize, text: usize, device: &Device) -> Self {
        LinearFusion { linear: Linear::new(vision, text, config.bias, device), pool: config.pool }
    }

    /// Side of the squares of patches that become one row.
    pub fn pool(&self) -> usize {
        self.pool
    }

    /// `[pictures, patches, vision width]` to `[pictures, rows, text width]`; squares are those of
    /// the grid (rows, columns).
    ///
    /// # Panics
    /// If patches are pooled, and the grid does not have as many.
    pub fn forward(&self, picture: Tensor<3>, grid: (usize, usize)) -> Tensor<3> {
        let picture = match self.pool {
            1 => picture,
            side => pool::average(picture, grid, side),
        };
        self.linear.forward(picture)
    }
}
