//! An exponential moving average of the weights (Polyak and Juditsky 1992).

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::ops::average;
use vlm_nn::params::PathStack;

/// Averaged weights, by parameter path.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    device: Device,
    values: BTreeMap<String, Tensor<1>>,
}

impl Average {
    /// An average that starts at the first weights it sees.
    pub fn new(decay: f64, device: &Device) -> Self {
        Average { decay, device: device.clone(), values: BTreeMap::new() }
    }

    /// Takes in the weights after `step` steps. Early on the average follows faster, so that
    /// the start values are soon forgotten.
    pub fn update<M: Module>(&mut self, model: &M, step: u64) {
        struct Updater<'a>(PathStack, &'a mut Average, f64);
        impl ModuleVisitor for Updater<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.0.push(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.0.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val().inner();
                let len: usize = value.dims().iter().product();
                let value = value.reshape([len]);
                let path = self.0.path();
                let next = match self.1.values.remove(&path) {
                    Some(old) => average(old, value, self.2),
                    None => value,
                };
                self.1.values.insert(path, next);
            }
        }
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        model.visit(&mut Updater(PathStack::default(), self, decay));
    }

    /// The model with the averaged weights in place of its own.
    pub fn apply<M: Module>(&self, model: M) -> M {
        struct Applier<'a>(PathStack, &'a Average);
        impl ModuleMapper for Applier<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.0.push(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.0.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.1.values.get(&self.0.path()) {
                    Some(value) => {
                        let shape = param.dims();
                        param.map(|_| value.clone().reshape(shape))
                    }
                    None => param,
                }
            }
        }
        model.map(&mut Applier(PathStack::default(), self))
    }

    /// The averaged weights, by path.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        self.values.iter().map(|(path, x)| (path.clone(), x.clone().into_data())).collect()
    }

    /// Takes up a state that [`state`](Self::state) gave.
    pub fn restore(&mut self, state: BTreeMap<String, TensorData>) {
        self.values = state
            .into_iter()
            .map(|(path, data)| (path, Tensor::from_data(data, &self.device)))
            .collect();
    }
}
