//! Fusion strategies: how what an image tower sees reaches a language model.

pub mod linear;
pub mod mlp;
pub mod pixel_shuffle;

pub use linear::{LinearConfig, LinearFusion};
pub use mlp::{MlpConfig, MlpFusion};
pub use pixel_shuffle::{PixelShuffleConfig, PixelShuffleFusion};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A question as the decoder looks it up, `[pictures, tokens, text width]`, and what hides its
/// padding.
pub type Question = (Tensor<3>, Option<Tensor<3>>);

/// A fusion strategy and its choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FusionConfig {
    /// One linear map.
    Linear(LinearConfig),
    /// Two linear maps.
    Mlp(MlpConfig),
    /// Squares of patches, and a linear map.
    PixelShuffle(PixelShuffleConfig),
}

/// A fusion strategy.
#[derive(Module, Debug)]
pub enum Fusion {
    /// One linear map.
    Linear(LinearFusion),
    /// Two linear maps.
    Mlp(MlpFusion),
    /// Squares of patches, and a linear map.
    PixelShuffle(PixelShuffleFusion),
}

impl Fusion {
    /// A blank module between towers of these widths.
    ///
    /// # Errors
    /// If the choices fit no module.
    pub fn new(
        config: &FusionConfig,
        vision_width: usize,
        text_width: usize,
        device: &Device,
    ) -> Result<Self, Error> {
        let (vision, text) = (vision_width, text_width);
        Ok(match config {
            FusionConfig::Linear(config) => {
                Fusion::Linear(LinearFusion::new(config, vision, text, device))
            }
            FusionConfig::Mlp(config) => Fusion::Mlp(MlpFusion::new(config, vision, text, device)),
            FusionConfig::PixelShuffle(config) => {
                Fusion::PixelShuffle(PixelShuffleFusion::new(config, vision, text, device))
            }
        })
    }

    /// What the decoder needs of pictures: `[pictures, patches, vision width]` of a grid to
    /// `[pictures, rows, text width]`.
    pub fn fuse(
        &self,
        picture: Tensor<3>,
        grid: (usize, usize),
        _question: Option<Question>,
    ) -> Tensor<3> {
        match self {
            Fusion::Linear(module) => module.forward(picture),
            Fusion::Mlp(module) => module.forward(picture),
            Fusion::PixelShuffle(module) => module.forward(picture, grid),
        }
    }

    /// How many places of the decoder's sequence a picture of this grid takes.
    pub fn rows(&self, grid: (usize, usize)) -> usize {
        match self {
            Fusion::Linear(_) | Fusion::Mlp(_) => grid.0 * grid.1,
            Fusion::PixelShuffle(module) => (grid.0 / module.factor()) * (grid.1 / module.factor()),
        }
    }
}
