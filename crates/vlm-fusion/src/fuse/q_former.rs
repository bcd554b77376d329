//! Q-Former: a BERT whose learned queries ask the picture in every second layer.
//!
//! BLIP-2 (Li et al. 2023, arXiv 2301.12597), laid out as transformers' `Blip2QFormerModel` has it.
//! Queries and text share the self-attention and have feed-forwards of their own; only queries look
//! at the picture. Who sees whom is a mask of [`masks::q_former`](crate::masks::q_former). With a
//! question in it the queries pick what the question asks for (InstructBLIP, arXiv 2305.06500).
//!
//! When to choose it: a frozen image tower and a frozen language model, few rows in the decoder's
//! sequence, and pairs enough to train it before it meets the decoder (BLIP-2's first stage; it
//! starts from BERT there). From scratch and on little data it is the slowest to learn of all
//! kinds; then take [`mlp`](super::mlp). Against a [`resampler`](super::resampler) it can read the
//! question and can start from BERT's weights, and is larger.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::params::blank;
use vlm_nn::{Activation, Attention, AttentionConfig, FeedForward, Linear, Norm, NormKind};

use super::Question;
use super::config::Checks;
use super::places::with_places;
use crate::Error;

/// BERT's, under the norms' root.
const EPS: f64 = 1e-12;

/// The choices of a [`QFormer`]; BLIP-2's by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QFormerConfig {
    /// Learned queries, which is the rows that a picture becomes.
    pub queries: usize,
    /// Values a row.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Inner width of the feed-forwards.
    pub inner: usize,
    /// The picture is looked at in every n-th layer, the first included.
    pub cross_every: usize,
    /// Whether the question is read too (InstructBLIP).
    pub text: bool,
}

impl Default for QFormerConfig {
    fn default() -> Self {
        QFormerConfig {
            queries: 32,
            width: 768,
            layers: 12,
            heads: 12,
            inner: 3072,
            cross_every: 2,
            text: false,
        }
    }
}

impl QFormerConfig {
    /// Whether a Q-Former can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("q-former")
            .positive("queries", self.queries)?
            .positive("width", self.width)?
            .positive("layers", self.layers)?
            .positive("heads", self.heads)?
            .positive("inner", self.inner)?
            .positive("cross_every", self.cross_every)?
            .divides("heads", self.heads, "width", self.width)?;
        Ok(())
    }
}

/// A feed-forward with the norm after its sum.
#[derive(Module, Debug)]
pub struct Closing {
    /// Feed-forward.
    pub feed_forward: FeedForward,
    /// Norm of the sum.
    pub norm: Norm,
}

impl Closing {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.norm.forward(x.clone() + self.feed_forward.forward(x))
    }
}

/// One layer of a [`QFormer`].
#[derive(Module, Debug)]
pub struct QFormerLayer {
    /// Among queries and text.
    pub attention: Attention,
    /// Norm of its sum.
    pub norm: Norm,
    /// From the queries to the picture, in layers that look at it.
    pub cross: Option<Attention>,
    /// Norm of its sum.
    pub cross_norm: Option<Norm>,
    /// Of the queries.
    pub queries: Closing,
    /// Of the text, where there is one.
    pub text: Option<Closing>,
}

