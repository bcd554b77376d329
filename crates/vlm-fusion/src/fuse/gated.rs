//! Gated cross-attention: blocks between those of the decoder, in which the text looks at pictures.
//!
//! Flamingo (Alayrac et al. 2022, arXiv 2204.14198), laid out as open_flamingo has it. Before every
//! n-th block of the decoder stands `x + tanh(g₁) · attention(norm(x), pictures)` and then
//! `x + tanh(g₂) · feed_forward(norm(x))`. Both gates are 0 at the start, so that the decoder says
//! exactly what it said before there were pictures. A token sees the most recent picture before it
//! and no other; before the first picture the attention adds nothing.
//!
//! When to choose it: nothing of a picture stands in the decoder's sequence, so that many pictures,
//! video or long texts cost little, and the language model can stay frozen and stays as good at
//! language. The price is many new weights (a cross-attention and a feed-forward for every n-th
//! block) that want much data. For one picture and a short question [`mlp`](super::mlp) learns
//! faster (Laurençon et al. 2024, arXiv 2405.02246: with a decoder that is trained along, rows in
//! the sequence win; with a frozen one, gates do).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::adapter::{Past, bypass, mean_of_shown};
use vlm_nn::ops::{self, AttentionShape};
use vlm_nn::params::blank;
use vlm_nn::{Activation, Attention, AttentionConfig, FeedForward, Norm, NormKind};

use super::config::Checks;
use super::resampler::{Resampler, ResamplerConfig};
use crate::{Error, masks};

/// The choices of gated cross-attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatedConfig {
    /// What makes a few rows of a picture.
    pub resampler: ResamplerConfig,
    /// A gated block stands before every n-th block of the decoder.
    pub every: usize,
    /// Heads of the gated blocks.
    pub heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Inner width of the feed-forward, as a multiple of the decoder's width.
    pub inner: usize,
}

impl Default for GatedConfig {
    fn default() -> Self {
        let resampler = ResamplerConfig::default();
        GatedConfig { resampler, every: 4, heads: 8, head_dim: 64, inner: 4 }
    }
}

impl GatedConfig {
    /// Whether the parts can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        self.resampler.check("gated")?;
        Checks("gated")
            .positive("every", self.every)?
            .positive("heads", self.heads)?
            .positive("head_dim", self.head_dim)?
            .positive("inner", self.inner)?;
        Ok(())
    }
}

/// What makes memories of pictures, and the blocks that look at them.
#[derive(Module, Debug)]
pub struct GatedFusion {
    /// As wide as the image tower.
    pub resampler: Resampler,
    /// What the decoder looks through.
    pub gates: GatedBlocks,
}

/// One gated block.
#[derive(Module, Debug)]
pub struct GatedBlock {
    /// Norm of the attention.
    pub norm1: Norm,
    /// From the text to the pictures.
    pub cross: Attention,
    /// Its gate before the tanh, `[1]`.
    pub gate1: Param<Tensor<1>>,
    /// Norm of the feed-forward.
    pub norm2: Norm,
    /// Feed-forward.
    pub feed_forward: FeedForward,
    /// Its gate before the tanh, `[1]`.
    pub gate2: Param<Tensor<1>>,
    heads: usize,
}

impl GatedBlock {
    fn new(config: &GatedConfig, vision_width: usize, width: usize, device: &Device) -> Self {
        let norm = || Norm::new(NormKind::Layer, width, 1e-5, device);
        let attention =
            AttentionConfig::plain(width, vision_width, config.heads, config.head_dim, false);
        let inner = config.inner * width;
        GatedBlock {
            norm1: norm(),
            cross: Attention::new(&attention, device),
            gate1: blank([1], device),
            norm2: norm(),
            feed_forward: FeedForward::new(width, inner, false, false, Activation::Gelu, device),
            gate2: blank([1], device),
            heads: config.heads,
        }
    }

    fn forward(&self, x: Tensor<3>, seen: Option<(&Projected, &Recent)>) -> Tensor<3> {
        let gate = |gate: &Param<Tensor<1>>| gate.val().tanh().unsqueeze::<3>();
        let x = match seen {
            None => x,
            Some((pictures, recent)) => {
                let y = self.look(self.norm1.forward(x.clone()), pictures, recent);
                y * gate(&self.gate1) + x
            }
        };
        self.feed_forward.forward(self.norm2.forward(x.clone())) * gate(&self.gate2) + x
    }

    fn look(&self, x: Tensor<3>, pictures: &Projected, recent: &Recent) -> Tensor<3> {
        let past = bypass(&self.cross.q.weight);
        let lit = |seen: Tensor<3>| match &recent.lit {
            Some(lit) => seen * lit.clone(),
            None => seen,
        };
        let (keys, values) = match (pictures, past) {
            (Projected::Rows { keys, values }, _) => (keys.clone(), values.clone()),
            (Projected::Told(told), Some(Past::Instead(past))) => {
                let mean = |told| mean_of_shown(told, recent.mask.clone());
                return lit(past.across(x, told.clone().map(mean)));
            }
            (Projected::Told(_), _) => panic!("what is skipped changed after pictures were seen"),
        };
        let x = match past {
            Some(Past::Front(front)) => front.forward(x, |x| x),
            _ => x,
        };
        let q = self.cross.q.forward(x);
        let scale = ((q.dims()[2] / self.heads) as f64).powf(-0.5);
        let shape =
            AttentionShape { heads: self.heads, kv_heads: self.heads, causal: false, scale };
        let seen = ops::attention(q, keys, values, recent.mask.clone(), shape);
        self.cross.out.forward(lit(seen))
    }

