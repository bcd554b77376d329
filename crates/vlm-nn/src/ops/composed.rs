//! The default bodies: compositions of backend operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{IndexingUpdateOp, Shape, Slice};

use super::Targets;
use super::kernels::{Activation, Heads};

type F<B> = FloatTensor<B>;

fn scale<B: Backend>(x: F<B>, by: f64) -> F<B> {
    B::float_mul_scalar(x, by.into())
}

fn shift<B: Backend>(x: F<B>, by: f64) -> F<B> {
    B::float_add_scalar(x, by.into())
}

/// `[width]` as a row that broadcasts over `[rows, width]`.
fn row<B: Backend>(x: F<B>) -> F<B> {
    let n = x.shape().num_elements();
    B::float_reshape(x, Shape::new([1, n]))
}

/// Sums `[rows, width]` over the rows, to `[width]`.
fn over_rows<B: Backend>(x: F<B>) -> F<B> {
    let width = x.shape()[1];
    B::float_reshape(B::float_sum_dim(x, 0), Shape::new([width]))
}

pub fn linear_forward<B: Backend>(x: F<B>, w: F<B>, b: Option<F<B>>) -> F<B> {
    B::linear(x, w, b)
}

pub fn linear_backward<B: Backend>(
    x: Option<F<B>>,
    w: Option<F<B>>,
    grad: F<B>,
    bias: bool,
) -> [Option<F<B>>; 3] {
    [
        w.map(|w| B::linear_x_backward(w, grad.clone())),
        x.map(|x| B::linear_weight_backward(x, grad.clone())),
        bias.then(|| B::linear_bias_backward(grad)),
    ]
}

pub fn layer_norm_forward<B: Backend>(x: F<B>, w: F<B>, b: F<B>, eps: f64) -> [F<B>; 3] {
    let mean = B::float_mean_dim(x.clone(), 1);
    let centred = B::float_sub(x, mean.clone());
    let var = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let rstd = B::float_recip(B::float_sqrt(shift::<B>(var, eps)));
    let normed = B::float_mul(centred, rstd.clone());
    let out = B::float_add(B::float_mul(normed, row::<B>(w)), row::<B>(b));
    [out, mean, rstd]
}

pub fn layer_norm_backward<B: Backend>(
    x: F<B>,
    w: F<B>,
    mean: F<B>,
    rstd: F<B>,
    grad: F<B>,
) -> [F<B>; 3] {
    let normed = B::float_mul(B::float_sub(x, mean), rstd.clone());
    let dw = over_rows::<B>(B::float_mul(grad.clone(), normed.clone()));
    let db = over_rows::<B>(grad.clone());
    let g = B::float_mul(grad, row::<B>(w));
    let along = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let level = B::float_mean_dim(g.clone(), 1);
    let inner = B::float_sub(B::float_sub(g, level), B::float_mul(normed, along));
    [B::float_mul(inner, rstd), dw, db]
}

pub fn rms_norm_forward<B: Backend>(x: F<B>, w: F<B>, eps: f64) -> [F<B>; 2] {
    let square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let rstd = B::float_recip(B::float_sqrt(shift::<B>(square, eps)));
    [B::float_mul(B::float_mul(x, rstd.clone()), row::<B>(w)), rstd]
}

pub fn rms_norm_backward<B: Backend>(x: F<B>, w: F<B>, rstd: F<B>, grad: F<B>) -> [F<B>; 2] {
    let normed = B::float_mul(x, rstd.clone());
    let dw = over_rows::<B>(B::float_mul(grad.clone(), normed.clone()));
    let g = B::float_mul(grad, row::<B>(w));
    let along = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let inner = B::float_sub(g, B::float_mul(normed, along));
    [B::float_mul(inner, rstd), dw]
}

/// `σ(s·x)`.
fn sigmoid<B: Backend>(x: F<B>, s: f64) -> F<B> {
    B::float_recip(shift::<B>(B::float_exp(scale::<B>(x, -s)), 1.0))
}

