//! AdamW, with its state by parameter path.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::ops::{AdamWStep, SgdStep, adamw_step, sgd_step};
use vlm_nn::params::{self, PathStack};

use crate::{Error, Grads, describe};

/// The rules there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// Two averages of gradients for each weight.
    #[default]
    AdamW,
    /// Plain descent.
    Sgd,
    /// Plain descent inside the backward pass.
    Lomo,
    /// The same with a step for each weight in proportion to its size.
    AdaLomo,
    /// Descent by the difference of two losses, without a backward pass.
    Mezo,
}

/// The update rule's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// How gradients become steps.
    pub rule: RuleKind,
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
    /// Of lomo, the largest value of a gradient; larger ones, of either sign, are cut to it. Clipping by length
    /// runs each of its steps twice, this does not. 0 turns it off.
    pub clip_value: f64,
    /// Factors on the learning rate by the start of a parameter's path; the longest that fits
    /// holds. 0 freezes.
    pub lr_scale: BTreeMap<String, f64>,
    /// How far mezo moves weights to see how the loss changes.
    pub zo_eps: f64,
    /// Random directions that mezo looks along in a step (n-SPSA).
    pub zo_directions: usize,
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            rule: RuleKind::default(),
            lr: 1e-3,
            betas: [0.9, 0.98],
            eps: 1e-6,
            weight_decay: 0.1,
            clip: 1.0,
            clip_value: 0.0,
            lr_scale: BTreeMap::new(),
            zo_eps: 1e-3,
            zo_directions: 1,
        }
    }
}

impl OptimConfig {
    /// Looks for values that make no sense, to be called before any data is read.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first such value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let from_zero = |x: f64| x.is_finite() && x >= 0.0;
        let reason = if !from_zero(self.lr) {
            format!("optim.lr is {}; it must be a number from 0 up, such as 1e-3", self.lr)
        } else if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            format!("optim.betas has {beta}; each must be from 0 up to, not including, 1")
        } else if !(self.eps.is_finite() && self.eps > 0.0) {
            format!("optim.eps is {}; it must be a small number above 0, such as 1e-8", self.eps)
        } else if !from_zero(self.weight_decay) {
            format!("optim.weight_decay is {}; it must be a number from 0 up", self.weight_decay)
        } else if !from_zero(self.clip) {
            format!("optim.clip is {}; it must be a length, or 0 for no clipping", self.clip)
        } else if !from_zero(self.clip_value) {
            format!("optim.clip_value is {}; it must be a number from 0 up", self.clip_value)
        } else if self.clip_value > 0.0 && self.rule != RuleKind::Lomo {
            "optim.clip_value cuts lomo's gradients alone; of other rules use optim.clip".to_owned()
        } else if !(1e-12..=1e3).contains(&self.zo_eps) {
            format!(
                "optim.zo_eps is {}; it must be a small number above 0, such as 1e-3",
                self.zo_eps
            )
        } else if !(1..=1000).contains(&self.zo_directions) {
            format!("optim.zo_directions is {}; it must be from 1 to 1000", self.zo_directions)
        } else if let Some((path, x)) = self.lr_scale.iter().find(|(_, x)| !from_zero(**x)) {
            format!("optim.lr_scale of `{path}` is {x}; it must be a number from 0 up")
        } else {
            return Ok(());
        };
        Err(Error::Setting(reason))
    }

    /// Refuses a factor that fits no parameter: it would be dropped in silence.
    ///
    /// # Errors
    /// [`Error::Setting`] with the start of a path and what there is.
    pub fn check_paths<M: Module>(&self, model: &M) -> Result<(), Error> {
        let list = params::list(model);
        let fits = |start: &String| list.iter().any(|param| param.path.starts_with(start));
        match self.lr_scale.keys().find(|start| !fits(start)) {
            None => Ok(()),
            Some(start) => {
                let parts: Vec<String> = describe(model).into_iter().map(|p| p.part).collect();
                let parts = parts.join(", ");
                Err(Error::Setting(format!(
                    "optim.lr_scale: no parameter's path begins with `{start}`; there are {parts}"
                )))
            }
        }
    }

    /// The factor on the learning rate of the parameter at `path`.
    pub fn scale_of(&self, path: &str) -> f64 {
        params::factor_at(&self.lr_scale, path)
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

    /// Copies of the weights that are kept beside them, gradients among them.
    fn copies(&self) -> usize;
}

/// What becomes of a weight: its path, its dimensions, and value and gradient, both flat.
type Change<'a> = dyn FnMut(&str, usize, Tensor<1>, Tensor<1>) -> Tensor<1> + 'a;

/// The model with those weights changed that have a gradient.
fn stepped<M: Module>(model: M, grads: &mut Grads, change: &mut Change<'_>) -> M {
    struct Stepper<'a, 'b> {
        path: PathStack,
        grads: &'a mut Grads,
        change: &'a mut Change<'b>,
    }
    impl ModuleMapper for Stepper<'_, '_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(grad) = self.grads.take::<D>(param.id) else { return param };
            let (id, value, mapper) = param.consume();
            // The buffer is unshared here, so the step works in place.
            let value = value.inner();
            let shape = value.dims();
            let len: usize = shape.iter().product();
            let path = self.path.path();
            let value = (self.change)(&path, D, value.reshape([len]), grad.reshape([len]));
            let value = Tensor::from_inner(value.reshape(shape)).require_grad();
            Param::from_mapped_value(id, value, mapper)
        }
    }
    model.map(&mut Stepper { path: PathStack::default(), grads, change })
}

/// Stochastic gradient descent with decoupled weight decay.
#[derive(Debug)]
pub struct Sgd {
    config: OptimConfig,
}

impl Sgd {
    /// It has no state.
    pub fn new(config: OptimConfig) -> Self {
        Sgd { config }
    }
}

impl Optimizer for Sgd {
    fn step<M: Module>(&mut self, model: M, grads: &mut Grads, lr: f64, grad_scale: f64) -> M {
        stepped(model, grads, &mut |path, rank, value, grad| {
            let lr = lr * self.config.scale_of(path);
            let decay = if rank > 1 { self.config.weight_decay } else { 0.0 };
            let step = SgdStep { keep: 1.0 - lr * decay, length: lr * grad_scale, clip: 0.0 };
            sgd_step(value, grad, step)
        })
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        Vec::new()
    }

    fn restore(&mut self, state: BTreeMap<String, TensorData>, _: u64) -> Result<(), String> {
        match state.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("`{name}` is of another update rule")),
        }
    }

    fn copies(&self) -> usize {
        1
    }
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
        self.steps += 1;
        stepped(model, grads, &mut |path, rank, value, grad| {
            let config = &self.config;
            let step = AdamWStep {
                lr: lr * config.scale_of(path),
                betas: config.betas,
                eps: config.eps,
                weight_decay: if rank > 1 { config.weight_decay } else { 0.0 },
                step: self.steps,
                grad_scale,
            };
            let moments = match self.moments.remove(path) {
                Some(Moments(moments)) => moments,
                None => [0, 1].map(|_| Tensor::zeros(value.dims(), &self.device)),
            };
            let (value, moments) = adamw_step(value, grad, moments, step);
            self.moments.insert(path.to_owned(), Moments(moments));
            value
        })
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

    fn copies(&self) -> usize {
        3
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
