//! The one transformer block, and a stack of it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::adapter::{NormOf, Past, bypass};
use crate::params::blank;
use crate::pass::{mean_of_seen, on_device_of, plain};
use crate::recompute::{self, recomputed};
use crate::{Activation, Attention, AttentionConfig, FeedForward, Norm, NormKind, Pass, Rotary};

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before each sub-layer: `x + f(norm(x))`.
    Pre,
    /// After each sum, as in BERT: `norm(x + f(x))`.
    Post,
    /// Before and after each sub-layer, as in Gemma 2: `x + norm_after(f(norm(x)))`.
    Around,
}

/// The choices that make a [`Block`] one of the families.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Values a token.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `None` for as many as query heads.
    pub kv_heads: Option<usize>,
    /// Values a head; `None` for `width / heads`.
    pub head_dim: Option<usize>,
    /// Inner width of the feed-forward.
    pub inner: usize,
    /// Its activation.
    pub activation: Activation,
    /// Whether it is gated.
    pub gated: bool,
    /// Bias on q, k, v.
    pub qkv_bias: bool,
    /// Bias on attention's output.
    pub out_bias: bool,
    /// Bias on the feed-forward.
    pub bias: bool,
    /// Norm kind.
    pub norm: NormKind,
    /// Norm place.
    pub place: NormPlace,
    /// Added under the norms' root.
    pub eps: f64,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// How many tokens back a causal token sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Rotary positions.
    pub rotary: Option<Rotary>,
    /// Multiplies the attention's scores; `None` for 1/√head_dim.
    pub scale: Option<f64>,
    /// Bends the attention's scores to ±this with a tanh (Gemma 2).
    pub softcap: Option<f64>,
    /// Whether each head's queries and keys have a norm, of the block's kind (Gemma 3, Qwen 3).
    pub head_norm: bool,
    /// Learned scale on each sub-layer's output (CaiT, arXiv 2103.17239).
    pub layer_scale: bool,
    /// Width of a second sequence to attend to between attention and feed-forward.
    pub cross_width: Option<usize>,
}

impl Default for BlockConfig {
    /// CLIP's block, with ViT-B's sizes.
    fn default() -> Self {
        BlockConfig {
            width: 768,
            heads: 12,
            kv_heads: None,
            head_dim: None,
            inner: 3072,
            activation: Activation::QuickGelu,
            gated: false,
            qkv_bias: true,
            out_bias: true,
            bias: true,
            norm: NormKind::Layer,
            place: NormPlace::Pre,
            eps: 1e-5,
            causal: false,
            window: None,
            rotary: None,
            scale: None,
            softcap: None,
            head_norm: false,
            layer_scale: false,
            cross_width: None,
        }
    }
}

impl BlockConfig {
    fn attention(&self, context_width: usize) -> AttentionConfig {
        AttentionConfig {
            width: self.width,
            context_width,
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_dim: self.head_dim.unwrap_or(self.width / self.heads),
            qkv_bias: self.qkv_bias,
            out_bias: self.out_bias,
            causal: self.causal,
            window: self.window,
            rotary: self.rotary.clone(),
            scale: self.scale,
            softcap: self.softcap,
            head_norm: self.head_norm.then_some((self.norm, self.eps)),
        }
    }
}

/// Attention and feed-forward, each with its norm and residual sum.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm of the attention.
    pub norm1: Norm,
    /// Norm of the attention's output, where norms stand around it.
    pub norm1_after: Option<Norm>,
    /// Self-attention.
    pub attention: Attention,
    /// Scale of the attention's output, `[width]`.
    pub scale1: Option<Param<Tensor<1>>>,
    /// Norm of the cross-attention.
    pub cross_norm: Option<Norm>,
    /// Attention to a second sequence.
    pub cross: Option<Attention>,
    /// Norm of the feed-forward.
    pub norm2: Norm,
    /// Norm of the feed-forward's output, where norms stand around it.
    pub norm2_after: Option<Norm>,
    /// Feed-forward.
    pub feed_forward: FeedForward,
    /// Scale of the feed-forward's output, `[width]`.
    pub scale2: Option<Param<Tensor<1>>>,
    #[module(skip)]
    place: NormPlace,
}