    /// Rows of pictures as this block sees them.
    fn project(&self, rows: &Tensor<3>) -> Projected {
        match bypass(&self.cross.q.weight) {
            Some(Past::Instead(past)) => Projected::Told(past.told(rows.clone())),
            _ => Projected::Rows {
                keys: self.cross.k.forward(rows.clone()),
                values: self.cross.v.forward(rows.clone()),
            },
        }
    }
}

/// Pictures as one block sees them.
#[derive(Clone, Debug)]
enum Projected {
    /// `[texts, pictures · rows, heads · head_dim]` each.
    Rows { keys: Tensor<3>, values: Tensor<3> },
    /// Where the attention is skipped: what stands in its place was told of them, if it hears of any.
    Told(Option<Tensor<3>>),
}

/// The pictures of a batch of texts, as each block sees them; made once, for all tokens to come.
#[derive(Clone, Debug)]
pub struct Memory {
    blocks: Option<Vec<Projected>>,
    pictures: usize,
    each: usize,
}

/// Which pictures the tokens of one call see.
#[derive(Clone, Debug)]
pub struct Recent {
    mask: Option<Tensor<3>>,
    /// 0 for tokens before any picture, 1 for others, `[texts, tokens, 1]`.
    lit: Option<Tensor<3>>,
}

impl Memory {
    /// For tokens that have so many pictures behind them, `[texts][tokens]`; see
    /// [`pictures_so_far`](masks::pictures_so_far).
    pub fn recent(&self, so_far: &[Vec<usize>], device: &Device) -> Recent {
        let mask = masks::recent(so_far, self.pictures, self.each).mask(device);
        let lit = so_far.iter().flatten().any(|count| *count == 0).then(|| {
            let values: Vec<f32> =
                so_far.iter().flatten().map(|count| f32::from(u8::from(*count > 0))).collect();
            let shape = [so_far.len(), values.len() / so_far.len().max(1), 1];
            Tensor::from_data(TensorData::new(values, shape), device)
        });
        Recent { mask, lit }
    }
}

/// Gated blocks for a decoder.
#[derive(Module, Debug)]
pub struct GatedBlocks {
    /// The first stands before the `every`-th block of the decoder.
    pub blocks: Vec<GatedBlock>,
    every: usize,
}

impl GatedBlocks {
    /// Blank blocks for a decoder of so many layers.
    ///
    /// # Errors
    /// [`Error::Fusion`] if the choices fit no decoder, or not this one.
    pub fn new(
        config: &GatedConfig,
        vision_width: usize,
        text_width: usize,
        layers: usize,
        device: &Device,
    ) -> Result<Self, Error> {
        config.check()?;
        if config.every > layers {
            let reason = format!(
                "every = {} leaves no gated block in a decoder of {layers} blocks; lower it",
                config.every
            );
            return Err(Error::Fusion { kind: "gated", reason });
        }
        let block = || GatedBlock::new(config, vision_width, text_width, device);
        let blocks = (0..layers / config.every).map(|_| block()).collect();
        Ok(GatedBlocks { blocks, every: config.every })
    }

    /// What the blocks see of pictures: `memories: [pictures, rows, vision width]`, the pictures of
    /// the first text first; `counts` says how many each text has.
    ///
    /// # Panics
    /// If the counts do not add up to the pictures.
    pub fn remember(&self, memories: Tensor<3>, counts: &[usize]) -> Memory {
        let [all, each, width] = memories.dims();
        assert_eq!(counts.iter().sum::<usize>(), all, "texts and memories differ in pictures");
        let pictures = counts.iter().copied().max().unwrap_or(0);
        if pictures == 0 {
            return Memory { blocks: None, pictures, each };
        }
        let device = memories.device();
        let rows = if counts.iter().all(|count| *count == pictures) {
            memories.reshape([counts.len(), pictures * each, width])
        } else {
            let mut first = 0;
            let texts = counts.iter().map(|count| {
                let mut parts = Vec::new();
                if *count > 0 {
                    parts.push(memories.clone().narrow(0, first, *count));
                }
                if *count < pictures {
                    parts.push(Tensor::zeros([pictures - count, each, width], &device));
                }
                first += count;
                Tensor::cat(parts, 0).reshape([1, pictures * each, width])
            });
            Tensor::cat(texts.collect(), 0)
        };
        let blocks = self.blocks.iter().map(|block| block.project(&rows)).collect();
        Memory { blocks: Some(blocks), pictures, each }
    }

    /// What enters the decoder's block `layer`, counted from 0: `x: [texts, tokens, text width]`,
    /// changed where a gated block stands before that block.
    pub fn before(
        &self,
        layer: usize,
        x: Tensor<3>,
        memory: &Memory,
        recent: &Recent,
    ) -> Tensor<3> {
        match self.index(layer) {
            Some(index) => {
                let seen = memory.blocks.as_ref().map(|blocks| (&blocks[index], recent));
                self.blocks[index].forward(x, seen)
            }
            None => x,
        }
    }

    /// Whether a gated block stands before the decoder's block `layer`.
    pub fn stands_before(&self, layer: usize) -> bool {
        self.index(layer).is_some()
    }

    /// The number of the gated block before the decoder's block `layer`.
    fn index(&self, layer: usize) -> Option<usize> {
        let index = (layer + 1).is_multiple_of(self.every).then(|| layer / self.every)?;
        (index < self.blocks.len()).then_some(index)
    }

    /// The decoder's block that the gated block `index` stands before.
    pub fn layer(&self, index: usize) -> usize {
        (index + 1) * self.every - 1
    }
}
