//! The operations as Burn's dispatch and autodiff see them.

use burn::backend::Backend;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops as Recorded, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, ExtensionType, backend_extension};

use super::kernels::{Activation, Heads, Kernels};
use super::{PackedWeight, sink};

/// An optional mask, in the form that the dispatch macro takes.
#[derive(ExtensionType)]
pub enum Mask<B: Backend> {
    /// Every query sees every key (or those that causality leaves).
    Open,
    /// Added to the scores.
    Added(FloatTensor<B>),
}

impl<B: Backend> Mask<B> {
    fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Mask::Open => None,
            Mask::Added(mask) => Some(mask),
        }
    }
}

/// An optional bias, likewise.
#[derive(ExtensionType)]
pub enum Bias<B: Backend> {
    /// None.
    Absent,
    /// Added to each row.
    Added(FloatTensor<B>),
}

impl<B: Backend> Bias<B> {
    fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Bias::Absent => None,
            Bias::Added(bias) => Some(bias),
        }
    }
}

/// What each row of logits should be.
#[derive(ExtensionType, Clone, Debug)]
pub enum Targets<B: Backend> {
    /// A share for each class, `[rows, classes]`.
    Shares(FloatTensor<B>),
    /// One class, `[rows]`.
    Classes(IntTensor<B>),
}

impl<B: Backend, C: CheckpointStrategy> Targets<Autodiff<B, C>> {
    /// As the backend below has it.
    fn inner(self) -> Targets<B> {
        match self {
            Targets::Shares(shares) => Targets::Shares(shares.into_primitive()),
            Targets::Classes(classes) => Targets::Classes(classes),
        }
    }
}

