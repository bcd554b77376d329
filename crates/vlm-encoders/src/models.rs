//! The modules that a folder can hold: an image tower, a text tower, or both.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use vlm_nn::Linear;
use vlm_nn::params::blank;

use crate::families::DualSpec;
use crate::towers::{States, TextSpec, TextTower, VisionSpec, VisionTower};

/// An image tower, and its map to a shared space if it has one.
#[derive(Module, Debug)]
pub struct VisionModel {
    /// Pictures.
    pub vision: VisionTower,
    /// `[width, dim]`, no bias.
    pub visual_projection: Option<Linear>,
}

impl VisionModel {
    /// A blank model.
    pub fn new(spec: &VisionSpec, projection: Option<usize>, device: &Device) -> Self {
        VisionModel {
            vision: VisionTower::new(spec, device),
            visual_projection: projection
                .map(|dim| Linear::new(spec.block.width, dim, false, device)),
        }
    }

    /// The features of states, `[batch, dim]`: what is pooled and projected, or the mean of all
    /// tokens where a family pools nothing.
    pub fn features(&self, states: &States) -> Tensor<2> {
        let pooled = states.pooled.clone().unwrap_or_else(|| mean_tokens(states.last.clone()));
        match &self.visual_projection {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        }
    }
}

/// The mean over tokens, `[batch, width]`.
fn mean_tokens(x: Tensor<3>) -> Tensor<2> {
    let [b, _, width] = x.dims();
    x.mean_dim(1).reshape([b, width])
}

/// A text tower, and its map to a shared space if it has one.
#[derive(Module, Debug)]
pub struct TextModel {
    /// Texts.
    pub text: TextTower,
    /// `[width, dim]`, no bias.
    pub text_projection: Option<Linear>,
}

impl TextModel {
    /// A blank model.
    pub fn new(spec: &TextSpec, projection: Option<usize>, device: &Device) -> Self {
        TextModel {
            text: TextTower::new(spec, device),
            text_projection: projection
                .map(|dim| Linear::new(spec.shape.width, dim, false, device)),
        }
    }
}

/// An image tower and a text tower that meet in one space.
#[derive(Module, Debug)]
pub struct DualModel {
    /// Pictures.
    pub vision: VisionTower,
    /// Texts.
    pub text: TextTower,
    /// `[vision width, dim]`, no bias; `None` where the tower's pooled state lies in the space.
    pub visual_projection: Option<Linear>,
    /// `[text width, dim]`, likewise.
    pub text_projection: Option<Linear>,
    /// `[1]`, the logarithm of what similarities are multiplied by.
    pub logit_scale: Param<Tensor<1>>,
    /// `[1]`, what is added to them then (SigLIP).
    pub logit_bias: Option<Param<Tensor<1>>>,
}

impl DualModel {
    /// A blank model, which takes no memory before it is loaded or initialised.
    pub fn new(spec: &DualSpec, device: &Device) -> Self {
        let projection =
            |width: usize| spec.projections.then(|| Linear::new(width, spec.dim, false, device));
        DualModel {
            vision: VisionTower::new(&spec.vision, device),
            text: TextTower::new(&spec.text, device),
            visual_projection: projection(spec.vision.block.width),
            text_projection: projection(spec.text.shape.width),
            logit_scale: blank([1], device),
            logit_bias: spec.bias.then(|| blank([1], device)),
        }
    }

    /// `[batch, channels, height, width]` to features `[batch, dim]`, not normalised.
    pub fn image_features(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        self.project_image(self.vision.forward(pixels, keep))
    }

    /// A pooled image state to the shared space.
    pub(crate) fn project_image(&self, pooled: Tensor<2>) -> Tensor<2> {
        project(pooled, self.visual_projection.as_ref())
    }

    /// Token ids `[batch, tokens]` and the place of each pooled token `[batch]` to features
    /// `[batch, dim]`, not normalised.
    pub fn text_features(
        &self,
        ids: Tensor<2, Int>,
        places: Tensor<1, Int>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<2> {
        project(self.text.forward(ids, places, mask), self.text_projection.as_ref())
    }

    /// L2-normalised image features `[batch, dim]`.
    pub fn encode_images(&self, pixels: Tensor<4>) -> Tensor<2> {
        normalize(self.image_features(pixels, None))
    }

    /// L2-normalised text features `[batch, dim]`.
    pub fn encode_texts(
        &self,
        ids: Tensor<2, Int>,
        places: Tensor<1, Int>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<2> {
        normalize(self.text_features(ids, places, mask))
    }

    /// What similarities are multiplied by.
    pub fn scale(&self) -> f32 {
        let value: f32 = self.logit_scale.val().into_scalar();
        value.exp()
    }
}

fn project(pooled: Tensor<2>, projection: Option<&Linear>) -> Tensor<2> {
    match projection {
        Some(projection) => projection.forward(pooled),
        None => pooled,
    }
}

/// Divides each row by its length.
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(1e-12);
    x / length
}
