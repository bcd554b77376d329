//! Attention one head at a time; scores of a block of queries live in a scratch buffer only.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::{View, product};
use super::simd::{exp, max_of, simd, sum_map};
use crate::ops::kernels::Heads;

/// Queries handled together: bounds the scratch buffer at `BLOCK · keys` values a thread.
const BLOCK: usize = 128;

/// The sizes of one call.
pub struct Plan {
    pub batch: usize,
    pub queries: usize,
    keys: usize,
    head: usize,
    heads: Heads,
    mask_batch: usize,
    mask_rows: usize,
}

impl Plan {
    pub fn new(q: &FlexTensor, k: &FlexTensor, mask: Option<&FlexTensor>, heads: Heads) -> Self {
        let (q, k) = (q.layout().shape(), k.layout().shape());
        let (mask_batch, mask_rows) =
            mask.map_or((1, 1), |m| (m.layout().shape()[0], m.layout().shape()[1]));
        Plan {
            batch: q[0],
            queries: q[1],
            keys: k[1],
            head: q[2] / heads.q,
            heads,
            mask_batch,
            mask_rows,
        }
    }

    /// The mask's row for a query, if there is a mask.
    fn mask_row<'a>(&self, mask: Option<&'a [f32]>, b: usize, i: usize) -> Option<&'a [f32]> {
        mask.map(|mask| {
            let b = if self.mask_batch == 1 { 0 } else { b };
            let i = if self.mask_rows == 1 { 0 } else { i };
            let start = (b * self.mask_rows + i) * self.keys;
            &mask[start..start + self.keys]
        })
    }

    /// How many keys, from the first on, query `i` sees.
    fn visible(&self, i: usize) -> usize {
        if self.heads.causal {
            (i + 1 + self.keys).saturating_sub(self.queries).min(self.keys)
        } else {
            self.keys
        }
    }

    /// The scores of queries `from..to`, scaled and masked; keys out of causal reach hold
    /// garbage that callers skip.
    fn scores(&self, q: Matrix, k: Matrix, mask: Option<&[f32]>, b: usize, block: Block) {
        let Block { from, rows, scratch } = block;
        let p = Matrix { data: scratch.as_mut_ptr(), rows: self.keys };
        let q = q.down(from);
        multiply(
            [rows, self.keys, self.head],
            p,
            q,
            k.transposed(),
            self.heads.scale as f32,
            false,
        );
        if mask.is_some() {
            for (r, row) in scratch.chunks_mut(self.keys).take(rows).enumerate() {
                if let Some(mask) = self.mask_row(mask, b, from + r) {
                    for (s, m) in row.iter_mut().zip(mask) {
                        *s += m;
                    }
                }
            }
        }
    }
}

struct Block<'a> {
    from: usize,
    rows: usize,
    scratch: &'a mut [f32],
}

/// Keys or values `[batch, tokens, width]` inside a larger buffer.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    data: &'a [f32],
    /// From one sample to the next.
    sample: usize,
    /// From one token to the next.
    token: usize,
}

impl<'a> Keys<'a> {
    /// Of a tensor whose last stride is 1 and none is negative.
    pub fn of(x: &'a FlexTensor) -> Self {
        let (layout, data) = (x.layout(), x.storage::<f32>());
        let (data, strides) = (&data[layout.start_offset().min(data.len())..], layout.strides());
        Keys { data, sample: strides[0].unsigned_abs(), token: strides[1].unsigned_abs() }
    }

    /// Of one head of `width` values.
    fn head(self, sample: usize, head: usize, width: usize) -> Matrix {
        Matrix::of(self.data, sample * self.sample + head * width, self.token)
    }
}

/// A strided matrix inside a larger buffer: values of a row lie side by side, rows `rows` apart.
#[derive(Clone, Copy)]
struct Matrix {
    data: *mut f32,
    rows: usize,
}

impl Matrix {
    fn of(data: &[f32], offset: usize, rows: usize) -> Self {
        // Read-only views share the type with destinations; only `multiply`'s first
        // operand is ever written.
        Matrix { data: data[offset..].as_ptr().cast_mut(), rows }
    }
    fn down(self, by: usize) -> Self {
        // SAFETY: callers stay within the rows of the buffer the matrix was made from.
        Matrix { data: unsafe { self.data.add(by * self.rows) }, rows: self.rows }
    }
    fn transposed(self) -> View {
        View { data: self.data, cs: self.rows as isize, rs: 1 }
    }
}

