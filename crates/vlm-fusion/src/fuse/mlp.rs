//! Two linear maps with an activation between (LLaVA 1.5, Liu et al. 2023, arXiv 2310.03744).
//!
//! Choose it first: it keeps every patch, trains in minutes between frozen towers, and most models
//! that people use have it. Its price is a place in the decoder's sequence for each patch; `pool`,
//! a [pixel shuffle](super::pixel_shuffle) or a [resampler](super::resampler) leaves fewer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::{Activation, Linear, ops};

use super::config::Checks;
use super::pool;
use crate::Error;

/// The choices of an [`MlpFusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Between the maps.
    pub activation: Activation,
    /// Whether the maps have biases.
    pub bias: bool,
    /// Squares of so many patches a side become one row, their mean.
    pub pool: usize,
}

impl Default for MlpConfig {
    fn default() -> Self {
        MlpConfig { activation: Activation::Gelu, bias: true, pool: 1 }
    }
}

impl MlpConfig {
    /// Whether the maps can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("mlp").positive("pool", self.pool)?;
        Ok(())
    }
}

/// `y = f(x U) D`, a row for each patch or square, as wide inside as the decoder.
#[derive(Module, Debug)]
pub struct MlpFusion {
    /// `[vision width, text width]`.
    pub up: Linear,
    /// `[text width, text width]`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
    pool: usize,
}

impl MlpFusion {
    /// Blank maps.
    pub fn new(config: &MlpConfig, vision: usize, text: usize, device: &Device) -> Self {
        MlpFusion {
            up: Linear::new(vision, text, config.bias, device),
            down: Linear::new(text, text, config.bias, device),
            activation: config.activation,
            pool: config.pool,
        }
    }

    /// `[pictures, patches, vision width]` of a grid to `[pictures, patches or squares, text width]`.
    pub fn forward(&self, picture: Tensor<3>, grid: (usize, usize)) -> Tensor<3> {
        let picture = pool::average(picture, grid, self.pool);
        self.down.forward(ops::activate(self.up.forward(picture), self.activation))
    }
}
