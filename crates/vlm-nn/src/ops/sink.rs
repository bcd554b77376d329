//! Gradients that are handed out in the middle of a backward pass, and kept by nobody.
//!
//! Burn runs a backward pass level by level and keeps the gradient of each leaf to its end. The operations
//! of this crate hand a leaf's gradient out as they come to it, if there is a sink for it: the levels do not
//! matter then, and no gradient waits for another.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops as Recorded, OpsKind};
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Shape, Tensor};

use super::{Kernels, add_product};

/// What a sink has to give.
#[derive(Debug)]
pub enum Arrived {
    /// The whole gradient, flat and on the plain device.
    Whole(Tensor<1>),
    /// A part that came after what was taken for the whole: the tensor was used by operations of this crate
    /// and by others, which run late.
    Rest(Tensor<1>),
}

/// Counts the bytes of gradients that sinks hold.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<[AtomicUsize; 2]>);

impl Meter {
    /// The most that were alive together. A gradient that comes from operations of Burn's counts to the end
    /// of the pass.
    pub fn most(&self) -> usize {
        self.0[1].load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        let now = self.0[0].fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0[1].fetch_max(now, Ordering::Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.0[0].fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Who is given a gradient.
#[derive(Clone)]
pub struct Hook {
    take: Arc<dyn Fn(Arrived) + Send + Sync>,
    /// The node that it was set on.
    node: Arc<OnceLock<NodeId>>,
    meter: Meter,
}

impl Hook {
    /// Calls `take` with the gradient once it is whole; `meter` counts it with those of other hooks.
    pub fn new(meter: &Meter, take: impl Fn(Arrived) + Send + Sync + 'static) -> Self {
        Hook { take: Arc::new(take), node: Arc::default(), meter: meter.clone() }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A sink, for as long as this is there.
#[derive(Debug)]
pub struct Sink(Arc<OnceLock<NodeId>>);

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(node) = self.0.get()
            && sinks().remove(node).is_some()
        {
            COUNT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The same values; in a backward pass their gradient goes to `hook` as soon as it is whole, and to nobody
/// else: when the backward passes of all operations *of this crate* that were recorded with the result have
/// run. They hold it no more then, so that what hangs on nobody else can be written in place (LOMO, Lv et al.
/// 2023, arXiv 2306.09782). A gradient that comes from other operations is handed out at the end of the pass.
///
/// `x` is a leaf as a rule. On a device without gradients this is `x`.
pub fn sink<const D: usize>(x: Tensor<D>, hook: Hook) -> (Tensor<D>, Sink) {
    let place = hook.node.clone();
    let x = <Dispatch as SinkOps>::sink_op(x.into_dispatch(), hook);
    (Tensor::from_dispatch(x), Sink(place))
}

/// The sink on a backend's own tensors; call [`sink`] instead.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm")),
    Autodiff
)]
pub trait SinkOps: Backend {
    /// See [`sink`].
    fn sink_op(x: FloatTensor<Self>, hook: Hook) -> FloatTensor<Self>;
}

/// A backend whose tensors can be made such that carry their backend with them.
pub trait Lift: Backend {
    /// The tensor as everyone uses it.
    fn lift(x: FloatTensor<Self>) -> DispatchTensor;
    /// The same of whole numbers.
    fn lift_int(x: IntTensor<Self>) -> DispatchTensor;
    /// What [`lift`](Self::lift) was given.
    ///
    /// # Panics
    /// If the tensor is of another backend.
    fn lower(x: DispatchTensor) -> FloatTensor<Self>;
}

macro_rules! lifted {
    ($backend:ty, $kind:ident) => {
        impl Lift for $backend {
            fn lift(x: FloatTensor<Self>) -> DispatchTensor {
                DispatchTensor {
                    kind: DispatchTensorKind::$kind(BackendTensor::Float(x)),
                    autodiff: DispatchAutodiffContext::Disabled,
                }
            }
            fn lift_int(x: IntTensor<Self>) -> DispatchTensor {
                DispatchTensor {
                    kind: DispatchTensorKind::$kind(BackendTensor::Int(x)),
                    autodiff: DispatchAutodiffContext::Disabled,
                }
            }
            fn lower(x: DispatchTensor) -> FloatTensor<Self> {
                match x.kind {
                    DispatchTensorKind::$kind(BackendTensor::Float(x)) => x,
                    _ => panic!("a tensor of another backend"),
                }
            }
        }
        impl SinkOps for $backend {
            fn sink_op(x: FloatTensor<Self>, _: Hook) -> FloatTensor<Self> {
                x
            }
        }
    };
}

#[cfg(feature = "flex")]
lifted!(burn::backend::Flex, Flex);
#[cfg(feature = "tch")]
lifted!(burn::backend::LibTorch, LibTorch);
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
lifted!(burn::backend::Cube, Cube);

impl<B: Lift, C: CheckpointStrategy> SinkOps for Autodiff<B, C> {
    fn sink_op(x: FloatTensor<Self>, hook: Hook) -> FloatTensor<Self> {
        let guards = [x.node()];
        let out = x.into_primitive();
        let (len, rank) = (out.shape().num_elements(), out.shape().num_dims());
        match Backward::<B, 1>::prepare::<C>(Last, guards).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(out),
            OpsKind::Tracked(prep) => {
                let out = prep.finish(hook.node.clone(), out);
                if hook.node.set(out.id()).is_ok() {
                    let waiting = Waiting::new(len, rank, hook);
                    sinks().insert(out.id(), waiting);
                    COUNT.fetch_add(1, Ordering::Relaxed);
                }
                out
            }
        }
    }
}

/// The backward of a sink. It is of the lowest level: whatever has a gradient for it has run.
#[derive(Debug)]
struct Last;

impl<B: Lift> Backward<B, 1> for Last {
    type State = Arc<OnceLock<NodeId>>;

    fn backward(self, ops: Recorded<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Some(mut waiting) = ops.state.get().and_then(|node| sinks().remove(node)) else {
            return;
        };
        COUNT.fetch_sub(1, Ordering::Relaxed);
        // What stands for handed gradients has one value; of a single value it is 0.
        let foreign = match (waiting.state, grad.shape().num_elements()) {
            (State::Empty, _) => true,
            (_, count) => count == waiting.len && waiting.len > 1,
        };
        let late = (foreign || waiting.len == 1).then(|| flat::<B>(grad));
        if foreign {
            waiting.hook.meter.add(4 * waiting.len);
        }
        waiting.sum = match (late, waiting.sum.take()) {
            (Some(late), Some(sum)) => Some(late + sum),
            (late, sum) => late.or(sum),
        };
        let Some(all) = waiting.whole() else { return };
        if waiting.state != State::Given {
            return waiting.give(all);
        }
        let take = waiting.hook.take;
        let size: f32 = all.clone().abs().sum().into_scalar();
        if size > 0.0 {
            take(Arrived::Rest(all));
        }
    }
}

/// How far a sink is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has come.
    Empty,
    /// A part is here.
    Partly,
    /// The hook has been called.
    Given,
}

/// What a sink waits for.
struct Waiting {
    len: usize,
    rank: usize,
    /// Recorded operations whose backward has not run.
    uses: usize,
    sum: Option<Tensor<1>>,
    /// What is to be added once the gradient is asked for.
    later: Vec<Later>,
    state: State,
    hook: Hook,
}

/// Adds a gradient to what there is, or begins with it.
pub(super) type Later = Box<dyn FnOnce(Option<Tensor<1>>) -> Tensor<1> + Send>;

impl Waiting {
    fn new(len: usize, rank: usize, hook: Hook) -> Self {
        Waiting { len, rank, uses: 0, sum: None, later: Vec::new(), state: State::Empty, hook }
    }

    /// A part has come: whether it is the first.
    fn begins(&mut self) -> bool {
        let first = self.state == State::Empty;
        if first {
            self.state = State::Partly;
        }
        first
    }

    /// Adds a part to what there is.
    fn take_in(&mut self, value: Tensor<1>) {
        self.hook.meter.add(4 * self.len);
        self.sum = Some(match self.sum.take() {
            None => value,
            Some(sum) => {
                let both = sum + value;
                self.hook.meter.sub(4 * self.len);
                both
            }
        });
    }

    /// All parts in one; `None` if there are none.
    fn whole(&mut self) -> Option<Tensor<1>> {
        if self.sum.is_none() && !self.later.is_empty() {
            self.hook.meter.add(4 * self.len);
        }
        let later = std::mem::take(&mut self.later);
        later.into_iter().fold(self.sum.take(), |sum, later| Some(later(sum)))
    }

    /// One of the operations has brought its part: what there is, if it was the last.
    fn used(&mut self) -> Option<Waiting> {
        self.uses = self.uses.saturating_sub(1);
        if self.uses > 0 {
            return None;
        }
        let mut ready = Waiting::new(self.len, self.rank, self.hook.clone());
        std::mem::swap(&mut ready.sum, &mut self.sum);
        std::mem::swap(&mut ready.later, &mut self.later);
        self.state = State::Given;
        Some(ready)
    }

    fn hand_out(mut self) {
        if let Some(whole) = self.whole() {
            self.give(whole);
        }
    }

    /// Hands out the whole gradient, which nobody has afterwards.
    fn give(&self, all: Tensor<1>) {
        (self.hook.take)(Arrived::Whole(all));
        self.hook.meter.sub(4 * self.len);
    }
}

/// The sinks there are. Nodes have numbers that are never used again, so that all graphs share this.
static SINKS: LazyLock<Mutex<HashMap<NodeId, Waiting>>> = LazyLock::new(Mutex::default);
/// How many: where there are none, nobody waits for the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn sinks() -> MutexGuard<'static, HashMap<NodeId, Waiting>> {
    SINKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flat<B: Lift>(x: FloatTensor<B>) -> Tensor<1> {
    let len = x.shape().num_elements();
    Tensor::from_dispatch(B::lift(B::float_reshape(x, Shape::new([len]))))
}

/// Notes that an operation is recorded with these nodes.
pub(crate) fn recorded(nodes: impl IntoIterator<Item = NodeId>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut sinks = sinks();
    for node in nodes {
        if let Some(waiting) = sinks.get_mut(&node) {
            waiting.uses += 1;
        }
    }
}

/// Lets a sink expect a gradient that [`deliver`] brings.
pub(crate) fn expect<B: Lift>(
    grads: &mut Gradients,
    node: NodeId,
    rank: usize,
    (device, kind): (&Device<B>, DType),
) {
    if sinks().get_mut(&node).is_some_and(Waiting::begins) {
        let shape = Shape::from(vec![1; rank]);
        grads.register::<B>(node, B::float_zeros(shape, device, kind.into()));
    }
}

/// Brings the sink of a node a gradient from another pass, flat: one of those that were [`recorded`].
pub(crate) fn deliver(node: NodeId, value: Tensor<1>) {
    let mut all = sinks();
    let Some(waiting) = all.get_mut(&node) else { return };
    if waiting.state == State::Given {
        let take = waiting.hook.take.clone();
        drop(all);
        return take(Arrived::Rest(value));
    }
    waiting.take_in(value);
    if let Some(ready) = waiting.used() {
        drop(all);
        ready.hand_out();
    }
}

/// Whether there is a sink for a node.
pub(crate) fn waits(node: NodeId) -> bool {
    COUNT.load(Ordering::Relaxed) > 0 && sinks().contains_key(&node)
}

/// Hands a gradient to the sink of its node, or files it with the others.
pub(super) fn hand<B: Lift>(grads: &mut Gradients, node: NodeId, value: FloatTensor<B>) {
    if !waits(node) {
        return grads.register::<B>(node, value);
    }
    let about = (value.device(), value.dtype());
    arrived::<B>(grads, node, (&about.0, about.1), |waiting| {
        waiting.take_in(flat::<B>(value));
    });
}

/// The same of a gradient that is made when the sink's is asked for: until then only what it is made of is
/// kept. `about` is where and of what type the weight is.
pub(super) fn hand_later<B: Lift>(
    grads: &mut Gradients,
    node: NodeId,
    about: (&Device<B>, DType),
    later: Later,
) {
    arrived::<B>(grads, node, about, |waiting| waiting.later.push(later));
}

/// The same of `aᵀ · b`, which is multiplied out only once it is wanted, if that takes more room than its
/// factors.
pub(super) fn hand_product<B: Kernels>(
    grads: &mut Gradients,
    node: NodeId,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
) {
    let ([rows, n], [_, m]) = ([a.shape()[0], a.shape()[1]], [b.shape()[0], b.shape()[1]]);
    let others =
        sinks().get(&node).is_some_and(|waiting| waiting.uses > 1 || waiting.sum.is_some());
    if !others || rows * (n + m) >= n * m {
        let [_, value, _] = B::linear_backward(Some(a), None, b, false);
        if let Some(value) = value {
            hand::<B>(grads, node, value);
        }
        return;
    }
    let (device, kind) = (a.device(), a.dtype());
    let [a, b] = [a, b].map(|x| Tensor::<2>::from_dispatch(B::lift(x)));
    let later = move |sum: Option<Tensor<1>>| match sum {
        Some(sum) => add_product(sum, a, b),
        None => add_product(Tensor::zeros([n * m], &a.device()), a, b),
    };
    hand_later::<B>(grads, node, (&device, kind), Box::new(later));
}

/// Lets a sink take a part in, and hands the whole out if it was the last.
fn arrived<B: Lift>(
    grads: &mut Gradients,
    node: NodeId,
    (device, kind): (&Device<B>, DType),
    part: impl FnOnce(&mut Waiting),
) {
    let mut all = sinks();
    let Some(waiting) = all.get_mut(&node) else { return };
    if waiting.begins() {
        // The sink's own step expects something. What others file is added to it.
        let shape = Shape::from(vec![1; waiting.rank]);
        grads.register::<B>(node, B::float_zeros(shape, device, kind.into()));
    }
    part(waiting);
    if let Some(ready) = waiting.used() {
        drop(all);
        ready.hand_out();
    }
}