impl From<Matrix> for View {
    fn from(m: Matrix) -> View {
        View { data: m.data, cs: 1, rs: m.rows as isize }
    }
}

/// `dst [m, n] (+)= alpha · lhs [m, k] · rhs [k, n]`.
fn multiply(
    [m, n, k]: [usize; 3],
    dst: Matrix,
    lhs: impl Into<View>,
    rhs: impl Into<View>,
    alpha: f32,
    add: bool,
) {
    // SAFETY: the callers below cut every matrix out of a buffer that holds it whole, and each
    // destination belongs to one head of one sample, which one task alone writes.
    unsafe {
        product([m, n, k], (dst.data, dst.rows), lhs.into(), rhs.into(), alpha, add, false);
    }
}

/// A buffer that tasks write disjoint parts of.
struct Shared(*mut f32, usize);
// SAFETY: each task derives only the matrix of its own head and sample from it.
unsafe impl Sync for Shared {}

impl Shared {
    /// Over room for `len` values that nobody has written yet.
    fn of_room(data: &mut Vec<f32>, len: usize) -> Self {
        data.reserve_exact(len);
        Shared(data.as_mut_ptr(), len)
    }
    fn matrix(&self, offset: usize, rows: usize) -> Matrix {
        assert!(offset < self.1, "attention: head outside its buffer");
        // SAFETY: just checked.
        Matrix { data: unsafe { self.0.add(offset) }, rows }
    }
}

pub fn forward(
    plan: &Plan,
    q: &[f32],
    k: Keys,
    v: Keys,
    mask: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>) {
    let (t, s, d) = (plan.queries, plan.keys, plan.head);
    let wq = d * plan.heads.q;
    let group = plan.heads.q / plan.heads.kv;
    let mut lse = vec![0f32; plan.batch * plan.heads.q * t];
    if q.is_empty() || s == 0 {
        return (vec![0f32; q.len()], lse);
    }
    let mut out = Vec::with_capacity(q.len());
    let shared = Shared::of_room(&mut out, q.len());
    lse.par_chunks_mut(t).enumerate().for_each_init(
        || vec![0f32; BLOCK.min(t) * s],
        |scratch, (job, lse)| {
            let (b, h) = (job / plan.heads.q, job % plan.heads.q);
            let q = Matrix::of(q, b * t * wq + h * d, wq);
            let (k, v) = (k.head(b, h / group, d), v.head(b, h / group, d));
            let out = shared.matrix(b * t * wq + h * d, wq);
            for (i, lse) in lse.chunks_mut(BLOCK).enumerate() {
                let (from, rows) = (i * BLOCK, lse.len());
                plan.scores(q, k, mask, b, Block { from, rows, scratch });
                for (r, lse) in lse.iter_mut().enumerate() {
                    let row = &mut scratch[r * s..(r + 1) * s];
                    *lse = softmax_row(row, plan.visible(from + r));
                }
                let p = Matrix { data: scratch.as_mut_ptr(), rows: s };
                multiply([rows, d, s], out.down(from), p, v, 1.0, false);
            }
        },
    );
    // SAFETY: the products wrote every query of every head.
    unsafe { out.set_len(q.len()) };
    (out, lse)
}

/// What the forward pass kept.
pub struct Saved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub mask: Option<&'a [f32]>,
    pub out: &'a [f32],
    pub lse: &'a [f32],
}

