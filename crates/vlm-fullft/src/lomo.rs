//! LOMO: stochastic gradient descent inside the backward pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Tensor;
use vlm_nn::ops::{SgdStep, sgd_step, square_sum};
use vlm_nn::params::factor_at;

use crate::{Passed, Weight, backward};

/// How LOMO changes weights.
#[derive(Clone, Debug, PartialEq)]
pub struct LomoConfig {
    /// Decoupled weight decay, multiplied by the learning rate; of matrices only.
    pub weight_decay: f64,
    /// Factors on the learning rate by the start of a weight's path; the longest that fits holds.
    pub lr_scale: BTreeMap<String, f64>,
    /// Largest value of a gradient; larger ones are cut to it. 0 turns it off.
    pub clip_value: f64,
    /// Longest gradient of the whole model; longer ones are shortened to it, for which each step runs
    /// forward and backward twice. 0 turns it off.
    pub clip_norm: f64,
}

impl Default for LomoConfig {
    fn default() -> Self {
        LomoConfig { weight_decay: 0.0, lr_scale: BTreeMap::new(), clip_value: 0.0, clip_norm: 0.0 }
    }
}

/// Low-memory optimisation (LOMO, Lv et al. 2023, arXiv 2306.09782): plain SGD, each weight changed as
/// soon as its gradient is known.
///
/// Choose it where the weights fit into memory and little else does, and the learning rate can be found. It
/// has no state. Batches cannot be accumulated: each backward pass is a step.
#[derive(Clone, Debug)]
pub struct Lomo {
    config: LomoConfig,
}

impl Lomo {
    /// With settings.
    pub fn new(config: LomoConfig) -> Self {
        Lomo { config }
    }

    /// One step. With `clip_norm`, `loss` is called twice and has to say the same both times.
    ///
    /// `loss` gets the model and must not keep it.
    ///
    /// # Errors
    /// As `loss`; the model is then as it was.
    pub fn step<M: Module, E>(
        &mut self,
        mut model: M,
        loss: &dyn Fn(M) -> Result<Tensor<1>, E>,
        lr: f64,
    ) -> (M, Result<Passed, E>) {
        let LomoConfig { weight_decay, clip_value, clip_norm, .. } = self.config;
        let mut scale = 1.0;
        if clip_norm > 0.0 {
            let (same, norm) = gradient_norm(model, loss, clip_value);
            model = same;
            match norm {
                Ok(norm) => scale = (clip_norm / (norm + 1e-6)).min(1.0),
                Err(error) => return (model, Err(error)),
            }
        }
        let lr_scale = self.config.lr_scale.clone();
        let change = move |weight: &Weight, value, grad| {
            let lr = lr * factor_at(&lr_scale, &weight.path);
            let decay = if weight.shape.len() > 1 { weight_decay } else { 0.0 };
            let step = SgdStep { keep: 1.0 - lr * decay, length: lr * scale, clip: clip_value };
            sgd_step(value, grad, step)
        };
        backward(model, loss, Arc::new(change))
    }
}

/// The model as it was, and the length of the whole gradient, each value of which is cut first.
fn gradient_norm<M: Module, E>(
    model: M,
    loss: &dyn Fn(M) -> Result<Tensor<1>, E>,
    clip_value: f64,
) -> (M, Result<f64, E>) {
    let sum = Arc::new(Mutex::new(0f64));
    let adder = sum.clone();
    let (model, passed) = backward(
        model,
        loss,
        Arc::new(move |_, value, grad| {
            let grad = if clip_value > 0.0 { grad.clamp(-clip_value, clip_value) } else { grad };
            let square: f32 = square_sum(grad).into_scalar();
            *adder.lock().unwrap_or_else(PoisonError::into_inner) += f64::from(square);
            value
        }),
    );
    let sum = *sum.lock().unwrap_or_else(PoisonError::into_inner);
    (model, passed.map(|_| sum.sqrt()))
}
