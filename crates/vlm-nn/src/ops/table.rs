//! A table of rows, such as that of tokens: looked up, and multiplied with.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops as Recorded, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{IndexingUpdateOp, Int, Shape, Tensor};

use super::{Kernels, accumulate, sink};

/// The rows of a table `[rows, width]` with these numbers, `[..]`: `[.., width]`.
pub fn lookup(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let ([batch, tokens], width) = (ids.dims(), table.dims()[1]);
    let ids = ids.reshape([batch * tokens]);
    let rows = <Dispatch as TableOps>::lookup_op(table.into_dispatch(), ids.into_dispatch());
    Tensor::<2>::from_dispatch(rows).reshape([batch, tokens, width])
}

/// `x · tableᵀ`: how much each row of `x: [batch, tokens, width]` has of each row of `table: [rows, width]`.
pub fn scores(x: Tensor<3>, table: Tensor<2>) -> Tensor<3> {
    let ([batch, tokens, width], [rows, wide]) = (x.dims(), table.dims());
    assert_eq!(width, wide, "scores: the rows are not as wide as those of the table");
    let x = x.reshape([batch * tokens, width]);
    let out = <Dispatch as TableOps>::scores_op(x.into_dispatch(), table.into_dispatch());
    Tensor::<2>::from_dispatch(out).reshape([batch, tokens, rows])
}

/// The operations on a backend's own tensors; call the functions instead.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm")),
    Autodiff
)]
pub trait TableOps: Backend {
    /// See [`lookup`]; ids `[count]`.
    fn lookup_op(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
    /// See [`scores`]; x `[count, width]`.
    fn scores_op(x: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn selected<B: Backend>(table: FloatTensor<B>, ids: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(table, 0, ids)
}

fn scored<B: Kernels>(x: FloatTensor<B>, table: FloatTensor<B>) -> FloatTensor<B> {
    B::linear_forward(x, B::float_swap_dims(table, 0, 1), None)
}

macro_rules! plain {
    ($backend:ty) => {
        impl TableOps for $backend {
            fn lookup_op(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
                selected::<Self>(table, ids)
            }
            fn scores_op(x: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
                scored::<Self>(x, table)
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

impl<B: Kernels + TableOps, C: CheckpointStrategy> TableOps for Autodiff<B, C> {
    fn lookup_op(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let guards = [table.node()];
        let table = table.into_primitive();
        let kept = (ids.clone(), table.shape());
        let out = B::lookup_op(table, ids);
        sink::recorded(guards.iter().map(|node| node.id()));
        match Backward::<B, 1>::prepare::<C>(Lookup, guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn scores_op(x: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        let (track_x, track_table) = (x.is_tracked(), table.is_tracked());
        let guards = [x.node(), table.node()];
        let (x, table) = (x.into_primitive(), table.into_primitive());
        let kept = [track_table.then(|| x.clone()), track_x.then(|| table.clone())];
        let out = B::scores_op(x, table);
        sink::recorded(guards.iter().map(|node| node.id()));
        match Backward::<B, 2>::prepare::<C>(Scores, guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct Lookup;

impl<B: Kernels> Backward<B, 1> for Lookup {
    type State = (IntTensor<B>, Shape);

    fn backward(self, ops: Recorded<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (ids, shape) = ops.state;
        let [Some(node)] = ops.parents else { return };
        let (kind, device) = (grad.dtype(), grad.device());
        if sink::waits(node.id) {
            let (ids, rows) =
                (Tensor::from_dispatch(B::lift_int(ids)), Tensor::from_dispatch(B::lift(grad)));
            let later = move |sum: Option<Tensor<1>>| {
                let sum =
                    sum.unwrap_or_else(|| Tensor::zeros([shape.num_elements()], &rows.device()));
                accumulate::add_rows(sum, ids, rows)
            };
            return sink::hand_later::<B>(grads, node.id, (&device, kind), Box::new(later));
        }
        let zeros = B::float_zeros(shape, &device, kind.into());
        let value = B::float_select_assign(zeros, 0, ids, grad, IndexingUpdateOp::Add);
        grads.register::<B>(node.id, value);
    }
}

#[derive(Debug)]
struct Scores;

impl<B: Kernels> Backward<B, 2> for Scores {
    /// x and the table, each if the other gets a gradient.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Recorded<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, table] = ops.state;
        let [node_x, node_table] = ops.parents;
        if let (Some(node), Some(table)) = (node_x, table) {
            let value = B::linear_forward(grad.clone(), table, None);
            sink::hand::<B>(grads, node.id, value);
        }
        if let (Some(node), Some(x)) = (node_table, x) {
            sink::hand_product::<B>(grads, node.id, grad, x);
        }
    }
}