impl QFormerLayer {
    fn new(
        config: &QFormerConfig,
        vision_width: usize,
        looks: bool,
        reads: bool,
        device: &Device,
    ) -> Self {
        let width = config.width;
        let attention = |context_width| {
            let config = AttentionConfig::plain(
                width,
                context_width,
                config.heads,
                width / config.heads,
                true,
            );
            Attention::new(&config, device)
        };
        let norm = || Norm::new(NormKind::Layer, width, EPS, device);
        let gelu = Activation::Gelu;
        let closing = || Closing {
            feed_forward: FeedForward::new(width, config.inner, false, true, gelu, device),
            norm: norm(),
        };
        QFormerLayer {
            attention: attention(width),
            norm: norm(),
            cross: looks.then(|| attention(vision_width)),
            cross_norm: looks.then(norm),
            queries: closing(),
            text: reads.then(closing),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        queries: usize,
        mask: Option<Tensor<3>>,
        picture: &Tensor<3>,
        picture_mask: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let x = self.norm.forward(x.clone() + self.attention.hear(x, None, mask));
        let rows = x.dims()[1];
        let mut asking = x.clone().narrow(1, 0, queries);
        if let (Some(cross), Some(norm)) = (&self.cross, &self.cross_norm) {
            let seen = cross.hear(asking.clone(), Some(picture.clone()), picture_mask);
            asking = norm.forward(asking + seen);
        }
        let asking = self.queries.forward(asking);
        match &self.text {
            Some(text) if rows > queries => {
                let said = text.forward(x.narrow(1, queries, rows - queries));
                Tensor::cat(vec![asking, said], 1)
            }
            _ => asking,
        }
    }
}

/// Queries that ask a picture, and a text that they may read.
#[derive(Module, Debug)]
pub struct QFormer {
    /// `[queries, width]`.
    pub queries: Param<Tensor<2>>,
    /// Before the layers.
    pub norm: Norm,
    /// From input to output.
    pub layers: Vec<QFormerLayer>,
}

impl QFormer {
    /// A blank Q-Former that looks at rows of this width. Without `both` the last layer leaves the
    /// text out, since nobody would read what becomes of it.
    pub fn new(config: &QFormerConfig, vision_width: usize, both: bool, device: &Device) -> Self {
        let layer = |i: usize| {
            let looks = i.is_multiple_of(config.cross_every);
            let reads = config.text && (both || i + 1 < config.layers);
            QFormerLayer::new(config, vision_width, looks, reads, device)
        };
        QFormer {
            queries: blank([config.queries, config.width], device),
            norm: Norm::new(NormKind::Layer, config.width, EPS, device),
            layers: (0..config.layers).map(layer).collect(),
        }
    }

    /// The states of the queries, and of a text behind them: `[pictures, queries + tokens, width]`,
    /// or `[pictures, queries, width]` where the last layer leaves the text out.
    ///
    /// - `picture: [pictures, patches, vision width]` with a mask `[pictures or 1, 1, patches]`
    /// - `text: [pictures, tokens, width]`, embedded with its positions
    /// - `mask: [pictures or 1, rows or 1, rows]` over queries and text
    ///
    /// # Panics
    /// If a text is given to a Q-Former that has no feed-forward for it.
    pub fn forward(
        &self,
        picture: Tensor<3>,
        picture_mask: Option<Tensor<3>>,
        text: Option<Tensor<3>>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let inner = &self.layers[..self.layers.len().saturating_sub(1)];
        let reads = inner.iter().all(|layer| layer.text.is_some());
        assert!(text.is_none() || reads, "a text was given to a Q-Former without text");
        let [queries, _] = self.queries.dims();
        let pictures = picture.dims()[0];
        let asking: Tensor<3> = self.queries.val().unsqueeze::<3>().repeat_dim(0, pictures);
        let x = match text {
            Some(text) => Tensor::cat(vec![asking, text], 1),
            None => asking,
        };
        self.layers.iter().fold(self.norm.forward(x), |x, layer| {
            layer.forward(x, queries, mask.clone(), &picture, picture_mask.clone())
        })
    }
}

/// A [`QFormer`] in front of a decoder: `[pictures, patches, vision width]` to
/// `[pictures, queries, text width]`.
#[derive(Module, Debug)]
pub struct QFormerFusion {
    /// The Q-Former.
    pub former: QFormer,
    /// From the decoder's rows of a question, if it reads it.
    pub text: Option<Linear>,
    /// Norm of that.
    pub text_norm: Option<Norm>,
    /// To the decoder's width.
    pub out: Linear,
}

impl QFormerFusion {
    /// Blank.
    pub fn new(
        config: &QFormerConfig,
        vision_width: usize,
        text_width: usize,
        device: &Device,
    ) -> Self {
        QFormerFusion {
            former: QFormer::new(config, vision_width, false, device),
            text: config.text.then(|| Linear::new(text_width, config.width, true, device)),
            text_norm: config.text.then(|| Norm::new(NormKind::Layer, config.width, EPS, device)),
            out: Linear::new(config.width, text_width, true, device),
        }
    }

    /// Queries that have seen the picture, and the question where they read it.
    pub fn forward(&self, picture: Tensor<3>, question: Option<Question>) -> Tensor<3> {
        let [queries, _] = self.former.queries.dims();
        let (text, mask) = match (&self.text, &self.text_norm, question) {
            (Some(map), Some(norm), Some((rows, padding))) => {
                let mask = padding.clone().map(|padding| {
                    let texts = padding.dims()[0];
                    let open = Tensor::zeros([texts, 1, queries], &padding.device());
                    Tensor::cat(vec![open, padding], 2)
                });
                (Some(with_places(norm.forward(map.forward(rows)), padding)), mask)
            }
            _ => (None, None),
        };
        let states = self.former.forward(picture, None, text, mask);
        self.out.forward(states.narrow(1, 0, queries))
    }
}
