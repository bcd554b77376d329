//! Parameters by path: listing, reading, replacing and initialising them.
//!
//! Constructors make blank parameters that own no memory until they are first used, so that
//! loading a checkpoint never allocates a model twice. A parameter's path is its field names
//! joined by dots, such as `vision.stack.blocks.0.attention.q.weight`.

use std::collections::BTreeMap;

use crate::adapter;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A parameter that becomes zeros if it is used before it is replaced.
pub fn blank<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, grad| Tensor::zeros(shape, device).set_require_grad(grad),
        device.clone(),
        true,
        Shape::from(shape),
    )
}

/// The same module with places without memory in place of its values, or of those alone that train: for whoever
/// needs its shape, or holds the values elsewhere.
pub fn emptied<M: Module>(module: M, trained_only: bool) -> M {
    struct Emptier(bool);
    impl ModuleMapper for Emptier {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.0 && !param.is_require_grad() {
                return param;
            }
            let (id, device, shape) = (param.id, param.lazy_device(), param.lazy_shape());
            let (zeros, trains) = (shape.clone(), param.is_require_grad());
            Param::uninitialized(
                id,
                move |device, grad| Tensor::zeros(zeros, device).set_require_grad(grad),
                device,
                trains,
                shape,
            )
        }
    }
    module.map(&mut Emptier(trained_only))
}

/// The factor of the parameter at a path, by the starts of paths: the longest that fits holds, 1 if none does.
pub fn factor_at(factors: &BTreeMap<String, f64>, path: &str) -> f64 {
    let fits = factors.iter().filter(|(start, _)| path.starts_with(start.as_str()));
    fits.max_by_key(|(start, _)| start.len()).map_or(1.0, |(_, factor)| *factor)
}

/// What is known of a parameter without touching its values.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Field names joined by dots.
    pub path: String,
    /// Burn's identifier, which gradients are filed under.
    pub id: ParamId,
    /// Shape in this project's layout (linear weights are `[in, out]`).
    pub shape: Vec<usize>,
    /// Whether training changes it.
    pub trainable: bool,
}

impl ParamInfo {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Keeps the path of the module that a traversal is in.
#[derive(Default)]
pub struct PathStack(Vec<String>);

impl PathStack {
    /// Enters a field.
    pub fn push(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }
    /// Leaves it.
    pub fn pop(&mut self) {
        self.0.pop();
    }
    /// The path so far.
    pub fn path(&self) -> String {
        self.0.join(".")
    }
}

/// Lists every float parameter in field order. Weights of four bits are listed with their shape.
pub fn list<M: Module>(module: &M) -> Vec<ParamInfo> {
    #[derive(Default)]
    struct Lister {
        stack: PathStack,
        found: Vec<ParamInfo>,
        adapted: bool,
    }
    impl ModuleVisitor for Lister {
        fn enter_module(&mut self, name: &str, kind: &str) {
            self.stack.push(name);
            self.adapted |= kind == "Reparameterization";
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(ParamInfo {
                path: self.stack.path(),
                id: param.id,
                shape: param.lazy_shape().to_vec(),
                trainable: is_trainable(param),
            });
        }
    }
    let mut lister = Lister::default();
    module.visit(&mut lister);
    let adapters = if lister.adapted { adapter::all(module) } else { adapter::ByPath::new() };
    for (path, adapters) in adapters {
        let Some(packed) = adapters.packed else { continue };
        if let Some(info) = lister.found.iter_mut().find(|info| info.path == path) {
            info.shape = packed.dims().to_vec();
        }
    }
    lister.found
}

/// Whether training changes the parameter, without making a blank one allocate its values.
fn is_trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    if param.is_initialized() {
        return param.is_require_grad();
    }
    // Loading hands a value the setting of the blank it replaces.
    let probe = Tensor::zeros([1; D], &param.lazy_device());
    param.clone().transform_for_load(probe, param.id).is_require_grad()
}

/// Calls `f(path, values)` for every float parameter, one tensor at a time.
pub fn read<M: Module>(module: &M, f: &mut dyn FnMut(&str, TensorData)) {
    read_chosen(module, &|_| true, f);
}

/// The same for those alone that are chosen by their paths; no other is copied.
pub fn read_chosen<M: Module>(
    module: &M,
    choose: &dyn Fn(&str) -> bool,
    f: &mut dyn FnMut(&str, TensorData),
) {
    struct Reader<'a>(PathStack, &'a dyn Fn(&str) -> bool, &'a mut dyn FnMut(&str, TensorData));
    impl ModuleVisitor for Reader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.0.path();
            if (self.1)(&path) {
                (self.2)(&path, param.val().into_data());
            }
        }
    }
    module.visit(&mut Reader(PathStack::default(), choose, f));
}

/// The values of the parameter at `path`.
///
/// # Panics
/// If there is none.
pub fn read_one<M: Module>(module: &M, path: &str) -> TensorData {
    struct Finder<'a>(PathStack, &'a str, Option<TensorData>);
    impl ModuleVisitor for Finder<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.2.is_none() && self.0.path() == self.1 {
                self.2 = Some(param.val().into_data());
            }
        }
    }
    let mut finder = Finder(PathStack::default(), path, None);
    module.visit(&mut finder);
    finder.2.unwrap_or_else(|| panic!("no parameter {path}"))
}

