//! Multi-head attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::ops::{self, AttentionShape};
use crate::{Linear, Rotary};

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
    /// Rotary positions.
    pub rotary: Option<Rotary>,
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
    heads: usize,
    kv_heads: usize,
    causal: bool,
    rotary_theta: Option<f64>,
}

impl Attention {
    /// Blank maps.
    pub fn new(config: &AttentionConfig, device: &Device) -> Self {
        let inner = config.heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        let bias = config.qkv_bias;
        Attention {
            q: Linear::new(config.width, inner, bias, device),
            k: Linear::new(config.context_width, kv, bias, device),
            v: Linear::new(config.context_width, kv, bias, device),
            out: Linear::new(inner, config.width, config.out_bias, device),
            heads: config.heads,
            kv_heads: config.kv_heads,
            causal: config.causal,
            rotary_theta: config.rotary.map(|rotary| rotary.theta),
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
        let (mut q, mut k) = (self.q.forward(x), self.k.forward(context.clone()));
        let v = self.v.forward(context);
        if let Some(theta) = self.rotary_theta {
            let rotary = Rotary { theta };
            q = rotary.apply(q, self.heads, 0);
            k = rotary.apply(k, self.kv_heads, 0);
        }
        let head = q.dims()[2] / self.heads;
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            causal: self.causal,
            scale: 1.0 / (head as f64).sqrt(),
        };
        self.out.forward(ops::attention(q, k, v, mask, shape))
    }
}
