//! MeZO: descent by the difference of two losses.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use vlm_nn::ops::{LARGEST_COORDINATE, Nudge, nudge};
use vlm_nn::params::{PathStack, factor_at};

/// How MeZO changes weights.
#[derive(Clone, Debug, PartialEq)]
pub struct MezoConfig {
    /// Everything random derives from it.
    pub seed: u64,
    /// How far weights are moved to see how the loss changes: the standard deviation of each value's move.
    pub eps: f64,
    /// Directions of a step (n-SPSA); each is two passes.
    pub directions: usize,
    /// Decoupled weight decay, multiplied by the learning rate; of matrices only.
    pub weight_decay: f64,
    /// Factors on the learning rate by the start of a weight's path; the longest that fits holds. A weight
    /// with 0 is not moved at all.
    pub lr_scale: BTreeMap<String, f64>,
}

impl Default for MezoConfig {
    fn default() -> Self {
        MezoConfig {
            seed: 0,
            eps: 1e-3,
            directions: 1,
            weight_decay: 0.0,
            lr_scale: BTreeMap::new(),
        }
    }
}

/// What there is to know of a step: with the seed of the run it says how the weights changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MezoStep {
    /// The learning rate.
    pub lr: f32,
    /// The slope of the loss along each direction: the projected gradient.
    pub slopes: Vec<f32>,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// The mean of the losses that were seen.
    pub loss: f64,
    /// What was done; `None` if a loss or a slope is no number, or a slope is so steep that the weights would
    /// leave the neighbourhood that was looked at: then the model is as it was.
    pub step: Option<MezoStep>,
    /// The steepest slope, as it was measured.
    pub slope: f64,
}

/// How many times as far as they are probed weights may move in a step.
const FARTHEST: f64 = 100.0;

/// A memory-efficient zeroth-order optimiser (MeZO, Malladi et al. 2023, arXiv 2305.17333): the slope of
/// the loss along a random direction, from two passes forward, and a step against it.
///
/// Choose it where not even the activations of a backward pass fit, or the loss has no gradient, and the model
/// already does something like the task: it needs many times the steps of descent by gradients. It takes the
/// memory of inference. A direction is not kept but drawn anew from its number; weights are kept as multiples
/// of a power of two, about 2⁻²⁴ of the largest of their tensor, on which every move is exact. So the weights
/// are the same again once they are moved back, and a run is the list of its [`MezoStep`]s.
#[derive(Debug)]
pub struct Mezo {
    config: MezoConfig,
    pub(crate) steps: Vec<MezoStep>,
    pub(crate) grids: BTreeMap<String, Grid>,
}

/// The multiples that the values of a tensor are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Grid {
    /// No value is larger.
    pub reach: f32,
    /// A power of two, or 0 if there is no grid yet.
    pub unit: f32,
}

impl Grid {
    /// The grid for values up to `reach`: they may become twice as large, moved or not.
    fn of(reach: f32, eps: f64) -> Self {
        let room = 2.0 * (f64::from(reach) + f64::from(LARGEST_COORDINATE) * eps);
        let exponent = room.max(f64::from(f32::MIN_POSITIVE) * 3e7).log2().ceil() as i32;
        Grid { reach, unit: 2f64.powi(exponent - 24) as f32 }
    }

    fn holds(&self, eps: f64) -> bool {
        let most = f64::from(self.reach) + f64::from(LARGEST_COORDINATE) * eps;
        most < f64::from(self.unit) * f64::from(1u32 << 24)
    }
}

impl Mezo {
    /// A run that begins.
    pub fn new(config: MezoConfig) -> Self {
        Mezo { config, steps: Vec::new(), grids: BTreeMap::new() }
    }

    /// The steps so far.
    pub fn steps(&self) -> &[MezoStep] {
        &self.steps
    }