impl Block {
    /// A blank block.
    pub fn new(config: &BlockConfig, device: &Device) -> Self {
        let norm = || Norm::new(config.norm, config.width, config.eps, device);
        let after = || (config.place == NormPlace::Around).then(norm);
        let scale = || config.layer_scale.then(|| blank([config.width], device));
        Block {
            norm1: norm(),
            norm1_after: after(),
            attention: Attention::new(&config.attention(config.width), device),
            scale1: scale(),
            cross_norm: config.cross_width.map(|_| norm()),
            cross: config.cross_width.map(|width| {
                let config = AttentionConfig {
                    causal: false,
                    window: None,
                    rotary: None,
                    ..config.attention(width)
                };
                Attention::new(&config, device)
            }),
            norm2: norm(),
            norm2_after: after(),
            feed_forward: FeedForward::new(
                config.width,
                config.inner,
                config.gated,
                config.bias,
                config.activation,
                device,
            ),
            scale2: scale(),
            place: config.place,
        }
    }

    /// `x: [batch, tokens, width]` to the same; `mask` as in [`Attention::forward`].
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        self.forward_cross(x, mask, None)
    }

    /// The same with a second sequence `[batch, keys, cross_width]` and its mask.
    ///
    /// # Panics
    /// If a context is given to a block that was built without cross-attention.
    pub fn forward_cross(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<3>>,
        context: Option<(Tensor<3>, Option<Tensor<3>>)>,
    ) -> Tensor<3> {
        self.around(x, &mut Way::Alone(mask), context)
    }

    /// `x: [batch, tokens, width]` to the same, with what the pass brings: mask, positions, and a
    /// cache of earlier tokens. `layer` is the place of the block in its stack.
    pub fn extend(&self, x: Tensor<3>, layer: usize, pass: &mut Pass) -> Tensor<3> {
        self.around(x, &mut Way::Along(layer, pass), None)
    }

    /// The whole block around its self-attention.
    fn around(
        &self,
        x: Tensor<3>,
        way: &mut Way<'_, '_>,
        context: Option<(Tensor<3>, Option<Tensor<3>>)>,
    ) -> Tensor<3> {
        let past = bypass(&self.attention.q.weight);
        let norms = (&self.norm1, self.norm1_after.as_ref());
        let mut in_place = None;
        let mut heard = None;
        let x = match past {
            Some(Past::Instead(past)) if self.place == NormPlace::Post => {
                self.norm1.forward(past.forward(x, |x| way.mean(&self.attention, x)))
            }
            Some(Past::Instead(past)) => {
                let seen = self.normed(past.norm, x.clone());
                let seen = past.forward(seen, |x| way.mean(&self.attention, x));
                in_place = Some(match past.norm {
                    NormOf::Attention => self.norm2.stretched(seen),
                    NormOf::FeedForward => seen,
                });
                x
            }
            Some(Past::Folded(past)) => {
                let seen = self.normed(past.norm, x.clone());
                heard = Some(past.heard(seen.clone(), |x| way.mean(&self.attention, x)));
                in_place = Some(seen);
                x
            }
            past => self.residual(x, norms, self.scale1.as_ref(), |x| {
                let x = match past {
                    Some(Past::Front(front)) => front.forward(x, |x| way.mean(&self.attention, x)),
                    _ => x,
                };
                way.attend(&self.attention, x)
            }),
        };
        let x = match context {
            None => x,
            Some((context, mask)) => {
                let (Some(norm), Some(cross)) = (&self.cross_norm, &self.cross) else {
                    panic!("a context was given to a block without cross-attention");
                };
                self.residual(x, (norm, None), None, |x| cross.hear(x, Some(context), mask))
            }
        };
        let norms = (&self.norm2, self.norm2_after.as_ref());
        match in_place {
            None => self.residual(x, norms, self.scale2.as_ref(), |x| self.fed(x, way)),
            // What stands in place of the attention has been normed before: it is not normed again.
            Some(seen) => {
                let y = match heard {
                    Some(heard) => self.feed_forward.forward_with(seen, heard),
                    None => self.fed(seen, way),
                };
                added(x, y, self.norm2_after.as_ref(), self.scale2.as_ref())
            }
        }
    }

    fn normed(&self, norm: NormOf, x: Tensor<3>) -> Tensor<3> {
        match norm {
            NormOf::Attention => self.norm1.forward(x),
            NormOf::FeedForward => self.norm2.forward(x),
        }
    }

    /// The feed-forward, and what it finds beside its own rows.
    fn fed(&self, x: Tensor<3>, way: &Way<'_, '_>) -> Tensor<3> {
        let Way::Along(layer, pass) = way else { return self.feed_forward.forward(x) };
        let Some(memory) = pass.memory() else { return self.feed_forward.forward(x) };
        let more = memory.said(*layer, x.clone(), self.feed_forward.activation());
        self.feed_forward.forward(x) + more
    }

    fn residual(
        &self,
        x: Tensor<3>,
        (norm, after): (&Norm, Option<&Norm>),
        scale: Option<&Param<Tensor<1>>>,
        f: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        match self.place {
            NormPlace::Pre | NormPlace::Around => {
                let y = f(norm.forward(x.clone()));
                added(x, y, after, scale)
            }
            NormPlace::Post => norm.forward(added(x.clone(), f(x), None, scale)),
        }
    }
}

