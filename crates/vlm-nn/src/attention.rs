//! Multi-head attention.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::adapter::{self, Past, bypass, mean_of_shown, put_in_front, seen_in_front};
use crate::ops::{self, AttentionShape, MASKED};
use crate::pass::mean_of_seen;
use crate::{Linear, Norm, NormKind, Pass, Rotary};

/// The choices of an [`Attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Width of what asks.
    pub width: usize,
    /// Width of what is looked at; differs from `width` in cross-attention only.
    pub context_width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Values a head; `width / heads` as a rule.
    pub head_dim: usize,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output map.
    pub out_bias: bool,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// How many tokens back a causal token sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Rotary positions.
    pub rotary: Option<Rotary>,
    /// Multiplies the scores; `None` for 1/√head_dim.
    pub scale: Option<f64>,
    /// Bends the scores to ±this with a tanh (Gemma 2).
    pub softcap: Option<f64>,
    /// Norm of each head's queries and keys, with its eps (Gemma 3, Qwen 3).
    pub head_norm: Option<(NormKind, f64)>,
}

impl AttentionConfig {
    /// Every query sees every key: no order, no positions, as many key/value heads as query heads,
    /// `bias` on all maps or on none.
    pub fn plain(
        width: usize,
        context_width: usize,
        heads: usize,
        head_dim: usize,
        bias: bool,
    ) -> Self {
        AttentionConfig {
            width,
            context_width,
            heads,
            kv_heads: heads,
            head_dim,
            qkv_bias: bias,
            out_bias: bias,
            causal: false,
            window: None,
            rotary: None,
            scale: None,
            softcap: None,
            head_norm: None,
        }
    }
}

/// Scaled dot-product attention with learned maps before and after.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[width, heads · head_dim]`.
    pub q: Linear,
    /// Keys, `[context_width, kv_heads · head_dim]`.
    pub k: Linear,
    /// Values, like the keys.
    pub v: Linear,
    /// Back to the width.
    pub out: Linear,
    /// Of each head's queries.
    pub q_norm: Option<Norm>,
    /// Of each head's keys.
    pub k_norm: Option<Norm>,
    heads: usize,
    kv_heads: usize,
    causal: bool,
    window: Option<usize>,
    scale: f64,
    softcap: Option<f64>,
    #[module(skip)]
    rotary: Option<Rotary>,
}

impl Attention {
    /// Blank maps.
    pub fn new(config: &AttentionConfig, device: &Device) -> Self {
        let inner = config.heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        let bias = config.qkv_bias;
        let head_norm =
            || config.head_norm.map(|(kind, eps)| Norm::new(kind, config.head_dim, eps, device));
        Attention {
            q: Linear::new(config.width, inner, bias, device),
            k: Linear::new(config.context_width, kv, bias, device),
            v: Linear::new(config.context_width, kv, bias, device),
            out: Linear::new(inner, config.width, config.out_bias, device),
            q_norm: head_norm(),
            k_norm: head_norm(),
            heads: config.heads,
            kv_heads: config.kv_heads,
            causal: config.causal,
            window: config.window,
            scale: config.scale.unwrap_or(1.0 / (config.head_dim as f64).sqrt()),
            softcap: config.softcap,
            rotary: config.rotary.clone(),
        }
    }

