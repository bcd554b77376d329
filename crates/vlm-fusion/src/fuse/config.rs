//! Which fusion a model has, as its configuration says it.

use serde::{Deserialize, Serialize};

use super::{
    CoAttentionConfig, GatedConfig, LinearConfig, MergedConfig, MlpConfig, PixelShuffleConfig,
    QFormerConfig, ResamplerConfig, pool,
};
use crate::Error;

/// A fusion strategy and its choices: `{"kind": "resampler", "latents": 32}`. What is left out has
/// the published value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FusionConfig {
    /// One linear map (LLaVA 1, PaliGemma).
    Linear(LinearConfig),
    /// Two linear maps (LLaVA 1.5).
    Mlp(MlpConfig),
    /// Squares of patches, and a linear map (Idefics 3, SmolVLM).
    PixelShuffle(PixelShuffleConfig),
    /// Perceiver resampler (Flamingo, Idefics2).
    Resampler(ResamplerConfig),
    /// Q-Former (BLIP-2).
    QFormer(QFormerConfig),
    /// Gated cross-attention (Flamingo).
    Gated(GatedConfig),
    /// Co-attention (METER, ViLBERT).
    CoAttention(CoAttentionConfig),
    /// Merged attention (ViLT).
    Merged(MergedConfig),
}

impl FusionConfig {
    /// The kind's name, as in a configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            FusionConfig::Linear(_) => "linear",
            FusionConfig::Mlp(_) => "mlp",
            FusionConfig::PixelShuffle(_) => "pixel-shuffle",
            FusionConfig::Resampler(_) => "resampler",
            FusionConfig::QFormer(_) => "q-former",
            FusionConfig::Gated(_) => "gated",
            FusionConfig::CoAttention(_) => "co-attention",
            FusionConfig::Merged(_) => "merged",
        }
    }

    /// Whether a module can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the kind and the key.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            FusionConfig::Linear(config) => config.check(),
            FusionConfig::Mlp(config) => config.check(),
            FusionConfig::PixelShuffle(config) => config.check(),
            FusionConfig::Resampler(config) => config.check("resampler"),
            FusionConfig::QFormer(config) => config.check(),
            FusionConfig::Gated(config) => config.check(),
            FusionConfig::CoAttention(config) => config.check(),
            FusionConfig::Merged(config) => config.check(),
        }
    }

    /// How many places of the decoder's sequence a picture takes, of so many patches in a grid; of
    /// gated cross-attention the one of the mark that says where the picture comes.
    pub fn rows(&self, patches: usize, grid: (usize, usize)) -> usize {
        let squares = |side| match side {
            1 => patches,
            _ => {
                let (rows, cols) = pool::pooled(grid, side);
                rows * cols
            }
        };
        match self {
            FusionConfig::Linear(config) => squares(config.pool),
            FusionConfig::Mlp(config) => squares(config.pool),
            FusionConfig::PixelShuffle(config) => {
                (grid.0 / config.factor) * (grid.1 / config.factor)
            }
            FusionConfig::Resampler(config) => config.latents,
            FusionConfig::QFormer(config) => config.queries,
            FusionConfig::Gated(_) => 1,
            FusionConfig::CoAttention(config) => squares(config.pool),
            FusionConfig::Merged(config) => squares(config.pool),
        }
    }

    /// Rows of a picture that stand beside the decoder's sequence.
    pub fn rows_beside(&self) -> usize {
        match self {
            FusionConfig::Gated(config) => config.resampler.latents,
            _ => 0,
        }
    }

    /// Whether what a picture becomes depends on the question: then it cannot be kept for another
    /// one, nor can questions be packed behind it.
    pub fn reads_question(&self) -> bool {
        match self {
            FusionConfig::QFormer(config) => config.text,
            FusionConfig::CoAttention(_) | FusionConfig::Merged(_) => true,
            _ => false,
        }
    }
}

/// Checks of the choices of one kind.
pub(super) struct Checks(pub &'static str);

impl Checks {
    fn wrong(&self, reason: String) -> Error {
        Error::Fusion { kind: self.0, reason }
    }

    pub fn positive(&self, key: &str, value: usize) -> Result<&Self, Error> {
        match value {
            0 => Err(self.wrong(format!("{key} is 0; give 1 or more"))),
            _ => Ok(self),
        }
    }

    pub fn divides(
        &self,
        key: &str,
        value: usize,
        whole_key: &str,
        whole: usize,
    ) -> Result<&Self, Error> {
        if whole.is_multiple_of(value) {
            return Ok(self);
        }
        Err(self.wrong(format!(
            "{whole_key} = {whole} is no multiple of {key} = {value}; change one of them"
        )))
    }
}
