//! Blocks that are computed a second time in the backward pass, so that nothing is kept of them but what enters.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients as Filed;
use burn::backend::autodiff::ops::{Backward, Ops as Recorded, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};

use crate::Block;
use crate::ops::{Arrived, Hook, Kernels, Meter, Sink, deliver, expect, sink, waits};

static ON: AtomicBool = AtomicBool::new(false);

/// Recomputes blocks, or keeps what they need, in the whole process until the answer is dropped (Chen et al.
/// 2016, arXiv 1604.06174): of a stack only what enters each block is kept for the backward pass, which computes
/// each block once more before it goes through it. A step then takes a third longer.
#[must_use = "what was before counts again as soon as this is dropped"]
pub fn recompute(on: bool) -> RecomputeScope {
    RecomputeScope(ON.swap(on, Ordering::Relaxed))
}

/// Holds a choice in place; see [`recompute`].
#[derive(Debug)]
pub struct RecomputeScope(bool);

impl Drop for RecomputeScope {
    fn drop(&mut self) {
        ON.store(self.0, Ordering::Relaxed);
    }
}

/// Whether blocks are recomputed now.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// What is done with a block.
type Through = dyn Fn(&Block, Tensor<3>) -> Tensor<3> + Send + Sync;

/// `through(block, x)`, of which only `x` is kept if gradients are wanted. It has to work on a device with
/// gradients and without.
pub(crate) fn recomputed(
    block: &Block,
    x: Tensor<3>,
    through: impl Fn(&Block, Tensor<3>) -> Tensor<3> + Send + Sync + 'static,
) -> Tensor<3> {
    if !x.is_autodiff() {
        return through(block, x);
    }
    let mut nodes = Nodes::default();
    block.visit(&mut nodes);
    let (x, node) = noted(x);
    let Some(anchor) = nodes.anchor.or_else(|| node.map(|_| x.clone().into_dispatch())) else {
        return through(block, x);
    };
    let plain = block.valid();
    let y = Tensor::from_inner(through(&plain, x.clone().inner()));
    let segment = Segment { block: plain, nodes: nodes.found, through: Arc::new(through) };
    let y = <Dispatch as SegmentOps>::segment_op(
        x.into_dispatch(),
        anchor,
        y.into_dispatch(),
        Arc::new(segment),
    );
    Tensor::from_dispatch(y)
}

/// The tensor, and its node if gradients flow to it.
fn noted<const D: usize>(x: Tensor<D>) -> (Tensor<D>, Option<NodeId>) {
    let place = Arc::new(OnceLock::new());
    let x = <Dispatch as SegmentOps>::node_op(x.into_dispatch(), place.clone());
    (Tensor::from_dispatch(x), place.get().copied())
}

/// The nodes of a block's parameters that gradients flow to.
#[derive(Default)]
struct Nodes {
    found: HashMap<ParamId, NodeId>,
    anchor: Option<burn::backend::DispatchTensor>,
}

impl ModuleVisitor for Nodes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (value, node) = noted(param.base());
        if let Some(node) = node {
            self.found.insert(param.id, node);
            self.anchor.get_or_insert_with(|| value.into_dispatch());
        }
    }
}

/// A block and what is done with it.
pub struct Segment {
    /// On the plain device.
    block: Block,
    nodes: HashMap<ParamId, NodeId>,
    through: Arc<Through>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Segment")
    }
}

/// The operations on a backend's own tensors.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm")),
    Autodiff
)]
pub trait SegmentOps: Backend {
    /// The same tensor; its node is noted if gradients flow to it.
    fn node_op(x: FloatTensor<Self>, place: Arc<OnceLock<NodeId>>) -> FloatTensor<Self>;
    /// `y`, which a segment made of `x`; `anchor` is something that gradients flow to.
    fn segment_op(
        x: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        y: FloatTensor<Self>,
        segment: Arc<Segment>,
    ) -> FloatTensor<Self>;
}

