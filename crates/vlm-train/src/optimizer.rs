//! AdamW, with its state by parameter path.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::ops::{AdamWStep, adamw_step};
use vlm_nn::params::PathStack;

use crate::Grads;

/// The update rule's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; matrices only, never norms, biases and scales.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are shortened to it. 0 turns clipping off.
    pub clip: f64,
    /// Factors on the learning rate by the start of a parameter's path; the longest that fits
    /// holds. 0 freezes.
    pub lr_scale: BTreeMap<String, f64>,
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            lr: 1e-3,
            betas: [0.9, 0.98],
            eps: 1e-6,
            weight_decay: 0.1,
            clip: 1.0,
            lr_scale: BTreeMap::new(),
        }
    }
}

impl OptimConfig {
    /// The factor on the learning rate of the parameter at `path`.
    pub fn scale_of(&self, path: &str) -> f64 {
        self.lr_scale
            .iter()
            .filter(|(prefix, _)| path.starts_with(prefix.as_str()))
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(1.0, |(_, scale)| *scale)
    }
}

/// Turns gradients into new weights.
pub trait Optimizer {
    /// One step with learning rate `lr`; gradients are multiplied by `grad_scale` first.
    fn step<M: Module>(&mut self, model: M, grads: &mut Grads, lr: f64, grad_scale: f64) -> M;

    /// The state, by name.
    fn state(&self) -> Vec<(String, TensorData)>;

    /// Takes up a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A reason, if the state is not this rule's.
    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String>;
}

/// The moments of one parameter, flat.
#[derive(Debug)]
struct Moments([Tensor<1>; 2]);

/// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101).
#[derive(Debug)]
pub struct AdamW {
    config: OptimConfig,
    device: Device,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// A fresh state; `device` is the plain (not differentiating) device of the model.
    pub fn new(config: OptimConfig, device: &Device) -> Self {
        AdamW { config, device: device.clone(), steps: 0, moments: BTreeMap::new() }
    }
}

impl Optimizer for AdamW {
    fn step<M: Module>(&mut self, model: M, grads: &mut Grads, lr: f64, grad_scale: f64) -> M {
        struct Stepper<'a> {
            path: PathStack,
            rule: &'a mut AdamW,
            grads: &'a mut Grads,
            lr: f64,
            grad_scale: f64,
        }
        impl ModuleMapper for Stepper<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.push(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(grad) = self.grads.take::<D>(param.id) else { return param };
                let path = self.path.path();
                let scale = self.rule.config.scale_of(&path);
                let (id, value, mapper) = param.consume();
                // The buffers are unshared here, so the step works in place.
                let value = value.inner();
                let shape = value.dims();
                let len: usize = shape.iter().product();
                let config = &self.rule.config;
                let step = AdamWStep {
                    lr: self.lr * scale,
                    betas: config.betas,
                    eps: config.eps,
                    weight_decay: if D > 1 { config.weight_decay } else { 0.0 },
                    step: self.rule.steps,
                    grad_scale: self.grad_scale,
                };
                let moments = match self.rule.moments.remove(&path) {
                    Some(Moments(moments)) => moments,
                    None => [0, 1].map(|_| Tensor::zeros([len], &self.rule.device)),
                };
                let (value, moments) =
                    adamw_step(value.reshape([len]), grad.reshape([len]), moments, step);
                self.rule.moments.insert(path, Moments(moments));
                let value = Tensor::from_inner(value.reshape(shape)).require_grad();
                Param::from_mapped_value(id, value, mapper)
            }
        }
        self.steps += 1;
        model.map(&mut Stepper { path: PathStack::default(), rule: self, grads, lr, grad_scale })
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        self.moments
            .iter()
            .flat_map(|(path, Moments(moments))| {
                ["m", "v"]
                    .iter()
                    .zip(moments)
                    .map(move |(kind, x)| (format!("{path}.{kind}"), x.clone().into_data()))
            })
            .collect()
    }

    fn restore(
        &mut self,
        mut state: BTreeMap<String, TensorData>,
        steps: u64,
    ) -> Result<(), String> {
        self.steps = steps;
        self.moments.clear();
        while let Some((name, m)) = state.pop_first() {
            let path = name.strip_suffix(".m").ok_or_else(|| format!("`{name}` is no moment"))?;
            let v = state
                .remove(&format!("{path}.v"))
                .ok_or_else(|| format!("the second moment of `{path}` is missing"))?;
            let moments = [m, v].map(|x| Tensor::<1>::from_data(x, &self.device));
            self.moments.insert(path.to_owned(), Moments(moments));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_scales() {
        let mut config = OptimConfig::default();
        config.lr_scale.insert("vision".into(), 0.5);
        config.lr_scale.insert("vision.stack".into(), 0.0);
        assert_eq!(config.scale_of("text.tokens"), 1.0);
        assert_eq!(config.scale_of("vision.class"), 0.5);
        assert_eq!(config.scale_of("vision.stack.blocks.0"), 0.0);
    }
}
