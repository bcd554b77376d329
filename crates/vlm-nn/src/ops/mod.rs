//! Differentiable operations with hand-written backward passes.
//!
//! Burn's autodiff records attention, norms, activations and cross-entropy as many small
//! operations and keeps every intermediate. Each operation here is recorded as one node that
//! keeps only what its backward pass needs. The forward and backward bodies are [`Kernels`]:
//! a composition of backend operations by default, native code where that pays (`flex`).
//!
//! | operation | kept for backward |
//! |---|---|
//! | [`linear`] | input if the weight is trained, weight if the input is |
//! | [`Packed::forward`](crate::four_bit::Packed::forward) | the packed weight |
//! | [`lookup`] | the numbers |
//! | [`scores`] | input if the table is trained, table if the input is |
//! | [`attention`] | q, k, v, output and one number a row; never the score matrix |
//! | [`layer_norm`], [`rms_norm`] | input and one or two numbers a row |
//! | [`activate`] | input |
//! | [`gated`] | both inputs |
//! | [`rotate`] | cosine and sine |
//! | [`cross_entropy`], [`class_cross_entropy`] | logits and one number a row |

mod accumulate;
mod composed;
#[cfg(feature = "flex")]
mod flex;
mod kernels;
mod nudge;
mod optimizer;
mod packed;
mod precision;
mod recorded;
mod sink;
mod table;

pub use accumulate::{Accumulate, add_product, add_rows};
pub use kernels::{Activation, Kernels};
pub use nudge::{LARGEST_COORDINATE, Nudge, Nudges, nudge};
pub use optimizer::{
    AdaLomoStep, AdamWStep, SgdStep, ada_lomo_step, adamw_step, average, sgd_step, square_sum,
};
pub use packed::{PackedShape, PackedWeight};
pub use precision::{Precision, PrecisionScope};
pub use recorded::{Bias, Mask, Ops, Targets};
pub use sink::{Arrived, Hook, Lift, Meter, Sink, SinkOps, sink};
pub(crate) use sink::{deliver, expect, recorded, waits};
pub use table::{TableOps, lookup, scores};

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

/// A linear map of the last dimension: `x W (+ b)`.
///
/// `x: [..., in]`, `weight: [in, out]`, `bias: [out]`; the result is `[..., out]`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let mut dims = x.dims();
    let [input, output] = weight.dims();
    assert_eq!(dims[D - 1], input, "linear: the input is not as wide as the weight is tall");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [output], "linear: the bias is not as wide as the weight");
    }
    let bias = bias.map_or(Bias::Absent, |bias| Bias::Added(bias.into_dispatch()));
    let out = <Dispatch as Ops>::linear_op(rows(x).into_dispatch(), weight.into_dispatch(), bias);
    dims[D - 1] = output;
    Tensor::<2>::from_dispatch(out).reshape(dims)
}

/// The same with a weight of four bits, which gets no gradient; see
/// [`Packed::forward`](crate::four_bit::Packed::forward).
///
/// # Panics
/// If the input or the bias is not as wide as the weight says.
pub(crate) fn packed_linear<const D: usize>(
    x: Tensor<D>,
    ints: [&Tensor<1, Int>; 2],
    floats: [&Tensor<1>; 3],
    shape: PackedShape,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let mut dims = x.dims();
    assert_eq!(dims[D - 1], shape.input, "packed linear: the input is not as wide as the weight");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [shape.output], "packed linear: the bias is not as wide");
    }
    let bias = bias.map_or(Bias::Absent, |bias| Bias::Added(bias.into_dispatch()));
    let weight = on_backend(ints, floats, shape);
    let out = <Dispatch as Ops>::packed_linear_op(rows(x).into_dispatch(), weight, bias);
    dims[D - 1] = shape.output;
    Tensor::<2>::from_dispatch(out).reshape(dims)
}

/// The whole weight of four bits, `[out, in]`.
pub(crate) fn unpacked(
    ints: [&Tensor<1, Int>; 2],
    floats: [&Tensor<1>; 3],
    shape: PackedShape,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Ops>::unpacked_op(on_backend(ints, floats, shape)))
}

fn on_backend(
    [codes, nested]: [&Tensor<1, Int>; 2],
    [table, scales, map]: [&Tensor<1>; 3],
    shape: PackedShape,
) -> PackedWeight<Dispatch> {
    PackedWeight {
        codes: codes.clone().into_dispatch(),
        table: table.clone().into_dispatch(),
        scales: scales.clone().into_dispatch(),
        nested: nested.clone().into_dispatch(),
        map: map.clone().into_dispatch(),
        shape,
    }
}

/// Layer norm over the last dimension: `(x − mean) / √(var + eps) · weight + bias`
/// (Ba et al. 2016, arXiv 1607.06450).
///
/// `x: [..., width]`, `weight` and `bias: [width]`; the result has x's shape.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let dims = x.dims();
    let out = <Dispatch as Ops>::layer_norm_op(
        rows(x).into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        eps,
    );
    Tensor::<2>::from_dispatch(out).reshape(dims)
}