/// The operations of this crate on a backend's own tensors; call the functions of
/// [`ops`](super) instead.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm")),
    Autodiff
)]
pub trait Ops: Backend {
    /// See [`linear`](super::linear); rows `[rows, in]`.
    fn linear_op(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] b: Bias<Self>,
    ) -> FloatTensor<Self>;
    /// See [`Packed::forward`](crate::four_bit::Packed::forward); rows `[rows, in]`.
    fn packed_linear_op(
        x: FloatTensor<Self>,
        #[extension_type] w: PackedWeight<Self>,
        #[extension_type] b: Bias<Self>,
    ) -> FloatTensor<Self>;
    /// See [`Packed::values`](crate::four_bit::Packed::values).
    fn unpacked_op(#[extension_type] w: PackedWeight<Self>) -> FloatTensor<Self>;
    /// See [`layer_norm`](super::layer_norm); rows `[rows, width]`.
    fn layer_norm_op(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// See [`rms_norm`](super::rms_norm); rows `[rows, width]`.
    fn rms_norm_op(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    /// See [`activate`](super::activate).
    fn activate_op(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self>;
    /// See [`gated`](super::gated).
    fn gated_op(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self>;
    /// See [`rotate`](super::rotate).
    fn rotate_op(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    /// See [`attention`](super::attention).
    fn attention_op(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] mask: Mask<Self>,
        heads: usize,
        kv_heads: usize,
        causal: bool,
        scale: f64,
    ) -> FloatTensor<Self>;
    /// See [`cross_entropy`](super::cross_entropy).
    fn cross_entropy_op(
        logits: FloatTensor<Self>,
        #[extension_type] targets: Targets<Self>,
    ) -> FloatTensor<Self>;
}

macro_rules! plain {
    ($backend:ty) => {
        impl Ops for $backend {
            fn linear_op(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                b: Bias<Self>,
            ) -> FloatTensor<Self> {
                Self::linear_forward(x, w, b.into_option())
            }
            fn packed_linear_op(
                x: FloatTensor<Self>,
                w: PackedWeight<Self>,
                b: Bias<Self>,
            ) -> FloatTensor<Self> {
                Self::packed_forward(x, w, b.into_option())
            }
            fn unpacked_op(w: PackedWeight<Self>) -> FloatTensor<Self> {
                Self::unpacked(w)
            }
            fn layer_norm_op(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                b: FloatTensor<Self>,
                eps: f64,
            ) -> FloatTensor<Self> {
                let [out, _, _] = Self::layer_norm_forward(x, w, b, eps);
                out
            }
            fn rms_norm_op(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                eps: f64,
            ) -> FloatTensor<Self> {
                let [out, _] = Self::rms_norm_forward(x, w, eps);
                out
            }
            fn activate_op(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
                Self::activate_forward(x, kind)
            }
            fn gated_op(
                gate: FloatTensor<Self>,
                up: FloatTensor<Self>,
                kind: Activation,
            ) -> FloatTensor<Self> {
                Self::gated_forward(gate, up, kind)
            }
            fn rotate_op(
                x: FloatTensor<Self>,
                cos: FloatTensor<Self>,
                sin: FloatTensor<Self>,
                heads: usize,
            ) -> FloatTensor<Self> {
                Self::rotate(x, cos, sin, heads)
            }
            fn attention_op(
                q: FloatTensor<Self>,
                k: FloatTensor<Self>,
                v: FloatTensor<Self>,
                mask: Mask<Self>,
                heads: usize,
                kv_heads: usize,
                causal: bool,
                scale: f64,
            ) -> FloatTensor<Self> {
                let heads = Heads { q: heads, kv: kv_heads, causal, scale };
                let mask = mask.into_option();
                let [out, _] = Self::attention_forward(q, k, v, mask, heads);
                out
            }
            fn cross_entropy_op(
                logits: FloatTensor<Self>,
                targets: Targets<Self>,
            ) -> FloatTensor<Self> {
                let [out, _] = Self::cross_entropy_forward(logits, targets);
                out
            }
        }
    };
}

#[cfg(feature = "flex")]
plain!(burn::backend::Flex);
#[cfg(feature = "tch")]
plain!(burn::backend::LibTorch);
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
plain!(burn::backend::Cube);

/// Hands each parent that wants one its gradient.
fn register<B: Kernels, const N: usize>(
    grads: &mut Gradients,
    ids: [Option<burn::backend::autodiff::NodeId>; N],
    values: [FloatTensor<B>; N],
) {
    for (id, value) in ids.into_iter().zip(values) {
        if let Some(id) = id {
            sink::hand::<B>(grads, id, value);
        }
    }
}

/// Defines the recorded form: the parents, what is kept, and the backward that uses it.
macro_rules! backward {
    ($name:ident, $n:literal, $state:ty, |$kept:pat_param, $grad:ident| $body:expr) => {
        #[derive(Debug)]
        struct $name;
        impl<B: Kernels> Backward<B, $n> for $name {
            type State = $state;
            fn backward(
                self,
                ops: Recorded<Self::State, $n>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let $grad = grads.consume::<B>(&ops.node);
                let $kept = ops.state;
                let ids = ops.parents.map(|parent| parent.map(|node| node.id));
                register::<B, $n>(grads, ids, $body);
            }
        }
    };
}

/// The output as a node whose parents are the guards; `kept` is made only if one of them wants a
/// gradient.
macro_rules! recorded {
    ($backward:expr, $n:literal, $guards:expr, $kept:expr, $out:expr) => {{
        let guards = $guards;
        sink::recorded(guards.iter().map(|node| node.id()));
        match Backward::<B, $n>::prepare::<C>($backward, guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish($kept, $out),
            OpsKind::UnTracked(prep) => prep.finish($out),
        }
    }};
}

/// The backward of a linear map. Kept are x and w, each only if the other gets a gradient: with
/// frozen weights the input is dropped at once.
#[derive(Debug)]
struct Linear;

impl<B: Kernels, const N: usize> Backward<B, N> for Linear {
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Recorded<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [mut x, w] = ops.state;
        let bias = ops.parents.get(2).is_some_and(Option::is_some);
        let sunk = ops.parents[1].as_ref().map(|node| node.id).filter(|id| sink::waits(*id));
        // The weight may be written as soon as its gradient is out, so that is last.
        let product = sunk.and_then(|id| Some((id, x.take()?, grad.clone())));
        let values = B::linear_backward(x, w, grad, bias);
        for (parent, value) in ops.parents.into_iter().zip(values) {
            if let (Some(node), Some(value)) = (parent, value) {
                sink::hand::<B>(grads, node.id, value);
            }
        }
        if let Some((id, x, grad)) = product {
            sink::hand_product::<B>(grads, id, x, grad);
        }
    }
}

/// The backward of a linear map whose weight has four bits and no gradient.
#[derive(Debug)]
struct PackedLinear;

impl<B: Kernels, const N: usize> Backward<B, N> for PackedLinear {
    type State = Kept<B>;

    fn backward(self, ops: Recorded<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let bias = ops.parents.get(1).is_some_and(Option::is_some);
        let values = B::packed_backward(ops.state.0, grad, bias);
        for (parent, value) in ops.parents.into_iter().zip(values) {
            if let (Some(node), Some(value)) = (parent, value) {
                sink::hand::<B>(grads, node.id, value);
            }
        }
    }
}

/// A packed weight that is kept for the backward pass.
#[derive(Clone)]
struct Kept<B: Backend>(PackedWeight<B>);

impl<B: Backend> std::fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&self.0.shape).finish()
    }
}

/// The weight as the backend below has it.
fn inner<B: Backend, C: CheckpointStrategy>(w: PackedWeight<Autodiff<B, C>>) -> PackedWeight<B> {
    PackedWeight {
        codes: w.codes,
        table: w.table.into_primitive(),
        scales: w.scales.into_primitive(),
        nested: w.nested,
        map: w.map.into_primitive(),
        shape: w.shape,
    }
}

