//! A backward pass in which each weight is changed as soon as its gradient is known.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use vlm_nn::ops::{Arrived, Hook, Meter, Sink, sink};
use vlm_nn::params::{self, PathStack};

/// A weight whose gradient has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its path in the model.
    pub path: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// What a pass came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passed {
    /// The loss.
    pub loss: f64,
    /// Weights that train.
    pub trained: usize,
    /// Those whose gradient did not come.
    pub silent: Vec<String>,
    /// The largest gradient, in bytes.
    pub largest: usize,
    /// The most bytes of weights' gradients that were alive together, as counted.
    pub held: usize,
    /// A weight that was changed before its gradient was whole, if there is one: both operations of `vlm_nn`
    /// and others use it, and such a model cannot be trained so.
    pub late: Option<String>,
}

/// Turns value and gradient of a weight, both flat, into its new value.
pub type Change = dyn Fn(&Weight, Tensor<1>, Tensor<1>) -> Tensor<1> + Send + Sync;

/// Runs forward and backward, and calls `change` for each weight that trains, in the order in which
/// gradients come. No gradient outlives that call, and none waits for another, but for those of weights that
/// are not used by the operations of `vlm_nn` alone: their turn comes at the end. A weight that is used several
/// times, or stands in several places of the model, is changed once, with the whole gradient; until then what
/// the parts of it are made of is kept, if that is smaller.
///
/// `loss` gets the model and must not keep it: what it keeps is copied before it is changed. If it fails, or
/// is no number, the model is as it was.
///
/// # Errors
/// As `loss`.
pub fn backward<M: Module, E>(
    model: M,
    loss: impl FnOnce(M) -> Result<Tensor<1>, E>,
    change: Arc<Change>,
) -> (M, Result<Passed, E>) {
    let pass = Arc::new(Pass { inside: Mutex::default(), change, meter: Meter::default() });
    // The same module without the weights that train; they come back at the end.
    let skeleton = params::emptied(model.clone(), true);
    let mut tapper = Tapper { stack: PathStack::default(), pass: &pass, leaves: HashMap::new() };
    let tapped = model.map(&mut tapper);
    let trained = tapper.leaves.len();
    drop(tapper);
    let result = loss(tapped).map(|loss| {
        let value: f32 = loss.clone().into_scalar();
        // From what is no number nothing is learned.
        if value.is_finite() {
            drop(loss.backward());
        }
        f64::from(value)
    });
    let inside = pass.with(std::mem::take);
    let model = skeleton.map(&mut Refilled(&inside.weights));
    let silent = inside.weights.iter().filter(|(id, _)| !inside.heard.contains_key(*id));
    let mut silent: Vec<String> = silent.map(|(_, (weight, _))| weight.path.clone()).collect();
    silent.sort();
    let passed = result.map(|loss| Passed {
        loss,
        trained,
        silent,
        largest: inside.heard.into_values().max().unwrap_or(0),
        held: pass.meter.most(),
        late: inside.late,
    });
    (model, passed)
}

/// A pass that is under way.
struct Pass {
    inside: Mutex<Inside>,
    change: Arc<Change>,
    meter: Meter,
}

#[derive(Default)]
struct Inside {
    weights: HashMap<ParamId, (Weight, Tensor<1>)>,
    sinks: Vec<Sink>,
    /// Bytes of the gradients that have come.
    heard: HashMap<ParamId, usize>,
    late: Option<String>,
}

impl Pass {
    fn with<R>(&self, f: impl FnOnce(&mut Inside) -> R) -> R {
        f(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The gradient of a weight is there.
    fn arrived(&self, id: ParamId, grad: Arrived) {
        let Some((weight, value)) = self.with(|inside| inside.weights.remove(&id)) else { return };
        let grad = match grad {
            Arrived::Whole(grad) => grad,
            Arrived::Rest(_) => {
                return self.with(|inside| {
                    inside.late.get_or_insert(weight.path.clone());
                    inside.weights.insert(id, (weight, value));
                });
            }
        };
        let bytes = 4 * grad.dims()[0];
        let value = (self.change)(&weight, value, grad);
        self.with(|inside| {
            inside.weights.insert(id, (weight, value));
            inside.heard.insert(id, bytes);
        });
    }
}

/// Puts sinks under the weights that train.
struct Tapper<'a> {
    stack: PathStack,
    pass: &'a Arc<Pass>,
    /// A weight that stands in several places is one leaf.
    leaves: HashMap<ParamId, Box<dyn Any>>,
}

impl ModuleMapper for Tapper<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.stack.push(name);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let known = self.leaves.get(&id).and_then(|leaf| leaf.downcast_ref::<Tensor<D>>());
        if let Some(leaf) = known {
            return Param::from_mapped_value(id, leaf.clone(), mapper);
        }
        let dims = value.dims();
        let len = dims.iter().product::<usize>();
        let flat: Tensor<1> = value.inner().reshape([len]);
        let leaf = Tensor::<D>::from_inner(flat.clone().reshape(dims)).require_grad();
        let pass = Arc::downgrade(self.pass);
        let hook = Hook::new(&self.pass.meter, move |grad| {
            if let Some(pass) = pass.upgrade() {
                pass.arrived(id, grad);
            }
        });
        let (leaf, sink) = sink(leaf, hook);
        let weight = Weight { path: self.stack.path(), shape: dims.to_vec() };
        self.pass.with(|inside| {
            inside.weights.insert(id, (weight, flat));
            inside.sinks.push(sink);
        });
        self.leaves.insert(id, Box::new(leaf.clone()));
        Param::from_mapped_value(id, leaf, mapper)
    }
}

/// Brings the values back.
struct Refilled<'a>(&'a HashMap<ParamId, (Weight, Tensor<1>)>);

impl ModuleMapper for Refilled<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((_, value)) = self.0.get(&param.id) else { return param };
        let (id, dims) = (param.id, param.lazy_shape().dims::<D>());
        param.transform_for_load(Tensor::from_inner(value.clone().reshape(dims)), id)
    }
}