/// The rows with what a sub-layer makes of them, scaled and normed if it is to be.
fn added(
    x: Tensor<3>,
    y: Tensor<3>,
    after: Option<&Norm>,
    scale: Option<&Param<Tensor<1>>>,
) -> Tensor<3> {
    let y = match scale {
        Some(scale) => y * scale.val().unsqueeze(),
        None => y,
    };
    x + match after {
        Some(after) => after.forward(y),
        None => y,
    }
}

/// How a block is gone through.
// There is one at a time.
#[allow(clippy::large_enum_variant)]
enum Way<'a, 'b> {
    /// By itself, with a mask.
    Alone(Option<Tensor<3>>),
    /// As a layer of a stack in a pass.
    Along(usize, &'a mut Pass<'b>),
}

impl Way<'_, '_> {
    fn attend(&mut self, attention: &Attention, x: Tensor<3>) -> Tensor<3> {
        match self {
            Way::Alone(mask) => attention.forward(x, None, mask.clone()),
            Way::Along(layer, pass) => attention.extend(x, *layer, pass),
        }
    }

    /// For each token the mean over what the attention would see.
    fn mean(&mut self, attention: &Attention, x: Tensor<3>) -> Tensor<3> {
        match self {
            Way::Alone(mask) => mean_of_seen(x, mask.clone(), attention.is_causal(), None).0,
            Way::Along(layer, pass) => pass.mean(*layer, x, attention.is_causal()),
        }
    }
}

/// Blocks one after another.
#[derive(Module, Debug)]
pub struct Stack {
    /// From input to output.
    pub blocks: Vec<Block>,
}

impl Stack {
    /// Blank blocks, all alike.
    pub fn new(config: &BlockConfig, layers: usize, device: &Device) -> Self {
        Stack { blocks: (0..layers).map(|_| Block::new(config, device)).collect() }
    }

    /// Blank blocks, each with choices of its own; their widths have to agree.
    pub fn of(configs: &[BlockConfig], device: &Device) -> Self {
        Stack { blocks: configs.iter().map(|config| Block::new(config, device)).collect() }
    }

    /// `x: [batch, tokens, width]` to the same; `mask` as in [`Attention::forward`].
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        self.forward_first(x, mask, self.blocks.len())
    }

    /// Of the first blocks only, as many as `depth` says.
    pub fn forward_first(&self, x: Tensor<3>, mask: Option<Tensor<3>>, depth: usize) -> Tensor<3> {
        let blocks = self.blocks.iter().take(depth);
        if !recompute::is_on() {
            return blocks.fold(x, |x, block| block.forward(x, mask.clone()));
        }
        let mask = mask.map(plain);
        blocks.fold(x, |x, block| {
            let mask = mask.clone();
            recomputed(block, x, move |block, x| {
                let mask = mask.clone().map(|mask| on_device_of(&x, mask));
                block.forward(x, mask)
            })
        })
    }

    /// The same with what the pass brings: mask, positions, and a cache of earlier tokens.
    ///
    /// # Panics
    /// If blocks have different numbers of learned keys in front.
    pub fn extend(&self, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        pass.lead(self.lead());
        let blocks = self.blocks.iter().enumerate();
        if let Some(frame) = pass.frame().filter(|_| recompute::is_on()) {
            return blocks.fold(x, |x, (layer, block)| {
                let frame = frame.clone();
                recomputed(block, x, move |block, x| {
                    let mut pass = frame.pass(&x);
                    block.extend(x, layer, &mut pass)
                })
            });
        }
        blocks.fold(x, |x, (layer, block)| {
            let x = pass.before(layer, x);
            block.extend(x, layer, pass)
        })
    }

    /// How many learned keys stand in front of those of the tokens, in each block.
    pub fn lead(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.attention.lead())
    }

    /// The states before the first block and after each.
    pub fn forward_all(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Vec<Tensor<3>> {
        let mut states = vec![x];
        for block in &self.blocks {
            let last = states[states.len() - 1].clone();
            states.push(block.forward(last, mask.clone()));
        }
        states
    }
}