macro_rules! plain {
    ($backend:ty) => {
        impl SegmentOps for $backend {
            fn node_op(x: FloatTensor<Self>, _: Arc<OnceLock<NodeId>>) -> FloatTensor<Self> {
                x
            }
            fn segment_op(
                _: FloatTensor<Self>,
                _: FloatTensor<Self>,
                y: FloatTensor<Self>,
                _: Arc<Segment>,
            ) -> FloatTensor<Self> {
                y
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

impl<B: Kernels, C: CheckpointStrategy> SegmentOps for Autodiff<B, C> {
    fn node_op(x: FloatTensor<Self>, place: Arc<OnceLock<NodeId>>) -> FloatTensor<Self> {
        if x.is_tracked() {
            let _ = place.set(x.node().id());
        }
        x
    }

    fn segment_op(
        x: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        y: FloatTensor<Self>,
        segment: Arc<Segment>,
    ) -> FloatTensor<Self> {
        let guards = [x.node(), anchor.node()];
        let y = y.into_primitive();
        crate::ops::recorded(segment.nodes.values().copied());
        match Backward::<B, 2>::prepare::<C>(Again, guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.into_primitive(), segment), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct Again;

impl<B: Kernels> Backward<B, 2> for Again {
    type State = (FloatTensor<B>, Arc<Segment>);

    fn backward(self, ops: Recorded<Self::State, 2>, grads: &mut Filed, _: &mut Checkpointer) {
        let grad = Tensor::<3>::from_dispatch(B::lift(grads.consume::<B>(&ops.node)));
        let (kept, segment) = ops.state;
        let about = (kept.device(), kept.dtype());
        let x = Tensor::<3>::from_inner(Tensor::from_dispatch(B::lift(kept))).require_grad();
        let mut leaves = Leaves { nodes: &segment.nodes, sinks: Vec::new() };
        let block = segment.block.clone().map(&mut leaves);
        for (node, rank, _) in &leaves.sinks {
            expect::<B>(grads, *node, *rank, (&about.0, about.1));
        }
        let y = (segment.through)(&block, x.clone());
        // A pass within the pass; what goes to sinks arrives in the middle of it.
        let inner = (y * Tensor::from_inner(grad)).sum().backward();
        if let ([Some(node), _], Some(grad)) = (&ops.parents, x.grad(&inner)) {
            grads.register::<B>(node.id, B::lower(grad.into_dispatch()));
        }
        block.visit(&mut Filing::<B> {
            nodes: &segment.nodes,
            inner: &inner,
            grads,
            kind: std::marker::PhantomData,
        });
        drop(leaves);
    }
}

/// Puts fresh leaves in the places of a block's parameters, with sinks where the parameters have them.
struct Leaves<'a> {
    nodes: &'a HashMap<ParamId, NodeId>,
    sinks: Vec<(NodeId, usize, Sink)>,
}

impl ModuleMapper for Leaves<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = Tensor::from_inner(value);
        let Some(node) = self.nodes.get(&id).copied() else {
            return Param::from_mapped_value(id, value, mapper);
        };
        let mut leaf = value.require_grad();
        if waits(node) {
            let hook = Hook::new(&Meter::default(), move |arrived| match arrived {
                Arrived::Whole(grad) | Arrived::Rest(grad) => deliver(node, grad),
            });
            let (with, sink) = sink(leaf, hook);
            leaf = with;
            self.sinks.push((node, D, sink));
        }
        Param::from_mapped_value(id, leaf, mapper)
    }
}

/// Files the gradients of the leaves under the nodes of the parameters.
struct Filing<'a, B> {
    nodes: &'a HashMap<ParamId, NodeId>,
    inner: &'a Gradients,
    grads: &'a mut Filed,
    kind: std::marker::PhantomData<B>,
}

impl<B: Kernels> ModuleVisitor for Filing<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(node) = self.nodes.get(&param.id) else { return };
        if let (false, Some(grad)) = (waits(*node), param.base().grad(self.inner)) {
            self.grads.register::<B>(*node, B::lower(grad.into_dispatch()));
        }
    }
}