    /// One step of the weights that require gradients. `loss` gets the model without a tape, and has to say
    /// the same of the same weights.
    ///
    /// # Errors
    /// As `loss`; the model is then as it was, but that its values may have been rounded.
    pub fn step<M: Module, E>(
        &mut self,
        model: M,
        loss: &dyn Fn(M) -> Result<f64, E>,
        lr: f64,
    ) -> (M, Result<Probed, E>) {
        let (mut model, leaves) = self.untracked(model);
        let number = self.steps.len() as u64;
        let count = self.config.directions.max(1);
        let (mut sum, mut slopes) = (0.0, Vec::new());
        for direction in 0..count as u64 {
            let at = (number, direction);
            let (moved, seen) = self.probed(model, &leaves, at, loss);
            let [above, below] = match seen {
                Ok(seen) => seen,
                Err(error) => return (tracked(moved, &leaves), Err(error)),
            };
            sum += (above + below) / 2.0;
            slopes.push((above - below) / (2.0 * self.config.eps));
            // With one direction, the way back and the step are one sweep.
            model = if count == 1 { moved } else { self.swept(moved, &leaves, at, 1, None) };
        }
        let slope = slopes.iter().copied().fold(0.0, |most: f64, slope| {
            if slope.abs() > most.abs() || slope.is_nan() { slope } else { most }
        });
        let loss = sum / count as f64;
        let widest = leaves.values().map(|leaf| leaf.scale).fold(0.0, f64::max);
        let near = lr * widest * slope.abs() <= FARTHEST * self.config.eps;
        let away = i8::from(count == 1);
        let step = (loss.is_finite() && near).then(|| MezoStep {
            lr: lr as f32,
            slopes: slopes.iter().map(|slope| *slope as f32).collect(),
        });
        let model = match &step {
            Some(step) => self.stepped(model, &leaves, step, away),
            None => self.swept(model, &leaves, (number, 0), away, None),
        };
        (tracked(model, &leaves), Ok(Probed { loss, step, slope }))
    }

    /// The losses on both sides of the model, which is then on the lower one; or where it was, if one of
    /// them fails.
    fn probed<M: Module, E>(
        &self,
        model: M,
        leaves: &HashMap<ParamId, Leaf>,
        at: (u64, u64),
        loss: &dyn Fn(M) -> Result<f64, E>,
    ) -> (M, Result<[f64; 2], E>) {
        let model = self.swept(model, leaves, at, 1, None);
        let above = match loss(model.clone()) {
            Ok(above) => above,
            Err(error) => return (self.swept(model, leaves, at, -1, None), Err(error)),
        };
        let model = self.swept(model, leaves, at, -2, None);
        match loss(model.clone()) {
            Ok(below) => (model, Ok([above, below])),
            Err(error) => (self.swept(model, leaves, at, 1, None), Err(error)),
        }
    }

    /// Makes a step that is known, as [`step`](Self::step) made it.
    pub fn replay<M: Module>(&mut self, model: M, step: &MezoStep) -> M {
        let (model, leaves) = self.untracked(model);
        tracked(self.stepped(model, &leaves, step, 0), &leaves)
    }

    /// Goes against the directions of a step; `times` is how often the first is to be taken back.
    fn stepped<M: Module>(
        &mut self,
        mut model: M,
        leaves: &HashMap<ParamId, Leaf>,
        step: &MezoStep,
        mut times: i8,
    ) -> M {
        let number = self.steps.len() as u64;
        let mut lr = f64::from(step.lr);
        let decay = self.config.weight_decay;
        for (direction, slope) in step.slopes.iter().enumerate() {
            let length = lr * f64::from(*slope) / step.slopes.len() as f64;
            let shrink = lr * if direction == 0 { decay } else { 0.0 };
            let at = (number, direction as u64);
            model = self.swept(model, leaves, at, times, Some((shrink, length)));
            times = 0;
        }
        // No tensor has gone farther than this.
        lr *= step.slopes.iter().map(|slope| f64::from(slope.abs())).sum::<f64>()
            / step.slopes.len().max(1) as f64;
        for leaf in leaves.values() {
            let Some(grid) = self.grids.get_mut(&leaf.path) else { continue };
            let gone = f64::from(LARGEST_COORDINATE) * lr * leaf.scale + f64::from(grid.unit);
            grid.reach = (f64::from(grid.reach) + gone) as f32;
        }
        self.steps.push(step.clone());
        model
    }

