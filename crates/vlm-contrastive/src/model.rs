//! The dual encoder with what its losses need besides it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vlm_encoders::{ClipConfig, ClipModel, Start};
use vlm_nn::params::{self, Init, blank};

use crate::loss::{Loss, SIGMOID_BIAS, SIGMOID_LOG_SCALE};

/// A [`ClipModel`] and, for the sigmoid loss, its bias.
#[derive(Module, Debug)]
pub struct DualEncoder {
    /// The towers and their projections.
    pub clip: ClipModel,
    /// `[1]`, added to every logit of the sigmoid loss. `CLIPModel` folders have no place for
    /// it, and no ranking depends on it.
    pub logit_bias: Option<Param<Tensor<1>>>,
}

impl DualEncoder {
    /// A new model; the scale starts where the loss wants it.
    pub fn init(config: &ClipConfig, start: Start, loss: Loss, seed: u64, device: &Device) -> Self {
        let mut config = config.clone();
        if loss == Loss::Sigmoid {
            config.logit_scale_init_value = f64::from(SIGMOID_LOG_SCALE);
        }
        Self::of(ClipModel::init(&config, start, seed, device), loss)
    }

    /// A loaded model, to be trained further with a loss.
    pub fn of(clip: ClipModel, loss: Loss) -> Self {
        let device = clip.logit_scale.lazy_device();
        let bias = (loss == Loss::Sigmoid).then(|| {
            params::initialize(blank([1], &device), 0, &|_, _| Init::Constant(SIGMOID_BIAS))
        });
        DualEncoder { clip, logit_bias: bias }
    }
}
