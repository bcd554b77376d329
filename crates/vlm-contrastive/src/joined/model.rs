//! What of a joined encoder is trained.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vlm_encoders::{TextModel, VisionModel};
use vlm_nn::params::blank;

use super::Head;

/// The heads, the scale, and the towers that are not locked.
#[derive(Module, Debug)]
pub struct JoinedModel {
    /// The image tower, if it is trained.
    pub vision: Option<VisionModel>,
    /// The text tower, if it is trained.
    pub text: Option<TextModel>,
    /// On the image tower.
    pub image_head: Head,
    /// On the text tower.
    pub text_head: Head,
    /// `[1]`, the logarithm of what similarities are multiplied by.
    pub logit_scale: Param<Tensor<1>>,
    /// `[1]`, what is added to them then; of the sigmoid loss only.
    pub logit_bias: Option<Param<Tensor<1>>>,
}

/// The heads and the scale, as a folder holds them.
#[derive(Module, Debug)]
pub struct Joint {
    pub image_head: Head,
    pub text_head: Head,
    pub logit_scale: Param<Tensor<1>>,
    pub logit_bias: Option<Param<Tensor<1>>>,
}

impl Joint {
    /// Blank heads of these widths.
    pub fn new(image_head: Head, text_head: Head, bias: bool, device: &Device) -> Self {
        Joint {
            image_head,
            text_head,
            logit_scale: blank([1], device),
            logit_bias: bias.then(|| blank([1], device)),
        }
    }
}
