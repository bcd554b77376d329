//! Native bodies for the pure-Rust CPU backend.
//!
//! Burn's own evaluates transcendental functions one value at a time and composes the norms;
//! here each operation is one vectorised pass over rows, in parallel over fixed chunks of rows
//! so that a result does not depend on the number of threads.

mod activation;
pub(crate) mod ada_lomo;
mod attention;
mod few;
mod linear;
mod nudge;
mod packed;
mod product;
mod rows;
mod simd;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::mem::MaybeUninit;

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Bytes, DType, Shape};
use rayon::prelude::*;

use attention::Keys;

use super::kernels::{Activation, Heads, Kernels};
use super::{PackedWeight, Targets, composed, packed as composed_packed};

pub(crate) use linear::add_weight_gradient;
pub(crate) use nudge::nudge;
pub(crate) use simd::{simd, sum_map};

type F = FloatTensor<Flex>;

/// Whether the tensor is 32-bit and its buffer is just its values in order.
pub(crate) fn is_plain(x: &FlexTensor) -> bool {
    x.dtype() == DType::F32
        && x.is_contiguous()
        && x.layout().start_offset() == 0
        && x.bytes().len() == x.layout().num_elements() * 4
}

/// The tensor with its values in order from the start of its buffer, copied only if need be.
pub(crate) fn values(x: FlexTensor) -> FlexTensor {
    if is_plain(&x) {
        return x;
    }
    let copy = x.to_contiguous();
    if is_plain(&copy) {
        return copy;
    }
    let shape = copy.layout().shape().clone();
    match copy.as_slice::<f32>().map(<[f32]>::to_vec) {
        Some(data) => tensor(data, shape),
        None => copy,
    }
}

/// The tensor `[batch, tokens, width]` with each token's values side by side: the filled part of a
/// cache is not copied.
fn by_tokens(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[2] == 1 && strides.iter().all(|stride| *stride >= 0) { x } else { values(x) }
}

fn tensor(data: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape), DType::F32)
}

/// Values a task handles: long enough to be worth a thread, short enough to balance two.
const CHUNK: usize = 1 << 14;

/// Runs `body(first value, chunks)` over chunks of whole rows, in parallel. The buffers may
/// have different row lengths given by their length; chunk borders fall on the same rows.
pub(crate) fn parallel_chunks<const N: usize>(
    buffers: [&mut [f32]; N],
    row: usize,
    body: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    let len = buffers[0].len();
    let rows = (CHUNK / row).max(1);
    let step = rows * row;
    let mut jobs = Vec::with_capacity(len.div_ceil(step));
    let mut rest = buffers;
    let mut start = 0;
    while start < len {
        let take = step.min(len - start);
        let mut parts: [&mut [f32]; N] = std::array::from_fn(|_| &mut [][..]);
        for (part, rest) in parts.iter_mut().zip(rest.iter_mut()) {
            let (head, tail) = std::mem::take(rest).split_at_mut(take);
            *part = head;
            *rest = tail;
        }
        jobs.push((start, parts));
        start += take;
    }
    jobs.into_par_iter().for_each(|(start, parts)| body(start, parts));
}

/// A new buffer of `len` values that `body(first value, chunk)` fills over chunks of whole rows,
/// in parallel. Never cleared: the pages of a large buffer are first touched by the thread that
/// computes them.
///
/// # Safety
/// `body` writes every value of its chunk.
pub(crate) unsafe fn filled(
    len: usize,
    row: usize,
    body: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let step = (CHUNK / row.max(1)).max(1) * row.max(1);
    let mut none = vec![(); len.div_ceil(step)];
    // SAFETY: handed on.
    unsafe { filled_beside(len, step, (&mut none, 1), |start, part, _| body(start, part)) }
}

/// The same in chunks of `step` values, each with its chunk of `beside.1` values of `beside.0`.
///
/// # Safety
/// `body` writes every value of its chunk, and `beside` has as many chunks.
pub(crate) unsafe fn filled_beside<T: Send>(
    len: usize,
    step: usize,
    beside: (&mut [T], usize),
    body: impl Fn(usize, &mut [MaybeUninit<f32>], &mut [T]) + Sync,
) -> Vec<f32> {
    let mut data = Vec::with_capacity(len);
    let parts = data.spare_capacity_mut()[..len].par_chunks_mut(step.max(1));
    let beside = beside.0.par_chunks_mut(beside.1.max(1));
    assert_eq!(parts.len(), beside.len(), "a chunk would be left out");
    let jobs = parts.zip(beside).enumerate();
    jobs.for_each(|(i, (part, beside))| body(i * step, part, beside));
    // SAFETY: all chunks have been written.
    unsafe { data.set_len(len) };
    data
}