    /// The weights without gradients, each with a grid that holds it.
    fn untracked<M: Module>(&mut self, model: M) -> (M, HashMap<ParamId, Leaf>) {
        let mut mapper =
            Untracker { mezo: self, stack: PathStack::default(), leaves: HashMap::new() };
        let model = model.map(&mut mapper);
        (model, mapper.leaves)
    }

    /// All weights moved along a direction; then shrunk, and moved by a length against it.
    fn swept<M: Module>(
        &self,
        model: M,
        leaves: &HashMap<ParamId, Leaf>,
        (number, direction): (u64, u64),
        times: i8,
        step: Option<(f64, f64)>,
    ) -> M {
        let key = mixed(mixed(self.config.seed, number), direction);
        let by = |leaf: &Leaf| {
            let (shrink, length) = step.unwrap_or_default();
            let shrink = if leaf.rank > 1 { shrink } else { 0.0 };
            Nudge {
                key: mixed(key, leaf.stream),
                grid: self.grids.get(&leaf.path).map_or(1.0, |grid| grid.unit),
                eps: self.config.eps,
                times,
                keep: 1.0 - shrink * leaf.scale,
                length: length * leaf.scale,
            }
        };
        model.map(&mut Sweeper { leaves, by: &by, done: HashMap::new() })
    }
}

/// A number that stands for two.
fn mixed(a: u64, b: u64) -> u64 {
    let x = (a ^ b.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 29)).wrapping_add(b).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(23)
}

/// A weight that is moved.
struct Leaf {
    path: String,
    /// Stands for the path.
    stream: u64,
    rank: usize,
    /// The factor on the learning rate; with 0 it stays where it is.
    scale: f64,
    /// How often it stands in the model.
    places: usize,
}

struct Untracker<'a> {
    mezo: &'a mut Mezo,
    stack: PathStack,
    leaves: HashMap<ParamId, Leaf>,
}

impl ModuleMapper for Untracker<'_> {
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
        let path = self.stack.path();
        let (id, value, mapper) = param.consume();
        let value = value.inner();
        let MezoConfig { eps, lr_scale, .. } = &self.mezo.config;
        let scale = factor_at(lr_scale, &path);
        if let Some(leaf) = self.leaves.get_mut(&id) {
            leaf.places += 1;
        } else {
            let grid = self.mezo.grids.entry(path.clone()).or_default();
            if grid.unit == 0.0 || !grid.holds(*eps) {
                let largest: f32 = value.clone().max().into_scalar();
                let least: f32 = value.clone().min().into_scalar();
                *grid = Grid::of(largest.max(-least), *eps);
            }
            let stream = path.bytes().fold(0, |hash, byte| mixed(hash, u64::from(byte)));
            self.leaves.insert(id, Leaf { path, stream, rank: D, scale, places: 1 });
        }
        Param::from_mapped_value(id, Tensor::from_inner(value), mapper)
    }
}

/// The model with gradients where they were.
fn tracked<M: Module>(model: M, leaves: &HashMap<ParamId, Leaf>) -> M {
    struct Tracker<'a>(&'a HashMap<ParamId, Leaf>);
    impl ModuleMapper for Tracker<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let is_leaf = self.0.contains_key(&param.id);
            if is_leaf { param.set_require_grad(true) } else { param }
        }
    }
    model.map(&mut Tracker(leaves))
}

struct Sweeper<'a> {
    leaves: &'a HashMap<ParamId, Leaf>,
    by: &'a dyn Fn(&Leaf) -> Nudge,
    /// A weight that stands in several places is moved once.
    done: HashMap<ParamId, Tensor<1>>,
}

impl ModuleMapper for Sweeper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let leaf = self.leaves.get(&param.id).filter(|leaf| leaf.scale > 0.0);
        let Some(leaf) = leaf else { return param };
        let (id, value, mapper) = param.consume();
        let dims = value.dims();
        let moved = match self.done.get(&id) {
            Some(moved) => moved.clone(),
            None => {
                let len: usize = dims.iter().product();
                nudge(value.inner().reshape([len]), (self.by)(leaf))
            }
        };
        if leaf.places > 1 {
            self.done.insert(id, moved.clone());
        }
        Param::from_mapped_value(id, Tensor::from_inner(moved.reshape(dims)), mapper)
    }
}
