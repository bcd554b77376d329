//! The ground floor: transformer layers and differentiable operations on [Burn](burn).
//!
//! One [`Block`] with a few choices (norm kind and place, activation, gated or plain
//! feed-forward, causal or not, rotary or learned positions, grouped heads, layer scale,
//! cross-attention) is the ViT, CLIP's text tower, BERT or Llama; a model family is a
//! configuration of it. The operations in [`ops`] have hand-written backward passes, so that
//! training keeps little memory and the CPU backend is fast.
//!
//! No backend is chosen here: pick a cargo feature (`flex`, `wgpu`, `vulkan`, `metal`, `tch`,
//! `cuda`, `rocm`) and hand a [`Device`](burn::tensor::Device) to the constructors.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use vlm_nn::{BlockConfig, Stack, params};
//!
//! let device = Device::flex();
//! let stack = Stack::new(&BlockConfig { width: 32, heads: 4, ..Default::default() }, 2, &device);
//! let stack = params::initialize(stack, 7, &|_, _| params::Init::Normal(0.02));
//! let x = Tensor::<3>::ones([1, 5, 32], &device); // [batch, tokens, width]
//! assert_eq!(stack.forward(x, None).dims(), [1, 5, 32]);
//! ```
#![warn(missing_docs)]
// burn-tch is marked deprecated in Burn 0.22, which is also its last release; it stays supported here.
#![cfg_attr(feature = "tch", allow(deprecated))]

pub mod adapter;
mod attention;
mod block;
mod cache;
mod feed_forward;
pub mod four_bit;
mod linear;
mod norm;
pub mod ops;
pub mod params;
mod pass;
mod recompute;
mod rotary;

pub use attention::{Attention, AttentionConfig};
pub use block::{Block, BlockConfig, NormPlace, Stack};
pub use cache::Cache;
pub use feed_forward::FeedForward;
pub use linear::Linear;
pub use norm::{Norm, NormKind};
pub use ops::Activation;
pub use pass::{Between, Pass};
pub use recompute::{RecomputeScope, recompute};
pub use rotary::{Angles, RopeScaling, Rotary};