/// The sum of `of` over chunks of a buffer, `[1]`; its order is always the same.
pub(crate) fn sum_of_chunks(x: &[f32], of: fn(&[f32]) -> f32) -> FlexTensor {
    let parts: Vec<f32> = x.par_chunks(CHUNK).map(of).collect();
    tensor(vec![parts.iter().sum()], Shape::new([1]))
}

fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|x| x.dtype() == DType::F32)
}

fn dims2(x: &FlexTensor) -> (usize, usize) {
    let s = x.layout().shape();
    (s[0], s[1])
}

impl Kernels for Flex {
    fn linear_forward(x: F, w: F, b: Option<F>) -> F {
        if !all_f32(&[&x, &w]) || b.as_ref().is_some_and(|b| !all_f32(&[b])) {
            return composed::linear_forward::<Self>(x, w, b);
        }
        let shape = Shape::new([dims2(&x).0, dims2(&w).1]);
        let b = b.map(values);
        tensor(linear::forward(&x, &w, b.as_ref().map(|b| b.storage())), shape)
    }

    fn linear_backward(x: Option<F>, w: Option<F>, grad: F, bias: bool) -> [Option<F>; 3] {
        if ![&x, &w].into_iter().flatten().chain([&grad]).all(|x| x.dtype() == DType::F32) {
            return composed::linear_backward::<Self>(x, w, grad, bias);
        }
        let grad = values(grad);
        let (n, m) = dims2(&grad);
        [
            w.map(|w| tensor(linear::input_gradient(&w, &grad), Shape::new([n, dims2(&w).0]))),
            x.map(|x| tensor(linear::weight_gradient(&x, &grad), Shape::new([dims2(&x).1, m]))),
            bias.then(|| tensor(linear::bias_gradient(grad.storage(), m), Shape::new([m]))),
        ]
    }

    fn packed_forward(x: F, w: PackedWeight<Self>, b: Option<F>) -> F {
        if !all_f32(&[&x]) || b.as_ref().is_some_and(|b| !all_f32(&[b])) {
            return composed_packed::forward::<Self>(x, Self::unpacked(w), b);
        }
        let shape = Shape::new([dims2(&x).0, w.shape.output]);
        let b = b.map(values);
        tensor(packed::forward(&x, &w, b.as_ref().map(|b| b.storage())), shape)
    }

    fn packed_backward(w: PackedWeight<Self>, grad: F, bias: bool) -> [Option<F>; 2] {
        if grad.dtype() != DType::F32 {
            return composed_packed::backward::<Self>(Self::unpacked(w), grad, bias);
        }
        let grad = values(grad);
        let (n, m) = dims2(&grad);
        let dx = packed::input_gradient(&w, grad.storage(), n);
        let dx = tensor(dx, Shape::new([n, w.shape.input]));
        let db = bias.then(|| tensor(linear::bias_gradient(grad.storage(), m), Shape::new([m])));
        [Some(dx), db]
    }

    fn unpacked(w: PackedWeight<Self>) -> F {
        let shape = Shape::new([w.shape.output, w.shape.input]);
        tensor(packed::unpacked(&w), shape)
    }

    fn layer_norm_forward(x: F, w: F, b: F, eps: f64) -> [F; 3] {
        if !all_f32(&[&x, &w, &b]) {
            return composed::layer_norm_forward::<Self>(x, w, b, eps);
        }
        let (n, d) = dims2(&x);
        let (x, w, b) = (values(x), values(w), values(b));
        let (y, mean, rstd) =
            rows::layer_norm(x.storage(), w.storage(), b.storage(), n, d, eps as f32);
        [
            tensor(y, Shape::new([n, d])),
            tensor(mean, Shape::new([n, 1])),
            tensor(rstd, Shape::new([n, 1])),
        ]
    }