/// Gives new values to the parameter at a path, of a shape; `None` keeps the old ones.
pub type Replacement<'a, E> = dyn FnMut(&str, &[usize]) -> Result<Option<TensorData>, E> + 'a;

/// Replaces parameters: `f(path, shape)` returns the new values, or `None` to keep the old.
///
/// A blank parameter that is replaced never allocates its blank values.
///
/// # Errors
/// Stops at the first error of `f` and returns it.
///
/// # Panics
/// If `f` returns values of another shape.
pub fn replace<M: Module, E>(module: M, f: &mut Replacement<'_, E>) -> Result<M, E> {
    struct Replacer<'a, E> {
        stack: PathStack,
        f: &'a mut Replacement<'a, E>,
        error: Option<E>,
    }
    impl<E> ModuleMapper for Replacer<'_, E> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.error.is_some() {
                return param;
            }
            let (path, shape) = (self.stack.path(), param.lazy_shape().to_vec());
            match (self.f)(&path, &shape) {
                Ok(Some(data)) => {
                    assert_eq!(data.shape().to_vec(), shape, "replacing {path}");
                    let tensor = Tensor::from_data(data, &param.lazy_device());
                    let id = param.id;
                    param.transform_for_load(tensor, id)
                }
                Ok(None) => param,
                Err(error) => {
                    self.error = Some(error);
                    param
                }
            }
        }
    }
    let mut replacer = Replacer { stack: PathStack::default(), f, error: None };
    let module = module.map(&mut replacer);
    match replacer.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// Switches training on or off for each parameter by its path.
pub fn set_trainable<M: Module>(module: M, choose: &dyn Fn(&str) -> bool) -> M {
    struct Setter<'a>(PathStack, &'a dyn Fn(&str) -> bool);
    impl ModuleMapper for Setter<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let train = (self.1)(&self.0.path());
            param.set_require_grad(train)
        }
    }
    module.map(&mut Setter(PathStack::default(), choose))
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same value.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
}

/// Gives every parameter its start value by `rule(path, shape)`.
///
/// Values are drawn on the host from a stream of its own for each path, so they depend on
/// neither the backend nor on what else the model holds.
pub fn initialize<M: Module>(module: M, seed: u64, rule: &dyn Fn(&str, &[usize]) -> Init) -> M {
    let fill = &mut |path: &str, shape: &[usize]| {
        Ok::<_, std::convert::Infallible>(Some(drawn(rule(path, shape), shape, seed, path)))
    };
    match replace(module, fill) {
        Ok(module) => module,
        Err(never) => match never {},
    }
}

/// Start values of one parameter. They depend on the seed and the path only.
pub fn drawn(init: Init, shape: &[usize], seed: u64, path: &str) -> TensorData {
    let len = shape.iter().product();
    // FNV-1a of the path, so that each tensor has its own stream.
    let stream = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let values = match init {
        Init::Constant(value) => vec![value; len],
        Init::Uniform(bound) => {
            (0..len).map(|_| (rng.random_range(-1.0..1.0) * bound) as f32).collect()
        }
        Init::Normal(std) => (0..len)
            .map(|_| {
                // Box and Muller, with a first number that is never 0.
                let (a, b) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
                ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos() * std) as f32
            })
            .collect(),
    };
    TensorData::new(values, shape.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Linear;

    fn values(linear: &Linear) -> Vec<f32> {
        linear.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn blank_parameters_stay_blank_when_replaced() {
        let linear = Linear::new(3, 2, true, &Device::flex());
        let paths: Vec<_> = list(&linear).into_iter().map(|p| (p.path, p.shape)).collect();
        assert_eq!(paths, [("weight".into(), vec![3, 2]), ("bias".into(), vec![2])]);
        let keep = linear.weight.clone();
        let linear = initialize(linear, 1, &|_, _| Init::Constant(2.0));
        assert!(!keep.is_initialized());
        assert_eq!(values(&linear), [2.0; 6]);
    }

    #[test]
    fn draws_depend_on_seed_and_path_only() {
        let rule = |_: &str, _: &[usize]| Init::Normal(1.0);
        let make =
            |seed| values(&initialize(Linear::new(64, 64, true, &Device::flex()), seed, &rule));
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let drawn = make(3);
        let mean = drawn.iter().sum::<f32>() / 4096.0;
        let var = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.06 && (var - 1.0).abs() < 0.1, "mean {mean}, variance {var}");
    }

    #[test]
    fn replacing_keeps_what_is_frozen_frozen() {
        let linear = Linear::new(2, 2, true, &Device::flex().autodiff());
        let linear = set_trainable(linear, &|path| path == "bias");
        let linear = initialize(linear, 1, &|_, _| Init::Constant(1.0));
        let trainable: Vec<bool> = list(&linear).iter().map(|p| p.trainable).collect();
        assert_eq!(trainable, [false, true]);
    }
}
