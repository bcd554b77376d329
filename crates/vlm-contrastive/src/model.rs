//! The dual encoder with what its losses need besides it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vlm_encoders::{ClipConfig, DualModel, DualSpec, Start};
use vlm_nn::params::{self, Init, blank};

use crate::loss::{Loss, SIGMOID_BIAS, SIGMOID_LOG_SCALE};

/// A [`DualModel`] and, for the sigmoid loss, its bias.
#[derive(Module, Debug)]
pub struct DualEncoder {
    /// The towers and their projections.
    pub clip: DualModel,
    /// `[1]`, added to every logit of the sigmoid loss. `CLIPModel` folders, unlike SigLIP's,
    /// have no place for it; no ranking depends on it.
    pub logit_bias: Option<Param<Tensor<1>>>,
}

impl DualEncoder {
    /// A new model; the scale starts where the loss wants it.
    pub fn init(config: &ClipConfig, start: Start, loss: Loss, seed: u64, device: &Device) -> Self {
        let mut config = config.clone();
        if loss == Loss::Sigmoid {
            config.logit_scale_init_value = f64::from(SIGMOID_LOG_SCALE);
        }
        Self::of(DualModel::init(&config, start, seed, device), loss)
    }

    /// A loaded model, to be trained further with a loss.
    pub fn of(mut clip: DualModel, loss: Loss) -> Self {
        let device = clip.logit_scale.lazy_device();
        if loss != Loss::Sigmoid {
            return DualEncoder { clip, logit_bias: None };
        }
        // Moved here, so that it is trained once.
        let bias = clip.logit_bias.take().unwrap_or_else(|| {
            params::initialize(blank([1], &device), 0, &|_, _| Init::Constant(SIGMOID_BIAS))
        });
        DualEncoder { clip, logit_bias: Some(bias) }
    }

    /// The model as a folder of this shape holds it.
    pub fn model(&self, spec: &DualSpec) -> DualModel {
        let mut model = self.clip.clone();
        if let (true, Some(bias)) = (spec.bias, &self.logit_bias) {
            model.logit_bias = Some(bias.clone());
        }
        model
    }
}