    fn layer_norm_backward(x: F, w: F, mean: F, rstd: F, grad: F) -> [F; 3] {
        if !all_f32(&[&x, &w, &grad]) {
            return composed::layer_norm_backward::<Self>(x, w, mean, rstd, grad);
        }
        let (n, d) = dims2(&x);
        let (x, w, mean, rstd, grad) =
            (values(x), values(w), values(mean), values(rstd), values(grad));
        let (dx, dw, db) = rows::layer_norm_backward(
            x.storage(),
            w.storage(),
            mean.storage(),
            rstd.storage(),
            grad.storage(),
            n,
            d,
        );
        [tensor(dx, Shape::new([n, d])), tensor(dw, Shape::new([d])), tensor(db, Shape::new([d]))]
    }

    fn rms_norm_forward(x: F, w: F, eps: f64) -> [F; 2] {
        if !all_f32(&[&x, &w]) {
            return composed::rms_norm_forward::<Self>(x, w, eps);
        }
        let (n, d) = dims2(&x);
        let (x, w) = (values(x), values(w));
        let (y, rstd) = rows::rms_norm(x.storage(), w.storage(), n, d, eps as f32);
        [tensor(y, Shape::new([n, d])), tensor(rstd, Shape::new([n, 1]))]
    }

    fn rms_norm_backward(x: F, w: F, rstd: F, grad: F) -> [F; 2] {
        if !all_f32(&[&x, &w, &grad]) {
            return composed::rms_norm_backward::<Self>(x, w, rstd, grad);
        }
        let (n, d) = dims2(&x);
        let (x, w, rstd, grad) = (values(x), values(w), values(rstd), values(grad));
        let (dx, dw) =
            rows::rms_norm_backward(x.storage(), w.storage(), rstd.storage(), grad.storage(), n, d);
        [tensor(dx, Shape::new([n, d])), tensor(dw, Shape::new([d]))]
    }

    fn activate_forward(x: F, kind: Activation) -> F {
        if !all_f32(&[&x]) {
            return composed::activate_forward::<Self>(x, kind);
        }
        let shape = x.layout().shape().clone();
        let x = values(x);
        tensor(activation::forward(x.storage(), kind), shape)
    }

    fn activate_backward(x: F, grad: F, kind: Activation) -> F {
        if !all_f32(&[&x, &grad]) {
            return composed::activate_backward::<Self>(x, grad, kind);
        }
        let (x, mut grad) = (values(x), values(grad));
        // Copied first if somebody else holds it.
        activation::backward(x.storage(), grad.storage_mut(), kind);
        grad
    }

    fn gated_forward(gate: F, up: F, kind: Activation) -> F {
        if !all_f32(&[&gate, &up]) {
            return composed::gated_forward::<Self>(gate, up, kind);
        }
        let shape = gate.layout().shape().clone();
        let (gate, up) = (values(gate), values(up));
        tensor(activation::gated(gate.storage(), up.storage(), kind), shape)
    }

    fn gated_backward(gate: F, up: F, grad: F, kind: Activation) -> [F; 2] {
        if !all_f32(&[&gate, &up, &grad]) {
            return composed::gated_backward::<Self>(gate, up, grad, kind);
        }
        let shape = gate.layout().shape().clone();
        let (gate, up, mut grad) = (values(gate), values(up), values(grad));
        // Copied first if somebody else holds it.
        let to_gate =
            activation::gated_backward(gate.storage(), up.storage(), grad.storage_mut(), kind);
        [tensor(to_gate, shape), grad]
    }

    fn rotate(x: F, cos: F, sin: F, heads: usize) -> F {
        if !all_f32(&[&x, &cos, &sin]) {
            return composed::rotate::<Self>(x, cos, sin, heads);
        }
        let shape = x.layout().shape().clone();
        let (x, cos, sin) = (values(x), values(cos), values(sin));
        tensor(rows::rotate(x.storage(), cos.storage(), sin.storage(), shape[2], heads), shape)
    }

    fn attention_forward(q: F, k: F, v: F, mask: Option<F>, heads: Heads) -> [F; 2] {
        if !all_f32(&[&q, &k, &v]) {
            return composed::attention_forward::<Self>(q, k, v, mask, heads);
        }
        let plan = attention::Plan::new(&q, &k, mask.as_ref(), heads);
        let (q, mask) = (values(q), mask.map(values));
        let mask = mask.as_ref().map(|m| m.storage::<f32>());
        let (k, v) = (by_tokens(k), by_tokens(v));
        let (out, lse) = attention::forward(&plan, q.storage(), Keys::of(&k), Keys::of(&v), mask);
        [
            tensor(out, q.layout().shape().clone()),
            tensor(lse, Shape::new([plan.batch, heads.q, plan.queries])),
        ]
    }

