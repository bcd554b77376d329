//! The dual encoder.

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use vlm_nn::Linear;
use vlm_nn::params::blank;
use vlm_store::TensorFiles;

use super::ClipConfig;
use super::names::named;
use super::start::{self, Start};
use crate::checkpoint::Named;
use crate::towers::{TextTower, VisionTower};
use crate::{Error, checkpoint};

/// An image tower and a text tower that meet in one space.
#[derive(Module, Debug)]
pub struct ClipModel {
    /// Pictures.
    pub vision: VisionTower,
    /// Texts.
    pub text: TextTower,
    /// `[vision width, dim]`, no bias.
    pub visual_projection: Linear,
    /// `[text width, dim]`, no bias.
    pub text_projection: Linear,
    /// `[1]`, the logarithm of what similarities are multiplied by.
    pub logit_scale: Param<Tensor<1>>,
}

impl ClipModel {
    /// A blank model, which takes no memory before it is loaded or initialised.
    pub fn new(config: &ClipConfig, device: &Device) -> Self {
        let (v, t) = (&config.vision, &config.text);
        ClipModel {
            vision: VisionTower::new(
                &v.block(),
                v.num_hidden_layers,
                v.image_size,
                v.patch_size,
                v.num_channels,
                device,
            ),
            text: TextTower::new(
                &t.block(),
                t.num_hidden_layers,
                t.vocab_size,
                t.max_position_embeddings,
                device,
            ),
            visual_projection: Linear::new(v.hidden_size, config.projection_dim, false, device),
            text_projection: Linear::new(t.hidden_size, config.projection_dim, false, device),
            logit_scale: blank([1], device),
        }
    }

    /// A model with start values, which depend on nothing but `start` and the seed.
    pub fn init(config: &ClipConfig, start: Start, seed: u64, device: &Device) -> Self {
        start::fill(Self::new(config, device), config, start, seed)
    }

    /// A model loaded from a checkpoint.
    ///
    /// # Errors
    /// If a tensor is missing, surplus or misshapen (all are listed), or the file fails.
    pub fn load(config: &ClipConfig, files: &TensorFiles, device: &Device) -> Result<Self, Error> {
        // Blanks own no memory, whatever their shape, but the list of them does.
        for (tower, layers) in [
            ("vision_model", config.vision.num_hidden_layers),
            ("text_model", config.text.num_hidden_layers),
        ] {
            check_layers(tower, layers, files)?;
        }
        checkpoint::load(Self::new(config, device), files, &Self::names(config))
    }

    /// Where each parameter lies in a file.
    pub fn names(config: &ClipConfig) -> impl Fn(&str) -> Named {
        let (channels, patch) = (config.vision.num_channels, config.vision.patch_size);
        move |path| named(path, channels, patch)
    }

    /// `[batch, channels, image, image]` to features `[batch, dim]`, not normalised.
    pub fn image_features(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        self.visual_projection.forward(self.vision.forward(pixels, keep))
    }

    /// Token ids `[batch, tokens]` and the place of each end token `[batch]` to features
    /// `[batch, dim]`, not normalised.
    pub fn text_features(&self, ids: Tensor<2, Int>, ends: Tensor<1, Int>) -> Tensor<2> {
        self.text_projection.forward(self.text.forward(ids, ends))
    }

    /// L2-normalised image features `[batch, dim]`.
    pub fn encode_images(&self, pixels: Tensor<4>) -> Tensor<2> {
        normalize(self.image_features(pixels, None))
    }

    /// L2-normalised text features `[batch, dim]`.
    pub fn encode_texts(&self, ids: Tensor<2, Int>, ends: Tensor<1, Int>) -> Tensor<2> {
        normalize(self.text_features(ids, ends))
    }

    /// What similarities are multiplied by.
    pub fn scale(&self) -> f32 {
        let value: f32 = self.logit_scale.val().into_scalar();
        value.exp()
    }
}

/// Compares a number of layers with the file's before a module of that many is built. A few too
/// many are let pass: their tensors are then listed as missing.
fn check_layers(tower: &str, layers: usize, files: &TensorFiles) -> Result<(), Error> {
    let prefix = format!("{tower}.encoder.layers.");
    let found: BTreeSet<&str> =
        files.names().filter_map(|name| name.strip_prefix(&prefix)?.split('.').next()).collect();
    if layers <= found.len() + 4 {
        return Ok(());
    }
    let found = found.len();
    Err(Error::Config {
        path: files.path().to_owned(),
        reason: format!("config.json wants {layers} layers in {tower}, the file has {found}"),
    })
}

/// Divides each row by its length.
fn normalize(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(1e-12);
    x / length
}