/// √(2/π), the slope of the tanh approximation at 0.
pub const TANH_SLOPE: f64 = 0.797_884_560_802_865_4;
/// The cubic coefficient of the tanh approximation.
pub const TANH_CUBIC: f64 = 0.044715;

/// tanh(√(2/π)(x + 0.044715 x³)).
fn gelu_tanh_inner<B: Backend>(x: F<B>) -> F<B> {
    let square = B::float_mul(x.clone(), x.clone());
    let factor = shift::<B>(scale::<B>(square, TANH_SLOPE * TANH_CUBIC), TANH_SLOPE);
    B::float_tanh(B::float_mul(x, factor))
}

/// `Φ(x)`, the normal distribution's cumulative function.
fn normal_cdf<B: Backend>(x: F<B>) -> F<B> {
    let erf = B::float_erf(scale::<B>(x, std::f64::consts::FRAC_1_SQRT_2));
    scale::<B>(shift::<B>(erf, 1.0), 0.5)
}

pub fn activate_forward<B: Backend>(x: F<B>, kind: Activation) -> F<B> {
    match kind {
        Activation::Gelu => B::float_mul(x.clone(), normal_cdf::<B>(x)),
        Activation::GeluTanh => {
            let t = gelu_tanh_inner::<B>(x.clone());
            B::float_mul(scale::<B>(x, 0.5), shift::<B>(t, 1.0))
        }
        Activation::QuickGelu => B::float_mul(x.clone(), sigmoid::<B>(x, 1.702)),
        Activation::Silu => B::float_mul(x.clone(), sigmoid::<B>(x, 1.0)),
        Activation::Relu => B::float_clamp_min(x, 0f32.into()),
        Activation::Tanh => B::float_tanh(x),
    }
}

pub fn activate_backward<B: Backend>(x: F<B>, grad: F<B>, kind: Activation) -> F<B> {
    let slope = match kind {
        Activation::Gelu => {
            let square = B::float_mul(x.clone(), x.clone());
            let density = scale::<B>(
                B::float_exp(scale::<B>(square, -0.5)),
                0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2,
            );
            B::float_add(normal_cdf::<B>(x.clone()), B::float_mul(x, density))
        }
        Activation::GeluTanh => {
            let t = gelu_tanh_inner::<B>(x.clone());
            let square = B::float_mul(x.clone(), x.clone());
            let inner = shift::<B>(scale::<B>(square, 3.0 * TANH_SLOPE * TANH_CUBIC), TANH_SLOPE);
            let sech = shift::<B>(scale::<B>(B::float_mul(t.clone(), t.clone()), -1.0), 1.0);
            let second = B::float_mul(B::float_mul(scale::<B>(x, 0.5), sech), inner);
            B::float_add(scale::<B>(shift::<B>(t, 1.0), 0.5), second)
        }
        Activation::QuickGelu => sigmoid_unit_slope::<B>(x, 1.702),
        Activation::Silu => sigmoid_unit_slope::<B>(x, 1.0),
        Activation::Relu => {
            let out = B::float_clamp_min(x, 0f32.into());
            B::float_sign(out)
        }
        Activation::Tanh => {
            let t = B::float_tanh(x);
            let square = B::float_mul(t.clone(), t);
            shift::<B>(scale::<B>(square, -1.0), 1.0)
        }
    };
    B::float_mul(grad, slope)
}

/// The derivative of `x·σ(s·x)`.
fn sigmoid_unit_slope<B: Backend>(x: F<B>, s: f64) -> F<B> {
    let sig = sigmoid::<B>(x.clone(), s);
    let rest = shift::<B>(scale::<B>(sig.clone(), -1.0), 1.0);
    let inner = shift::<B>(B::float_mul(scale::<B>(x, s), rest), 1.0);
    B::float_mul(sig, inner)
}

pub fn gated_forward<B: Backend>(gate: F<B>, up: F<B>, kind: Activation) -> F<B> {
    B::float_mul(activate_forward::<B>(gate, kind), up)
}