pub fn backward(plan: &Plan, saved: &Saved, grad: &[f32]) -> [Vec<f32>; 3] {
    let (t, s, d) = (plan.queries, plan.keys, plan.head);
    let (wq, wk) = (d * plan.heads.q, d * plan.heads.kv);
    let group = plan.heads.q / plan.heads.kv;
    let lens = [saved.q.len(), saved.k.len(), saved.k.len()];
    if lens.contains(&0) {
        return lens.map(|len| vec![0f32; len]);
    }
    let mut gradients = lens.map(Vec::with_capacity);
    let [dq, dk, dv] = &mut gradients;
    let to_q = Shared::of_room(dq, lens[0]);
    let (to_k, to_v) = (Shared::of_room(dk, lens[1]), Shared::of_room(dv, lens[2]));
    // One task owns a key/value head, so the heads of its group add up in a fixed order.
    (0..plan.batch * plan.heads.kv).into_par_iter().for_each_init(
        || [vec![0f32; BLOCK.min(t) * s], vec![0f32; BLOCK.min(t) * s]],
        |[p, dp], job| {
            let (b, kv_head) = (job / plan.heads.kv, job % plan.heads.kv);
            let at_kv = b * s * wk + kv_head * d;
            let (k, v) = (Matrix::of(saved.k, at_kv, wk), Matrix::of(saved.v, at_kv, wk));
            let (dk, dv) = (to_k.matrix(at_kv, wk), to_v.matrix(at_kv, wk));
            for h in kv_head * group..(kv_head + 1) * group {
                let at = b * t * wq + h * d;
                let q = Matrix::of(saved.q, at, wq);
                let g = Matrix::of(grad, at, wq);
                let dq = to_q.matrix(at, wq);
                for from in (0..t).step_by(BLOCK) {
                    let rows = BLOCK.min(t - from);
                    plan.scores(q, k, saved.mask, b, Block { from, rows, scratch: p });
                    let to_dp = Matrix { data: dp.as_mut_ptr(), rows: s };
                    multiply([rows, s, d], to_dp, g.down(from), v.transposed(), 1.0, false);
                    for r in 0..rows {
                        let i = from + r;
                        let lse = saved.lse[(b * plan.heads.q + h) * t + i];
                        let row = at + i * wq..at + i * wq + d;
                        score_gradient(
                            &mut p[r * s..(r + 1) * s],
                            &mut dp[r * s..(r + 1) * s],
                            &saved.out[row.clone()],
                            &grad[row],
                            lse,
                            plan.visible(i),
                            plan.heads.scale as f32,
                        );
                    }
                    let p = Matrix { data: p.as_mut_ptr(), rows: s };
                    multiply([rows, d, s], dq.down(from), to_dp, k, 1.0, false);
                    // The first of the group writes, the others add.
                    let add = h > kv_head * group || from > 0;
                    multiply([s, d, rows], dk, to_dp.transposed(), q.down(from), 1.0, add);
                    multiply([s, d, rows], dv, p.transposed(), g.down(from), 1.0, add);
                }
            }
        },
    );
    for (gradient, len) in gradients.iter_mut().zip(lens) {
        // SAFETY: the products wrote every query and every key of every head.
        unsafe { gradient.set_len(len) };
    }
    gradients
}

/// eˣ, and 0 where it would not count beside the row's largest: masked keys would else weigh so
/// little that processors take a hundred times as long to multiply with it (subnormal numbers).
#[inline(always)]
fn weight(x: f32) -> f32 {
    const NOTHING: f32 = 1e-20;
    let e = exp(x);
    if e < NOTHING { 0.0 } else { e }
}

simd! {
    /// Turns scores into probabilities over the visible keys; returns their log-sum-exp.
    fn softmax_row(row: &mut [f32], visible: usize) -> f32 {
        let (row, hidden) = row.split_at_mut(visible);
        hidden.fill(0.0);
        let max = max_of(row);
        for x in row.iter_mut() {
            *x = weight(*x - max);
        }
        let sum = sum_map(row.len(), |i| row[i]);
        let by = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= by;
        }
        max + sum.ln()
    }

    /// Turns a row of scores into probabilities and of their gradients into score gradients.
    fn score_gradient(
        p: &mut [f32], dp: &mut [f32], out: &[f32], grad: &[f32],
        lse: f32, visible: usize, scale: f32,
    ) {
        let level = sum_map(out.len(), |i| out[i] * grad[i]);
        p[visible..].fill(0.0);
        dp[visible..].fill(0.0);
        for (p, dp) in p[..visible].iter_mut().zip(&mut dp[..visible]) {
            *p = weight(*p - lse);
            *dp = *p * (*dp - level) * scale;
        }
    }
}