impl<B: Kernels, C: CheckpointStrategy> Ops for Autodiff<B, C> {
    fn packed_linear_op(
        x: FloatTensor<Self>,
        w: PackedWeight<Self>,
        b: Bias<Self>,
    ) -> FloatTensor<Self> {
        let (node_x, w) = (x.node(), inner(w));
        let (x, kept) = (x.into_primitive(), Kept(w.clone()));
        match b {
            Bias::Absent => {
                let out = B::packed_forward(x, w, None);
                recorded!(PackedLinear, 1, [node_x], kept, out)
            }
            Bias::Added(b) => {
                let guards = [node_x, b.node()];
                let out = B::packed_forward(x, w, Some(b.into_primitive()));
                recorded!(PackedLinear, 2, guards, kept, out)
            }
        }
    }

    fn unpacked_op(w: PackedWeight<Self>) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::unpacked(inner(w)))
    }

    fn linear_op(x: FloatTensor<Self>, w: FloatTensor<Self>, b: Bias<Self>) -> FloatTensor<Self> {
        let (track_x, track_w) = (x.is_tracked(), w.is_tracked());
        let (node_x, node_w) = (x.node(), w.node());
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let kept = [track_w.then(|| x.clone()), track_x.then(|| w.clone())];
        match b {
            Bias::Absent => {
                let out = B::linear_forward(x, w, None);
                recorded!(Linear, 2, [node_x, node_w], kept, out)
            }
            Bias::Added(b) => {
                let guards = [node_x, node_w, b.node()];
                let out = B::linear_forward(x, w, Some(b.into_primitive()));
                recorded!(Linear, 3, guards, kept, out)
            }
        }
    }

    fn layer_norm_op(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        backward!(LayerNorm, 3, [FloatTensor<B>; 4], |[x, w, mean, rstd], grad| {
            B::layer_norm_backward(x, w, mean, rstd, grad)
        });
        let guards = [x.node(), w.node(), b.node()];
        let (x, w, b) = (x.into_primitive(), w.into_primitive(), b.into_primitive());
        let [out, mean, rstd] = B::layer_norm_forward(x.clone(), w.clone(), b, eps);
        recorded!(LayerNorm, 3, guards, [x, w, mean, rstd], out)
    }

    fn rms_norm_op(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        backward!(RmsNorm, 2, [FloatTensor<B>; 3], |[x, w, rstd], grad| {
            B::rms_norm_backward(x, w, rstd, grad)
        });
        let guards = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let [out, rstd] = B::rms_norm_forward(x.clone(), w.clone(), eps);
        recorded!(RmsNorm, 2, guards, [x, w, rstd], out)
    }

    fn activate_op(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        backward!(Activate, 1, (FloatTensor<B>, Activation), |(x, kind), grad| {
            [B::activate_backward(x, grad, kind)]
        });
        let guards = [x.node()];
        let x = x.into_primitive();
        recorded!(Activate, 1, guards, (x.clone(), kind), B::activate_forward(x, kind))
    }

    fn gated_op(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self> {
        backward!(Gated, 2, ([FloatTensor<B>; 2], Activation), |([gate, up], kind), grad| {
            B::gated_backward(gate, up, grad, kind)
        });
        let guards = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        let out = B::gated_forward(gate.clone(), up.clone(), kind);
        recorded!(Gated, 2, guards, ([gate, up], kind), out)
    }

    fn rotate_op(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        // What turned one way turns back: the transpose of a turn has the opposite sine.
        backward!(Rotate, 1, ([FloatTensor<B>; 2], usize), |([cos, sin], heads), grad| {
            [B::rotate(grad, cos, B::float_neg(sin), heads)]
        });
        let guards = [x.node()];
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        let out = B::rotate(x, cos.clone(), sin.clone(), heads);
        recorded!(Rotate, 1, guards, ([cos, sin], heads), out)
    }

    fn attention_op(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Mask<Self>,
        heads: usize,
        kv_heads: usize,
        causal: bool,
        scale: f64,
    ) -> FloatTensor<Self> {
        type Kept<B> = ([FloatTensor<B>; 5], Option<FloatTensor<B>>, Heads);
        backward!(Attention, 3, Kept<B>, |([q, k, v, out, lse], mask, heads), grad| {
            B::attention_backward(q, k, v, mask, out, lse, grad, heads)
        });
        let heads = Heads { q: heads, kv: kv_heads, causal, scale };
        let guards = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let mask = mask.into_option().map(|m| m.into_primitive());
        let [out, lse] = B::attention_forward(q.clone(), k.clone(), v.clone(), mask.clone(), heads);
        recorded!(Attention, 3, guards, ([q, k, v, out.clone(), lse], mask, heads), out)
    }

    fn cross_entropy_op(logits: FloatTensor<Self>, targets: Targets<Self>) -> FloatTensor<Self> {
        type Kept<B> = ([FloatTensor<B>; 2], Targets<B>);
        backward!(CrossEntropy, 1, Kept<B>, |([logits, lse], targets), grad| {
            [B::cross_entropy_backward(logits, targets, lse, grad)]
        });
        let guards = [logits.node()];
        let (logits, targets) = (logits.into_primitive(), targets.inner());
        let [out, lse] = B::cross_entropy_forward(logits.clone(), targets.clone());
        recorded!(CrossEntropy, 1, guards, ([logits, lse], targets), out)
    }
}
