//! Co-attention: two streams, picture and question, that look at each other in every layer.
//!
//! METER (Dou et al. 2021, arXiv 2111.02387): each layer of each stream is self-attention,
//! attention to the other stream and a feed-forward, norms after the sums as in BERT; both streams
//! read what the layer before left of the other. ViLBERT (arXiv 1908.02265) has two layers instead:
//! one that only asks the other stream ([`Connection`]), one that only asks its own.
//!
//! Here the picture's stream, when it has read the question, stands in the decoder's sequence where
//! the picture would. The question follows it as it is.
//!
//! When to choose it: the question decides what of the picture matters (visual question answering,
//! grounding), and there is data enough for two stacks. METER finds it slightly better than
//! [`merged`](super::merged) attention at equal weights. The rows depend on the question, so that
//! neither features of pictures nor a prefill can be shared between questions; where that matters
//! take [`mlp`](super::mlp) or a [`resampler`](super::resampler).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::params::blank;
use vlm_nn::{Activation, Block, BlockConfig, Linear, Norm, NormKind, NormPlace, Stack};

use super::config::Checks;
use super::connection::Connection;
use super::places::with_places;
use super::{Question, pool};
use crate::Error;

/// BERT's, under the norms' root.
const EPS: f64 = 1e-12;

/// Whose layers a [`CoAttention`] has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoStyle {
    /// Each layer asks its own stream and then the other.
    #[default]
    Meter,
    /// A layer that asks the other stream, then one that asks its own.
    Vilbert,
}

/// The choices of co-attention; METER's by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoAttentionConfig {
    /// Values a row in both streams.
    pub width: usize,
    /// Layers of each stream.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Inner width of the feed-forwards.
    pub inner: usize,
    /// Whose layers.
    pub style: CoStyle,
    /// Squares of so many patches a side become one row.
    pub pool: usize,
}

impl Default for CoAttentionConfig {
    fn default() -> Self {
        let style = CoStyle::Meter;
        CoAttentionConfig { width: 768, layers: 6, heads: 12, inner: 3072, style, pool: 1 }
    }
}

impl CoAttentionConfig {
    /// Whether the streams can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("co-attention")
            .positive("width", self.width)?
            .positive("layers", self.layers)?
            .positive("heads", self.heads)?
            .positive("inner", self.inner)?
            .positive("pool", self.pool)?
            .divides("heads", self.heads, "width", self.width)?;
        Ok(())
    }

    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            inner: self.inner,
            activation: Activation::Gelu,
            place: NormPlace::Post,
            eps: EPS,
            cross_width: (self.style == CoStyle::Meter).then_some(self.width),
            ..BlockConfig::default()
        }
    }
}

/// One stream of a [`CoAttention`].
#[derive(Module, Debug)]
pub struct Stream {
    /// What asks the other stream before each block (ViLBERT); none where the blocks do (METER).
    pub connections: Vec<Connection>,
    /// The blocks.
    pub stack: Stack,
}

/// A stream's rows, and what hides their padding from whoever looks.
type Rows = (Tensor<3>, Option<Tensor<3>>);

impl Stream {
    fn new(config: &CoAttentionConfig, layers: usize, device: &Device) -> Self {
        let block = config.block();
        let connections = match config.style {
            CoStyle::Meter => 0,
            CoStyle::Vilbert => layers,
        };
        Stream {
            connections: (0..connections).map(|_| Connection::new(&block, device)).collect(),
            stack: Stack::new(&block, layers, device),
        }
    }

    fn layer(&self, i: usize, block: &Block, own: Rows, other: Option<Rows>) -> Tensor<3> {
        let (x, mask) = own;
        match (self.connections.get(i), other) {
            (Some(connection), Some((other, hidden))) => {
                block.forward(connection.forward(x, other, hidden), mask)
            }
            (None, other) => block.forward_cross(x, mask, other),
            (Some(_), None) => block.forward(x, mask),
        }
    }
}

/// Two streams that look at each other.
#[derive(Module, Debug)]
pub struct CoAttention {
    /// Of the picture.
    pub picture: Stream,
    /// Of the text; a layer less where only the picture's rows are wanted.
    pub text: Stream,
}

