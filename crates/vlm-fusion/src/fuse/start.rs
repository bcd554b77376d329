//! The values that a new fusion module starts with.
//!
//! | what | start | as in |
//! |---|---|---|
//! | maps of resampler and gated blocks, and of rows into the decoder | uniform ±1/√in | open_flamingo, LLaVA |
//! | all other maps | normal, 0.02 | BLIP-2, METER, ViLT |
//! | latents | normal, 1 | open_flamingo |
//! | queries, rows of types | normal, 0.02 | BLIP-2, METER, ViLT |
//! | gates, biases | 0 | |
//! | norms | 1 | |

use burn::tensor::Device;
use vlm_nn::params::{self, Init};

use super::{Fusion, FusionConfig, GatedBlocks, GatedConfig};
use crate::Error;

impl Fusion {
    /// A module with start values, which depend on nothing but the choices and the seed.
    ///
    /// # Errors
    /// [`Error::Fusion`] if the choices fit no module.
    pub fn init(
        config: &FusionConfig,
        vision_width: usize,
        text_width: usize,
        text_layers: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let module = Fusion::new(config, vision_width, text_width, text_layers, device)?;
        let narrow = matches!(
            config,
            FusionConfig::QFormer(_) | FusionConfig::CoAttention(_) | FusionConfig::Merged(_)
        );
        Ok(params::initialize(module, seed, &|path, shape| start(path, shape, narrow)))
    }
}

impl GatedBlocks {
    /// Blocks with start values: gates at 0, so that the decoder says what it said without them.
    ///
    /// # Errors
    /// [`Error::Fusion`] if the choices fit no decoder, or not this one.
    pub fn init(
        config: &GatedConfig,
        vision_width: usize,
        text_width: usize,
        layers: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let blocks = GatedBlocks::new(config, vision_width, text_width, layers, device)?;
        Ok(params::initialize(blocks, seed, &|path, shape| start(path, shape, false)))
    }
}

/// `narrow`: whether maps are normal with 0.02, save the one into the decoder.
fn start(path: &str, shape: &[usize], narrow: bool) -> Init {
    let name = path.rsplit('.').next().unwrap_or(path);
    let into_decoder = path.split('.').nth(1) == Some("out");
    match name {
        "gate1" | "gate2" | "bias" => Init::Constant(0.0),
        "weight" if shape.len() == 1 => Init::Constant(1.0),
        "latents" => Init::Normal(1.0),
        "weight" if into_decoder || !narrow => Init::Uniform((shape[0] as f64).powf(-0.5)),
        _ => Init::Normal(0.02),
    }
}