pub fn gated_backward<B: Backend>(gate: F<B>, up: F<B>, grad: F<B>, kind: Activation) -> [F<B>; 2] {
    let open = activate_forward::<B>(gate.clone(), kind);
    let to_gate = activate_backward::<B>(gate, B::float_mul(grad.clone(), up), kind);
    [to_gate, B::float_mul(grad, open)]
}

pub fn rotate<B: Backend>(x: F<B>, cos: F<B>, sin: F<B>, heads: usize) -> F<B> {
    let shape = x.shape();
    let (batch, tokens, width) = (shape[0], shape[1], shape[2]);
    let half = width / heads / 2;
    let x = B::float_reshape(x, Shape::new([batch, tokens, heads, 2 * half]));
    let part = |from: usize| {
        let all = |len| Slice::from(0..len);
        let own = Slice::from(from..from + half);
        B::float_slice(x.clone(), &[all(batch), all(tokens), all(heads), own])
    };
    let table = |x: F<B>| {
        let s = x.shape();
        B::float_reshape(x, Shape::new([s[0], s[1], 1, s[2]]))
    };
    let (a, b, cos, sin) = (part(0), part(half), table(cos), table(sin));
    let first =
        B::float_sub(B::float_mul(a.clone(), cos.clone()), B::float_mul(b.clone(), sin.clone()));
    let second = B::float_add(B::float_mul(b, cos), B::float_mul(a, sin));
    B::float_reshape(B::float_cat(vec![first, second], 3), shape)
}

/// `[batch, tokens, heads · d]` to `[batch, heads, tokens, d]`.
fn split<B: Backend>(x: F<B>, heads: usize) -> F<B> {
    let s = x.shape();
    let x = B::float_reshape(x, Shape::new([s[0], s[1], heads, s[2] / heads]));
    B::float_swap_dims(x, 1, 2)
}

/// `[batch, heads, tokens, d]` to `[batch, tokens, heads · d]`.
fn join<B: Backend>(x: F<B>) -> F<B> {
    let s = x.shape();
    let x = B::float_swap_dims(x, 1, 2);
    B::float_reshape(x, Shape::new([s[0], s[2], s[1] * s[3]]))
}

/// Repeats each key/value head for the query heads that share it.
fn repeat<B: Backend>(x: F<B>, times: usize) -> F<B> {
    if times == 1 {
        return x;
    }
    let s = x.shape();
    let x = B::float_reshape(x, Shape::new([s[0], s[1], 1, s[2], s[3]]));
    let x = B::float_expand(x, Shape::new([s[0], s[1], times, s[2], s[3]]));
    B::float_reshape(x, Shape::new([s[0], s[1] * times, s[2], s[3]]))
}

/// Sums the gradients of the query heads that share a key/value head.
fn unrepeat<B: Backend>(x: F<B>, times: usize) -> F<B> {
    if times == 1 {
        return x;
    }
    let s = x.shape();
    let x = B::float_reshape(x, Shape::new([s[0], s[1] / times, times, s[2], s[3]]));
    let x = B::float_sum_dim(x, 2);
    B::float_reshape(x, Shape::new([s[0], s[1] / times, s[2], s[3]]))
}

fn scores<B: Backend>(q: F<B>, k: F<B>, mask: Option<F<B>>, heads: Heads) -> F<B> {
    let device = q.device();
    let mut scores = B::float_matmul(scale::<B>(q, heads.scale), B::float_swap_dims(k, 2, 3));
    let s = scores.shape();
    let (t, n) = (s[2], s[3]);
    if let Some(mask) = mask {
        let m = mask.shape();
        scores = B::float_add(scores, B::float_reshape(mask, Shape::new([m[0], 1, m[1], m[2]])));
    }
    if heads.causal {
        let mut bias = vec![0f32; t * n];
        for i in 0..t {
            let visible = (i + 1 + n).saturating_sub(t);
            bias[i * n + visible.min(n)..(i + 1) * n].fill(super::MASKED);
        }
        let dtype = scores.dtype();
        let data = burn::tensor::TensorData::new(bias, [1, 1, t, n]).convert_dtype(dtype);
        scores = B::float_add(scores, B::float_from_data(data, &device));
    }
    scores
}