impl CoAttention {
    /// Blank streams. Without `both` the text has no last layer, since nobody would read it.
    pub fn new(config: &CoAttentionConfig, both: bool, device: &Device) -> Self {
        let layers = config.layers;
        CoAttention {
            picture: Stream::new(config, layers, device),
            text: Stream::new(config, if both { layers } else { layers - 1 }, device),
        }
    }

    /// `picture: [pictures, patches, width]` and `text: [pictures, tokens, width]` to the same, each
    /// with a mask `[pictures or 1, 1, rows]` of its padding. Without a text the picture asks itself
    /// only.
    pub fn forward(&self, picture: Rows, text: Option<Rows>) -> (Tensor<3>, Option<Tensor<3>>) {
        let (mut x, hidden) = picture;
        let (mut y, padding) = text.map_or((None, None), |(y, padding)| (Some(y), padding));
        for (i, block) in self.picture.stack.blocks.iter().enumerate() {
            let (before, other) = (x.clone(), y.clone().map(|y| (y, padding.clone())));
            x = self.picture.layer(i, block, (x, hidden.clone()), other);
            if let Some(block) = self.text.stack.blocks.get(i) {
                y = y.map(|y| {
                    let other = Some((before, hidden.clone()));
                    self.text.layer(i, block, (y, padding.clone()), other)
                });
            }
        }
        (x, y)
    }
}

/// What makes rows of one width of both modalities and says which is which.
#[derive(Module, Debug)]
pub struct Entry {
    /// From the image tower's width.
    pub picture: Linear,
    /// Norm of that.
    pub picture_norm: Norm,
    /// From the decoder's width.
    pub text: Linear,
    /// Norm of that.
    pub text_norm: Norm,
    /// Added to the text's rows and to the picture's, `[2, width]`.
    pub types: Param<Tensor<2>>,
}

impl Entry {
    pub(super) fn new(
        vision_width: usize,
        text_width: usize,
        width: usize,
        device: &Device,
    ) -> Self {
        let norm = || Norm::new(NormKind::Layer, width, EPS, device);
        Entry {
            picture: Linear::new(vision_width, width, true, device),
            picture_norm: norm(),
            text: Linear::new(text_width, width, true, device),
            text_norm: norm(),
            types: blank([2, width], device),
        }
    }

    fn typed(&self, x: Tensor<3>, kind: usize) -> Tensor<3> {
        x + self.types.val().narrow(0, kind, 1).unsqueeze()
    }

    pub(super) fn picture(&self, rows: Tensor<3>) -> Tensor<3> {
        self.typed(self.picture_norm.forward(self.picture.forward(rows)), 1)
    }

    pub(super) fn text(&self, rows: Tensor<3>, padding: Option<Tensor<3>>) -> Tensor<3> {
        let rows = self.text_norm.forward(self.text.forward(rows));
        self.typed(with_places(rows, padding), 0)
    }
}

/// [`CoAttention`] in front of a decoder: `[pictures, patches, vision width]` and a question to
/// `[pictures, patches or squares, text width]`.
#[derive(Module, Debug)]
pub struct CoAttentionFusion {
    /// To one width.
    pub entry: Entry,
    /// The streams.
    pub streams: CoAttention,
    /// To the decoder's width.
    pub out: Linear,
    pool: usize,
}

impl CoAttentionFusion {
    /// Blank.
    pub fn new(
        config: &CoAttentionConfig,
        vision_width: usize,
        text_width: usize,
        device: &Device,
    ) -> Self {
        CoAttentionFusion {
            entry: Entry::new(vision_width, text_width, config.width, device),
            streams: CoAttention::new(config, false, device),
            out: Linear::new(config.width, text_width, true, device),
            pool: config.pool,
        }
    }

    /// The picture's rows after they have read the question.
    pub fn forward(
        &self,
        picture: Tensor<3>,
        grid: (usize, usize),
        question: Option<Question>,
    ) -> Tensor<3> {
        let picture = self.entry.picture(pool::average(picture, grid, self.pool));
        let text =
            question.map(|(rows, padding)| (self.entry.text(rows, padding.clone()), padding));
        self.out.forward(self.streams.forward((picture, None), text).0)
    }
}