    /// Attends from `x: [batch, queries, width]` to `context: [batch, keys, context_width]`,
    /// or to `x` itself.
    ///
    /// `mask` is added to the scores: `[batch or 1, queries or 1, keys]`, see
    /// [`attention`](ops::attention).
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: Option<Tensor<3>>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let context = context.unwrap_or_else(|| x.clone());
        let (mut q, mut k, mut v) = self.projected(x, context);
        let ([_, queries, width], lead) = (q.dims(), self.lead());
        if let Some(rotary) = &self.rotary {
            let angles = rotary.angles(width / self.heads, lead, queries, &q.device());
            q = angles.turn(q, self.heads);
            k = angles.turn(k, self.kv_heads);
        }
        if let Some((keys, values)) = self.front() {
            (k, v) = (put_in_front(keys, k), put_in_front(values, v));
        }
        let mask = mask.map(|mask| seen_in_front(mask, lead));
        let keys = k.dims()[1];
        let mask = match self.window {
            Some(window) if window < keys => {
                let near = window_mask(queries, keys, window, &q.device());
                Some(match mask {
                    // Two masks may hide the same place: their sum has to stay finite.
                    Some(mask) => (mask + near).clamp_min(MASKED),
                    None => near,
                })
            }
            _ => mask,
        };
        self.mixed(q, k, v, mask, self.causal)
    }

    /// What `x` hears of a context or of itself, as [`forward`](Self::forward) has it, or what hangs on the map
    /// for queries says in its place ([`Bypass`](crate::adapter::Bypass)).
    pub fn hear(
        &self,
        x: Tensor<3>,
        context: Option<Tensor<3>>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let own = mask.clone();
        let mean = |x| mean_of_seen(x, own, self.causal, None).0;
        match (bypass(&self.q.weight), context) {
            (Some(Past::Instead(past)), Some(context)) => {
                let told = past.told(context);
                past.across(x, told.map(|told| mean_of_shown(told, mask)))
            }
            (Some(Past::Instead(past)), None) => past.said(x, mean),
            (Some(Past::Front(front)), Some(context)) => {
                self.forward(front.forward(x, |x| x), Some(context), mask)
            }
            (Some(Past::Front(front)), None) => self.forward(front.forward(x, mean), None, mask),
            // A feed-forward takes up what stands in place of a block's own attention alone.
            (Some(Past::Folded(_)) | None, context) => self.forward(x, context, mask),
        }
    }

    /// Attends from `x: [batch, queries, width]` to itself and to what the pass has in its cache.
    ///
    /// `layer` is the place of this attention in its stack, by which the cache knows it.
    pub fn extend(&self, x: Tensor<3>, layer: usize, pass: &mut Pass) -> Tensor<3> {
        let ([batch, queries, _], device) = (x.dims(), x.device());
        let (mut q, mut k, v) = self.projected(x.clone(), x);
        if let Some(rotary) = &self.rotary {
            let head = q.dims()[2] / self.heads;
            let angles = pass.angles(rotary, head, [batch, queries], &device);
            q = angles.turn(q, self.heads);
            k = angles.turn(k, self.kv_heads);
        }
        let (k, v) = pass.remember(layer, (k, v), self.front());
        let mask = pass.mask(self.window, &device);
        self.mixed(q, k, v, mask, self.causal && pass.causal())
    }

    /// Learned keys and values in front of those of the tokens.
    fn front(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        adapter::front(&self.k.weight).zip(adapter::front(&self.v.weight))
    }

    /// Whether a token sees only itself and those before it.
    pub(crate) fn is_causal(&self) -> bool {
        self.causal
    }

    /// How many of them there are.
    pub(crate) fn lead(&self) -> usize {
        adapter::lead(&self.k.weight).min(adapter::lead(&self.v.weight))
    }

    /// Queries, keys and values, before any rotation.
    fn projected(&self, x: Tensor<3>, context: Tensor<3>) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
        let (mut q, mut k) = (self.q.forward(x), self.k.forward(context.clone()));
        let v = self.v.forward(context);
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            q = by_head(q_norm, q, self.heads);
            k = by_head(k_norm, k, self.kv_heads);
        }
        (q, k, v)
    }

    /// The attention itself and the map behind it.
    fn mixed(
        &self,
        q: Tensor<3>,
        k: Tensor<3>,
        v: Tensor<3>,
        mask: Option<Tensor<3>>,
        causal: bool,
    ) -> Tensor<3> {
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            causal,
            scale: self.scale,
        };
        self.out.forward(match self.softcap {
            None => ops::attention(q, k, v, mask, shape),
            Some(cap) => capped(q, k, v, mask, shape, cap),
        })
    }
}

/// A norm over each head of `[batch, tokens, heads · head_dim]`.
fn by_head(norm: &Norm, x: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, width] = x.dims();
    norm.forward(x.reshape([batch, tokens, heads, width / heads])).reshape([batch, tokens, width])
}

/// Hides from query `i` the keys up to `i − window`; `[1, queries, keys]`.
fn window_mask(queries: usize, keys: usize, window: usize, device: &Device) -> Tensor<3> {
    let place = |i: usize| i + keys - queries;
    let hidden = |i: usize, j: usize| if j + window <= place(i) { MASKED } else { 0.0 };
    let values: Vec<f32> =
        (0..queries).flat_map(|i| (0..keys).map(move |j| hidden(i, j))).collect();
    Tensor::from_data(TensorData::new(values, [1, queries, keys]), device)
}

/// [`ops::attention`] with bent scores, as a plain composition.
fn capped(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    mask: Option<Tensor<3>>,
    shape: AttentionShape,
    cap: f64,
) -> Tensor<3> {
    let ([batch, queries, width], keys) = (q.dims(), k.dims()[1]);
    let (head, groups) = (width / shape.heads, shape.heads / shape.kv_heads);
    // [batch, kv_heads, groups, tokens, head]
    let q = q.reshape([batch, queries, shape.kv_heads, groups, head]).permute([0, 2, 3, 1, 4]);
    let split = |x: Tensor<3>| {
        let x = x.reshape([batch, keys, shape.kv_heads, 1, head]).permute([0, 2, 3, 1, 4]);
        x.expand([batch, shape.kv_heads, groups, keys, head])
    };
    let (k, v) = (split(k), split(v));
    let mut scores = ((q.matmul(k.transpose()) * shape.scale) / cap).tanh() * cap;
    if shape.causal {
        let later = future(queries, keys, &scores.device());
        scores = scores + later.reshape([1, 1, 1, queries, keys]);
    }
    if let Some(mask) = mask {
        let [b, t, _] = mask.dims();
        scores = (scores + mask.reshape([b, 1, 1, t, keys])).clamp_min(2.0 * MASKED);
    }
    let mixed = softmax(scores, 4).matmul(v);
    mixed.permute([0, 3, 1, 2, 4]).reshape([batch, queries, width])
}

/// Hides from each query the keys after it; `[queries, keys]`.
fn future(queries: usize, keys: usize, device: &Device) -> Tensor<2> {
    let hidden = |i: usize, j: usize| if j > i + keys - queries { MASKED } else { 0.0 };
    let values: Vec<f32> =
        (0..queries).flat_map(|i| (0..keys).map(move |j| hidden(i, j))).collect();
    Tensor::from_data(TensorData::new(values, [queries, keys]), device)
}
