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
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, TensorMetadata, backend_extension,
};
use burn::tensor::{Shape, Tensor};

/// What a sink has to give.
#[derive(Debug)]
pub enum Arrived {
    /// The whole gradient, flat and on the plain device.
    Whole(Tensor<1>),
    /// A part that came after what was taken for the whole: the tensor was used by operations of this crate
    /// and by others, which run late.
    Rest(Tensor<1>),
}

/// Who is given a gradient.
#[derive(Clone)]
pub struct Hook {
    take: Arc<dyn Fn(Arrived) + Send + Sync>,
    /// The node that it was set on.
    node: Arc<OnceLock<NodeId>>,
}

impl Hook {
    /// Calls `take` with the gradient once it is whole.
    pub fn new(take: impl Fn(Arrived) + Send + Sync + 'static) -> Self {
        Hook { take: Arc::new(take), node: Arc::default() }
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
        let len = out.shape().num_elements();
        match Backward::<B, 1>::prepare::<C>(Last, guards).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(out),
            OpsKind::Tracked(prep) => {
                let out = prep.finish(hook.node.clone(), out);
                if hook.node.set(out.id()).is_ok() {
                    let waiting = Waiting { len, uses: 0, sum: None, state: State::Empty, hook };
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
        let all = match (late, waiting.sum.take()) {
            (Some(late), Some(sum)) => Some(late + sum),
            (late, sum) => late.or(sum),
        };
        let Some(all) = all else { return };
        let take = waiting.hook.take;
        if waiting.state != State::Given {
            return take(Arrived::Whole(all));
        }
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
    /// Recorded operations whose backward has not run.
    uses: usize,
    sum: Option<Tensor<1>>,
    state: State,
    hook: Hook,
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
pub(super) fn recorded(nodes: impl IntoIterator<Item = NodeId>) {
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

/// Hands a gradient to the sink of its node, or files it with the others.
pub(super) fn hand<B: Lift>(grads: &mut Gradients, node: NodeId, value: FloatTensor<B>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return grads.register::<B>(node, value);
    }
    let mut all = sinks();
    let Some(waiting) = all.get_mut(&node) else {
        drop(all);
        return grads.register::<B>(node, value);
    };
    if waiting.state == State::Empty {
        // The sink's own step expects something. What others file is added to it.
        let shape = Shape::from(vec![1; value.shape().num_dims()]);
        let zero = B::float_zeros(shape, &value.device(), value.dtype().into());
        grads.register::<B>(node, zero);
        waiting.state = State::Partly;
    }
    let value = flat::<B>(value);
    let sum = match waiting.sum.take() {
        Some(sum) => sum + value,
        None => value,
    };
    waiting.uses = waiting.uses.saturating_sub(1);
    if waiting.uses > 0 {
        waiting.sum = Some(sum);
        return;
    }
    waiting.state = State::Given;
    let take = waiting.hook.take.clone();
    drop(all);
    take(Arrived::Whole(sum));
}