pub fn attention_forward<B: Backend>(
    q: F<B>,
    k: F<B>,
    v: F<B>,
    mask: Option<F<B>>,
    heads: Heads,
) -> [F<B>; 2] {
    let times = heads.q / heads.kv;
    let q = split::<B>(q, heads.q);
    let k = repeat::<B>(split::<B>(k, heads.kv), times);
    let v = repeat::<B>(split::<B>(v, heads.kv), times);
    let scores = scores::<B>(q, k, mask, heads);
    let max = B::float_max_dim(scores.clone(), 3);
    let exp = B::float_exp(B::float_sub(scores, max.clone()));
    let sum = B::float_sum_dim(exp.clone(), 3);
    let out = B::float_matmul(B::float_div(exp, sum.clone()), v);
    let lse = B::float_add(max, B::float_log(sum));
    let s = lse.shape();
    [join::<B>(out), B::float_reshape(lse, Shape::new([s[0], s[1], s[2]]))]
}

pub fn attention_backward<B: Backend>(
    q: F<B>,
    k: F<B>,
    v: F<B>,
    mask: Option<F<B>>,
    out: F<B>,
    lse: F<B>,
    grad: F<B>,
    heads: Heads,
) -> [F<B>; 3] {
    let times = heads.q / heads.kv;
    let q = split::<B>(q, heads.q);
    let k = repeat::<B>(split::<B>(k, heads.kv), times);
    let v = repeat::<B>(split::<B>(v, heads.kv), times);
    let (out, grad) = (split::<B>(out, heads.q), split::<B>(grad, heads.q));
    let s = lse.shape();
    let lse = B::float_reshape(lse, Shape::new([s[0], s[1], s[2], 1]));
    let p = B::float_exp(B::float_sub(scores::<B>(q.clone(), k.clone(), mask, heads), lse));
    let dv = B::float_matmul(B::float_swap_dims(p.clone(), 2, 3), grad.clone());
    let dp = B::float_matmul(grad.clone(), B::float_swap_dims(v, 2, 3));
    let level = B::float_sum_dim(B::float_mul(grad, out), 3);
    let ds = scale::<B>(B::float_mul(p, B::float_sub(dp, level)), heads.scale);
    let dq = B::float_matmul(ds.clone(), k);
    let dk = B::float_matmul(B::float_swap_dims(ds, 2, 3), q);
    [join::<B>(dq), join::<B>(unrepeat::<B>(dk, times)), join::<B>(unrepeat::<B>(dv, times))]
}

pub fn cross_entropy_forward<B: Backend>(logits: F<B>, targets: Targets<B>) -> [F<B>; 2] {
    let rows = logits.shape()[0];
    let max = B::float_max_dim(logits.clone(), 1);
    let exp = B::float_exp(B::float_sub(logits.clone(), max.clone()));
    let lse = B::float_add(max, B::float_log(B::float_sum_dim(exp, 1)));
    let hit = match targets {
        Targets::Shares(shares) => B::float_sum_dim(B::float_mul(logits, shares), 1),
        Targets::Classes(classes) => {
            B::float_gather(1, logits, B::int_reshape(classes, Shape::new([rows, 1])))
        }
    };
    let loss = B::float_sub(lse.clone(), hit);
    [B::float_reshape(loss, Shape::new([rows])), lse]
}

pub fn cross_entropy_backward<B: Backend>(
    logits: F<B>,
    targets: Targets<B>,
    lse: F<B>,
    grad: F<B>,
) -> F<B> {
    let rows = logits.shape()[0];
    let p = B::float_exp(B::float_sub(logits, lse));
    let grad = B::float_reshape(grad, Shape::new([rows, 1]));
    match targets {
        Targets::Shares(shares) => B::float_mul(B::float_sub(p, shares), grad),
        Targets::Classes(classes) => {
            let classes = B::int_reshape(classes, Shape::new([rows, 1]));
            let p = B::float_mul(p, grad.clone());
            B::float_scatter(1, p, classes, B::float_neg(grad), IndexingUpdateOp::Add)
        }
    }
}
