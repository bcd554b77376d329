//! One linear map (LLaVA 1, Liu et al. 2023, arXiv 2304.08485; PaliGemma, Beyer et al. 2024,
//! arXiv 2407.07726).
//!
//! Choose it where the decoder is trained with it and data is plenty; with frozen towers an
//! [MLP](super::mlp) aligns better for little more.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::Linear;

use super::config::Checks;
use super::pool;
use crate::Error;

/// The choices of a [`LinearFusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearConfig {
    /// Whether there is a bias.
    pub bias: bool,
    /// Squares of so many patches a side become one row, their mean.
    pub pool: usize,
}

impl Default for LinearConfig {
    fn default() -> Self {
        LinearConfig { bias: true, pool: 1 }
    }
}

impl LinearConfig {
    /// Whether a map can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("linear").positive("pool", self.pool)?;
        Ok(())
    }
}

/// `y = x W + b`, a row for each patch or square.
#[derive(Module, Debug)]
pub struct LinearFusion {
    /// `[vision width, text width]`.
    pub linear: Linear,
    pool: usize,
}

impl LinearFusion {
    /// A blank map.
    pub fn new(config: &LinearConfig, vision: usize, text: usize, device: &Device) -> Self {
        let linear = Linear::new(vision, text, config.bias, device);
        LinearFusion { linear, pool: config.pool }
    }

    /// `[pictures, patches, vision width]` of a grid to `[pictures, patches or squares, text width]`.
    pub fn forward(&self, picture: Tensor<3>, grid: (usize, usize)) -> Tensor<3> {
        self.linear.forward(pool::average(picture, grid, self.pool))
    }
}