/// Root-mean-square norm over the last dimension: `x / √(mean(x²) + eps) · weight`
/// (Zhang and Sennrich 2019, arXiv 1910.07467).
///
/// `x: [..., width]`, `weight: [width]`; the result has x's shape.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dims = x.dims();
    let out = <Dispatch as Ops>::rms_norm_op(rows(x).into_dispatch(), weight.into_dispatch(), eps);
    Tensor::<2>::from_dispatch(out).reshape(dims)
}

/// Applies an [`Activation`] to each value.
pub fn activate<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Ops>::activate_op(x.into_dispatch(), kind))
}

/// The activation of a gate times what it lets through, `act(gate) · up`.
///
/// # Panics
/// If the two differ in shape.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, kind: Activation) -> Tensor<D> {
    let dims = gate.dims();
    assert_eq!(dims, up.dims(), "gated: the gate is not shaped as what it lets through");
    let (gate, up) = (rows(gate).into_dispatch(), rows(up).into_dispatch());
    Tensor::<2>::from_dispatch(<Dispatch as Ops>::gated_op(gate, up, kind)).reshape(dims)
}

/// Turns the pairs `(i, i + head_dim / 2)` of each head by angles whose cosine and sine are given:
/// rotary position embedding (Su et al. 2021, arXiv 2104.09864).
///
/// `x: [batch, tokens, heads · head_dim]`, `cos` and `sin: [batch or 1, tokens, head_dim / 2]`, which
/// get no gradient; the result has x's shape.
///
/// # Panics
/// If the shapes do not fit.
pub fn rotate(x: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: usize) -> Tensor<3> {
    let ([batch, tokens, width], [b, t, half]) = (x.dims(), cos.dims());
    assert!(
        (b == batch || b == 1)
            && t == tokens
            && 2 * half * heads == width
            && sin.dims() == cos.dims(),
        "rotate: angles [{b}, {t}, {half}] do not fit [{batch}, {tokens}, {width}] of {heads} heads"
    );
    Tensor::from_dispatch(<Dispatch as Ops>::rotate_op(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        heads,
    ))
}

/// How [`attention`] is shaped and masked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads` (grouped-query attention, arXiv 2305.13245).
    pub kv_heads: usize,
    /// Query `i` of `n` sees the keys up to `i + keys − n`, so that a cache of earlier keys works.
    pub causal: bool,
    /// Multiplies the scores; 1/√head_dim as a rule.
    pub scale: f64,
}

/// Scaled dot-product attention over heads that lie side by side in the last dimension.
///
/// - `q: [batch, queries, heads · head_dim]`, `k`, `v: [batch, keys, kv_heads · head_dim]`
/// - `mask`: added to the scores, `[batch or 1, queries or 1, keys]`, 0 where visible and
///   [`MASKED`] where not; it gets no gradient. Rows that see nothing become uniform.
///
/// Returns `[batch, queries, heads · head_dim]`.
///
/// # Panics
/// If heads do not divide the widths, or batch and key counts differ.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    mask: Option<Tensor<3>>,
    shape: AttentionShape,
) -> Tensor<3> {
    let ([b, t, w], [bk, s, wk]) = (q.dims(), k.dims());
    let head = w / shape.heads;
    assert!(
        w == head * shape.heads
            && wk == head * shape.kv_heads
            && shape.heads.is_multiple_of(shape.kv_heads)
            && b == bk
            && v.dims() == [bk, s, wk],
        "attention: q [{b}, {t}, {w}] with {} heads does not fit k {:?} and v {:?} with {} heads",
        shape.heads,
        k.dims(),
        v.dims(),
        shape.kv_heads
    );
    if let Some(m) = &mask {
        let [mb, mt, ms] = m.dims();
        assert!(
            (mb == b || mb == 1) && (mt == t || mt == 1) && ms == s,
            "attention: mask [{mb}, {mt}, {ms}] does not fit scores [{b}, {t}, {s}]"
        );
    }
    Tensor::from_dispatch(<Dispatch as Ops>::attention_op(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        mask.map_or(Mask::Open, |mask| Mask::Added(mask.into_dispatch())),
        shape.heads,
        shape.kv_heads,
        shape.causal,
        shape.scale,
    ))
}

/// What a mask adds to a forbidden score. Finite, so that a fully masked row stays a number.
pub const MASKED: f32 = -1e9;

/// Cross-entropy of each row of `logits: [rows, classes]` against a distribution over the
/// classes, `targets: [rows, classes]` (rows sum to 1; no gradient flows into them).
///
/// Returns the loss of each row, `[rows]`, in nats.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    assert_eq!(logits.dims(), targets.dims(), "cross_entropy: logits and targets differ in shape");
    let targets = Targets::Shares(targets.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Ops>::cross_entropy_op(logits.into_dispatch(), targets))
}

/// The same against one class for each row, `classes: [rows]`. Nothing as large as the logits is made
/// for them, and where nobody else holds the logits, their gradient takes their place.
pub fn class_cross_entropy(logits: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    assert_eq!([rows], classes.dims(), "class_cross_entropy: not a class for each row");
    let targets = Targets::Classes(classes.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Ops>::cross_entropy_op(logits.into_dispatch(), targets))
}

fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let dims = x.dims();
    let width = dims[D - 1];
    let rows = dims[..D - 1].iter().product();
    x.reshape([rows, width])
}
