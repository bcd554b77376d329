//! Fusion strategies: how what an image tower sees reaches a language model.
//!
//! | kind | rows in the decoder's sequence | reads the question | choose it |
//! |---|---|---|---|
//! | [`linear`] | as many as patches or squares | no | when the decoder is trained with it |
//! | [`mlp`] | as many as patches or squares | no | first |
//! | [`pixel_shuffle`] | a part of the patches | no | with a small decoder or many pictures |
//! | [`resampler`] | as many as latents | no | for a set number of rows, whatever the picture's size |
//! | [`q_former`] | as many as queries | if asked to | with frozen towers on both sides and much data |
//! | [`gated`] | none | no | for many pictures, or a language model that must not change |
//! | [`co_attention`] | as many as patches or squares | yes | when the question decides what matters |
//! | [`merged`] | as many as patches or squares | yes | the same with fewer weights |
//!
//! [`Fusion`] is any of them, built of a [`FusionConfig`]. Prefix-LM is not a kind: it is any of them
//! with a decoder that lets the prompt see itself both ways ([`masks::prefix`](crate::masks::prefix)).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use vlm_fusion::fuse::{Fusion, FusionConfig};
//!
//! let config: FusionConfig = serde_json::from_str(r#"{"kind": "mlp", "pool": 2}"#)?;
//! let device = Device::flex();
//! let fusion = Fusion::init(&config, 384, 576, 30, 7, &device)?;
//! let picture = Tensor::zeros([1, 256, 384], &device); // 16 by 16 patches
//! assert_eq!(fusion.fuse(picture, (16, 16), None).dims(), [1, 64, 576]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod beside;
pub mod co_attention;
mod config;
mod connection;
mod fit;
pub mod gated;
pub mod linear;
pub mod merged;
pub mod mlp;
pub mod names;
pub mod pixel_shuffle;
mod places;
pub mod pool;
pub mod q_former;
pub mod resampler;
mod start;

pub use beside::Beside;
pub use co_attention::{CoAttention, CoAttentionConfig, CoAttentionFusion, CoStyle};
pub use config::FusionConfig;
pub use connection::Connection;
pub(crate) use fit::rms;
pub use gated::{GatedBlocks, GatedConfig, GatedFusion, Memory, Recent};
pub use linear::{LinearConfig, LinearFusion};
pub use merged::{Merged, MergedConfig, MergedFusion};
pub use mlp::{MlpConfig, MlpFusion};
pub use pixel_shuffle::{PixelShuffleConfig, PixelShuffleFusion};
pub use q_former::{QFormer, QFormerConfig, QFormerFusion};
pub use resampler::{Resampler, ResamplerConfig, ResamplerFusion, ResamplerStyle};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::Error;

/// A question as the decoder looks it up, `[pictures, tokens, text width]`, and what hides its
/// padding, `[pictures or 1, 1, tokens]`: 0 for tokens, [`MASKED`](vlm_nn::ops::MASKED) for others.
///
/// Never the answer: what is fused stands before it.
pub type Question = (Tensor<3>, Option<Tensor<3>>);

/// A fusion strategy.
#[derive(Module, Debug)]
// A model has one.
#[allow(clippy::large_enum_variant)]
pub enum Fusion {
    /// One linear map.
    Linear(LinearFusion),
    /// Two linear maps.
    Mlp(MlpFusion),
    /// Squares of patches, and a linear map.
    PixelShuffle(PixelShuffleFusion),
    /// Perceiver resampler.
    Resampler(ResamplerFusion),
    /// Q-Former.
    QFormer(QFormerFusion),
    /// Gated cross-attention: what makes the memories, and the blocks that look at them.
    Gated(GatedFusion),
    /// Co-attention.
    CoAttention(CoAttentionFusion),
    /// Merged attention.
    Merged(MergedFusion),
}

impl Fusion {
    /// A blank module between towers of these widths, for a decoder of `text_layers` blocks.
    ///
    /// # Errors
    /// [`Error::Fusion`] if the choices fit no module.
    pub fn new(
        config: &FusionConfig,
        vision_width: usize,
        text_width: usize,
        text_layers: usize,
        device: &Device,
    ) -> Result<Self, Error> {
        config.check()?;
        let (vision, text) = (vision_width, text_width);
        Ok(match config {
            FusionConfig::Linear(config) => {
                Fusion::Linear(LinearFusion::new(config, vision, text, device))
            }
            FusionConfig::Mlp(config) => Fusion::Mlp(MlpFusion::new(config, vision, text, device)),
            FusionConfig::PixelShuffle(config) => {
                Fusion::PixelShuffle(PixelShuffleFusion::new(config, vision, text, device))
            }
            FusionConfig::Resampler(config) => {
                Fusion::Resampler(ResamplerFusion::new(config, vision, text, device))
            }
            FusionConfig::QFormer(config) => {
                Fusion::QFormer(QFormerFusion::new(config, vision, text, device))
            }
            FusionConfig::Gated(config) => Fusion::Gated(GatedFusion {
                resampler: Resampler::new(&config.resampler, vision, device),
                gates: GatedBlocks::new(config, vision, text, text_layers, device)?,
            }),
            FusionConfig::CoAttention(config) => {
                Fusion::CoAttention(CoAttentionFusion::new(config, vision, text, device))
            }
            FusionConfig::Merged(config) => {
                Fusion::Merged(MergedFusion::new(config, vision, text, device))
            }
        })
    }

    /// What the decoder needs of pictures.
    ///
    /// - `picture: [pictures, patches, vision width]`, the patches of `grid` (rows, columns), row
    ///   after row, without class tokens
    /// - `question`: see [`Question`]; kinds that read none leave it
    ///
    /// Returns `[pictures, rows, text width]`, to stand in the decoder's sequence; of gated
    /// cross-attention the memories `[pictures, latents, vision width]` for [`Beside`].
    ///
    /// # Panics
    /// If the grid has not as many patches as the picture, in kinds that look at it.
    pub fn fuse(
        &self,
        picture: Tensor<3>,
        grid: (usize, usize),
        question: Option<Question>,
    ) -> Tensor<3> {
        match self {
            Fusion::Linear(module) => module.forward(picture, grid),
            Fusion::Mlp(module) => module.forward(picture, grid),
            Fusion::PixelShuffle(module) => module.forward(picture, grid),
            Fusion::Resampler(module) => module.forward(picture),
            Fusion::QFormer(module) => module.forward(picture, question),
            Fusion::Gated(module) => module.resampler.forward(picture, None),
            Fusion::CoAttention(module) => module.forward(picture, grid, question),
            Fusion::Merged(module) => module.forward(picture, grid, question),
        }
    }

    /// The number of values that it learns.
    pub fn parameters(&self) -> usize {
        count(self)
    }
}

/// The number of values in a module, without making blank ones.
pub fn count<M: Module>(module: &M) -> usize {
    vlm_nn::params::list(module).iter().map(vlm_nn::params::ParamInfo::len).sum()
}
