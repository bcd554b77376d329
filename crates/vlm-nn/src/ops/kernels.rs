//! What a backend computes for each operation, forward and backward.

use burn::backend::tensor::FloatTensor;
use serde::{Deserialize, Serialize};

use super::{Lift, PackedWeight, Targets, composed, packed};

/// Elementwise activations of the transformer families, under Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x · Φ(x)`, exact (erf).
    #[serde(rename = "gelu")]
    Gelu,
    /// The tanh approximation of gelu.
    #[serde(rename = "gelu_pytorch_tanh", alias = "gelu_new", alias = "gelu_fast")]
    GeluTanh,
    /// `x · σ(1.702 x)`, OpenAI CLIP's.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// `x · σ(x)`.
    #[serde(rename = "silu", alias = "swish")]
    Silu,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
    /// The hyperbolic tangent.
    #[serde(rename = "tanh")]
    Tanh,
}

/// Shape of an attention call as the kernels see it.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub q: usize,
    pub kv: usize,
    pub causal: bool,
    pub scale: f64,
}

/// Forward and backward bodies on plain (not differentiated) tensors.
///
/// Rows are `[rows, width]`; attention tensors are `[batch, tokens, heads · head_dim]`.
/// Every default body is a composition of backend operations, so a backend only overrides
/// what it does better.
pub trait Kernels: Lift {
    /// `x · w (+ b)`; x `[rows, in]`, w `[in, out]`.
    fn linear_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        composed::linear_forward::<Self>(x, w, b)
    }
    /// The gradients of x (if `w` is given), of w (if `x` is given) and of the bias (if asked for).
    fn linear_backward(
        x: Option<FloatTensor<Self>>,
        w: Option<FloatTensor<Self>>,
        grad: FloatTensor<Self>,
        bias: bool,
    ) -> [Option<FloatTensor<Self>>; 3] {
        composed::linear_backward::<Self>(x, w, grad, bias)
    }
    /// `x · wᵀ (+ b)`; x `[rows, in]`, w `[out, in]` of four bits.
    fn packed_forward(
        x: FloatTensor<Self>,
        w: PackedWeight<Self>,
        b: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        packed::forward::<Self>(x, Self::unpacked(w), b)
    }
    /// The gradients of x, and of the bias if asked for.
    fn packed_backward(
        w: PackedWeight<Self>,
        grad: FloatTensor<Self>,
        bias: bool,
    ) -> [Option<FloatTensor<Self>>; 2] {
        packed::backward::<Self>(Self::unpacked(w), grad, bias)
    }
    /// A whole weight of four bits, `[out, in]`.
    fn unpacked(w: PackedWeight<Self>) -> FloatTensor<Self> {
        packed::unpacked::<Self>(w)
    }
    /// Returns the output, and mean and 1/σ of each row `[rows, 1]`.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> [FloatTensor<Self>; 3] {
        composed::layer_norm_forward::<Self>(x, w, b, eps)
    }
    /// Returns the gradients of x, weight and bias.
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        composed::layer_norm_backward::<Self>(x, w, mean, rstd, grad)
    }
    /// Returns the output and 1/rms of each row `[rows, 1]`.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        eps: f64,
    ) -> [FloatTensor<Self>; 2] {
        composed::rms_norm_forward::<Self>(x, w, eps)
    }
    /// Returns the gradients of x and weight.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        composed::rms_norm_backward::<Self>(x, w, rstd, grad)
    }
    /// The activation of each value.
    fn activate_forward(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        composed::activate_forward::<Self>(x, kind)
    }
    /// The gradient of x.
    fn activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self> {
        composed::activate_backward::<Self>(x, grad, kind)
    }
    /// The activation of each gate, times `up`; both `[rows, width]`.
    fn gated_forward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self> {
        composed::gated_forward::<Self>(gate, up, kind)
    }
    /// The gradients of gate and up.
    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kind: Activation,
    ) -> [FloatTensor<Self>; 2] {
        composed::gated_backward::<Self>(gate, up, grad, kind)
    }
    /// Turns the pairs of each head of x; cosine and sine are `[batch or 1, tokens, head_dim / 2]`.
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        composed::rotate::<Self>(x, cos, sin, heads)
    }
    /// Returns the output and the log-sum-exp of each row's scores `[batch, heads, queries]`.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        heads: Heads,
    ) -> [FloatTensor<Self>; 2] {
        composed::attention_forward::<Self>(q, k, v, mask, heads)
    }
    /// Returns the gradients of q, k and v, from the forward's output and log-sum-exp.
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        heads: Heads,
    ) -> [FloatTensor<Self>; 3] {
        composed::attention_backward::<Self>(q, k, v, mask, out, lse, grad, heads)
    }
    /// Returns the loss of each row `[rows]` and its log-sum-exp `[rows, 1]`.
    fn cross_entropy_forward(
        logits: FloatTensor<Self>,
        targets: Targets<Self>,
    ) -> [FloatTensor<Self>; 2] {
        composed::cross_entropy_forward::<Self>(logits, targets)
    }
    /// The gradient of the logits.
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: Targets<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::cross_entropy_backward::<Self>(logits, targets, lse, grad)
    }
}

#[cfg(feature = "tch")]
impl Kernels for burn::backend::LibTorch {}

#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
impl Kernels for burn::backend::Cube {}