    fn attention_backward(
        q: F,
        k: F,
        v: F,
        mask: Option<F>,
        out: F,
        lse: F,
        grad: F,
        heads: Heads,
    ) -> [F; 3] {
        if !all_f32(&[&q, &k, &v, &grad]) {
            return composed::attention_backward::<Self>(q, k, v, mask, out, lse, grad, heads);
        }
        let plan = attention::Plan::new(&q, &k, mask.as_ref(), heads);
        let (q, k, v, mask) = (values(q), values(k), values(v), mask.map(values));
        let (out, lse, grad) = (values(out), values(lse), values(grad));
        let mask = mask.as_ref().map(|m| m.storage::<f32>());
        let saved = attention::Saved {
            q: q.storage(),
            k: k.storage(),
            v: v.storage(),
            mask,
            out: out.storage(),
            lse: lse.storage(),
        };
        let [dq, dk, dv] = attention::backward(&plan, &saved, grad.storage());
        [
            tensor(dq, q.layout().shape().clone()),
            tensor(dk, k.layout().shape().clone()),
            tensor(dv, v.layout().shape().clone()),
        ]
    }

    fn cross_entropy_forward(logits: F, targets: Targets<Self>) -> [F; 2] {
        if !all_f32(&[&logits]) || !is_usual(&targets) {
            return composed::cross_entropy_forward::<Self>(logits, targets);
        }
        let (n, d) = dims2(&logits);
        let (logits, targets) = (values(logits), Wanted::of(targets));
        let (loss, lse) = rows::cross_entropy(logits.storage(), targets.rows(d), n, d);
        [tensor(loss, Shape::new([n])), tensor(lse, Shape::new([n, 1]))]
    }

    fn cross_entropy_backward(logits: F, targets: Targets<Self>, lse: F, grad: F) -> F {
        if !all_f32(&[&logits, &grad]) || !is_usual(&targets) {
            return composed::cross_entropy_backward::<Self>(logits, targets, lse, grad);
        }
        let d = dims2(&logits).1;
        let (mut logits, lse, grad) = (values(logits), values(lse), values(grad));
        let targets = Wanted::of(targets);
        // Copied first if somebody else holds them.
        let dx = logits.storage_mut();
        rows::cross_entropy_backward(dx, targets.rows(d), lse.storage(), grad.storage(), d);
        logits
    }
}

fn is_usual(targets: &Targets<Flex>) -> bool {
    match targets {
        Targets::Shares(shares) => all_f32(&[shares]),
        Targets::Classes(classes) => matches!(classes.dtype(), DType::I32 | DType::I64),
    }
}

/// Indices on the host, if they are of a type that indices are of. A negative one will be found too large.
pub(crate) fn indices(x: &FlexTensor) -> Option<Vec<usize>> {
    let x = x.to_contiguous();
    let count = x.layout().num_elements();
    match x.dtype() {
        DType::I32 => Some(x.storage::<i32>()[..count].iter().map(|i| *i as usize).collect()),
        DType::I64 => Some(x.storage::<i64>()[..count].iter().map(|i| *i as usize).collect()),
        _ => None,
    }
}

/// Whether the tensor is a matrix of 32 bits.
pub(crate) fn is_single(x: &FlexTensor) -> bool {
    x.dtype() == DType::F32 && x.layout().shape().num_dims() == 2
}

/// Targets on the host.
enum Wanted {
    Shares(FlexTensor),
    Classes(Vec<usize>),
}

impl Wanted {
    fn of(targets: Targets<Flex>) -> Self {
        match targets {
            Targets::Shares(shares) => Wanted::Shares(values(shares)),
            Targets::Classes(classes) => Wanted::Classes(indices(&classes).unwrap_or_default()),
        }
    }

    /// A view by rows of so many classes.
    fn rows(&self, d: usize) -> rows::Wanted<'_> {
        match self {
            Wanted::Shares(shares) => rows::Wanted::Shares(shares.storage()),
            Wanted::Classes(classes) => {
                assert!(classes.iter().all(|c| *c < d), "cross entropy: a class that no logit has");
                rows::Wanted::Classes(classes)
            }
        }
    }
}
